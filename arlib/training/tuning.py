"""A finished network trained on for a little, with something imposed on it.

What is compared are arms: the same start, the same images in the same order, the same steps, and
one difference. So everything random comes from generators seeded by the arm's seed alone.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from arlib import attacks, data
from arlib.errors import InputError, TrainingStopped
from arlib.training.loop import NOISE, ORDER, STARTS, generator

Loss = Callable[[nn.Module, Tensor, Tensor, torch.Generator, float], Tensor]
"""(network, images, labels, generator, share of the steps done) -> the mean loss to minimise."""


@dataclass(frozen=True)
class Tuning:
    """How a network is trained on: plain SGD whose rate falls linearly to 0.

    every: steps between two impositions (see `tune`). largest_gradient: the norm that gradients
    are cut to; a network without batch norm has nothing else that holds it.
    """

    epochs: float = 2.0
    lr: float = 0.01
    batch_size: int = 64
    momentum: float = 0.9
    weight_decay: float = 5e-4
    largest_gradient: float = 1.0
    every: int = 40

    def __post_init__(self) -> None:
        for name in ("epochs", "lr", "batch_size", "largest_gradient", "every"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; above 0 is needed.", field=name)

    def steps(self, images: int) -> int:
        """Optimizer steps on a training set of so many images; the last batch of each is whole."""
        return max(1, round(self.epochs * (images // self.batch_size)))


@dataclass
class Standing:
    """A tuning after whole rounds of its images: all that it needs to go on bit for bit.

    tensors: "net|NAME", "momentum|NAME", and the states of the generators, "generator|USE".
    """

    step: int = 0
    losses: list[float] = field(default_factory=list)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, by their own names."""
        pairs = ((key.partition("|"), value) for key, value in self.tensors.items())
        return {own: value for (group, _, own), value in pairs if group == name}


def natural(
    net: nn.Module, x: Tensor, y: Tensor, generator: torch.Generator, done: float
) -> Tensor:
    """Cross-entropy on the images as they are."""
    return F.cross_entropy(net(x), y)


def adversarial(eps: float, steps: int, step_ratio: float = 0.25) -> Loss:
    """Cross-entropy at the worst point that PGD finds in the ball (pixel units)."""

    def loss(net, x, y, generator, done):
        crafted = attacks.pgd(
            net, x, y, eps=eps, steps=steps, step_size=step_ratio * eps, generator=generator
        )
        return F.cross_entropy(net(crafted), y)

    return loss


def tune(
    net: nn.Module,
    split: data.Split,
    how: Tuning,
    *,
    seed: int,
    loss: Loss = natural,
    impose: Callable[[nn.Module], object] | None = None,
    augment: bool = True,
    progress: bool = False,
    since: Standing | None = None,
    after_round: Callable[[Standing], bool] | None = None,
) -> list[float]:
    """Train `net` on, in place; the loss of each step.

    impose: called with the network before the first step, after every `how.every` steps and after
        the last, to put it back where it must be (see `imposed`).
    augment: random crops and flips, as in training.
    since: what `after_round` was given before, to go on from there; the network is put back, too.
    after_round: called after each round of the images and after the last step; where it returns
        False the tuning ends, and the losses are fewer than its steps.

    The network stays in eval mode: it is meant to be one without batch norm. Raises
    `TrainingStopped` where the loss is no longer finite, `InputError` for too few images.
    """
    if len(split) < how.batch_size:
        raise InputError(
            f"batch_size is {how.batch_size}, but there are {len(split)} images.",
            field="batch_size",
        )
    device, since = split.x.device, since or Standing()
    uses = {"order": ORDER, "noise": NOISE, "starts": STARTS}
    generators = {name: generator(seed, 0, use, device) for name, use in uses.items()}
    optimizer = torch.optim.SGD(
        net.parameters(), lr=how.lr, momentum=how.momentum, weight_decay=how.weight_decay
    )
    losses, count = list(since.losses), how.steps(len(split))
    per_round = len(split) // how.batch_size
    if since.step:
        _put_back(since, net, optimizer, generators)
    elif impose is not None:
        impose(net)
    batches = _batches(len(split), how.batch_size, generators["order"])
    steps = range(since.step, count)
    for step in tqdm(steps, disable=not progress, desc="tuning", leave=False):
        index = next(batches)
        x, y = split.x[index], split.y[index]
        x = data.augment(x, generators["noise"]) if augment else x
        for group in optimizer.param_groups:
            group["lr"] = how.lr * (1 - step / count)
        value = loss(net, x, y, generators["starts"], step / count)
        losses.append(float(value.detach()))
        if not math.isfinite(losses[-1]):
            raise TrainingStopped(
                f"The loss became {losses[-1]} in step {step + 1} of {count}. Try a smaller lr."
            )
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), how.largest_gradient)
        optimizer.step()
        if impose is not None and ((step + 1) % how.every == 0 or step + 1 == count):
            impose(net)
        whole = (step + 1) % per_round == 0 or step + 1 == count
        if whole and after_round is not None:
            standing = _standing(step + 1, losses, net, optimizer, generators)
            if not after_round(standing):
                break
    return losses


