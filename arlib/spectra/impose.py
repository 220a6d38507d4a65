"""Acting on spectra: give a convolution a chosen spectrum,
or a gradient towards a concentrated one.

In the circular operator the singular vectors can be kept and the values replaced, frequency by
frequency; the result reaches over the whole map. The nearest kernel of the layer's own k×k support
is its average over frequencies, with another spectrum again: alternating projections (Sedghi, Gupta
& Long 2019 project once) come close, and what remains is reported.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from arlib.errors import InputError, one_of
from arlib.spectra.conv import checked
from arlib.spectra.geometry import Geometry, geometry
from arlib.spectra.symbol import Symbol

KINDS = ("quantiles", "frobenius", "spread")


@dataclass(frozen=True)
class Imposed:
    """A kernel with an imposed spectrum, and how near it came."""

    weight: torch.Tensor
    """On its own support, in the dtype and on the device it came in."""
    residual: float
    """‖σ − wanted‖₂ / ‖wanted‖₂, both sorted, over all singular values of the circular operator."""
    steps: int


def impose(
    weight: torch.Tensor,
    size,
    target,
    *,
    kind: str = "quantiles",
    stride=1,
    dilation=1,
    groups: int = 1,
    steps: int = 50,
    tolerance: float = 1e-4,
) -> Imposed:
    """Give a convolution's circular operator another spectrum, keeping its singular vectors.

    Args:
        weight: (c_out, c_in/groups, *kernel); size, stride, dilation, groups as in
            `singular_values`, with a stride that divides the map and a kernel that does not reach
            around it. The operator is the circular one: with zero padding, or a stride that does
            not divide, singular
                vectors
            are not waves and there is nothing to replace values in but the dense matrix. Impose on
            the circular operator of such a layer (of a nearby map that the stride divides) and look
            at what its own operator became with `singular_values` or `estimate`.
        target: what is wanted, by kind:
            "quantiles": evenly spaced quantiles (q ≥ 2), from min to max, or a whole spectrum in
                any order; each singular value takes the target's at its own rank.
            "frobenius": the wanted √(Σσ²/N), by scaling alone (exact).
            "spread": the wanted std/mean; values move away from or towards their mean, Σσ² stays.
        steps: most alternating projections; they end when the residual falls by less than
            `tolerance`, relative to itself.

    Raises `InputError` for targets that are no spectrum and for geometries without frequency
    blocks.
    """
    one_of("kind", kind, KINDS)
    kernel = checked(weight, torch.float64)
    symbol = _symbol(kernel, geometry(kernel, size, stride, "circular", dilation, groups))
    want = _wish(kind, target, symbol)
    residual, done = math.inf, 0
    for step in range(steps):
        u, sigma, vh = torch.linalg.svd(symbol.blocks(symbol.frequencies), full_matrices=False)
        wanted = want(sigma)
        before, residual = (
            residual,
            float(_norm(sigma - wanted, symbol) / _norm(wanted, symbol).clamp_min(1e-300)),
        )
        if residual <= 1e-12 or before - residual < tolerance * residual:
            break
        symbol.taps, done = _project(u * wanted.unsqueeze(-2) @ vh, symbol), step + 1
    values = torch.linalg.svdvals(symbol.blocks(symbol.frequencies))
    residual = float(
        _norm(values - want(values), symbol) / _norm(want(values), symbol).clamp_min(1e-300)
    )
    imposed = symbol.taps.view(-1, *kernel.shape[:2]).permute(1, 2, 0).reshape(kernel.shape)
    return Imposed(imposed.to(weight.dtype), residual, done)


def spread_penalty(
    weight: torch.Tensor, size, stride=1, dilation=1, groups: int = 1
) -> torch.Tensor:
    """Squared std/mean of the circular operator's singular values, differentiable in the weight.

    0 where all are equal; scale-free, so it acts on concentration and not on the weights' size. The
    gradient of singular values needs no gaps between them: it is U Vᴴ, block by block.
    """
    symbol = _symbol(weight, geometry(weight, size, stride, "circular", dilation, groups))
    sigma = torch.linalg.svdvals(symbol.blocks(symbol.frequencies))
    share = symbol.multiplicity.to(sigma)[:, None, None] / _count(symbol, sigma)
    mean, square = (share * sigma).sum(), (share * sigma**2).sum()
    # squared: where all values are equal, the root has no gradient
    return square / mean**2 - 1


def _symbol(weight: torch.Tensor, shape: Geometry) -> Symbol:
    reach = [d * (k - 1) + 1 for k, d in zip(shape.kernel, shape.dilation, strict=True)]
    if not shape.cyclic or any(r > n for r, n in zip(reach, shape.size, strict=True)):
        raise InputError(
            f"A kernel that reaches over {reach} with stride {shape.stride} on a map "
            f"{shape.size}: spectra are imposed only on circular operators whose stride divides "
            "the map and whose kernel fits into it. Give such a size."
        )
    symbol = Symbol(weight, shape)
    columns = weight.shape[1] * math.prod(shape.stride)
    read = weight.shape[1] * len(symbol.phases)
    if min(symbol.shape[1], columns) > min(symbol.shape[1], read):
        raise InputError(
            "Some singular values are zero whatever the weights (the stride skips inputs)."
        )
    return symbol


def _project(blocks: torch.Tensor, symbol: Symbol) -> torch.Tensor:
    """The taps (taps, c_out · c_in/g) whose blocks are nearest to these:
    the average over frequencies.
    """
    phase = symbol.phase_factors(symbol.frequencies).to(blocks)  # (f, taps)
    share = symbol.multiplicity.to(blocks.real) / symbol.multiplicity.sum()
    width, taps = symbol.shape[-1], torch.empty_like(symbol.taps)
    for index, members in enumerate(symbol.phases):
        part = blocks[..., index * width : (index + 1) * width].flatten(1)  # (f, c_out · c_in/g)
        taps[members] = ((phase[:, members] * share[:, None]).mH @ part).real
    return taps


def _count(symbol: Symbol, sigma: torch.Tensor) -> int:
    return int(symbol.multiplicity.sum()) * math.prod(sigma.shape[1:])


def _norm(sigma: torch.Tensor, symbol: Symbol) -> torch.Tensor:
    return (symbol.multiplicity.to(sigma)[:, None, None] * sigma**2).sum().sqrt()


def _wish(kind: str, target, symbol: Symbol) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function from the singular values (f, groups, k) that are to those that are wanted."""
    wanted = np.sort(
        np.atleast_1d(np.asarray(torch.as_tensor(target).detach().cpu(), dtype=np.float64))
    )
    if not np.isfinite(wanted).all() or wanted.min() < 0 or wanted.max() == 0:
        raise InputError(
            "target holds negative or non-finite values, or only zeros; it must be a spectrum or "
            "a size."
        )
    if (len(wanted) == 1) == (kind == "quantiles"):
        needed = "at least two" if kind == "quantiles" else "one"
        raise InputError(f"target has {len(wanted)} values; kind {kind!r} needs {needed}.")
    if kind == "quantiles":
        return lambda sigma: _by_rank(sigma, wanted, symbol)
    if kind == "frobenius":
        return lambda sigma: (
            sigma * (wanted[0] * math.sqrt(_count(symbol, sigma)) / _norm(sigma, symbol))
        )
    return lambda sigma: _with_spread(sigma, float(wanted[0]), symbol)


