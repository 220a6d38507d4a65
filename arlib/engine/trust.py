"""Is a copy the model? Both are asked for outputs and input gradients on real images
before the copy is used.

A trace follows one path of the Python code: it makes constants of numbers drawn there, loses hooks
and custom gradients, and cannot know that a weight is read elsewhere too. So it is never believed,
but compared.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arlib.engine.untouched import left_as_found

IMAGES = 4  # that the two are compared on
# passes of the model alone: a discrete draw (one crop of five, say) seldom comes out equal in all
DRAWS = 12
# Largest difference of outputs, relative to their size, that is rounding;
# of gradients ten times that.
ROUNDING = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
BY_HALF = 0.2  # the same for a copy that is asked to compute in half precision


@dataclass(frozen=True)
class Behaviour:
    """How a model answers: outputs, joined, and input gradients (n, …) or None,
    each for two passes.
    """

    outputs: tuple[Tensor, Tensor]
    gradients: tuple[Tensor | None, Tensor | None]
    writes: bool
    """It changes its input in place."""
    without_gradients: Tensor
    """Its outputs where gradients are switched off."""

    @property
    def random(self) -> str:
        """What differs between two passes of the same images, beyond rounding;
        empty if nothing does.
        """
        return difference(*self.outputs, *self.gradients)


def behaviour(model: Callable, x: Tensor) -> Behaviour:
    """Two passes of the same images x (n, …), forward and backward; x is not changed."""
    given = x.clone()
    with torch.no_grad():
        silent = joined(model(given))
    writes = not torch.equal(given.nan_to_num(), x.nan_to_num())
    passes = [_pass(model, x) for _ in range(2)]
    outputs, gradients = zip(*passes, strict=True)
    return Behaviour(outputs, gradients, writes, silent)


def is_random(model: Callable, x: Tensor) -> bool:
    """Whether passes of the same two images differ beyond rounding, by the model's own passes."""
    x = x[:2]
    with torch.no_grad():
        first = joined(model(x.clone()))
        return any(difference(first, joined(model(x.clone()))) for _ in range(DRAWS - 1))


def why_not(model: nn.Module, copy: Callable, x: Tensor, *, half: bool = False) -> tuple[str, bool]:
    """Why a copy is not the model, empty if it is; and whether the model writes over its input.

    The model is asked in eval mode and without weight gradients, and left as it was found.
    """
    x = x[:IMAGES].detach()
    with left_as_found(model), torch.inference_mode(False):
        model.eval().requires_grad_(False)
        theirs = behaviour(model, x)
        if theirs.random or is_random(model, x):
            return "its answers to the same images differ from pass to pass", theirs.writes
        if difference(theirs.outputs[0], theirs.without_gradients):
            return "it answers differently where gradients are switched off", theirs.writes
        return _compared(theirs, copy, x, half), theirs.writes


def _compared(theirs: Behaviour, copy: Callable, x: Tensor, half: bool) -> str:
    try:
        mine = behaviour(copy, x)
    except Exception as error:  # whatever the copied code raises
        return f"the copy fails: {type(error).__name__}: {error}"
    most = BY_HALF if half else None
    return (
        difference(theirs.outputs[0], mine.outputs[0], theirs.gradients[0], mine.gradients[0], most)
        or mine.random
    )


def _pass(model: Callable, x: Tensor) -> tuple[Tensor, Tensor | None]:
    x = x.clone().requires_grad_(True)
    with torch.enable_grad():
        # of a copy: a model that writes over its input may not do so to a leaf
        outputs = joined(model(x.clone()))
        if not outputs.requires_grad:
            return outputs.detach(), None
        # at random weights: a plain sum is constant, without gradient, for a model of probabilities
        weights = torch.rand(
            outputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64
        )
        total = (outputs.double() * weights.to(outputs.device)).sum()
    (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
    return outputs.detach(), gradient


def joined(output: object) -> Tensor:
    """All floating-point tensors of an output, one behind the other."""
    leaves = torch.utils._pytree.tree_leaves(_as_tree(output))
    kept = [leaf for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    if not kept:
        kept = [leaf.double() for leaf in leaves if isinstance(leaf, Tensor)]
    if not kept:
        return torch.zeros(0)
    return torch.cat([leaf.reshape(-1) for leaf in kept])


def _as_tree(output: object) -> object:
    return vars(output) if hasattr(output, "__dataclass_fields__") else output


def difference(
    a: Tensor,
    b: Tensor,
    slope: Tensor | None = None,
    other: Tensor | None = None,
    most: float | None = None,
) -> str:
    """What differs beyond rounding between outputs a and b,
    and between their input gradients; empty if nothing.
    """
    if a.shape != b.shape:
        return f"outputs have shapes {tuple(a.shape)} and {tuple(b.shape)}"
    most = ROUNDING.get(a.dtype, 2e-4) if most is None else most
    far = float(_relative(a[None], b[None], torch.inf))
    if far > most:
        return f"outputs differ by {far:.1g} of their size"
    if (slope is None) != (other is None):
        return "one has a gradient to the images, the other has none"
    if slope is None:
        return ""
    # Of an image on a ReLU's kink two roundings give two gradients: the median image tells.
    typical = float(_relative(slope.flatten(1), other.flatten(1), 2).median())
    return (
        f"input gradients differ by {typical:.1g} of their size"
        if typical > min(10 * most, 0.5)
        else ""
    )


def _relative(a: Tensor, b: Tensor, order: float) -> Tensor:
    """‖a − b‖ / ‖a‖ a row, nan where both are not finite counted as equal."""
    a, b = a.double(), b.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, a - b)
    size = torch.where(a.isfinite(), a, 0.0)
    gap, size = (torch.linalg.vector_norm(v, order, dim=1) for v in (gap, size))
    return torch.where(
        gap.isnan(), torch.inf, torch.where(gap == 0, 0.0, gap / size.clamp_min(1e-300))
    )
