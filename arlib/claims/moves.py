"""What numbers do from ordinary training to the largest recorded AR strength, in one sentence.

It stands below figures and tables of records, and in the figures' alt texts. It says no more than
the numbers bear: "rises" and "falls" where the 95 % interval over seeds excludes no change.
"""

from collections import defaultdict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from arlib.claims.declared import Statistic
from arlib.claims.statistics import Interval, t_interval
from arlib.claims.words import effect_text

FACTOR, SHARE, DIFFERENCE = "factor", "share", "difference"  # how two numbers are compared
NO_PAIR = "No seed is recorded both at AR strength 0 and at another, so nothing is compared."
_VERBS = {1: "rises", -1: "falls"}


class Move(NamedTuple):
    """From AR strength 0 to `strength`: levels, and the mean change with its interval over seeds.

    change: log ratios where numbers are compared as factors; without ends where there is one seed.
    """

    strength: float
    seeds: int
    at_zero: float
    at_end: float
    change: Interval

    @property
    def sign(self) -> int:
        """Which way, by the interval; 0 where it contains no change or there is none."""
        return 0 if np.isnan(self.change.low) else self.change.sign


def move(values: pd.Series | pd.DataFrame, kind: str) -> Move | None:
    """How one number of every run moves, over the seeds that have both ends; None if none has.

    values: index (seed, strength); a frame has a column per layer, and the change is then the
    median over layers, as claims about layers have it. kind: FACTOR, SHARE or DIFFERENCE.
    """
    wide = values.to_frame() if isinstance(values, pd.Series) else values
    wide = np.log(wide.where(wide > 0)) if kind == FACTOR else wide
    runs = {s: part.droplevel("strength") for s, part in wide.groupby(level="strength")}
    plain = runs.pop(0.0, None)
    for strength in sorted(runs, reverse=True) if plain is not None else ():
        changes = (runs[strength] - plain).median(axis=1).dropna()
        if changes.empty:
            continue
        start, end = (
            float(rows.loc[changes.index].median(axis=1).mean()) for rows in (plain, runs[strength])
        )
        start, end = (np.exp(start), np.exp(end)) if kind == FACTOR else (start, end)
        several = len(changes) > 1
        change = t_interval(changes.tolist()) if several else Interval(float(changes.iloc[0]))
        return Move(strength, len(changes), start, end, change)
    return None


def moves(numbers: Mapping[str, tuple[pd.Series | pd.DataFrame, str]]) -> str:
    """One sentence on how each number moves: {what it is: (values as `move` takes them, kind)}.

    "From AR strength 0 to 8, 5 seeds [95 % interval]: test error rises from 35.2 % to 59.8 %
    (+24.6 points [+22.5, +26.7])." Numbers of other strengths or seeds have a part of their own.
    """
    by_ends = defaultdict(list)
    for name, (values, kind) in numbers.items():
        if (one := move(values, kind)) is not None:
            by_ends[one.strength, one.seeds].append(_phrase(name, one, kind))
    sentences = [
        f"From AR strength 0 to {strength:g}, "
        f"{f'{seeds} seeds [95 % interval]' if seeds > 1 else 'one seed'}: {'; '.join(phrases)}."
        for (strength, seeds), phrases in by_ends.items()
    ]
    return " ".join(sentences) or NO_PAIR


def directions(numbers: Mapping[str, tuple[pd.Series | pd.DataFrame, str]]) -> str:
    """Only which way each goes: "falls (a; b), rises (c), not clear (d)"; "" without a pair.

    One seed has no interval, so there it is never clear.
    """
    groups = defaultdict(list)
    for name, (values, kind) in numbers.items():
        if (one := move(values, kind)) is not None:
            groups[_VERBS.get(one.sign, "not clear")].append(name)
    order = (*_VERBS.values(), "not clear")
    return ", ".join(f"{verb} ({'; '.join(groups[verb])})" for verb in order if verb in groups)


def of_runs(by_run: Mapping[tuple[float, int] | float, float]) -> pd.Series:
    """{(strength, seed) or strength: number} as values with index (seed, strength)."""
    keys = [key if isinstance(key, tuple) else (key, 0) for key in by_run]
    index = pd.MultiIndex.from_tuples([(seed, float(s)) for s, seed in keys],
                                      names=["seed", "strength"])  # fmt: skip
    return pd.Series(list(by_run.values()), index=index, dtype=float)


def kind_of(statistic: Statistic) -> str:
    """How a declared statistic is compared."""
    return FACTOR if statistic.log else SHARE if statistic.percent else DIFFERENCE


def _phrase(name: str, one: Move, kind: str) -> str:
    start, end = (_level(value, kind) for value in (one.at_zero, one.at_end))
    if np.isnan(one.change.low):
        return f"{name} goes from {start} to {end}"
    told = effect_text(Statistic("", "", log=kind == FACTOR, percent=kind == SHARE), one.change)
    if one.sign:
        return f"{name} {_VERBS[one.sign]} from {start} to {end} ({told})"
    return f"{name} does not clearly move, {start} to {end} ({told})"


def _level(value: float, kind: str) -> str:
    text = f"{100 * value:.1f} %" if kind == SHARE else f"{value:.3g}"
    return text.replace("-", "−")
