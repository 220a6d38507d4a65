"""C9: whether another way of training lies above the front of PGD adversarial training.

Every method has a knob that trades natural accuracy for robust accuracy, and so has PGD adversarial
training. A method is gentler if it is more robust than PGD adversarial training *at the same
natural accuracy*. That is its height above the front: the line through PGD adversarial training's
own points, from point to point. Beyond the last points there is no front, and none is guessed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from scipy import optimize, stats

from arlib import sources
from arlib.claims.declared import Config
from arlib.claims.evidence import LEVEL, SEEDS_NEEDED
from arlib.claims.statistics import Interval, holm, t_interval, t_test
from arlib.claims.values import collapsed
from arlib.claims.words import p_text
from arlib.errors import InputError, NotMeasured
from arlib.studies.fronts import EPOCHS, GRID
from arlib.training import passes

GENTLER, HARSHER, BEYOND = "gentler", "less gentle", "beyond the front"
UNDECIDED, NOT_MEASURED = "undecided", "not measured"
POWER = 0.8  # of finding the smallest height that is called visible
NAMES = {
    GRID: "PGD-AT", "trades": "TRADES", "mixed": "mixed loss", "n-fgsm": "N-FGSM", "hat": "HAT",
}  # fmt: skip
COLUMNS = [
    "method", "value", "budget", "seed", "run", "epochs", "passes", "natural", "robust",
    "val_natural", "val_robust", "distance", "slope", "collapsed",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What is known of one method at one budget."""

    method: str
    budget: str
    verdict: str = NOT_MEASURED
    value: float = math.nan
    """Of the knob, chosen on validation images."""
    heights: dict[int, float] = field(default_factory=dict)
    """Of each seed, as a share of all images."""
    interval: Interval = field(default_factory=Interval)
    p: float = math.nan
    holm_p: float = math.nan
    """Adjusted for the number of methods that have a height."""
    why: str = ""
    whole: int = 0
    """Seeds whose networks, and those of the front, are all recorded."""


def front_points(study) -> pd.DataFrame:
    """One row per planned run of a study of fronts, NaN where it is not recorded.

    Columns: method, value (of the knob), budget ("epochs" or "passes", equal to the grid's), seed,
    run, epochs, passes (of the training), natural and robust (accuracy on test images, the latter
    under APGD-CE+T), val_natural and val_robust (validation images, PGD-20), distance (median of
    right test images, 255·ε), slope (median of margin / distance, logits per 1/255), collapsed.

    Raises `NotMeasured` for a study without fronts.
    """
    planned = [entry for entry in study.entries if entry.front is not None]
    if not planned:
        raise NotMeasured("the study has no fronts; `fronts:` in a study file lists them.")
    records, settings = study.records(), study.settings
    by_run = dict(iter(records.groupby("run"))) if len(records) else {}
    strong, knob = (
        settings.name(attack, settings.robust_radius) for attack in ("apgd-ce+t", "pgd-20")
    )
    asked = {
        "natural": ("error", "test", ""),
        "robust": ("robust_error", "test", strong),
        "val_natural": ("error", "val", ""),
        "val_robust": ("robust_error", "val", knob),
        "distance": ("distance_right", "test", ""),
        "slope": ("slope_right", "test", ""),
    }
    rows, classes = [], sources.source(planned[0].recipe.dataset).classes
    for entry in planned:
        point, recipe = entry.front, entry.recipe
        row = {"method": point.method, "value": float(point.value), "budget": point.budget}
        row |= {"seed": recipe.seed, "run": entry.run, "epochs": recipe.epochs}
        row |= {"passes": passes.of_training(recipe), "collapsed": False}
        if entry.run in by_run:
            table = by_run[entry.run]
            row |= {name: _value(table, key) for name, key in asked.items()}
            row["collapsed"] = len(collapsed(table.assign(variant=""), Config(classes=classes))) > 0
        rows.append(row)
    frame = pd.DataFrame(rows).reindex(columns=COLUMNS)
    for name in ("natural", "robust", "val_natural", "val_robust"):  # recorded as errors
        frame[name] = 1 - frame[name].astype(float)
    frame["distance"] = 255 * frame["distance"].astype(float)
    frame["slope"] = frame["slope"].astype(float)
    return frame


def _value(table: pd.DataFrame, key: tuple[str, str, str]) -> float:
    statistic, split, setting = key
    rows = table[
        (table["statistic"] == statistic)
        & (table["split"] == split)
        & (table["setting"] == setting)
        & (table["checkpoint"] == "last")
    ]
    return float(rows["value"].iloc[0]) if len(rows) else math.nan


