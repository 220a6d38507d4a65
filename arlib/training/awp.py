"""Adversarial weight perturbation (Wu et al. 2020, section 3 and algorithm 1).

The loss is minimised not at the weights but at the worst weights near them: each layer of more than
one dimension moves by γ‖w‖ along its normalised gradient of the objective, the gradient for the
optimiser is taken there, and the weights go back. Biases and batch norm's scales stay.

The paper's code takes the direction from one SGD step of a copy of the network, w′ − w; its
learning rate cancels in v = ‖w‖ (w′ − w) / ‖w′ − w‖, so v is the normalised gradient itself, here
without the rounding of the subtraction and without a copy. There the optimiser steps at the moved
weights and γv is subtracted afterwards, which leaves rounding behind and lets weight decay act on w
+ γv; here the very bits of w come back first, and the optimiser steps from them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from arlib.engine import Machine
from arlib.training.distributed import World
from arlib.training.objectives import loss
from arlib.training.recipe import Recipe

TINY = 1e-20  # in place of a zero norm, as in the paper's code


@contextmanager
def perturbed(
    model: nn.Module,
    batches: Sequence[tuple[Tensor, Tensor, Tensor]],
    recipe: Recipe,
    machine: Machine,
    *,
    world: World | None = None,
    weight: float | Tensor = 1.0,
    helper: nn.Module | None = None,
) -> Iterator[None]:
    """Inside the block the weights are the worst ones near; forward and backward belong there.

    The optimiser must step after the block, which puts the bits of the weights back. Costs one more
    forward and backward pass; does nothing at `recipe.awp` = 0.

    batches: one batch in parts (x, crafted, y), x and crafted (n, c, h, w), y (n,).
    world, weight: the processes that work on the batch, and how much of it these images stand for.
    helper: hat's standard network.
    """
    if not recipe.awp:
        yield
        return
    total, images = None, sum(len(y) for _, _, y in batches)
    for x, crafted, y in batches:
        with machine.autocast():
            gradients = ascent(model, crafted, y, x, recipe, helper)
        part = [gradient * (weight * len(y) / images) for gradient in gradients]
        total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
    (world or World()).average(total)
    with moved(model, total, recipe.awp):
        yield


def ascent(
    model: nn.Module,
    crafted: Tensor,
    y: Tensor,
    x: Tensor,
    recipe: Recipe,
    helper: nn.Module | None = None,
) -> tuple[Tensor, ...]:
    """The objective's gradient to each of `layers(model)`, in the mode the network is in.

    Its buffers (batch norm's running statistics) end as they were.
    """
    buffers = [buffer.detach().clone() for buffer in model.buffers()]
    try:
        with torch.enable_grad():
            value, _ = loss(model, x, crafted, y, recipe, helper)
            return torch.autograd.grad(value, layers(model))
    finally:
        _put(model.buffers(), buffers)


@contextmanager
def moved(model: nn.Module, gradients: Sequence[Tensor], gamma: float) -> Iterator[None]:
    """Inside the block each layer w of the network is w + γ‖w‖ g/‖g‖; after it, w to the bit."""
    chosen = layers(model)
    saved = [weight.detach().clone() for weight in chosen]
    try:
        with torch.no_grad():
            for weight, gradient in zip(chosen, gradients, strict=True):
                weight.add_(gradient * (gamma * weight.norm() / (gradient.norm() + TINY)))
        yield
    finally:
        _put(chosen, saved)


def layers(model: nn.Module) -> list[nn.Parameter]:
    """The trainable parameters that are perturbed: those of more than one dimension."""
    return [
        parameter
        for parameter in model.parameters()
        if parameter.ndim > 1 and parameter.requires_grad
    ]


@torch.no_grad()
def _put(tensors, values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)