def matched(
    statistic: Callable[[float], float],
    target: float,
    *,
    low: float,
    high: float,
    tolerance: float = 0.1,
    trials: int = 8,
) -> tuple[float, list[tuple[float, float]]]:
    """A weight at which a falling statistic is the target's, by bisection on the log scale.

    statistic: weight -> value (a whole training, say), falling in the weight.
    low, high: weights to begin between; the interval grows where the target lies outside.
    tolerance: on |log(value / target)|.

    Returns: the weight, and every (weight, value) that was tried.
    Raises: `InputError` where no trial came near enough, with what was seen.

    >>> weight, tried = matched(lambda w: 1 / w, 0.05, low=1, high=100)
    >>> 0.9 < 20 / weight < 1.1
    True
    """
    if not (0 < low < high and target > 0):
        raise InputError(
            f"low is {low}, high {high}, target {target}; 0 < low < high and target > 0 are needed."
        )
    tried, step = [], math.log(high / low) / 2
    log, below, above = math.log(low) + step, None, None  # log weights: too small, too large
    for _ in range(trials):
        value = statistic(math.exp(log))
        tried.append((math.exp(log), value))
        gap = math.log(value / target) if value > 0 else -math.inf
        if abs(gap) <= tolerance:
            return math.exp(log), tried
        below, above = (log, above) if gap > 0 else (below, log)
        if below is None or above is None:
            log += step if above is None else -step
        else:
            log = (below + above) / 2
    seen = ", ".join(f"{weight:.3g}: {value:.3g}" for weight, value in tried)
    raise InputError(
        f"No weight brought the statistic to {target:.3g} (± {tolerance:.0%}) in {trials} trials. "
        f"Seen (weight: value): {seen}."
    )


def _standing(
    step: int, losses: list[float], net: nn.Module, optimizer, generators: dict
) -> Standing:
    tensors = {f"net|{name}": value.clone() for name, value in net.state_dict().items()}
    for name, parameter in net.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum|{name}"] = momentum.clone()
    tensors |= {f"generator|{use}": own.get_state() for use, own in generators.items()}
    return Standing(step, list(losses), tensors)


def _put_back(since: Standing, net: nn.Module, optimizer, generators: dict) -> None:
    net.load_state_dict(since.group("net"))
    momentum = since.group("momentum")
    for name, parameter in net.named_parameters():
        if name in momentum:
            buffer = torch.empty_like(parameter).copy_(momentum[name])
            optimizer.state[parameter]["momentum_buffer"] = buffer
    for use, state in since.group("generator").items():
        generators[use].set_state(state.cpu())


def _batches(images: int, size: int, order: torch.Generator):
    """Endless whole batches of a shuffled set, shuffled anew at each round."""
    while True:
        shuffled = torch.randperm(images, generator=order, device=order.device)
        yield from shuffled[: images // size * size].split(size)