def height(natural: float, robust: float, front: pd.DataFrame) -> float:
    """How far a point lies above the front at its own natural accuracy; NaN beyond its ends.

    front: columns natural, robust, a row per point of PGD adversarial training.

    >>> line = pd.DataFrame({"natural": [0.4, 0.6], "robust": [0.3, 0.1]})
    >>> round(height(0.5, 0.25, line), 3), height(0.7, 0.25, line)
    (0.05, nan)
    """
    if len(front) < 2:
        raise InputError(f"a front has two points or more; got {len(front)}.")
    line = front.sort_values("natural")
    known = line["natural"].to_numpy(float)
    if not known[0] <= natural <= known[-1]:
        return math.nan
    return robust - float(np.interp(natural, known, line["robust"].to_numpy(float)))


def heights(points: pd.DataFrame) -> pd.DataFrame:
    """The height of every recorded point above the front of its own seed.

    Columns: method, value, budget, seed, natural, robust, height (NaN beyond the front). Left out:
    seeds whose front is not complete, and knob values at which the training of a seed collapsed.
    """
    points = usable(points)
    rows = []
    for seed, own in points.groupby("seed"):
        front = own[own["method"] == GRID]
        if front["robust"].isna().any() or len(front) < 2:
            continue
        for row in own[(own["method"] != GRID) & own["robust"].notna()].itertuples():
            above = height(row.natural, row.robust, front)
            rows.append((row.method, row.value, row.budget, seed, row.natural, row.robust, above))
    columns = ["method", "value", "budget", "seed", "natural", "robust", "height"]
    return pd.DataFrame(rows, columns=columns)


def usable(points: pd.DataFrame) -> pd.DataFrame:
    """Without the values at which the training of some seed collapsed: they are out for all."""
    key = ["method", "value", "budget"]
    gone = points.groupby(key)["collapsed"].transform("any")
    return points[~gone.astype(bool)]


def above_the_front(points: pd.DataFrame, budget: str = EPOCHS) -> list[Outcome]:
    """The outcome of every method at one budget, in the order of the study file.

    The knob is chosen by the mean accuracy under PGD-20 on validation images. A seed counts if its
    front and all values of the method are recorded; three are needed. p values are adjusted for the
    number of methods that have a height.
    """
    mine = points[(points["budget"] == budget) | (points["method"] == GRID)]
    methods = [name for name in mine["method"].unique() if name != GRID]
    raw = [_outcome(mine, method, budget) for method in methods]
    adjusted = iter(holm([one.p for one in raw if not math.isnan(one.p)]))
    return [one if math.isnan(one.p) else _decided(one, next(adjusted)) for one in raw]


def _outcome(points: pd.DataFrame, method: str, budget: str) -> Outcome:
    own = points[points["method"].isin([GRID, method])]
    planned = sorted(own["seed"].unique())
    alive = usable(own)
    lacking = alive[alive["robust"].isna()]
    seeds = [seed for seed in planned if seed not in set(lacking["seed"])]
    few = alive.groupby("method")["value"].nunique()
    if few.get(GRID, 0) < 2 or few.get(method, 0) < 1:
        return Outcome(method, budget, why="its trainings collapsed, or those of the front.")
    if len(seeds) < SEEDS_NEEDED:
        return Outcome(method, budget, why=_missing(lacking, seeds), whole=len(seeds))
    alive = alive[alive["seed"].isin(seeds)]
    value = chosen(alive[alive["method"] == method])
    at = heights(alive)
    at = at[at["value"] == value].set_index("seed")["height"]
    values = {int(seed): float(at[seed]) for seed in seeds}
    about = {"value": value, "heights": values, "whole": len(seeds)}
    if any(math.isnan(one) for one in values.values()):
        out = sum(math.isnan(one) for one in values.values())
        why = f"in {out} of {len(seeds)} seeds its natural accuracy is outside the front's."
        return Outcome(method, budget, BEYOND, why=why, **about)
    numbers = list(values.values())
    about |= {"interval": t_interval(numbers), "p": t_test(numbers)}
    return Outcome(method, budget, UNDECIDED, **about)


def _missing(lacking: pd.DataFrame, seeds: list) -> str:
    count = len(lacking)
    return (
        f"{len(seeds)} of the {SEEDS_NEEDED} seeds that are needed are whole; {count} "
        f"network{'s' * (count != 1)} of its front and PGD-AT's {'are' if count != 1 else 'is'} "
        "missing."
    )


def chosen(points: pd.DataFrame) -> float:
    """The value of a method's knob with the highest mean accuracy under PGD-20 on validation
    images; of equal ones the first.
    """
    return float(points.groupby("value", sort=False)["val_robust"].mean().idxmax())


def _decided(one: Outcome, holm_p: float) -> Outcome:
    verdict, sign = UNDECIDED, one.interval.sign
    if sign and holm_p < LEVEL:
        verdict = GENTLER if sign > 0 else HARSHER
    return replace(one, verdict=verdict, holm_p=holm_p)


