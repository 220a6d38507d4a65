"""The matched-fit control: is an adversarially trained net more than a standard net that fits less?

At equal epochs adversarially trained (AT) nets fit less, and a less-trained standard net also has
smaller margins, gap, confidence and weights. So the standard (ε = 0) runs are measured along their
training, and every AT net is compared with its seed's standard net at equal natural train
cross-entropy, interpolated linearly between the two neighbouring checkpoints.
"""

from collections.abc import Collection

import numpy as np
import pandas as pd

from arlib.claims.declared import CLAIMS, Claim, Config, Statistic
from arlib.claims.evidence import SEEDS_NEEDED
from arlib.claims.statistics import Interval, t_interval
from arlib.claims.values import along, clean, collapsed, values

EXPLAINED = "explained by less fitting"
BEYOND = "more than less fitting"
CANNOT_TELL = "cannot be told from less fitting"
NO_POINT = "no matched point"
NO_EFFECT = "no effect to explain"
DEFINITION = (
    "Difference = AT net − standard net of the same seed at equal natural train cross-entropy. "
    f"“{EXPLAINED}”: its 95 % t interval over seeds contains 0, or lies on the side opposite to "
    f"the effect. “{CANNOT_TELL}”: it contains 0 and the whole effect as well. “{NO_POINT}”: "
    f"fewer than {SEEDS_NEEDED} seeds whose standard trajectory reaches the AT net's train "
    f"cross-entropy. “{NO_EFFECT}”: the effect itself, AT − finished standard net, has an "
    "interval containing 0."
)
_CE = Statistic("train cross-entropy", "ce", split="train")
_COLUMNS = [
    "claim", "title", "statistic", "strength", "train_ce", "effect", "difference", "low", "high",
    "differences", "seeds", "reading",
]  # fmt: skip
CONTROLLED = tuple(claim for claim in CLAIMS.values() if claim.primary and claim.id != "C1")


