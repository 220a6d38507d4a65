"""The matched-fit control: is an adversarially trained net more than a standard net that fits less?

At equal epochs adversarially trained (AT) nets fit less, and a less-trained standard net also has
smaller margins, gap, confidence and weights. So the standard (ε = 0) runs are measured along their
training, and every AT net is compared with its seed's standard net at equal natural train
cross-entropy, interpolated linearly between the two neighbouring checkpoints.
"""

import numpy as np
import pandas as pd

from arlib.claims.declared import CLAIMS, Claim, Config, Statistic
from arlib.claims.evidence import SEEDS_NEEDED
from arlib.claims.statistics import Interval, t_interval
from arlib.claims.values import clean, collapsed, values

EXPLAINED = "explained by less fitting"
BEYOND = "more than less fitting"
CANNOT_TELL = "cannot be told from less fitting"
NO_POINT = "no matched point"
NO_EFFECT = "no effect to explain"
DEFINITION = (
    f"Difference = AT net − standard net of the same seed at equal natural train cross-entropy. "
    f"“{EXPLAINED}”: its 95 % t interval over seeds contains 0, or lies on the side opposite to the effect. "
    f"“{CANNOT_TELL}”: it contains 0 and the whole effect as well. "
    f"“{NO_POINT}”: fewer than {SEEDS_NEEDED} seeds whose standard trajectory reaches the AT net's train "
    f"cross-entropy. “{NO_EFFECT}”: the effect itself, AT − finished standard net, has an interval containing 0."
)
_CE = Statistic("train cross-entropy", "ce", split="train")
_COLUMNS = [
    "claim", "title", "statistic", "strength", "train_ce", "effect", "difference", "low", "high",
    "differences", "seeds", "reading",
]  # fmt: skip
CONTROLLED = tuple(claim for claim in CLAIMS.values() if claim.primary and claim.id != "C1")


def matched_fit(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """One row a claim (C2–C7) and AR strength > 0: AT net against the standard trajectory at equal fit.

    Columns: claim, title, statistic, strength, train_ce (mean over seeds), effect (AT − finished
    standard net), difference (AT − trajectory) with low, high and differences (one a seed), seeds,
    reading. Log ratios for log statistics, medians over layers for layer statistics.
    `attrs["definition"]` says what each reading means. Empty without checkpoints along training.
    """
    config, table = Config.of(config), clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    rows = []
    for claim in CONTROLLED:
        path, ends = _trajectory(table, claim.primary.at(config)), _values(table, claim.primary.at(config), "last")
        for strength in sorted(set(ends.index.get_level_values("strength")) - {0.0}) if _moves(path) else ():
            rows.append(_compare(claim, config, strength, path, ends))
    out = pd.DataFrame(rows, columns=_COLUMNS)
    out.attrs["definition"] = DEFINITION
    return out


def trajectories(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """The points behind `matched_fit`, for plotting: claim, statistic, kind, strength, seed, train_ce, value.

    kind: "standard" (along training, in order) or "AT" (finished). value: the statistic itself; for layer
    statistics the factor to the finished standard net of the seed, median over layers.
    """
    config, table = Config.of(config), clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    parts = [part for claim in CONTROLLED if len(part := _points(claim, config, table))]
    columns = ["claim", "statistic", "kind", "strength", "seed", "train_ce", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _values(table: pd.DataFrame, statistic: Statistic, checkpoint: str) -> pd.DataFrame:
    """The statistic on its scale, a column a layer, with the run's train cross-entropy in column "ce"."""
    frame = values(table, statistic, checkpoint)
    frame = np.log(frame.where(frame > 0)) if statistic.log else frame
    ce = values(table, _CE, checkpoint)
    if frame.empty or ce.empty:
        return pd.DataFrame(columns=["ce"], index=frame.index[:0])
    return frame.join(ce[""].rename("ce"), how="inner")


def _trajectory(table: pd.DataFrame, statistic: Statistic) -> pd.DataFrame:
    """Standard runs at every checkpoint along training, in order: rows (seed, strength)."""
    table = table[table["strength"] == 0]
    epochs = sorted((c for c in table["checkpoint"].unique() if c.startswith("epoch-")), key=lambda c: int(c[6:]))
    parts = [_values(table, statistic, checkpoint) for checkpoint in [*epochs, "last"] if epochs]
    parts = [part.assign(order=order) for order, part in enumerate(parts) if len(part)]
    return pd.concat(parts) if parts else pd.DataFrame(columns=["ce", "order"])


def _moves(path: pd.DataFrame) -> bool:
    return path["order"].nunique() > 1


def _layers(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name not in ("ce", "order")]


def _compare(claim: Claim, config: Config, strength: float, path: pd.DataFrame, ends: pd.DataFrame) -> dict:
    at, plain = (ends[ends.index.get_level_values("strength") == s].droplevel("strength") for s in (strength, 0.0))
    layers = _layers(ends)
    whole = [(at.loc[s, layers] - plain.loc[s, layers]).median() for s in at.index.intersection(plain.index)]
    met = {s: _interpolated(path, s, at.loc[s, "ce"], layers) for s in at.index}
    rest = [(at.loc[s, layers] - point).median() for s, point in met.items() if point is not None]
    effect, found = (t_interval(d) if len(d) >= SEEDS_NEEDED else Interval() for d in (whole, rest))
    return {
        "claim": claim.id,
        "title": claim.title,
        "statistic": claim.primary.at(config).label,
        "strength": strength,
        "train_ce": at["ce"].mean(),
        "effect": effect.mean,
        "difference": found.mean,
        "low": found.low,
        "high": found.high,
        "differences": tuple(map(float, rest)),
        "seeds": len(rest),
        "reading": _reading(effect, found),
    }


def _interpolated(path: pd.DataFrame, seed: int, ce: float, layers: list[str]) -> pd.Series | None:
    """The trajectory of one seed at train cross-entropy `ce`, or None where it never gets there."""
    path = path[path.index.get_level_values("seed") == seed].sort_values("ce")
    if path.empty or not path["ce"].iloc[0] <= ce <= path["ce"].iloc[-1]:
        return None
    return pd.Series({name: np.interp(ce, path["ce"], path[name]) for name in layers})


def _reading(effect: Interval, rest: Interval) -> str:
    if np.isnan(rest.mean):
        return NO_POINT
    if effect.sign == 0:
        return NO_EFFECT
    if rest.low <= 0 <= rest.high and rest.low <= effect.mean <= rest.high:
        return CANNOT_TELL
    return BEYOND if rest.sign == effect.sign else EXPLAINED


def _points(claim: Claim, config: Config, table: pd.DataFrame) -> pd.DataFrame:
    statistic = claim.primary.at(config)
    path, ends = _trajectory(table, statistic), _values(table, statistic, "last")
    if path.empty or ends.empty:
        return pd.DataFrame()
    layers, strength = _layers(ends), ends.index.get_level_values("strength")
    finished = ends[strength == 0].droplevel("strength")
    both = pd.concat([path.assign(kind="standard"), ends[strength > 0].assign(kind="AT")]).reset_index()
    both = both[both["seed"].isin(finished.index)]
    value = both[layers]
    if statistic.layers:
        value = value - finished.loc[both["seed"], layers].to_numpy()
    value = value.median(axis=1)
    both = both.rename(columns={"ce": "train_ce"})[["kind", "strength", "seed", "train_ce"]]
    both = both.assign(claim=claim.id, statistic=statistic.label, value=np.exp(value) if statistic.log else value)
    return both[["claim", "statistic", "kind", "strength", "seed", "train_ce", "value"]]