def visible(outcomes: list[Outcome]) -> tuple[float, int]:
    """(height, seeds): the smallest true height that a t test at 5 % finds four times in five.

    From the standard deviation of heights over seeds, pooled over the methods. It is the height at
    which one method alone is found; the correction for several asks for more.

    Raises `NotMeasured` where no method has a height.
    """
    series = [list(one.heights.values()) for one in outcomes if not math.isnan(one.p)]
    if not series:
        raise NotMeasured("no method has a height over enough seeds.")
    spread = math.sqrt(float(np.mean([np.var(values, ddof=1) for values in series])))
    seeds = min(map(len, series))
    return spread * visible_in_spreads(seeds), seeds


def visible_in_spreads(seeds: int, level: float = LEVEL, power: float = POWER) -> float:
    """The mean that a two-sided t test of so many values finds with this probability, on its own
    side, in units of their standard deviation.

    >>> round(visible_in_spreads(3), 2), round(visible_in_spreads(10), 2)
    (3.26, 1.0)
    """
    edge = stats.t.ppf(1 - level / 2, seeds - 1)

    def lacking(effect: float) -> float:
        return float(stats.nct.sf(edge, seeds - 1, effect * math.sqrt(seeds))) - power

    high = 0.1
    while lacking(high) < 0:  # far out the distribution has no numbers
        high *= 1.5
    return float(optimize.brentq(lacking, high / 1.5, high))


def gentler(study) -> dict:
    """C9 of a study of fronts: verdict, note, and outcomes at equal epochs.

    supported if some method is gentler, contradicted if every method is less gentle, undecided
    else; not measured as long as a method is not. What is beyond the front decides nothing.
    """
    outcomes = above_the_front(front_points(study))
    verdicts = [one.verdict for one in outcomes]
    if NOT_MEASURED in verdicts:
        verdict = NOT_MEASURED
    elif GENTLER in verdicts:
        verdict = "supported"
    elif set(verdicts) == {HARSHER}:
        verdict = "contradicted"
    else:
        verdict = UNDECIDED
    seeds = max((len(one.heights) for one in outcomes), default=0)
    note = " ".join(_sentence(one) for one in outcomes)
    if set(verdicts) == {NOT_MEASURED}:
        whole = ", ".join(f"{NAMES[one.method]} {one.whole}" for one in outcomes)
        note = (
            f"Each method needs {SEEDS_NEEDED} seeds whose networks, and those of PGD-AT's front, "
            f"are all recorded. So far: {whole}."
        )
    try:
        smallest, of = visible(outcomes)
        note += (
            f" A height of {100 * smallest:.1f} points would be found in four of five such studies "
            f"of {of} seeds; smaller ones are not seen."
        )
    except NotMeasured:
        pass
    return {"verdict": verdict, "note": note, "seeds": seeds, "outcomes": outcomes}


def _sentence(one: Outcome) -> str:
    name = NAMES[one.method]
    if one.verdict in (NOT_MEASURED, BEYOND):
        return f"{name[0].upper()}{name[1:]}: {one.verdict}; {one.why}"
    mean, low, high = (f"{100 * value:+.1f}".replace("-", "−") for value in one.interval)
    return (
        f"{name[0].upper()}{name[1:]} at {one.value:g}: {one.verdict}, {mean} points [{low}, "
        f"{high}] above PGD-AT's front, {p_text(one.holm_p)} after Holm."
    )


def in_words(outcomes: list[Outcome]) -> str:
    """Which methods came to which verdict, in one sentence."""
    by_verdict: dict[str, list[str]] = {}
    for one in outcomes:
        by_verdict.setdefault(one.verdict, []).append(NAMES[one.method])
    parts = [f"{verdict}: {', '.join(names)}" for verdict, names in by_verdict.items()]
    sentence = "; ".join(parts) or "no method is compared"
    return f"{sentence[0].upper()}{sentence[1:]}."


def so_far(points: pd.DataFrame) -> str:
    """How many networks of the fronts are recorded, and where PGD-AT's own front ends."""
    known = points[points["robust"].notna()]
    sentence = f"{len(known)} of {len(points)} networks are recorded"
    ends = usable(known)[lambda frame: frame["method"] == GRID].groupby("value")
    means = 100 * ends[["natural", "robust"]].mean()
    if len(means) > 1:
        first, last = means.iloc[0], means.iloc[-1]
        sentence += (
            f"; PGD-AT's front leads from {first['natural']:.1f} % natural and "
            f"{first['robust']:.1f} % robust accuracy to {last['natural']:.1f} % and "
            f"{last['robust']:.1f} %"
        )
    return f"{sentence}."


def claim_row(study) -> Mapping:
    """What `gentler` changes in the row of C9 of a table of verdicts."""
    outcome = gentler(study)
    row = {name: outcome[name] for name in ("verdict", "note", "seeds")}
    return row | {"primary_verdict": outcome["verdict"]}
