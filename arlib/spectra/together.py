"""Singular values of many layers:
those of equal shape are stacked, and the stacks are shared by the cores.
"""

import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from arlib.spectra.blocks import in_threads
from arlib.spectra.geometry import Geometry
from arlib.spectra.symbol import block_bytes, singular_values_stacked

# of the blocks of one stack: large enough to be worth a call, small enough to share out
STACK_BYTES = 2**24
Result = TypeVar("Result")


def each_cyclic(
    layers: Sequence[tuple[torch.Tensor, Geometry]],
    function: Callable[[torch.Tensor], Result] = lambda values: values,
    threads: int | None = None,
) -> list[Result]:
    """function of the singular values (descending) of each layer,
    given as weight and cyclic geometry.

    On a CPU in some threads (by default torch's number), the most expensive stacks first.
    """
    stacks = sorted(_stacks(layers), key=lambda stack: -_cost(layers, stack))

    def done(stack: list[int]) -> list[Result]:
        weights = torch.stack([layers[index][0] for index in stack])
        return [
            function(values) for values in singular_values_stacked(weights, layers[stack[0]][1])
        ]

    on_gpu = any(weight.is_cuda for weight, _ in layers)
    results = in_threads(done, stacks, 1 if on_gpu else threads)
    by_index = zip(itertools.chain(*stacks), itertools.chain(*results), strict=True)
    return [result for _, result in sorted(by_index, key=lambda pair: pair[0])]


def _stacks(layers: Sequence[tuple[torch.Tensor, Geometry]]) -> list[list[int]]:
    """Indices of layers of the same kind, some at a time."""
    kinds: dict[tuple, list[int]] = {}
    for index, (weight, geometry) in enumerate(layers):
        kinds.setdefault((weight.shape, weight.dtype, weight.device, geometry), []).append(index)
    stacks = []
    for members in kinds.values():
        most = max(1, STACK_BYTES // block_bytes(*layers[members[0]]))
        stacks += [members[start : start + most] for start in range(0, len(members), most)]
    return stacks


def _cost(layers: Sequence[tuple[torch.Tensor, Geometry]], stack: list[int]) -> int:
    """Grows as the operations do: all blocks' entries times their smaller side."""
    weight, geometry = layers[stack[0]]
    return (
        len(stack)
        * block_bytes(weight, geometry)
        * min(weight.shape[0] // geometry.groups, weight.shape[1])
    )
