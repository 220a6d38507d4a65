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
from collections.abc import Callable

import torch

from arlib.spectra.blocks import block_values, in_threads
from arlib.spectra.geometry import Geometry

CHUNK_BYTES = 2**26  # of one batch of complex blocks


class Symbol:
    """The frequency blocks of a convolution whose `geometry.cyclic` is true.

    weight: (c_out, c_in/groups, *kernel), float32 or float64. `frequencies` (f, dims) holds one of each
    conjugate pair, `multiplicity` (f,) how many blocks each stands for.
    """

    def __init__(self, weight: torch.Tensor, geometry: Geometry):
        self.shape = (geometry.groups, weight.shape[0] // geometry.groups, weight.shape[1])
        self.periods = torch.tensor([n // s for n, s in zip(geometry.size, geometry.stride, strict=True)])
        self.lags, phases = _lags_and_phases(geometry)
        self.phases = [torch.tensor(taps) for taps in phases.values()]
        self.frequencies, self.multiplicity = half_spectrum(self.lags, geometry)
        self.taps = (
            weight.flatten(2).permute(2, 0, 1).reshape(len(self.lags), -1).contiguous()
        )  # (taps, c_out · c_in/g)

    def blocks(self, frequencies: torch.Tensor) -> torch.Tensor:
        """(f, groups, c_out/groups, columns) at some frequencies, less the columns of phases that no tap reads."""
        phase = self.phase_factors(frequencies)
        cos, sin = (part.to(self.taps) for part in (phase.real, phase.imag))
        parts = [torch.complex(cos[:, t] @ self.taps[t], sin[:, t] @ self.taps[t]) for t in self.phases]
        return torch.cat([part.view(-1, *self.shape) for part in parts], dim=-1)

    def phase_factors(self, frequencies: torch.Tensor) -> torch.Tensor:
        """(f, taps) exp(2πi Σ f·lag/m), complex128; integers are reduced modulo m first."""
        turns = (frequencies[:, None, :] * self.lags) % self.periods / self.periods.double()
        angle = 2 * math.pi * turns.sum(-1)
        return torch.complex(angle.cos(), angle.sin())

    def map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> list[torch.Tensor]:
        """The function of the blocks, chunk by chunk in the order of `frequencies`; on a CPU in torch's threads."""
        per_frequency = 2 * self.taps.element_size() * self.taps.shape[1] * len(self.phases)
        threads = 1 if self.taps.is_cuda else torch.get_num_threads()
        chunk = min(CHUNK_BYTES // per_frequency, math.ceil(len(self.frequencies) / threads))
        chunks = self.frequencies.split(max(1, chunk))
        return in_threads(lambda part: function(self.blocks(part)), chunks, threads)


def singular_values_cyclic(weight: torch.Tensor, geometry: Geometry) -> torch.Tensor:
    """All singular values, descending, of a convolution whose `geometry.cyclic` is true."""
    symbol = Symbol(weight, geometry)
    values = torch.cat(symbol.map(block_values))  # (f, groups, min of the block's sides)
    all_columns = weight.shape[1] * math.prod(geometry.stride)
    missing = min(symbol.shape[1], all_columns) - values.shape[-1]  # unread phases are zero columns
    values = torch.nn.functional.pad(values, (0, missing))
    repeated = values.repeat_interleave(symbol.multiplicity.to(values.device), dim=0)
    return repeated.flatten().sort(descending=True).values


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
