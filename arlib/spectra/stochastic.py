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

BUFFER_BYTES = 2**29  # of one batch of Krylov vectors, of the steps that are usual
MEMORY = 2**32  # bytes of Krylov vectors at one time, whatever the map
USUAL_STEPS = 40
STEPS_AT_ONCE = 6
LEAST_STEPS = 12  # with fewer the bracket of quadrature says next to nothing
MOST_PROBES = 32  # unless more are asked for
FIRST = PILOTS + 3  # probes from which the number of steps is chosen, at least
BESIDE = 8  # vectors that a step needs beside those it keeps


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
    memory: int = MEMORY,
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
        memory=memory,
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
    memory: int = MEMORY,
) -> Estimate:
    """Statistics with intervals of any linear map of which Σσ² is known exactly.

    probes: at least 8; by default 8 to 32, more for small maps, where each scatters more (about 1 %
    of std in all). tolerance: steps also end once the interval of std, bracket included, is as
    narrow as ± this, relative to it. largest_bound: of σ_max, if one is known. seed: of the probes.
    memory: bytes of Krylov vectors, each as long as the map's two sides, at one time. A map too
    large for five probes at a time is measured probe by probe, in up to twice the products, and
    in as many steps as there is room for: its interval holds what that costs.
    Raises `InputError` for fewer than 8 probes, Σσ² that is not positive, or a map of which
    not even one probe fits.
    """
    # the smaller side: zeros that the shape alone makes are no singular values here
    operator = operator if operator.columns <= operator.rows else operator.transposed
    n = operator.columns
    probes = int(min(MOST_PROBES, max(8, 65536 / n))) if probes is None else probes
    if probes < 8:
        raise InputError(f"probes is {probes}; a t interval needs at least 8.")
    if not (math.isfinite(sum_of_squares) and sum_of_squares > 0):
        raise InputError(f"Σσ² is {sum_of_squares}; an estimate needs a finite one > 0.")
    # drawn on the CPU: the same probes on every device
    draw = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (PILOTS + probes, n), generator=draw, dtype=torch.int8)

    def spread_of(rules: Rules) -> Spread:
        return Spread.of(rules, sum_of_squares / n, confidence, probes)

    batches = signs.split(_at_a_time(_step_bytes(operator)))
    most = min(max_steps, n)
    # a buffer that grows is there twice for a moment
    if 2 * len(batches[0]) * (most + BESIDE) * _step_bytes(operator) <= memory:
        rules = _run(operator, batches, most, tolerance, spread_of)
    else:
        rules = _one_by_one(operator, signs, most, tolerance, spread_of, memory)
    return _summary(rules, spread_of(rules), n, largest_bound)


def usual_bytes(sides: int) -> int:
    """What the Krylov vectors of a map, its two sides together so long, usually take in float32."""
    step = 4 * sides
    together = min(_at_a_time(step), PILOTS + MOST_PROBES)
    return min(MEMORY, together * USUAL_STEPS * step)


def _step_bytes(operator: LinearMap) -> int:
    """Of the two vectors of one step of one probe."""
    return (operator.rows + operator.columns) * operator.dtype.itemsize


def _at_a_time(step: int) -> int:
    """Probes in a batch: at least so many that the first one shows how they scatter."""
    return max(FIRST, BUFFER_BYTES // (USUAL_STEPS * step))


def _start(operator: LinearMap, signs: torch.Tensor) -> torch.Tensor:
    return (2 * signs - 1).to(operator.device, operator.dtype)


def _run(
    operator: LinearMap, batches: tuple[torch.Tensor, ...], most: int, tolerance: float, spread_of
) -> Rules:
    """Steps until quadrature is a quarter of Monte Carlo; further batches take as many."""
    first = Bidiagonalization(operator, _start(operator, batches[0]))
    while first.steps < most:
        first.extend(min(STEPS_AT_ONCE, most - first.steps))
        if _enough(spread_of(Rules.of([first])), tolerance):
            break
    first.forget()
    others = (
        Bidiagonalization(operator, _start(operator, batch)).extend(first.steps).forget()
        for batch in batches[1:]
    )
    return Rules.of([first, *others])


def _one_by_one(
    operator: LinearMap, signs: torch.Tensor, most: int, tolerance: float, spread_of, memory: int
) -> Rules:
    """The same with the vectors of one probe in memory at a time: the first ones begin anew, with
    twice the steps, where these were too few.
    """
    room = memory // _step_bytes(operator) - BESIDE
    if room < LEAST_STEPS:
        needed = (LEAST_STEPS + BESIDE) * _step_bytes(operator)
        raise InputError(
            f"the spectrum of a map of {operator.rows:,} × {operator.columns:,} needs at least "
            f"{needed / 2**30:.3g} GiB for {LEAST_STEPS} steps of one probe; memory is "
            f"{memory / 2**30:.3g} GiB. Raise memory, or measure a smaller map.",
            field="memory",
        )
    most = min(most, room)

    def alone(probe: torch.Tensor, steps: int) -> Bidiagonalization:
        start = _start(operator, probe[None])
        return Bidiagonalization(operator, start, room=steps + 1).extend(steps).forget()

    steps = min(STEPS_AT_ONCE, most)
    while True:
        first = [alone(probe, steps) for probe in signs[:FIRST]]
        if steps == most or _enough(spread_of(Rules.of(first)), tolerance):
            break
        steps = min(2 * steps, most)
    return Rules.of([*first, *(alone(probe, steps) for probe in signs[FIRST:])])


def _enough(spread: Spread, tolerance: float) -> bool:
    half = spread.monte_carlo + spread.bracket
    return spread.bracket <= spread.monte_carlo / 4 or spread.relative_half_width(half) <= tolerance


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
