"""From the record table to numbers: one statistic of every run, and which runs collapsed."""

import re
from collections.abc import Collection, Iterable

import pandas as pd

from arlib.claims.declared import CONVOLUTIONS, Config, Statistic
from arlib.errors import InputError

COLUMNS = ("checkpoint", "split", "statistic", "layer", "setting", "value", "strength", "seed")
_OF_BRANCHES = r"blocks\.\d+\.conv\d+"
_NOTHING = pd.DataFrame(
    index=pd.MultiIndex.from_arrays([[], [], []], names=["checkpoint", "seed", "strength"]),
    columns=pd.Index([], name="layer"),
    dtype=float,
)


def clean(records: pd.DataFrame) -> pd.DataFrame:
    """The rows of the grid itself (no variants) with finite values; columns are checked."""
    lacking = [name for name in COLUMNS if name not in records.columns]
    if lacking:
        raise InputError(
            f"the record table lacks {', '.join(lacking)}; pass what Study.records() returns."
        )
    table = records[records["variant"].fillna("") == ""] if "variant" in records else records
    table = table.assign(
        value=pd.to_numeric(table["value"]),
        strength=table["strength"].astype(float).round(6),
        # compared with some name for every verdict: whole numbers are compared much faster
        statistic=table["statistic"].astype("category"),
    )
    for name in ("layer", "setting", "split"):
        table[name] = table[name].fillna("")
    return table[table["value"].abs() < float("inf")]  # NaN compares as False, so it goes too


def at_common_radius(settings: pd.Series) -> pd.Series:
    """Which settings, such as "apgd-ce+t@8", are of the radius at which networks are compared.

    That is PGD-10's radius, because the strong attack also runs at smaller ones, where it checks
    margins; where PGD-10 is not recorded it is the largest. "pgd-10@trained" is of none.
    """
    radii = pd.to_numeric(settings.str.partition("@")[2], errors="coerce")
    weak = radii[settings.str.startswith("pgd-10@")].dropna()
    return radii == (radii if weak.empty else weak).max()


def values(
    table: pd.DataFrame, statistic: Statistic, checkpoint: str | None = None
) -> pd.DataFrame:
    """One statistic of every run: rows (seed, strength), a column per layer (or one, "")."""
    return along(table, statistic, [checkpoint or statistic.checkpoint]).droplevel("checkpoint")


def along(table: pd.DataFrame, statistic: Statistic, checkpoints: Collection[str]) -> pd.DataFrame:
    """One statistic of every run at some checkpoints:
    rows (checkpoint, seed, strength), columns as in `values`.
    """
    # few are left: the other comparisons cost nothing then
    rows = table[table["statistic"] == statistic.name]
    if rows.empty:
        return _NOTHING.copy()
    rows = rows[(rows["setting"] == statistic.setting) & rows["checkpoint"].isin(checkpoints)]
    if statistic.layers == CONVOLUTIONS:
        rows = rows[rows["layer"].isin(counted(table))]
    wide = _pivot(rows, statistic.split)
    return (wide - _pivot(rows, statistic.minus)).dropna(how="all") if statistic.minus else wide


def counted(table: pd.DataFrame) -> list[str]:
    """The layers that C6 counts: 3×3 convolutions of residual branches, not stem,
    shortcuts or classifier.

    Those with value 1 in the rows "counted"; in a table without such rows, those named
    blocks.N.convM.
    """
    rows = table[table["statistic"] == "counted"]
    if len(rows):
        return sorted(set(rows.loc[rows["value"] > 0, "layer"]))
    return [name for name in table["layer"].unique() if re.fullmatch(_OF_BRANCHES, name)]


def _pivot(rows: pd.DataFrame, split: str) -> pd.DataFrame:
    rows = rows[rows["split"] == split]
    key = ["checkpoint", "seed", "strength", "layer"]
    twice = rows[rows.duplicated(key)]
    if len(twice):
        first = twice.iloc[0]
        raise InputError(
            f"{first['statistic']} {first['setting']} {first['layer']} stands twice at AR "
            f"strength {first['strength']:g}, seed {first['seed']}; pass the records of one study."
        )
    return rows.set_index(key)["value"].unstack("layer")


def collapsed(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """Runs that learnt next to nothing: columns strength, seed, reason.

    Natural train accuracy below 2/classes, or more than 90 % of the predictions in one class.
    """
    table, config = clean(records), Config.of(config)
    last = table[(table["checkpoint"] == "last") & (table["layer"] == "")]
    accuracy = 1 - _of(last, "error", ("train",))
    largest = _of(last, "share_largest_class", ("train", "test"))
    low, one = accuracy[accuracy < 2 / config.classes], largest[largest > 0.9]
    rows = [(*run, f"train accuracy {value:.3f}") for run, value in low.items()]
    rows += [
        (*run, f"{value:.0%} of predictions in one class")
        for run, value in one.items()
        if run not in low.index
    ]
    return pd.DataFrame(rows, columns=["strength", "seed", "reason"]).sort_values(
        ["strength", "seed"], ignore_index=True
    )


def _of(rows: pd.DataFrame, statistic: str, splits: Iterable[str]) -> pd.Series:
    rows = rows[(rows["statistic"] == statistic) & rows["split"].isin(splits)]
    return rows.groupby(["strength", "seed"])["value"].max()