def matched_fit(
    records: pd.DataFrame,
    config: Config | dict | None = None,
    *,
    strengths: Collection[float] | None = None,
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row per claim (C2–C7) and AR strength > 0:
    AT net against the standard trajectory at equal fit.

    strengths, only: only these AR strengths and claims; by default all that are recorded.

    Columns: claim, title, statistic, strength, train_ce (mean over seeds), effect (AT − finished
    standard net), difference (AT − trajectory) with low, high and differences (one per seed),
    seeds, reading. Log ratios for log statistics, medians over layers for layer statistics.
    `attrs["definition"]` says what each reading means. Empty without checkpoints along training.
    """
    config, table = Config.of(config), clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    rows = []
    for claim in CONTROLLED if _epochs(table) else ():
        if only is not None and claim.id not in only:
            continue
        path, ends = _path_and_ends(table, claim.primary.at(config))
        measured = set(ends.index.get_level_values("strength")) - {0.0}
        wanted = measured if strengths is None else measured.intersection(strengths)
        for strength in sorted(wanted) if _moves(path) else ():
            rows.append(_compare(claim, config, strength, path, ends))
    out = pd.DataFrame(rows, columns=_COLUMNS)
    out.attrs["definition"] = DEFINITION
    return out


def trajectories(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """The points behind `matched_fit`, for plotting:
    claim, statistic, kind, strength, seed, train_ce, value.

    kind: "standard" (along training, in order) or "AT" (finished). value: the statistic itself; for
    layer statistics the factor to the finished standard net of the seed, median over layers.
    """
    config, table = Config.of(config), clean(records)
    table = table[~table["strength"].isin(collapsed(table, config)["strength"])]
    claims = CONTROLLED if _epochs(table) else ()
    parts = [part for claim in claims if len(part := _points(claim, config, table))]
    columns = ["claim", "statistic", "kind", "strength", "seed", "train_ce", "value"]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)


def _path_and_ends(table: pd.DataFrame, statistic: Statistic) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Standard runs along training, with the place of each checkpoint in "order";
    and all finished runs.

    Both have the statistic on its scale, a column per layer, and the run's train cross-entropy in
    "fit"; rows (seed, strength).
    """
    checkpoints = [*_epochs(table), "last"]
    frame, fit = along(table, statistic, checkpoints), along(table, _CE, checkpoints)
    if frame.empty or fit.empty:
        nothing = pd.DataFrame(columns=["fit"], index=values(table, statistic).index[:0])
        return nothing.assign(order=0), nothing
    frame = np.log(frame.where(frame > 0)) if statistic.log else frame
    frame = frame.join(fit[""].rename("fit"), how="inner")
    order = frame.index.get_level_values("checkpoint").map(checkpoints.index)
    frame = frame.droplevel("checkpoint")
    path = frame.assign(order=order)[frame.index.get_level_values("strength") == 0]
    finished = len(checkpoints) - 1
    return path.sort_values("order", kind="stable"), frame[order == finished]


def _epochs(table: pd.DataFrame) -> list[str]:
    """The checkpoints along the training of standard runs, in order."""
    names = table.loc[table["strength"] == 0, "checkpoint"].unique()
    return sorted(
        (name for name in names if name.startswith("epoch-")), key=lambda name: int(name[6:])
    )


def _moves(path: pd.DataFrame) -> bool:
    return path["order"].nunique() > 1


def _layers(frame: pd.DataFrame) -> list[str]:
    return [name for name in frame.columns if name not in ("fit", "order")]


def _compare(
    claim: Claim, config: Config, strength: float, path: pd.DataFrame, ends: pd.DataFrame
) -> dict:
    at, plain = (
        ends[ends.index.get_level_values("strength") == s].droplevel("strength")
        for s in (strength, 0.0)
    )
    layers = _layers(ends)
    both = at.index.intersection(plain.index)
    whole = (at.loc[both, layers] - plain.loc[both, layers]).median(axis=1).tolist()
    fits = at["fit"]
    # every seed has one group of rows: to look for them seed by seed would cost their square
    curves = {seed: curve for seed, curve in path.groupby(level="seed") if seed in fits.index}
    met = {seed: interpolated(curve, fits[seed], layers) for seed, curve in curves.items()}
    met = {seed: met[seed] for seed in at.index if met.get(seed) is not None}
    points = pd.DataFrame(met.values(), index=met, columns=layers)
    rest = (at.loc[[*met], layers] - points).median(axis=1).tolist()
    effect, difference = (
        t_interval(d) if len(d) >= SEEDS_NEEDED else Interval() for d in (whole, rest)
    )
    return {
        "claim": claim.id,
        "title": claim.title,
        "statistic": claim.primary.at(config).label,
        "strength": strength,
        "train_ce": at["fit"].mean(),
        "effect": effect.mean,
        "difference": difference.mean,
        "low": difference.low,
        "high": difference.high,
        "differences": tuple(rest),
        "seeds": len(rest),
        "reading": _reading(effect, difference),
    }


def interpolated(curve: pd.DataFrame, fit: float, layers: list[str]) -> pd.Series | None:
    """The nets of one seed at this "fit", linear between neighbours;
    None where none is as little, or as well, fitted.

    curve: a row per net, with column "fit" and one per layer.
    """
    # np.interp needs rising points, and along a training the fit may also get worse
    fits = curve["fit"].to_numpy(dtype=float)
    order = fits.argsort()
    fits = fits[order]
    if not len(fits) or not fits[0] <= fit <= fits[-1]:
        return None
    columns = curve[layers].to_numpy(dtype=float)[order].T
    return pd.Series([np.interp(fit, fits, column) for column in columns], index=layers)


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
    path, ends = _path_and_ends(table, statistic)
    if path.empty or ends.empty:
        return pd.DataFrame()
    layers, strength = _layers(ends), ends.index.get_level_values("strength")
    finished = ends[strength == 0].droplevel("strength")
    both = pd.concat(
        [path.assign(kind="standard"), ends[strength > 0].assign(kind="AT")]
    ).reset_index()
    both = both[both["seed"].isin(finished.index)]
    value = both[layers]
    if statistic.layers:
        value = value - finished.loc[both["seed"], layers].to_numpy()
    value = value.median(axis=1)
    both = both.rename(columns={"fit": "train_ce"})[["kind", "strength", "seed", "train_ce"]]
    both = both.assign(
        claim=claim.id, statistic=statistic.label, value=np.exp(value) if statistic.log else value
    )
    return both[["claim", "statistic", "kind", "strength", "seed", "train_ce", "value"]]
