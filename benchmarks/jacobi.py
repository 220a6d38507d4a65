"""Singular values of many small complex matrices on a GPU, by one-sided Jacobi rotations in Triton.

Torch hands a batch of small complex matrices to routines that are slow for thousands of them. Here a whole matrix
stays in the registers of one program, which orthogonalises its vectors (the rows or columns, whichever are
fewer) pair by pair (Hestenes 1958) until all are orthogonal to rounding: the norms are the singular values, and
small ones are as accurate *relative to themselves* as the vectors' directions are well conditioned (Demmel &
Veselić 1992), which no method by Gram matrices or bidiagonalisation is.

Pairs meet in a block-recursive order (Mantharam & Eberlein 1993): the first half of the vectors ("top") against
the second ("bottom"), one shift of the bottom after each step; then each half within itself, in the same way, both
at once. So n/2 disjoint pairs rotate in each of the n − 1 steps of a sweep. A warp's lane holds one pair, and lane
i of a step gets its next partner from lane i ^ shift, which is one shuffle. The larger norm of a pair goes to the
top (de Rijk 1989): vectors end up sorted, and far fewer sweeps do for ill-conditioned matrices.
"""

import math
from types import SimpleNamespace

import torch
from torch import Tensor

from arlib.errors import InputError
from benchmarks.loops import Missing

try:
    import triton
    from triton import language as tl

    triton = triton if hasattr(tl, "gather") else None  # the kernel's shuffles: from 3.3 on
except ImportError:  # it comes with torch on Linux only
    triton, tl = None, SimpleNamespace(constexpr=None)

jit = triton.jit if triton else lambda function: function

LANES = 32  # of a warp: pairs of vectors that rotate at once, of one matrix or of several
MOST = {torch.complex64: 256, torch.complex128: 128}
"""Longest vectors: longer ones do not fit the registers of one program."""
SWEEPS = 30  # at most; random matrices take 5 to 10, those of condition 1e8 some 25


def fits(rows: int, columns: int, dtype: torch.dtype) -> bool:
    """Whether `jacobi_values` takes matrices of this shape and dtype."""
    return 1 <= min(rows, columns) <= 2 * LANES and max(rows, columns) <= MOST.get(dtype, 0)


def jacobi_values(blocks: Tensor) -> Tensor:
    """Singular values (…, k), descending, of complex blocks (…, rows, columns), k = min(rows, columns).

    complex64 or complex128, on a CUDA device (or anywhere under Triton's interpreter, TRITON_INTERPRET=1). k up to 64;
    the longer side up to 128 in double precision, 256 in single. Errors are some 5e-15·σ_max (2e-6·σ_max in single)
    and, for matrices that are well conditioned once their vectors are scaled to norm 1, as small relative to each σ
    down to 1e-70·σ_max (1e-9 in single). A matrix with a NaN or an infinity has NaN throughout.

    Raises `InputError` for other dtypes and sizes, `benchmarks.loops.Missing` where no kernel can run.
    """
    _check(blocks)
    *batch, rows, columns = blocks.shape
    count, length = sorted((rows, columns))
    values = torch.empty(*batch, count, dtype=blocks.real.dtype, device=blocks.device)
    if not values.numel():
        return values
    parts = torch.view_as_real(blocks.detach().resolve_conj())
    scale = parts.abs().amax((-3, -2, -1))  # squares of what is left neither overflow nor, mostly, underflow
    scale = torch.where(scale == 0, 1, scale)
    parts = (parts / scale[..., None, None, None]).contiguous()
    strides = (2 * columns, 2) if rows == count else (2, 2 * columns)  # from vector to vector, and along one
    with torch.cuda.device_of(parts):
        _launch(parts, values, math.prod(batch), count, length, strides)
    return values.mul_(scale[..., None]).sort(dim=-1, descending=True).values


