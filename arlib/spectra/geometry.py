"""Which input position each tap of a convolution reads: the one thing that tells paddings apart.

Along each dimension a convolution is a table `reads` of shape (out, kernel): output row i reads
the input row reads[i, a] through tap a, or nothing (-1, a padded zero). Stride, dilation and every
padding mode live in that table, and dimensions do not mix. Everything else follows from it:

    dense matrix   A[o, i, c, x] = Σ_a W[o, c, a] · [reads[i, a] = x]   (and so on per dimension)
    Σσ²            = Σ_{a, a'} G[a, a'] ⟨W_a, W_a'⟩,  G[a, a'] = #{i : reads[i, a] = reads[i, a'] ≥
    0} block-diagonal where reads[i, a] = (s·i + d·a − p) mod n and s · out = n
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral

import torch

from arlib.errors import InputError, one_of

MODES = ("circular", "zeros", "reflect", "replicate")
PADDINGS = (*MODES, "valid")


@dataclass(frozen=True)
class Geometry:
    """Shape of a convolution on a map of fixed size;
    one entry per spatial dimension in each tuple.
    """

    kernel: tuple[int, ...]
    size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    low: tuple[int, ...]
    """Padded rows before the map."""
    high: tuple[int, ...]
    """Padded rows after the map."""
    mode: str
    """What the padded rows hold: one of `MODES`."""
    groups: int = 1

    @property
    def out(self) -> tuple[int, ...]:
        """Size of the output map."""
        dims = zip(
            self.size, self.low, self.high, self.dilation, self.kernel, self.stride, strict=True
        )
        return tuple((n + lo + hi - d * (k - 1) - 1) // s + 1 for n, lo, hi, d, k, s in dims)

    @property
    def periods(self) -> tuple[int, ...]:
        """Of a cyclic operator's blocks over frequencies: n/s in each dimension."""
        return tuple(n // s for n, s in zip(self.size, self.stride, strict=True))

    @cached_property
    def lags_and_phases(self) -> tuple[torch.Tensor, list[list[int]]]:
        """Of a cyclic operator: lag of each tap per dimension (taps, dims),
        and the taps of each phase.
        """
        per_dim = [
            [divmod(d * a, s) for a in range(k)]
            for d, k, s in zip(self.dilation, self.kernel, self.stride, strict=True)
        ]
        lags, phases = [], {}
        for index, tap in enumerate(itertools.product(*per_dim)):
            lags.append([lag for lag, _ in tap])
            phases.setdefault(tuple(phase for _, phase in tap), []).append(index)
        return torch.tensor(lags), list(phases.values())

    @cached_property
    def cyclic(self) -> bool:
        """Whether blocks over frequencies are exact:
        every row read modulo n, and the stride divides n.
        """
        return all(self._cyclic(dim) for dim in range(len(self.size)))

    def _cyclic(self, dim: int) -> bool:
        n, stride, out = self.size[dim], self.stride[dim], self.out[dim]
        rows = (
            torch.arange(out)[:, None] * stride
            + torch.arange(self.kernel[dim]) * self.dilation[dim]
        )
        return out * stride == n and bool(((rows - self.low[dim]) % n == self.reads(dim)).all())

    def reads(self, dim: int) -> torch.Tensor:
        """(out, kernel) input rows read along one dimension, -1 for a padded zero."""
        n = self.size[dim]
        rows = torch.arange(self.out[dim])[:, None] * self.stride[dim]
        # (out, kernel)
        rows = rows + torch.arange(self.kernel[dim]) * self.dilation[dim] - self.low[dim]
        if self.mode == "circular":
            return rows % n
        if self.mode == "replicate":
            return rows.clamp(0, n - 1)
        if self.mode == "reflect":
            return (n - 1) - ((n - 1) - rows.abs()).abs()
        return torch.where((rows >= 0) & (rows < n), rows, -1)

    def selection(self, dim: int, like: torch.Tensor) -> torch.Tensor:
        """(out, kernel, n) zeros and ones: [output row i reads input row x through tap a]."""
        positions = torch.arange(self.size[dim])
        return (self.reads(dim)[..., None] == positions).to(like)

    def matrix_shape(self, weight: torch.Tensor) -> tuple[int, int]:
        """(rows, columns) of the operator's matrix: outputs × inputs."""
        channels_in = weight.shape[1] * self.groups
        return weight.shape[0] * math.prod(self.out), channels_in * math.prod(self.size)


def geometry(
    weight, size, stride=1, padding="circular", dilation=1, groups=1, amount=None
) -> Geometry:
    """The geometry of a convolution with this weight (c_out, c_in/groups, *kernel), checked.

    size: input map, an int or one per dimension. padding: one of `PADDINGS`, or an int (or one per
    dimension) of zeros on each side. amount: padded rows on each side, for a named padding; by
    default as many as keep a stride-1 map's size (d·(k−1) in all, the odd one after the map).
    Raises `InputError` for anything that is no convolution.
    """
    dims = weight.ndim - 2
    if dims not in (1, 2, 3):
        raise InputError(
            f"weight has shape {tuple(weight.shape)}; a convolution's has 3, 4 or 5 dimensions."
        )
    if not isinstance(padding, str):
        padding, amount = "zeros", padding
    one_of("padding", padding, PADDINGS)
    kernel = tuple(weight.shape[2:])
    size, stride, dilation = (
        _each(name, value, dims)
        for name, value in (("size", size), ("stride", stride), ("dilation", dilation))
    )
    if groups < 1 or weight.shape[0] % groups:
        raise InputError(
            f"groups is {groups}; it must divide the {weight.shape[0]} output channels."
        )
    low, high = _amounts(kernel, dilation, 0 if padding == "valid" else amount)
    mode = "zeros" if padding == "valid" else padding
    shape = Geometry(kernel, size, stride, dilation, low, high, mode, groups)
    _check_fits(shape)
    return shape


def _each(name: str, value, dims: int, least: int = 1) -> tuple[int, ...]:
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims or any(not isinstance(v, Integral) or v < least for v in values):
        raise InputError(f"{name} is {value!r}; needed: an integer ≥ {least}, or {dims} of them.")
    return tuple(int(v) for v in values)


def _amounts(kernel, dilation, amount) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if amount is not None:
        amounts = _each("padding amount", amount, len(kernel), 0)
        return amounts, amounts
    total = tuple(d * (k - 1) for k, d in zip(kernel, dilation, strict=True))
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def _check_fits(shape: Geometry) -> None:
    if min(shape.out) < 1:
        raise InputError(
            f"A kernel {shape.kernel} with dilation {shape.dilation} does not fit a map "
            f"{shape.size}."
        )
    widest = [max(lo, hi) for lo, hi in zip(shape.low, shape.high, strict=True)]
    if shape.mode == "reflect" and any(w >= n for w, n in zip(widest, shape.size, strict=True)):
        raise InputError(
            f"Reflect padding of {widest} needs a map larger than that; it is {shape.size}."
        )