def _by_rank(sigma: torch.Tensor, wanted: np.ndarray, symbol: Symbol) -> torch.Tensor:
    """Each value replaced by the target's quantile at its rank;
    those of one conjugate pair share theirs.
    """
    times = symbol.multiplicity.to(sigma)[:, None, None].expand_as(sigma).flatten()
    order = sigma.flatten().argsort()
    ends = times[order].cumsum(0)
    level = (ends - times[order] / 2 - 0.5) / (ends[-1] - 1).clamp_min(1)
    values = np.interp(level.cpu().numpy(), np.linspace(0, 1, len(wanted)), wanted)
    return (
        torch.zeros_like(times)
        .index_copy(0, order, torch.from_numpy(values).to(sigma))
        .view_as(sigma)
    )


def _with_spread(sigma: torch.Tensor, ratio: float, symbol: Symbol) -> torch.Tensor:
    """Values moved along their distance from the mean until std/mean
    is the ratio; Σσ² as it was.
    """
    share = symbol.multiplicity.to(sigma)[:, None, None] / _count(symbol, sigma)
    mean = (share * sigma).sum()
    std = (share * (sigma - mean) ** 2).sum().sqrt()
    moved = (mean + (sigma - mean) * ratio * mean / std.clamp_min(1e-300)).clamp_min(0)
    return moved * (_norm(sigma, symbol) / _norm(moved, symbol))
