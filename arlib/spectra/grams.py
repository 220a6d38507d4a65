"""Gram matrices of frequency blocks, straight from the correlations of the taps.

With B(f) = Σ_t W_t exp(iθ_t), θ_t = 2π f·lag_t/m, on one phase,

    B Bᴴ = Σ_{t,u} W_t W_uᵀ exp(i(θ_t − θ_u)) = Σ_d C_d exp(iθ_d),   C_d = Σ_{lag_t − lag_u = d} W_t
    W_uᵀ

(and a sum over phases). C is computed once per layer: 25 lags for a 3×3 kernel, 13 of them since
C_{−d} = C_dᵀ; a Gram matrix is then a row of a real matrix product, cheaper than forming its block.
"""

import math
from functools import lru_cache

import torch

from arlib.spectra.geometry import Geometry

LARGEST = 2**26  # bytes of the products W_t W_uᵀ


class Correlations:
    """C of a symbol's taps. The matrices are those of the blocks' smaller side,
    or their conjugates.
    """

    def __init__(self, symbol):
        taps = _short_side_first(symbol)  # (groups, taps, short, long)
        groups, count, short, _ = taps.shape
        self.symbol, self.shape = symbol, (groups, short, short)
        pairs, self.lags, place, sign = _differences(symbol.geometry)
        flat = taps.flatten(1, 2)  # (groups, taps · short, long)
        products = (flat @ flat.mT).view(groups, count, short, count, short).permute(1, 3, 0, 2, 4)
        products = products[pairs[:, 0], pairs[:, 1]].flatten(1)  # (pairs, groups · short²)
        # both of the pairs (t, u) and (u, t) are counted below
        products[pairs[:, 0] == pairs[:, 1]] /= 2
        empty = products.new_zeros(len(self.lags), products.shape[1])
        even, odd = (
            empty.index_add(0, place, products * s[:, None]).view(-1, *self.shape)
            for s in (abs(sign), sign)
        )
        self.even, self.odd = (even + even.mT).flatten(1), (odd - odd.mT).flatten(1)

    def grams(self, frequencies: torch.Tensor) -> torch.Tensor:
        """(f, groups, short, short) Hermitian matrices at some frequencies."""
        factors = self.symbol.phase_factors(frequencies, self.lags)
        return torch.complex(factors.real @ self.even, factors.imag @ self.odd).view(
            -1, *self.shape
        )


def worthwhile(symbol) -> bool:
    """Whether correlations take fewer operations than products of blocks, and little memory."""
    rows, columns = symbol.shape[1], symbol.shape[2] * len(symbol.phases)
    if rows > columns and len(symbol.phases) > 1:  # that Gram matrix mixes phases
        return False
    short, taps = min(rows, columns), len(symbol.lags)
    lags = math.prod(2 * int(reach) + 1 for reach in symbol.lags.max(0).values) // 2 + 1
    fits = symbol.shape[0] * (taps * short) ** 2 * symbol.taps.element_size() <= LARGEST
    return fits and taps**2 <= 4 * len(symbol.frequencies) and lags <= 2 * max(rows, columns)


def _short_side_first(symbol) -> torch.Tensor:
    taps = symbol.taps.view(-1, *symbol.shape).transpose(0, 1)  # (groups, taps, c_out/g, c_in/g)
    wide = symbol.shape[1] <= symbol.shape[2] * len(symbol.phases)
    return taps if wide else taps.mT


@lru_cache(maxsize=16)
def _differences(geometry: Geometry) -> tuple[torch.Tensor, ...]:
    """Pairs of taps (t ≤ u) that meet in a column, the distinct lag differences, one of d and −d,
    and of each pair which of them is its own, and with which sign."""
    periods, (lags, phases) = geometry.periods, geometry.lags_and_phases
    pairs = torch.cat(
        [torch.combinations(torch.tensor(taps), with_replacement=True) for taps in phases]
    )
    weights = torch.tensor([math.prod(periods[dim + 1 :]) for dim in range(len(periods))])
    periods = torch.tensor(periods)
    difference = (lags[pairs[:, 0]] - lags[pairs[:, 1]]) % periods
    code, opposite = difference @ weights, (-difference % periods) @ weights
    distinct, place = torch.minimum(code, opposite).unique(return_inverse=True)
    sign = torch.where(code <= opposite, 1.0, -1.0).double()
    return pairs, distinct[:, None] // weights % periods, place, sign
