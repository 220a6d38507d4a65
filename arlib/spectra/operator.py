"""Linear maps known only by what they do to vectors:
convolutions of any padding, and their adjoints.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from arlib.spectra.geometry import Geometry

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSE = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class LinearMap:
    """A linear map of batches of flattened vectors:
    (p, columns) → (p, rows), and back by the adjoint.
    """

    rows: int
    columns: int
    apply: Callable[[torch.Tensor], torch.Tensor]
    adjoint: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype = torch.float64
    device: torch.device | str = "cpu"

    @property
    def transposed(self) -> "LinearMap":
        return LinearMap(self.columns, self.rows, self.adjoint, self.apply, self.dtype, self.device)

    @property
    def count(self) -> int:
        """Number of singular values: min(rows, columns)."""
        return min(self.rows, self.columns)


def convolution_map(weight: torch.Tensor, shape: Geometry) -> LinearMap:
    """The convolution with this weight and geometry, by conv and conv_transpose:
    no matrix is formed.
    """
    dims, channels_in = len(shape.size), weight.shape[1] * shape.groups
    rows, columns = shape.matrix_shape(weight)
    options = {"stride": shape.stride, "dilation": shape.dilation, "groups": shape.groups}
    padded = tuple(n + lo + hi for n, lo, hi in zip(shape.size, shape.low, shape.high, strict=True))
    unread = _unread_rows(shape, padded)

    def apply(x: torch.Tensor) -> torch.Tensor:
        x = _pad(x.view(-1, channels_in, *shape.size), shape)
        return _CONV[dims](x, weight, **options).flatten(1)

    def adjoint(y: torch.Tensor) -> torch.Tensor:
        y = y.view(-1, weight.shape[0], *shape.out)
        return _unpad(F.pad(_TRANSPOSE[dims](y, weight, **options), unread), shape).flatten(1)

    return LinearMap(rows, columns, apply, adjoint, weight.dtype, weight.device)


def _unread_rows(shape: Geometry, padded: tuple[int, ...]) -> list[int]:
    """Rows at the end of the padded map that the last output does not reach, in F.pad's order."""
    reached = [
        (o - 1) * s + d * (k - 1) + 1
        for o, s, d, k in zip(shape.out, shape.stride, shape.dilation, shape.kernel, strict=True)
    ]
    return [v for n, r in zip(reversed(padded), reversed(reached), strict=True) for v in (0, n - r)]


def _sources(shape: Geometry, dim: int) -> torch.Tensor:
    """(padded,) the input row that each padded row copies, for paddings that copy."""
    n, low, high = shape.size[dim], shape.low[dim], shape.high[dim]
    each = Geometry((1,), (n,), (1,), (1,), (low,), (high,), shape.mode)
    return each.reads(0)[:, 0]


def _pad(x: torch.Tensor, shape: Geometry) -> torch.Tensor:
    """(p, c, *size) → (p, c, *padded)"""
    if shape.mode == "zeros":
        return F.pad(
            x,
            [
                v
                for pair in zip(reversed(shape.low), reversed(shape.high), strict=True)
                for v in pair
            ],
        )
    # by index, so that the adjoint is the same index read backwards, exact to the last row
    for dim in range(len(shape.size)):
        x = x.index_select(dim + 2, _sources(shape, dim).to(x.device))
    return x


def _unpad(x: torch.Tensor, shape: Geometry) -> torch.Tensor:
    """Adjoint of `_pad`: what was copied is added up, what was zero is dropped."""
    for dim, (n, low) in enumerate(zip(shape.size, shape.low, strict=True)):
        if shape.mode == "zeros":
            x = x.narrow(dim + 2, low, n)
        else:
            empty = x.new_zeros(*x.shape[: dim + 2], n, *x.shape[dim + 3 :])
            x = empty.index_add(dim + 2, _sources(shape, dim).to(x.device), x)
    return x
