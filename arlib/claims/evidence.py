"""What one statistic says about one study:
effect over seeds, trend over strengths, share of layers.
"""

import math
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from arlib.claims.declared import Config, Statistic
from arlib.claims.statistics import Interval, page_trend, t_interval, t_test

SEEDS_NEEDED = 3  # with two, t is 12.7: an interval so wide decides nothing
LEVEL = 0.05
PAIRS = 10_000  # of seeds, whose differences are in memory at one time


@dataclass(frozen=True)
class Evidence:
    """One statistic over the grid. Differences of layer statistics are medians over the layers."""

    problem: str = ""
    """Why it is not measured; empty if it is."""
    seeds: tuple[int, ...] = ()
    strengths: tuple[float, ...] = ()
    differences: tuple[float, ...] = ()
    """Per seed: value at the effect strength − value at 0 (log ratios for log statistics)."""
    effect: Interval = field(default_factory=Interval)
    onset: Interval = field(default_factory=Interval)
    """0 → smallest usable strength."""
    dose: Interval = field(default_factory=Interval)
    """Smallest → largest usable strength."""
    trend_p: float = math.nan
    trend: int = 0
    shares: tuple[float, ...] = ()
    """Per seed: share of layers whose statistic is smaller than at 0."""
    larger: tuple[float, ...] = ()
    """Per seed: share of layers whose statistic is larger than at 0."""
    floor: float = math.nan
    """Largest share of layers that moved together between two seeds of one strength."""
    noise: float = math.nan
    """95th percentile of |median over layers
    of the difference| between two seeds of one strength.
    """
    p: float = math.nan
    """Two-sided p of the t test that `effect` belongs to."""
    at_zero: float = math.nan
    at_effect: float = math.nan
    remarks: tuple[str, ...] = ()


def gather(
    frame: pd.DataFrame,
    statistic: Statistic,
    config: Config,
    *,
    out: Collection[float] = (),
    noise: bool = True,
    level: float = LEVEL,
) -> Evidence:
    """Evidence from `frame` (rows (seed, strength), a column per layer);
    strengths in `out` are not used.

    Seeds are those measured at 0 and at the effect strength; strengths those at which every one of
    these seeds is measured. noise: compute what pairs of seeds of one strength differ by, which
    costs time by the square of the seeds. level: 1 − the coverage of the intervals.
    """
    frame = frame[~frame.index.get_level_values("strength").isin(list(out))]
    if statistic.log:
        # 0 has no logarithm: as NaN its layer drops out below, and a remark says so
        frame = np.log(frame.where(frame > 0))
    layered = bool(statistic.layers)
    whole = frame.dropna(axis="columns") if layered else frame.dropna()
    have: dict[float, set[int]] = {}
    for seed, strength in whole.index:
        have.setdefault(strength, set()).add(seed)
    seeds = sorted(have.get(0.0, set()) & have.get(config.effect, set()))
    if len(seeds) < SEEDS_NEEDED or whole.shape[1] == 0:
        return Evidence(problem=_problem(have, config, out), seeds=tuple(seeds))
    # Page's test needs a complete table, so a strength that one seed lacks is left out for all
    used = [s for s in sorted(have) if have[s] >= set(seeds)]
    left = [
        f"AR strength {s:g} is left out: {_missing(set(seeds) - have[s])}."
        for s in sorted(set(have) - set(used))
    ]
    if frame.shape[1] > whole.shape[1]:
        left.append(
            f"{frame.shape[1] - whole.shape[1]} layers are left out: 0 or not measured in some run."
        )
    row = {run: place for place, run in enumerate(whole.index)}
    numbers = whole.to_numpy(dtype=float)  # (runs, layers)
    grid = {s: numbers[[row[seed, s] for seed in seeds]] for s in used}  # each (seeds, layers)
    evidence = _summary(
        grid,
        seeds,
        config.effect,
        log=statistic.log,
        layered=layered,
        remarks=tuple(left),
        cover=1 - level,
    )
    if not (layered and noise):
        return evidence
    values = list(grid.values())
    return replace(evidence, floor=noise_floor(values), noise=noise_of_medians(values))


