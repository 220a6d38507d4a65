"""Training with a price on how far features move: the smoothing itself, without an attack."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib.errors import InputError
from arlib.training.tuning import Loss

GROWTH = 0.5  # share of the steps over which the weight grows from 0


class Features:
    """Outputs of named modules, with their gradients, as a context: (logits, outputs) = f(x).

    Raises `InputError` for a name that the network does not have, or a module that gives no tensor.
    """

    def __init__(self, net: nn.Module, names: Sequence[str]):
        self.net, self.names, self.handles, self.outputs = net, list(names), [], {}
        missing = sorted(set(names) - {name for name, _ in net.named_modules()})
        if missing or not names:
            raise InputError(f"layers is {list(names)}; the network has no module {missing}.")

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
            start = _signs(x, radius, generator)
            moved = _furthest(features, x, start, radius, steps) if steps else start
            logits, clean = features(x)
            _, far = features(moved)
        grown = weight * min(1.0, done / GROWTH)
        return F.cross_entropy(logits, y) + grown * relative_change(clean, far)

    return loss


def _signs(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """x ± radius in every pixel, a fair coin each, inside [0, 1]."""
    coins = torch.randint(0, 2, x.shape, generator=generator, device=x.device)
    return (x + radius * (2 * coins - 1).to(x)).clamp(0, 1)


def _furthest(features: Features, x: Tensor, start: Tensor, radius: float, steps: int) -> Tensor:
    with torch.no_grad():
        _, clean = features(x)
    z = start
    for _ in range(steps):
        z = z.detach().requires_grad_(True)
        _, moved = features(z)
        (gradient,) = torch.autograd.grad(relative_change(clean, moved), z)
        z = z.detach() + radius / 2 * gradient.sign()
        z = torch.minimum(torch.maximum(z, x - radius), x + radius).clamp(0, 1)
    return z.detach()
