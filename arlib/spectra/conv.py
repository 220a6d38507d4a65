"""Singular values of one layer: exact,
by frequencies where the operator is circular, else dense.
"""

import math

import torch

from arlib.errors import InputError, one_of
from arlib.spectra.blocks import one_core
from arlib.spectra.geometry import Geometry, geometry
from arlib.spectra.symbol import singular_values_cyclic

DENSE_LIMIT = 2**24  # entries of one group's matrix: 128 MiB in float64, 4096 × 4096, half a minute
DTYPES = (torch.float32, torch.float64)


def singular_values(
    weight: torch.Tensor,
    size=None,
    stride=1,
    padding="circular",
    dilation=1,
    groups=1,
    *,
    amount=None,
    dtype: torch.dtype = torch.float64,
    dense_limit: int = DENSE_LIMIT,
) -> torch.Tensor:
    """All min(rows, columns) singular values of a convolution as a linear map, descending.

    >>> kernel = torch.tensor([[2.0, 7, -1], [1, 3, -8], [5, -3, 1]]).view(1, 1, 3, 3)
    >>> sigma = singular_values(kernel, 20)
    >>> sigma.shape, round(sigma[0].item(), 6), round(sigma.square().sum().item())
    (torch.Size([400]), 22.912213, 65200)

    Args:
        weight: (c_out, c_in/groups, *kernel) with one to three spatial dimensions, or a matrix
            (out, in).
        size: input map, an int or one per dimension (not needed for a matrix).
        padding: "circular" (⌈n/s⌉ outputs; the amount does not matter), "zeros", "reflect" or
            "replicate" (`amount` on each side; by default "same"), "valid", or amounts of zeros.
        dtype: precision of the result. In float64 the error is below 1e-10·σ_max, in float32 below
            1e-5·σ_max (frequency blocks are computed in float64 on a CPU, where that is the
            faster).
        dense_limit: largest number of entries of a dense matrix, where one is needed.

    Circular operators whose stride divides the map are block-diagonal over frequencies and need no
    matrix (see `symbol`); a stride that does not divide it, and every other padding, need the dense
    one.

    Raises:
        InputError: weights that are complex, quantised or not finite; a geometry that does not fit;
            a dense matrix above the limit.
    """
    with one_core() as threads:
        weight = checked(weight, dtype)
        shape = (
            None
            if weight.ndim == 2
            else geometry(weight, size, stride, padding, dilation, groups, amount)
        )
        if shape is not None and shape.cyclic:
            return singular_values_cyclic(weight, shape, threads)
    if shape is None:
        return torch.linalg.svdvals(weight)
    return singular_values_dense(weight, shape, dense_limit)


def checked(weight: torch.Tensor, dtype: torch.dtype, name: str = "weight") -> torch.Tensor:
    """The weight in the precision asked for, without its graph;
    `InputError` if it has no real spectrum.
    """
    one_of("dtype", dtype, DTYPES)
    if weight.is_complex() or weight.is_quantized or not weight.is_floating_point():
        raise InputError(
            f"{name} is {weight.dtype}; singular values are computed for real floating-point "
            "weights."
        )
    if weight.ndim < 2 or not weight.numel():
        raise InputError(
            f"{name} has shape {tuple(weight.shape)}; needed: at least two dimensions, none of "
            "them 0."
        )
    if not torch.isfinite(weight).all():
        raise InputError(
            f"{name} holds NaN or infinite values: {int((~torch.isfinite(weight)).sum())} of them."
        )
    return weight.detach().to(dtype)


def singular_values_dense(
    weight: torch.Tensor, shape: Geometry, limit: int = DENSE_LIMIT
) -> torch.Tensor:
    """All singular values, descending, by one dense matrix per group.
    Raises `InputError` above the limit.
    """
    if not fits_dense(weight, shape, limit):
        rows, columns = (side // shape.groups for side in shape.matrix_shape(weight))
        raise InputError(
            f"A map {shape.size} with {shape.mode} padding and stride {shape.stride} needs a "
            f"dense {rows} × {columns} matrix; the limit is {limit} entries. Use a map about "
            f"{math.sqrt(limit / (rows * columns)):.2f} times as large in area, "
            "padding='circular' with a stride that divides it, or spectra.estimate."
        )
    values = torch.cat([torch.linalg.svdvals(block) for block in dense_blocks(weight, shape)])
    return values.sort(descending=True).values


def fits_dense(weight: torch.Tensor, shape: Geometry, limit: int = DENSE_LIMIT) -> bool:
    """Whether one group's dense matrix has at most `limit` entries."""
    rows, columns = shape.matrix_shape(weight)
    return (rows // shape.groups) * (columns // shape.groups) <= limit


def dense_blocks(weight: torch.Tensor, shape: Geometry) -> list[torch.Tensor]:
    """The operator's matrix, one block per group:
    (c_out/g · out, c_in/g · size), maps flattened row by row.
    """
    return [_dense(part, shape) for part in weight.chunk(shape.groups)]


def _dense(weight: torch.Tensor, shape: Geometry) -> torch.Tensor:
    """One group: contract each kernel dimension a with its selection [i, a,
    x], leaving (…, i, x).
    """
    matrix = weight  # (o, c, a, b, …)
    for dim in range(len(shape.size)):
        # (o, c, b, …, i, x)
        matrix = torch.tensordot(matrix, shape.selection(dim, weight), dims=([2], [1]))
    dims = len(shape.size)
    outputs, inputs = range(2, 2 + 2 * dims, 2), range(3, 3 + 2 * dims, 2)
    matrix = matrix.permute(0, *outputs, 1, *inputs)  # (o, i, j, …, c, x, y, …)
    return matrix.reshape(weight.shape[0] * math.prod(shape.out), -1)
