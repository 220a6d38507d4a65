"""What the figures of several chapters have in common:
panels of one number per network, arrays by strength.
"""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pandas as pd

from arlib.claims import Statistic, kind_of, moves
from arlib.claims.values import clean, values
from arlib.errors import NotMeasured
from arlib.figures.style import (
    against_strength,
    one_scale,
    panels,
    strengths_of,
    words,
)


def values_of(table: pd.DataFrame, statistic: Statistic) -> pd.Series:
    """One number per run, index (seed, strength); medians over the layers of layer statistics."""
    wide = values(table, statistic)
    strengths_of(wide)
    return wide.median(axis=1)


def row_of_panels(records: pd.DataFrame, shown: list[tuple]):
    """A panel for each (title, axis label, statistic[, factor]), what is drawn in words, and what
    it shows: how each statistic, by its label, moves with AR strength.
    """
    table = clean(records)
    figure, axes = panels(len(shown))
    phrases, told = [], {}
    for ax, (title, label, statistic, *factor) in zip(axes, shown, strict=True):
        numbers = values_of(table, statistic) * (factor or [1])[0]
        against_strength(ax, numbers, label=label)
        ax.set_title(title)
        phrases.append(f"{title} ({words(numbers.groupby('strength').mean())})")
        # of layers as claims about layers compare them: layer by layer, then the median
        told[statistic.label] = values(table, statistic) * (factor or [1])[0], kind_of(statistic)
    one_scale(axes)
    return figure, "Means over seeds by AR strength: " + "; ".join(phrases) + ".", moves(told)


def collect(study) -> dict[tuple[float, int], dict[str, np.ndarray]]:
    """The arrays of a study's finished runs by (strength, seed), variants left out:
    what figures here take.
    """
    frame = study.records().drop_duplicates("run")
    frame = frame[frame["variant"] == ""]
    return {(row.strength, row.seed): study.arrays(row.run) for row in frame.itertuples()}


def of_strengths(arrays: Mapping, needed: str = "") -> dict[float, list[dict[str, np.ndarray]]]:
    """{strength: [arrays of its seeds]} from keys (strength, seed) or strength alone, in order.

    Runs without the array `needed` are left out; `NotMeasured` if none has it.
    """
    by_strength = defaultdict(list)
    for key, value in arrays.items():
        if not needed or needed in value:
            by_strength[key[0] if isinstance(key, tuple) else key].append(value)
    if not by_strength:
        what = f" (no {needed.partition('|')[0]})" if needed else ""
        raise NotMeasured(f"nothing is recorded to draw{what}; run the study first.")
    return dict(sorted(by_strength.items()))


def together(runs: list[dict], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(run[name]) for run in runs])
