"""Statistics of a spectrum too large to compute, each with an interval:
stochastic Lanczos quadrature.

Two errors stay apart: Monte Carlo (the t interval over probes, see `spread`) and quadrature
(between Gauss and Gauss–Radau, which bracket zᵀ(AᵀA)^½z, see `lanczos`). Steps are added until the
bracket is a quarter of the Monte Carlo half-width, and the interval contains both.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch

from arlib.errors import InputError
from arlib.spectra.conv import checked
from arlib.spectra.density import quantile_bounds
from arlib.spectra.geometry import geometry
from arlib.spectra.lanczos import Bidiagonalization
from arlib.spectra.operator import LinearMap, convolution_map
from arlib.spectra.spread import PILOTS, Rules, Spread, Triple, effective_rank
from arlib.spectra.squares import largest_bound as bound_of
from arlib.spectra.squares import sum_of_squares as squares_of

BUFFER_BYTES = 2**29  # of one batch of Krylov vectors
STEPS_AT_ONCE = 6


@dataclass(frozen=True)
class Estimate:
    """Estimated statistics of a spectrum, with (value, low, high) for each."""

    count: int
    values: dict[str, Triple]
    """By name as in `statistics`. min is known from above only; max from below, and from above with
    a bound; the ends of condition come from quantile bounds."""
    quantiles: np.ndarray
    """(201,) halfway between `quantile_bounds`, float32."""
    quantile_bounds: tuple[np.ndarray, np.ndarray]
    """Chebyshev–Markov–Stieltjes bounds, (201,) each: bounds of the quadrature, not an interval."""
    probes: int
    steps: int
    monte_carlo: float
    """Half-width of the t interval of std, relative to it."""
    bracket: float
    """Half of the distance between Gauss's and Gauss–Radau's std, relative to it."""


def estimate(
    weight: torch.Tensor,
    size,
    stride=1,
    padding="zeros",
    dilation=1,
    groups=1,
    *,
    amount=None,
    probes: int | None = None,
    tolerance: float = 0.0,
    max_steps: int = 120,
    confidence: float = 0.95,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Estimate:
    """Statistics with intervals of a convolution of any padding and stride, without its matrix.

    Arguments are those of `singular_values` and of `estimate_map`. Σσ² is exact, σ_max is bounded
    from above by the frequency blocks of a longer map. Convolutions run in `dtype`; float32 is 5 to
    10 times as fast on a CPU and its rounding (1e-6·σ_max) far below the error bars.
    Raises `InputError` for the same reasons as both.
    """
    weight = checked(weight, torch.float64)
    shape = geometry(weight, size, stride, padding, dilation, groups, amount)
    return estimate_convolution(
        weight,
        shape,
        probes=probes,
        tolerance=tolerance,
        max_steps=max_steps,
        confidence=confidence,
        seed=seed,
        dtype=dtype,
    )


def estimate_convolution(
    weight: torch.Tensor, shape, *, dtype=torch.float32, **options
) -> Estimate:
    """`estimate` for a weight and its `Geometry`."""
    operator = convolution_map(weight.to(dtype), shape)
    bound = bound_of(weight, shape)
    return estimate_map(operator, squares_of(weight, shape), largest_bound=bound, **options)


def estimate_map(
    operator: LinearMap,
    sum_of_squares: float,
    *,
    largest_bound: float = math.inf,
    probes: int | None = None,
    tolerance: float = 0.0,
    max_steps: int = 120,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Statistics with intervals of any linear map of which Σσ² is known exactly.

    probes: at least 8; by default 8 to 32, more for small maps, where each scatters more (about 1 %
    of std in all). tolerance: steps also end once the interval of std, bracket included, is as
    narrow as ± this, relative to it. largest_bound: of σ_max, if one is known. seed: of the probes.
    Raises `InputError` for fewer than 8 probes or Σσ² that is not positive.
    """
    # the smaller side: zeros that the shape alone makes are no singular values here
    operator = operator if operator.columns <= operator.rows else operator.transposed
    n = operator.columns
    probes = int(min(32, max(8, 65536 / n))) if probes is None else probes
    if probes < 8:
        raise InputError(f"probes is {probes}; a t interval needs at least 8.")
    if not (math.isfinite(sum_of_squares) and sum_of_squares > 0):
        raise InputError(f"Σσ² is {sum_of_squares}; an estimate needs a finite one > 0.")
    # drawn on the CPU: the same probes on every device
    signs = torch.randint(0, 2, (PILOTS + probes, n), generator=torch.Generator().manual_seed(seed))
    start = (2 * signs - 1).to(operator.device, operator.dtype)

    def spread_of(rules: Rules) -> Spread:
        return Spread.of(rules, sum_of_squares / n, confidence, probes)

    rules = _run(operator, start, max_steps, tolerance, spread_of)
    return _summary(rules, spread_of(rules), n, largest_bound)


def _run(
    operator: LinearMap, start: torch.Tensor, max_steps: int, tolerance: float, spread_of
) -> Rules:
    """Steps until quadrature is a quarter of Monte Carlo;
    further batches, if memory needs them, take as many.
    """
    per_probe = (operator.rows + operator.columns) * start.element_size() * 40
    batches = start.split(max(PILOTS + 3, BUFFER_BYTES // per_probe))
    first = Bidiagonalization(operator, batches[0])
    most = min(max_steps, operator.columns)
    while first.steps < most:
        first.extend(min(STEPS_AT_ONCE, most - first.steps))
        spread = spread_of(Rules.of([first]))
        half = spread.monte_carlo + spread.bracket
        if (
            spread.bracket <= spread.monte_carlo / 4
            or spread.relative_half_width(half) <= tolerance
        ):
            break
    first.forget()
    return Rules.of(
        [first, *(Bidiagonalization(operator, b).extend(first.steps).forget() for b in batches[1:])]
    )


def _summary(rules: Rules, spread: Spread, n: int, bound: float) -> Estimate:
    theta, weight = rules.gauss
    largest, smallest = float(theta.max()), float(theta[weight > 1e-12].min())
    above = max(bound, largest)
    lower, upper = quantile_bounds(rules.gauss, above if math.isfinite(above) else largest)
    middle = (lower + upper) / 2
    mean_square = spread.square * spread.mu**2
    values = {
        "max": (largest, largest, above),
        "min": (smallest, 0.0, smallest),
        **spread.moments(),
        "effective_rank": effective_rank(rules, spread),
        "stable_rank": tuple(mean_square / end**2 for end in (largest, above, largest)),
        "condition": (
            _condition(middle, middle),
            _condition(lower, upper),
            _condition(upper, lower),
        ),
    }
    errors = (spread.relative_half_width(half) for half in (spread.monte_carlo, spread.bracket))
    bounds = lower.astype(np.float32), upper.astype(np.float32)
    return Estimate(
        n, values, middle.astype(np.float32), bounds, spread.probes, rules.steps, *errors
    )


def _condition(top: np.ndarray, bottom: np.ndarray) -> float:
    """95th percentile of one set of quantiles over the 5th of another."""
    return float(top[190] / bottom[10]) if bottom[10] > 0 else math.inf
