"""Mean, std and effective rank with intervals, from quadrature rules of a handful of probes.

For a Rademacher vector z, E zᵀ f((AᵀA)^½) z = Σ f(σ) (Ubaru, Chen & Saad 2017). Σσ² is known
exactly, which has to be used with care: std from Σσ²/N − mean² is ill-conditioned exactly where
spectra are concentrated. So each probe measures the spread around a pilot mean μ that comes from
probes of its own,

    q = zᵀ ((AᵀA)^½ − μ)² z,   E q = Σ (σ − μ)²,
    mean = (Σσ²/N + μ² − q̄/N) / 2μ,   var = q̄/N − (mean − μ)²,

both monotone in q̄, so that a t interval on the q's becomes one on mean and std.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats

from arlib.spectra.lanczos import Bidiagonalization, gauss, radau

PILOTS = 2
Triple = tuple[float, float, float]
"""Value, low end and high end of its interval."""


@dataclass(frozen=True)
class Rules:
    """Nodes θ and weights w (probes, k) of every probe, the first `PILOTS` of them pilots."""

    gauss: tuple[torch.Tensor, torch.Tensor]
    radau: tuple[torch.Tensor, torch.Tensor]
    steps: int

    @classmethod
    def of(cls, processes: list[Bidiagonalization]) -> "Rules":
        bidiagonal = torch.cat([process.bidiagonal() for process in processes])
        return cls(gauss(bidiagonal), radau(bidiagonal), processes[0].steps)


@dataclass(frozen=True)
class Spread:
    """q/N of every probe by both rules, in units of μ², and what follows for mean and std."""

    mu: float
    square: float
    """Σσ²/N in units of μ²."""
    gauss: np.ndarray
    radau: np.ndarray
    probes: int
    """Of the whole estimate; the first batch, on which the steps are chosen, may hold fewer."""
    confidence: float

    @classmethod
    def of(cls, rules: Rules, mean_square: float, confidence: float, probes: int) -> "Spread":
        """mean_square: Σσ²/N. The pilots' mean comes
        by the same formula around the root mean square.
        """
        rms = math.sqrt(mean_square)
        pilots = [
            float((w * (t / rms - 1) ** 2).sum(1)[:PILOTS].mean())
            for t, w in (rules.gauss, rules.radau)
        ]
        # not near 0: two pilots scatter, and all that follows is divided by μ
        mu = rms * max(1 - sum(pilots) / 4, 0.05)
        by_rule = [
            (w * (t / mu - 1) ** 2).sum(1)[PILOTS:].numpy() for t, w in (rules.gauss, rules.radau)
        ]
        return cls(mu, mean_square / mu**2, *by_rule, probes, confidence)

    @property
    def centre(self) -> float:
        return float(self.gauss.mean() + self.radau.mean()) / 2

    @property
    def monte_carlo(self) -> float:
        """Half-width of the t interval of q̄/N."""
        return t_half_width((self.gauss + self.radau) / 2, self.confidence, self.probes)

    @property
    def bracket(self) -> float:
        """Half of the distance between the two rules' q̄/N; Gauss–Radau's is the larger."""
        return max(float(self.radau.mean() - self.gauss.mean()) / 2, 0.0)

    def mean_at(self, q: float) -> float:
        return self.mu * (self.square + 1 - q) / 2

    def std_at(self, q: float) -> float:
        return self.mu * math.sqrt(max(q - (self.mean_at(q) / self.mu - 1) ** 2, 0.0))

    def relative_half_width(self, half: float) -> float:
        """What ± half on q̄/N is on std, relative to it; nan where std is 0."""
        std = self.std_at(self.centre)
        return (
            (self.std_at(self.centre + half) - self.std_at(self.centre - half)) / 2 / std
            if std > 0
            else math.nan
        )

    def moments(self) -> dict[str, Triple]:
        """mean, std and std/mean; the interval holds the t interval and the bracket."""
        q, half = self.centre, self.monte_carlo + self.bracket
        low, high = max(q - half, 0.0), q + half

        def ratio(x: float) -> float:
            return self.std_at(x) / self.mean_at(x)

        return {
            "mean": (self.mean_at(q), self.mean_at(high), self.mean_at(low)),
            "std": (self.std_at(q), self.std_at(low), self.std_at(high)),
            "std_over_mean": (ratio(q), ratio(low), ratio(high)),
        }


def t_half_width(samples: np.ndarray, confidence: float, probes: int | None = None) -> float:
    """Half-width of the t interval of a mean of `probes` values that scatter
    as these samples do.
    """
    probes = probes or len(samples)
    return float(
        stats.t.ppf(0.5 + confidence / 2, probes - 1) * samples.std(ddof=1) / math.sqrt(probes)
    )


def effective_rank(rules: Rules, spread: Spread) -> Triple:
    """exp(log S − L/S)/N with S = Σσ and L = Σσ log σ, by the delta method on each probe's (S, L).

    In units of μ both functions are measured less their tangent parabola in σ at 1, whose sum is
    known: σ − (1 + σ²)/2 and σ log σ − (σ² − 1)/2. Gauss and Gauss–Radau need not bracket L; the
    interval holds both.
    """
    entropies, halves = [], []
    for theta, weight in (rules.gauss, rules.radau):
        x, w = theta[PILOTS:] / spread.mu, weight[PILOTS:]
        total = ((w * (x - (1 + x**2) / 2)).sum(1) + (1 + spread.square) / 2).numpy()
        logs = (
            (w * (torch.special.xlogy(x, x) - (x**2 - 1) / 2)).sum(1) + (spread.square - 1) / 2
        ).numpy()
        s, l = total.mean(), logs.mean()
        entropies.append(math.log(s) - l / s)
        halves.append(t_half_width(total * (1 / s + l / s**2) - logs / s, spread.confidence))
    ends = min(entropies) - max(halves), max(entropies) + max(halves)
    value, low, high = (min(math.exp(h), 1.0) for h in (sum(entropies) / 2, *ends))
    return value, low, high