def _check(blocks: Tensor) -> None:
    if blocks.dtype not in MOST or blocks.dim() < 2:
        raise InputError(
            f"blocks are {blocks.dtype} of shape {tuple(blocks.shape)}; "
            "needed: complex64 or complex128, (…, rows, columns)."
        )
    rows, columns = blocks.shape[-2:]
    if not fits(rows, columns, blocks.dtype):
        raise InputError(
            f"blocks are {rows} × {columns}, {blocks.dtype}; the kernel takes a smaller side of 1 to {2 * LANES} and a "
            f"longer one up to {MOST[blocks.dtype]}. Use torch.linalg.svdvals for others."
        )
    if triton is None:
        raise Missing("the Jacobi kernel needs Triton 3.3, which is not installed here (pip install triton, on Linux).")
    if not blocks.is_cuda and isinstance(_values, triton.JITFunction):
        raise Missing(f"blocks are on {blocks.device}: the Jacobi kernel needs a CUDA device, or TRITON_INTERPRET=1.")


def _launch(parts: Tensor, values: Tensor, matrices: int, count: int, length: int, strides: tuple[int, int]) -> None:
    constants, options = _compiled_for(count, length, parts.dtype)
    grid = (triton.cdiv(matrices, LANES // constants["HALF"]),)
    _values[grid](parts, values, matrices, count, length, *strides, **constants, **options)


def _compiled_for(count: int, length: int, dtype: torch.dtype) -> tuple[dict[str, int | float], dict[str, int]]:
    """Compile-time constants, sizes padded to powers of two; and the launch's options.

    As many warps as give each lane 4 × 8 numbers (4 × 16 in single precision): with what is computed from them,
    128 registers of 32 bits hold all, and a multiprocessor has room for 16 warps.
    """
    limits, padded = torch.finfo(dtype), triton.next_power_of_2(length)
    half = max(1, triton.next_power_of_2(count) // 2)
    constants = {"HALF": half, "LENGTH": padded, "LANES": LANES, "TOLERANCE": limits.eps**2 * padded,
                 "TINY": limits.tiny, "SWEEPS": SWEEPS}  # fmt: skip
    return constants, {"num_warps": max(1, padded * limits.bits // 512), "maxnreg": 128}


@jit
def _next(top, low, lanes, split, shift):
    """Each bottom vector goes to lane ^ shift; where `split`, the top one goes and the bottom one takes its place."""
    return tl.where(split, low, top), tl.gather(tl.where(split, top, low), lanes ^ shift, 1)


@jit
def _unsplit(top, low, lanes, split, shift):
    """Second halves of the top, where `split`, and first halves of the bottom, elsewhere, change places."""
    got = tl.gather(tl.where(split, top, low), lanes ^ shift, 1)
    return tl.where(split, got, top), tl.where(split, low, got)


@jit
def _rotation(a, b, c_r, c_i, TOLERANCE: tl.constexpr, TINY: tl.constexpr):
    """k, s (complex), and whether they change anything, for x' = k·x + s·y, y' = k·y − s̄·x, orthogonal, |x'| ≥ |y'|.

    a = |x|², b = |y|², c = x*y. tan of the rotation is 2|c| / (|a − b| + √((a − b)² + 4|c|²)), or its inverse, which
    exchanges x and y, if |y| is the larger. Orthogonal vectors of nearly equal norm stay as they are.
    """
    square = c_r * c_r + c_i * c_i
    rotate = square > tl.maximum(TOLERANCE * a * b, TINY)
    square = tl.where(rotate, square, 1.0)
    gap, per_size = tl.abs(a - b), tl.rsqrt(square)
    root = tl.sqrt(gap * gap + 4 * square)
    scale = tl.rsqrt(2 * root * (gap + root))
    cosine = tl.where(rotate, (gap + root) * scale, 1.0)
    sine = tl.where(rotate, 2 * square * per_size * scale, 0.0)
    swap = (a < b) & (rotate | (a < 0.999 * b))  # a rounding error alone does not cost another sweep
    k, s = tl.where(swap, sine, cosine), tl.where(swap, cosine, sine)
    s_r, s_i = s * tl.where(rotate, c_r * per_size, 1.0), s * tl.where(rotate, -c_i * per_size, 0.0)
    unit = 1.5 - 0.5 * (k * k + s_r * s_r + s_i * s_i)  # roots may be approximate; what they do to norms may not
    return k * unit, s_r * unit, s_i * unit, rotate | swap  # vectors that change places may miss others in this sweep


@jit
def _values(
    parts, values, matrices, count, length, per_vector, per_element,
    HALF: tl.constexpr, LENGTH: tl.constexpr, LANES: tl.constexpr, TOLERANCE: tl.constexpr, TINY: tl.constexpr,
    SWEEPS: tl.constexpr,
):  # fmt: skip
    """Norms (matrices, count) of the orthogonalised vectors of LANES / HALF matrices a program.

    Lane l holds vectors l % HALF (top) and HALF + l % HALF (bottom) of its program's matrix l // HALF, padded by
    zeros to 2·HALF vectors of LENGTH. All sizes in capitals are powers of two.
    """
    lane = tl.arange(0, LANES)
    element = tl.arange(0, LENGTH)[:, None]
    lanes = tl.broadcast_to(lane[None, :], (LENGTH, LANES))
    matrix = tl.program_id(0).to(tl.int64) * (LANES // HALF) + lane // HALF
    vector = lane % HALF
    inside = (element < length) & (matrix < matrices)[None, :]
    start = (matrix * count * length * 2 + vector * per_vector)[None, :] + element * per_element
    top, low = parts + start, parts + start + HALF * per_vector
    has_top, has_low = inside & (vector < count)[None, :], inside & (vector + HALF < count)[None, :]
    top_r, top_i = tl.load(top, has_top, other=0.0), tl.load(top + 1, has_top, other=0.0)
    low_r, low_i = tl.load(low, has_low, other=0.0), tl.load(low + 1, has_low, other=0.0)

    sweep, unfinished = 0, 1
    while (unfinished > 0) & (sweep < SWEEPS):
        changed = tl.zeros((LANES,), tl.int32)
        width = HALF  # of the halves that meet now; in its last step they are split
        for step in range(2 * HALF - 1):
            left = 2 * HALF - 1 - step
            if left < width:
                width = width // 2
            norms = tl.join(top_r * top_r + top_i * top_i, low_r * low_r + low_i * low_i)
            inner = tl.join(top_r * low_r + top_i * low_i, top_r * low_i - top_i * low_r)
            norms, inner = tl.split(tl.sum(tl.join(norms, inner), 0))  # one sum: its barriers take longer than it
            a, b = tl.split(norms)
            c_r, c_i = tl.split(inner)
            k, s_r, s_i, change = _rotation(a, b, c_r, c_i, TOLERANCE, TINY)
            changed |= change.to(tl.int32)
            k, s_r, s_i = k[None, :], s_r[None, :], s_i[None, :]
            new_r, new_i = k * top_r + s_r * low_r - s_i * low_i, k * top_i + s_r * low_i + s_i * low_r
            low_r, low_i = k * low_r - s_r * top_r - s_i * top_i, k * low_i - s_r * top_i + s_i * top_r
            place = left - width
            last = (place == 0).to(tl.int32)
            shift = last * (width // 2) + (place & -place)  # a Gray code: all partners, by one bit at a time
            split = ((lane & (last * shift)) != 0)[None, :]
            top_r, low_r = _next(new_r, low_r, lanes, split, shift)
            top_i, low_i = _next(new_i, low_i, lanes, split, shift)
        shift = 1
        while shift < HALF:  # undo the splits: every sweep begins with the larger half on top
            split = ((lane & shift) != 0)[None, :]
            top_r, low_r = _unsplit(top_r, low_r, lanes, split, shift)
            top_i, low_i = _unsplit(top_i, low_i, lanes, split, shift)
            shift *= 2
        unfinished = tl.max(changed, 0)
        sweep += 1

    to = values + matrix * count + vector
    here = matrix < matrices
    tl.store(to, tl.sqrt(tl.sum(top_r * top_r + top_i * top_i, 0)), here & (vector < count))
    tl.store(to + HALF, tl.sqrt(tl.sum(low_r * low_r + low_i * low_i, 0)), here & (vector + HALF < count))
