"""Circular convolutions are block-diagonal over frequencies: exact singular values from small matrices.

Sedghi, Gupta & Long, "The singular values of convolutional layers" (ICLR 2019), for stride 1.
For a stride s that divides n, split the input rows by their remainder modulo s ("polyphase"):
position s·q + r is lag q of phase r. Output row i then reads lag i + q of each phase, which is a
stride-1 circular convolution on a map of m = n/s rows with s times the input channels. Its block at
frequency f is

    B(f)[o, (r, c)] = Σ_{taps with phase r} W[o, c, tap] · exp(2πi f·lag / m)        (c_out × s·c_in)

A real kernel makes B(−f) the conjugate of B(f), so one of each pair suffices. Lags enter only
through exp(2πi f·lag/m), so kernels that reach around the map are wrapped exactly.
"""

import itertools
import math
from collections.abc import Iterator

import torch

from arlib.spectra.geometry import Geometry

CHUNK_BYTES = 2**26  # of one batch of complex blocks


def singular_values_cyclic(weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """All singular values, descending, of a convolution whose `geometry.cyclic` is true.

    weight: (c_out, c_in/groups, *kernel), float32 or float64; the result has its dtype and device.
    """
    channels = weight.shape[0] // geometry.groups, weight.shape[1] * math.prod(geometry.stride)
    found = []
    for blocks, multiplicity in frequency_blocks(weight, geometry):
        sigma = _values(blocks)  # (f, groups, min of the block's sides)
        missing = min(channels) - sigma.shape[-1]  # phases that no tap reads are zero columns
        sigma = torch.nn.functional.pad(sigma, (0, missing))
        found.append(sigma.repeat_interleave(multiplicity.to(sigma.device), dim=0).flatten())
    return torch.cat(found).sort(descending=True).values


def frequency_blocks(weight: torch.Tensor, geometry: Geometry) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Chunks of blocks (f, groups, c_out/groups, columns) and how often each frequency counts (f,).

    Columns of phases that no tap reads are left out.
    """
    lags, phases = _lags_and_phases(geometry)
    frequencies, multiplicity = half_spectrum(lags, geometry)
    turns = _turns(frequencies, lags, geometry).to(weight.device)  # (f, taps)
    taps = _taps(weight, geometry.groups)  # (taps, groups · c_out/g · c_in/g)
    by_phase = [torch.tensor(group) for group in phases.values()]
    per_frequency = 2 * weight.element_size() * taps.shape[1] * len(by_phase)
    chunk = max(1, CHUNK_BYTES // per_frequency)
    shape = (geometry.groups, weight.shape[0] // geometry.groups, weight.shape[1])
    for angle, count in zip((turns * 2 * math.pi).split(chunk), multiplicity.split(chunk), strict=True):
        cos, sin = angle.cos().to(weight.dtype), angle.sin().to(weight.dtype)
        parts = [torch.complex(cos[:, t] @ taps[t], sin[:, t] @ taps[t]) for t in by_phase]
        yield torch.cat([part.view(-1, *shape) for part in parts], dim=-1), count


def half_spectrum(lags: torch.Tensor, geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """One frequency of each conjugate pair (f, dims), and how many singular vectors' blocks it stands for.

    A dimension in which every tap has lag 0 (1×1 kernels, patches) has the same block at every
    frequency: it is computed once and counted m times.
    """
    periods = [n // s for n, s in zip(geometry.size, geometry.stride, strict=True)]
    varies = [bool((lags[:, dim] % m).any()) for dim, m in enumerate(periods)]
    counts = [m if v else 1 for m, v in zip(periods, varies, strict=True)]
    grid = torch.stack(torch.meshgrid(*[torch.arange(c) for c in counts], indexing="ij"), -1).flatten(0, -2)
    weights = torch.tensor([math.prod(counts[dim + 1 :]) for dim in range(len(counts))])
    here, partner = grid @ weights, (-grid % torch.tensor(counts)) @ weights
    keep = here <= partner
    multiplicity = torch.where(here == partner, 1, 2) * (math.prod(periods) // math.prod(counts))
    return grid[keep], multiplicity[keep]


def _lags_and_phases(geometry: Geometry) -> tuple[torch.Tensor, dict[tuple, list[int]]]:
    """Lag of each tap per dimension (taps, dims), and the taps of each phase."""
    per_dim = [
        [divmod(d * a, s) for a in range(k)]
        for d, k, s in zip(geometry.dilation, geometry.kernel, geometry.stride, strict=True)
    ]
    lags, phases = [], {}
    for index, tap in enumerate(itertools.product(*per_dim)):
        lags.append([lag for lag, _ in tap])
        phases.setdefault(tuple(phase for _, phase in tap), []).append(index)
    return torch.tensor(lags), phases


def _turns(frequencies: torch.Tensor, lags: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """(f, taps) Σ over dimensions of f·lag/m modulo 1, in integers as long as possible."""
    periods = torch.tensor([n // s for n, s in zip(geometry.size, geometry.stride, strict=True)])
    products = (frequencies[:, None, :] * lags[None, :, :]) % periods
    return (products.double() / periods).sum(-1)


def _taps(weight: torch.Tensor, groups: int) -> torch.Tensor:
    """(taps, groups · c_out/g · c_in/g): one row per tap."""
    return weight.flatten(2).permute(2, 0, 1).reshape(-1, weight.shape[0] * weight.shape[1]).contiguous()


def _values(blocks: torch.Tensor) -> torch.Tensor:
    """Singular values of each block; a row or a column has just its norm."""
    if 1 in blocks.shape[-2:]:
        return torch.linalg.vector_norm(blocks, dim=(-2, -1)).unsqueeze(-1)
    return torch.linalg.svdvals(blocks)