def _summary(
    grid: dict[float, np.ndarray], seeds: list[int], effect: float, *, log, layered, remarks, cover
) -> Evidence:
    first, last = min(s for s in grid if s > 0), max(grid)
    differences = _between(grid, 0.0, effect)
    trend = page_trend(_levels(grid))
    typical = {s: np.median(grid[s], axis=1).mean() for s in (0.0, effect)}
    return Evidence(
        seeds=tuple(seeds),
        strengths=tuple(grid),
        differences=tuple(differences),
        effect=t_interval(differences, cover),
        onset=t_interval(_between(grid, 0.0, first), cover),
        dose=t_interval(_between(grid, first, last), cover) if last > first else Interval(),
        trend_p=trend.p,
        trend=trend.sign,
        shares=tuple((grid[effect] < grid[0.0]).mean(axis=1).tolist()) if layered else (),
        larger=tuple((grid[effect] > grid[0.0]).mean(axis=1).tolist()) if layered else (),
        p=t_test(differences),
        at_zero=float(np.exp(typical[0.0]) if log else typical[0.0]),
        at_effect=float(np.exp(typical[effect]) if log else typical[effect]),
        remarks=remarks,
    )


def _between(grid: dict[float, np.ndarray], start: float, end: float) -> list[float]:
    # paired in seed and layer before the median: what the two nets have in common cancels
    return np.median(grid[end] - grid[start], axis=1).tolist()


def _levels(grid: dict[float, np.ndarray]) -> np.ndarray:
    """(seeds, strengths): median over layers of the deviation from the layer's mean over strengths.

    Centred symmetrically, not on strength 0, so that strengths are exchangeable when nothing
    happens.
    """
    centre = sum(grid.values()) / len(grid)
    return np.stack([np.median(values - centre, axis=1) for values in grid.values()], axis=1)


def noise_floor(frames: Iterable) -> float:
    """Largest share of layers that is smaller in one seed than in another at the same strength.

    frames: one per strength, (seeds, layers). Every pair of seeds counts in both orders.
    """
    shares = (
        max((moved < 0).mean(axis=1).max(), (moved > 0).mean(axis=1).max())
        for moved in _between_seeds(frames)
    )
    return float(max(shares))


def noise_of_medians(frames: Iterable) -> float:
    """95th percentile of |median over layers of the difference| over all pairs
    of seeds of one strength.

    frames: one per strength, (seeds, layers), on the scale of the statistic. It stays small where
    all layers of a network move together, which no share of layers can tell from an effect.
    """
    medians = [abs(np.median(moved, axis=1)) for moved in _between_seeds(frames)]
    return float(np.quantile(np.concatenate(medians), 0.95))


def _between_seeds(frames: Iterable) -> Iterator[np.ndarray]:
    """Differences between every two seeds of one strength, (pairs, layers), some at a time."""
    for table in map(np.asarray, frames):
        first, second = np.triu_indices(len(table), 1)
        for start in range(0, len(first), PAIRS):
            some = slice(start, start + PAIRS)
            yield table[first[some]] - table[second[some]]


def _missing(seeds: set[int]) -> str:
    return f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, sorted(seeds)))} missing"


def _problem(have: dict[float, set[int]], config: Config, out: Collection[float]) -> str:
    """Says in plain words why fewer than three seeds can be compared."""
    compared = (0.0, config.effect)
    lost = [s for s in compared if s in out]
    if lost:
        return f"AR strength {lost[0]:g} is out, because a run collapsed there."
    if not have:
        return "Nothing is recorded yet."
    known = set(config.seeds).union(*have.values())
    gaps = {s: known - have.get(s, set()) for s in compared}
    missing = [f"{_missing(gap)} at AR strength {s:g}" for s, gap in gaps.items() if gap]
    detail = "; ".join(missing) or f"{len(known)} recorded"
    return (
        f"At least {SEEDS_NEEDED} seeds at AR strengths 0 and {config.effect:g} are needed: "
        f"{detail}."
    )
