"""Singular values of many small complex matrices: the one place where the time goes.

On a CPU in float64 the eigenvalues of the Gram matrix take half the time of the SVD. They err by
some 1e-15·σ_max² in σ², which is nothing for large σ and everything for small ones, so a block
with a singular value below `SMALL` of its largest is done again by SVD; the error in σ stays below
1e-10·σ_max. In float32 the Gram matrix would lose all σ below 1e-3·σ_max: there it is always the SVD.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

SMALL = 1e-4  # of a block's σ_max


def block_values(blocks: torch.Tensor) -> torch.Tensor:
    """Singular values (…, k) of blocks (…, rows, columns), k = min(rows, columns), in no given order."""
    if 1 in blocks.shape[-2:]:  # a row or a column has just its norm
        return torch.linalg.vector_norm(blocks, dim=(-2, -1)).unsqueeze(-1)
    if blocks.is_cuda or blocks.dtype != torch.complex128:
        return torch.linalg.svdvals(blocks)
    return gram_values(blocks.flatten(0, -3)).view(*blocks.shape[:-2], -1)


def gram_values(blocks: torch.Tensor) -> torch.Tensor:
    """Singular values (b, k), ascending in blocks done by Gram eigenvalues, descending in those done by SVD."""
    wide = blocks.shape[-2] <= blocks.shape[-1]
    squares = torch.linalg.eigvalsh(blocks @ blocks.mH if wide else blocks.mH @ blocks)
    values = squares.clamp_min(0).sqrt()
    again = values[:, 0] < SMALL * values[:, -1]
    if again.any():
        values[again] = torch.linalg.svdvals(blocks[again])
    return values


def in_threads(function: Callable, items: Sequence, threads: int) -> list:
    """function of each item; several threads, if asked for, of which each runs torch on one core.

    Small problems gain from several at a time, and only lose from teams of threads inside each.
    """
    if threads == 1 or len(items) == 1:
        return [function(item) for item in items]
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
    finally:
        torch.set_num_threads(threads)  # the number is each thread's own, but new threads inherit the last one set
