"""Exact Σσ² and a certified bound of σ_max, for any padding, without the operator's matrix."""

import math
from dataclasses import replace

import torch

from arlib.spectra.blocks import block_values
from arlib.spectra.geometry import Geometry
from arlib.spectra.symbol import Symbol


def sum_of_squares(weight: torch.Tensor, shape: Geometry) -> float:
    """Σσ² = ‖A‖_F² = Σ_{a,a',b,b'} G[a,a'] G[b,b'] ⟨W_ab, W_a'b'⟩, exactly.

    G[a, a'] counts the output rows at which taps a and a' read the same real input row, so padded
    zeros, strides and taps that collide on small maps are all counted right.
    """
    weight = weight.double()
    spread = weight
    for dim in range(len(shape.size)):
        reads = shape.reads(dim)  # (out, k)
        same = (reads[:, :, None] == reads[:, None, :]) & (reads[:, :, None] >= 0)
        # that axis moves to the end
        spread = torch.tensordot(spread, same.sum(0).to(weight), dims=([2], [0]))
    return float((spread * weight).sum())


def largest_bound(weight: torch.Tensor, shape: Geometry) -> float:
    """An upper bound of σ_max that holds for this geometry.

    The convolution of the padded map, of size n', is a submatrix of the circular one of any period
    ≥ n', whose σ_max is the largest over its frequency blocks. Padding itself is an isometry for
    zeros; where it copies a row r times (reflect, replicate, circular) it stretches by at most √r a
    dimension.
    """
    if shape.cyclic:
        return _largest_block(weight, shape)
    sizes = (
        math.ceil((n + lo + hi) / s) * s
        for n, lo, hi, s in zip(shape.size, shape.low, shape.high, shape.stride, strict=True)
    )
    none = (0,) * len(shape.size)
    periodic = replace(shape, size=tuple(sizes), low=none, high=none, mode="circular")
    return _largest_block(weight, periodic) * math.sqrt(_most_copies(shape))


def _largest_block(weight: torch.Tensor, shape: Geometry) -> float:
    symbol = Symbol(weight.double(), shape)
    return float((symbol.gram_values() if symbol.by_gram else symbol.map(block_values)).max())


def _most_copies(shape: Geometry) -> int:
    if shape.mode == "zeros":
        return 1
    most = 1
    for n, low, high in zip(shape.size, shape.low, shape.high, strict=True):
        rows = Geometry((1,), (n,), (1,), (1,), (low,), (high,), shape.mode).reads(0)
        most *= int(rows.flatten().bincount().max())
    return most
