"""Training with a price on how far features move: the smoothing itself, without an attack."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib.attacks.steps import LinfBall
from arlib.smoothness.layers import layer_names
from arlib.smoothness.moved import signs
from arlib.training.tuning import Loss

GROWTH = 0.5  # share of the steps over which the weight grows from 0


class Features:
    """Outputs of named modules, with their gradients, as a context: (logits, outputs) = f(x).

    Raises `InputError` for a name that the network does not have.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]):
        self.net, self.names = net, layer_names(net, list(names))
        self.handles, self.outputs = [], {}

    def __enter__(self):
        for name in self.names:
            module = self.net.get_submodule(name)
            self.handles.append(module.register_forward_hook(self._keep(name)))
        return self

    def __exit__(self, *_):
        for handle in self.handles:
            handle.remove()
        self.handles.clear()

    def __call__(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        self.outputs.clear()
        logits = self.net(x)
        return logits, [self.outputs[name] for name in self.names]

    def _keep(self, name: str):
        def hook(module, inputs, output):
            self.outputs[name] = output

        return hook


def relative_change(clean: Sequence[Tensor], moved: Sequence[Tensor]) -> Tensor:
    """Mean over layers of E‖h(x + δ) − h(x)‖² / E‖h(x) − E h‖², each over the images (n, …).

    The gradient flows through the variance too: held constant, features could shrink to nothing
    and count as smooth.
    """
    each = [
        (b - a).flatten(1).square().sum(1).mean()
        / (a - a.mean(0)).flatten(1).square().sum(1).mean().clamp_min(1e-12)
        for a, b in zip(clean, moved, strict=True)
    ]
    return torch.stack(each).mean()


def smoothed(
    layers: Sequence[str],
    weight: float,
    radius: float,
    *,
    steps: int = 0,
) -> Loss:
    """Cross-entropy on natural images plus `weight` times the relative change of `layers`' outputs.

    steps: 0 for random signs of size `radius` (pixel units); else so many steps of PGD (radius / 2
        each, from those signs) that maximise the change.
    The weight grows linearly from 0 over the first half of the steps: at once, it would collapse
    features before they can be smooth and still tell classes apart.
    """

    def loss(net, x, y, generator, done):
        with Features(net, layers) as features:
            start = signs(x, radius, generator)
            moved = _furthest(features, x, start, radius, steps) if steps else start
            logits, clean = features(x)
            _, far = features(moved)
        grown = weight * min(1.0, done / GROWTH)
        return F.cross_entropy(logits, y) + grown * relative_change(clean, far)

    return loss


def _furthest(features: Features, x: Tensor, start: Tensor, radius: float, steps: int) -> Tensor:
    with torch.no_grad():
        _, clean = features(x)
    ball, z = LinfBall(x, radius), start
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        _, moved = features(z)
        (gradient,) = torch.autograd.grad(relative_change(clean, moved), z)
        z = ball.ascend(z.detach(), gradient, radius / 2)
    return z
