"""Several networks of one architecture trained as one:
torch.func over a run axis, one optimiser for all.

vmap turns each convolution of N networks into one grouped convolution. A step is N separate steps
to rounding.

Batch norm: with a batch *and* running statistics for each run, vmap folds the run axis into the
channels, so that every run is normalised by its own batch; the running statistics (momentum,
unbiased variance) and batch counters of each run move in place, as N separate networks' would. SGD
acts on each weight by itself, so one optimiser over stacked weights is N optimisers.
"""

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from arlib import engine
from arlib.attacks.steps import LinfBall
from benchmarks import loops


class Together:
    """N networks of one architecture, trained as one. The networks given are copied.

    eps: radius of each run (0 trains on natural images); the other settings are common to all.
    precision: of the networks' passes; weights, logits and losses keep the networks' own.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        eps: Sequence[float],
        steps: int = 10,
        lr: float = 0.1,
        momentum: float = loops.MOMENTUM,
        weight_decay: float = loops.DECAY,
        precision: str = "float32",
    ):
        trained = [copy.deepcopy(one).train() for one in networks]
        self.parameters, self.buffers = stack_module_state(trained)  # each (runs, …)
        self.base = trained[0]
        prepared = engine.prepare(networks[0], mode="folded")
        self.pairs, self.frozen = prepared.pairs, prepared.module
        self.precision, self.halved = precision, set()
        if precision != "float32":
            self._halve()
        first = next(iter(self.parameters.values()))
        self.eps = torch.tensor(eps, dtype=first.dtype, device=first.device)
        self.steps = steps
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.optimizer = torch.optim.SGD(list(self.parameters.values()), **options)

    def _halve(self) -> None:
        """Let every layer take its input in its weight's type,
        batch norm's float32 (autocast stops at vmap).
        """
        for network in (self.base, self.frozen):
            for name, layer in network.named_modules():
                if isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
                    layer.register_forward_pre_hook(_as_weight)
                if isinstance(layer, nn.Conv2d | nn.Linear):
                    self.halved |= {f"{name}.weight", f"{name}.bias"}

    def _cast(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: value.bfloat16() if name in self.halved else value
            for name, value in state.items()
        }

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights and buffers of all runs for crafting,
        each batch norm folded into its convolution.
        """
        ours = self.parameters | self.buffers
        names = [
            name for name, _ in (*self.frozen.named_parameters(), *self.frozen.named_buffers())
        ]
        state = {name: ours[name] for name in names if name in ours}
        for conv, bn in self.pairs:
            scale = (
                ours[f"{bn}.weight"]
                * (ours[f"{bn}.running_var"] + self.base.get_submodule(bn).eps).rsqrt()
            )
            state[f"{conv}.weight"] = ours[f"{conv}.weight"] * scale[..., None, None, None]
            bias = ours.get(f"{conv}.bias", 0.0)
            state[f"{conv}.bias"] = ours[f"{bn}.bias"] + (bias - ours[f"{bn}.running_mean"]) * scale
        return self._cast(state)

    def craft(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """PGD on every run's own network, radius and images. x, start:
        (runs, b, c, h, w), y: (runs, b).

        As `attacks.perturb`, which may cut its images into parts and so would cut through the run
        axis.
        """
        weights = self.folded()

        def one(state, images):
            return functional_call(self.frozen, state, (images,))

        eps = self.eps.repeat_interleave(x.shape[1])  # one per image
        ball, z = LinfBall(x.flatten(0, 1), eps), start.flatten(0, 1)
        for _ in range(self.steps):
            z.requires_grad_()
            logits = vmap(one)(weights, z.unflatten(0, y.shape))
            (gradient,) = torch.autograd.grad(_losses(logits, y).sum(), z)
            z = ball.ascend(z.detach(), gradient, eps / 4)
        return z.unflatten(0, y.shape)

    def step(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """One optimiser step of every run; returns the mean loss of each (runs,), on the device."""
        crafted = self.craft(x, y, start)

        def one(parameters, buffers, images):
            return functional_call(self.base, (parameters, buffers), (images,))

        logits = vmap(one)(self._cast(self.parameters), self.buffers, crafted)
        losses = _losses(logits, y).mean(1)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a run's weights enter its own loss only
        self.optimizer.step()
        return losses.detach()

    def networks(self) -> list[nn.Module]:
        """The runs as separate networks again."""
        built = []
        for run in range(len(self.eps)):
            network = copy.deepcopy(self.base)
            state = {
                name: value[run].detach().clone()
                for name, value in (self.parameters | self.buffers).items()
            }
            network.load_state_dict(state)
            built.append(network)
        return built


def _as_weight(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].to(layer.weight.dtype),)


def _losses(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of each image, in at least float32. logits: (runs, b, classes) -> (runs, b)."""
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    return F.cross_entropy(logits, y.flatten(), reduction="none").view_as(y)
