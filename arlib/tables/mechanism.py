"""Small tables of text for the chapter on the mechanism."""

import math

import pandas as pd

from arlib import claims
from arlib.claims.mechanism import SHORT, STATISTICS, in_order, share_text, title
from arlib.claims.words import effect_text
from arlib.errors import NotMeasured

NOT_MEASURED = "–"


def arms(records: pd.DataFrame, config=None) -> pd.DataFrame:
    """What every arm became, as text: a row per arm, means over seeds of what is compared.

    Raises `NotMeasured` where no arm is recorded.
    """
    table = claims.arms_of(records, config)
    if table.empty:
        raise NotMeasured("no arm is recorded; run the study first.")
    rows = {}
    for arm in in_order(table.index.get_level_values("arm").unique()):
        part = table.loc[arm].astype(float)
        rows[title(arm)] = {SHORT[name]: _level(name, part[name].mean()) for name in STATISTICS}
        rows[title(arm)]["seeds"] = str(len(part))
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    seeds = table.index.get_level_values("seed").nunique()
    out.attrs["finding"] = f"{len(out)} arms are recorded, of {seeds} seed{'s' * (seeds > 1)}."
    return out


def _level(name: str, value: float) -> str:
    if math.isnan(value):
        return NOT_MEASURED
    return f"{100 * value:.1f} %" if STATISTICS[name].percent else f"{value:.3g}"


def manipulations(records: pd.DataFrame) -> pd.DataFrame:
    """Whether each arm has what was to be imposed on it, as text: a row per arm and seed.

    Raises `NotMeasured` where no such arm is recorded.
    """
    table = claims.manipulations(records)
    if table.empty:
        raise NotMeasured("no arm that imposes anything is recorded; run the study first.")
    rows = {}
    order = in_order(table["arm"].unique())
    table = table.sort_values("seed").sort_values(
        "arm", key=lambda arm: arm.map(order.index), kind="stable"
    )
    for row in table.itertuples():
        spectra = row.kind == "spectra"
        layers = f"spectra of {row.layers:.0f} of {row.of:.0f} layers"
        furthest = f"{100 * row.worst:.2g} % ({row.layer})" if spectra else _matched(row)
        rows[f"{title(row.arm)}, seed {row.seed}"] = {
            "imposed": layers if spectra else "smoothness",
            "furthest off": furthest,
            "allowed": "2 %" if spectra else "10 %",
            "holds": "yes" if row.holds else "no",
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    held = int(table["holds"].astype(bool).sum())
    out.attrs["finding"] = f"What was to be imposed is there in {held} of {len(out)} networks."
    return out


def _matched(row) -> str:
    return f"{row.value:.3g} for {row.target:.3g}, at weight {float(f'{row.weight:.3g}'):g}"


def shares(records: pd.DataFrame, config=None) -> pd.DataFrame:
    """Reproduced and lost shares as text: a row per arm, a column per statistic, with Fieller's
    95 % interval where three seeds have it. Raises `NotMeasured` where there is none.
    """
    table = claims.shares(records, config)
    if table.empty:
        raise NotMeasured("no arm is recorded beside S′ and A′ of its seed; run the study first.")
    rows = {}
    for arm in in_order(table["arm"].unique()):
        part = table[table["arm"] == arm].set_index("statistic")
        row = {"share": part["kind"].iloc[0]}
        for name in STATISTICS:
            there = name in part.index
            ends = tuple(part.loc[name, ["share", "low", "high"]]) if there else None
            row[SHORT[name]] = share_text(ends) if there else NOT_MEASURED
        rows[title(arm)] = row | {"seeds": str(part["seeds"].max())}
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("arm")
    enough = int((table.groupby("arm")["seeds"].max() >= 3).sum())
    out.attrs["finding"] = f"{enough} of {len(out)} arms have the three seeds of an interval."
    return out


def slopes(records: pd.DataFrame, config=None) -> pd.DataFrame:
    """The slope of each statistic over the dose, from S (0) to A (1), as text; with an interval
    where three seeds have all doses. Raises `NotMeasured` where no seed has.
    """
    by_statistic = claims.doses(records, config).attrs["slopes"]
    if not by_statistic:
        raise NotMeasured("no seed has all five doses; run the study first.")
    rows = {}
    for name, slope in by_statistic.items():
        text = effect_text(STATISTICS[name], slope)
        rows[SHORT[name]] = {"per dose": text.partition(" [")[0] if math.isnan(slope.low) else text}
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("statistic")
    errors = out["per dose"].get(SHORT["error"], NOT_MEASURED)
    out.attrs["finding"] = f"One dose of robust spectra moves test error by {errors}."
    return out
