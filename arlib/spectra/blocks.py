"""Singular values of many small matrices:
the one place where the time goes, and how cores share it.

On a CPU in float64 the eigenvalues of Gram matrices take half the time of an SVD. They err by some
1e-15·σ_max² in σ², which is nothing for large σ and everything for small ones, so whoever uses them
does those blocks again by SVD that have a σ below `SMALL`·σ_max; the error in σ stays below
1e-10·σ_max. In float32 the Gram matrix would lose all σ below 1e-3·σ_max: there it is always the
SVD.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

SMALL = 1e-4  # of the operator's σ_max


def block_values(blocks: torch.Tensor) -> torch.Tensor:
    """Singular values (…, k) of blocks (…, rows, columns), k = min(rows, columns), descending."""
    if 1 in blocks.shape[-2:]:  # a row or a column has just its norm
        return torch.linalg.vector_norm(blocks, dim=(-2, -1)).unsqueeze(-1)
    return torch.linalg.svdvals(blocks)


def gram(blocks: torch.Tensor) -> torch.Tensor:
    """Gram matrices (…, k, k) of the blocks' smaller side."""
    wide = blocks.shape[-2] <= blocks.shape[-1]
    return blocks @ blocks.mH if wide else blocks.mH @ blocks


def gram_values(grams: torch.Tensor) -> torch.Tensor:
    """Singular values (…, k), descending, by the eigenvalues of Gram matrices (…, k, k)."""
    # laid out as LAPACK wants it
    return torch.linalg.eigvalsh(grams.mT).clamp_min_(0).sqrt_().flip(-1)


@contextmanager
def one_core() -> Iterator[int]:
    """Torch on one core here and in threads begun here;
    gives the number of before, which is set again at the end.

    Teams of threads inside small problems only lose, and on a busy machine they wait for each
    other.
    """
    before = torch.get_num_threads()
    if before > 1:
        torch.set_num_threads(1)
    try:
        yield before
    finally:
        if before > 1:
            torch.set_num_threads(before)


def in_threads(function: Callable, items: Sequence, threads: int | None = None) -> list:
    """function of each item, in some threads (by default as many as torch has)
    that run torch on one core each.
    """
    with one_core() as before:
        threads = threads or before
        if threads == 1 or len(items) == 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(function, items))
