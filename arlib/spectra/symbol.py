"""Circular convolutions are block-diagonal over frequencies:
exact singular values from small matrices.

Sedghi, Gupta & Long, "The singular values of convolutional layers" (ICLR 2019), for stride 1.
For a stride s that divides n, split the input rows by their remainder modulo s ("polyphase"):
position s·q + r is lag q of phase r. Output row i then reads lag i + q of each phase, which is a
stride-1 circular convolution on a map of m = n/s rows with s times the input channels. Its block at
frequency f is

    B(f)[o, (r, c)] = Σ_{taps with phase r} W[o, c, tap] · exp(2πi f·lag / m)        (c_out ×
    s·c_in)

A real kernel makes B(−f) the conjugate of B(f), so one of each pair suffices. Lags enter only
through exp(2πi f·lag/m), so kernels that reach around the map are wrapped exactly.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch

from arlib.spectra.blocks import SMALL, block_values, gram, gram_values, in_threads, one_core
from arlib.spectra.geometry import Geometry
from arlib.spectra.grams import Correlations, worthwhile

CHUNK_BYTES = 2**22  # of one batch of complex blocks: about what a core's cache holds
CUDA_BYTES = 2**28  # of one batch on a GPU, which wants many blocks at a time


class Symbol:
    """The frequency blocks of a convolution whose `geometry.cyclic` is true.

    weight: (c_out, c_in/groups, *kernel), float32 or float64. `frequencies` (f, dims) holds one of
    each conjugate pair, `multiplicity` (f,) how many blocks each stands for. threads: that share
    the chunks, on a CPU; by default torch's number.
    """

    def __init__(self, weight: torch.Tensor, geometry: Geometry, threads: int | None = None):
        self.geometry, self.threads = geometry, threads or torch.get_num_threads()
        self.shape = (geometry.groups, weight.shape[0] // geometry.groups, weight.shape[1])
        self.periods = torch.tensor(geometry.periods)
        self.lags, phases = geometry.lags_and_phases
        self.phases = [torch.tensor(taps) for taps in phases]
        self.frequencies, self.multiplicity = half_spectrum(geometry)
        # (taps, c_out · c_in/g)
        self.taps = weight.flatten(2).permute(2, 0, 1).flatten(1).contiguous()

    def blocks(self, frequencies: torch.Tensor) -> torch.Tensor:
        """(f, groups, c_out/groups, columns) at some frequencies,
        less the columns of phases that no tap reads.
        """
        phase = self.phase_factors(frequencies)
        # rounded only here: the angles are float64, whatever the weights are
        cos, sin = (part.to(self.taps) for part in (phase.real, phase.imag))
        parts = [
            torch.complex(cos[:, t] @ self.taps[t], sin[:, t] @ self.taps[t]) for t in self.phases
        ]
        return torch.cat([part.view(-1, *self.shape) for part in parts], dim=-1)

    def phase_factors(
        self, frequencies: torch.Tensor, lags: torch.Tensor | None = None
    ) -> torch.Tensor:
        """(f, taps) exp(2πi Σ f·lag/m), complex128, of these lags or the taps';
        integers are reduced modulo m.
        """
        lags = self.lags if lags is None else lags
        turns = (frequencies[:, None, :] * lags) % self.periods / self.periods.double()
        angle = 2 * math.pi * turns.sum(-1)
        return torch.complex(angle.cos(), angle.sin())

    def map(
        self, function: Callable[[torch.Tensor], torch.Tensor], frequencies=None
    ) -> torch.Tensor:
        """The function of the blocks at these frequencies (by default all), by chunks;
        on a CPU in torch's threads.
        """
        return self.over_chunks(lambda part: function(self.blocks(part)), frequencies)

    def over_chunks(
        self, function: Callable[[torch.Tensor], torch.Tensor], frequencies=None
    ) -> torch.Tensor:
        """The function of the frequencies, chunk by chunk, concatenated in their order."""
        frequencies = self.frequencies if frequencies is None else frequencies
        per_frequency = 2 * self.taps.element_size() * self.taps.shape[1] * len(self.phases)
        if self.taps.is_cuda:
            return torch.cat(
                [function(part) for part in frequencies.split(max(1, CUDA_BYTES // per_frequency))]
            )
        share = math.ceil(len(frequencies) / self.threads)
        chunks = frequencies.split(max(1, min(CHUNK_BYTES // per_frequency, share)))
        return torch.cat(in_threads(function, chunks, self.threads))

    @property
    def by_gram(self) -> bool:
        """Whether eigenvalues of Gram matrices are faster here than SVDs, and accurate enough."""
        return (
            not self.taps.is_cuda and self.taps.dtype == torch.float64 and min(self.shape[1:]) > 1
        )

    def gram_values(self) -> torch.Tensor:
        """(f, groups, k) singular values by Gram matrices:
        good to 1e-15·σ_max², so not for small ones.
        """
        if not worthwhile(self):
            return self.map(lambda blocks: gram_values(gram(blocks)))
        correlations = Correlations(self)
        return self.over_chunks(lambda part: gram_values(correlations.grams(part)))

    def values(self) -> torch.Tensor:
        """(f, groups, k) singular values of the blocks, descending, k the smaller side."""
        if not self.by_gram:
            return self.map(block_values)
        values = self.gram_values()
        again = values[..., -1] < SMALL * values[..., 0].amax(0)  # (f, groups)
        if again.any():
            some = again.any(1)
            values[some] = self.map(block_values, self.frequencies[some])
        return values


def singular_values_cyclic(
    weight: torch.Tensor, geometry: Geometry, threads: int | None = None
) -> torch.Tensor:
    """All singular values, descending, of a convolution whose `geometry.cyclic` is true.

    On a CPU always computed in float64, by which Gram matrices are faster than SVDs in float32.
    """
    return singular_values_stacked(weight[None], geometry, threads)[0]


def singular_values_stacked(
    weights: torch.Tensor, geometry: Geometry, threads: int | None = None
) -> list[torch.Tensor]:
    """The singular values of each of several layers (layers, c_out, c_in/g, *kernel) of one
    geometry.

    Layers are to each other what groups are within one, so that small ones are done together.
    """
    stacked = replace(geometry, groups=len(weights) * geometry.groups)
    all_columns = weights.shape[2] * math.prod(geometry.stride)
    with one_core() as before:
        symbol = Symbol(
            (weights if weights.is_cuda else weights.double()).flatten(0, 1),
            stacked,
            threads or before,
        )
        values = symbol.values()
        # unread phases are zero columns
        missing = min(symbol.shape[1], all_columns) - values.shape[-1]
        values = torch.nn.functional.pad(values, (0, missing))
        repeated = values.repeat_interleave(symbol.multiplicity.to(values.device), dim=0)
        return [
            descending(part.flatten()).to(weights) for part in repeated.chunk(len(weights), dim=1)
        ]


def block_bytes(weight: torch.Tensor, geometry: Geometry) -> int:
    """What all frequency blocks of a layer take, in double precision,
    before conjugate pairs are told apart.
    """
    return 16 * weight.shape[0] * weight.shape[1] * math.prod(geometry.size)


def descending(values: torch.Tensor) -> torch.Tensor:
    """Sorted; on a CPU by numpy, which sorts numbers some ten times as fast."""
    if values.is_cuda:
        return values.sort(descending=True).values
    # copied: from_numpy refuses the negative stride of a reversed array
    return torch.from_numpy(np.sort(values.numpy())[::-1].copy())


@lru_cache(maxsize=16)
def half_spectrum(geometry: Geometry) -> tuple[torch.Tensor, torch.Tensor]:
    """One frequency of each conjugate pair (f, dims),
    and how many singular vectors' blocks it stands for.

    A dimension in which every tap has lag 0 (1×1 kernels, patches) has the same block at every
    frequency: it is computed once and counted m times.
    """
    lags, periods = geometry.lags_and_phases[0], geometry.periods
    varies = [bool((lags[:, dim] % m).any()) for dim, m in enumerate(periods)]
    counts = [m if v else 1 for m, v in zip(periods, varies, strict=True)]
    grid = torch.stack(
        torch.meshgrid(*[torch.arange(c) for c in counts], indexing="ij"), -1
    ).flatten(0, -2)
    weights = torch.tensor([math.prod(counts[dim + 1 :]) for dim in range(len(counts))])
    here, partner = grid @ weights, (-grid % torch.tensor(counts)) @ weights
    keep = here <= partner
    multiplicity = torch.where(here == partner, 1, 2) * (math.prod(periods) // math.prod(counts))
    return grid[keep], multiplicity[keep]
