"""Small tables of text for the chapters: record tables in, a DataFrame of words and rounded numbers out."""

import numpy as np
import pandas as pd

from arlib.attacks import wilson
from arlib.errors import InputError

NOT_MEASURED = "not measured"


def share_in_words(share: float) -> str:
    """A share in words that do not change with the last digit: "about half", for what differs between machines."""
    bounds = {0.05: "almost none", 0.35: "a minority", 0.65: "about half", 0.95: "most"}
    return next((words for bound, words in bounds.items() if share < bound), "almost all")


def interval(accuracy: float, n: int) -> str:
    """An accuracy on n images with Wilson's 95 % interval: "81.1 % [76.8, 84.8]"."""
    low, high = wilson(round(accuracy * n), n)
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def accuracies(records: pd.DataFrame, *, checkpoint: str = "last") -> pd.DataFrame:
    """Natural accuracy and accuracy under each recorded attack at the common radius, on test images.

    One row a run (strength, seed; variants left out) and attack: attack, setting, n, accuracy, low, high.
    attack: "natural", "pgd-10", "apgd-ce+t"; low and high: Wilson's 95 % interval over images.
    Raises `InputError` if nothing is recorded.
    """
    rows = _rows(records, checkpoint, "test", ("error", "robust_error"))
    rows = rows[rows["setting"] != "pgd-10@trained"]
    kinds = rows["setting"].str.partition("@")[0]
    found = rows[["strength", "seed", "setting", "n"]].assign(
        attack=kinds.where(kinds != "", "natural"), accuracy=1 - rows["value"]
    )
    ends = [wilson(round(row.accuracy * row.n), row.n) for row in found.itertuples()]
    found[["low", "high"]] = np.array(ends)
    order = found["attack"].map({"natural": 0, "pgd-10": 1}).fillna(2)
    found = found.assign(order=order).sort_values(["strength", "seed", "order"]).drop(columns="order")
    return found.reset_index(drop=True)


def under_attack(records: pd.DataFrame, *, checkpoint: str = "last") -> pd.DataFrame:
    """`accuracies` as text: a row a run, a column an attack with its radius and n, intervals over images."""
    found = accuracies(records, checkpoint=checkpoint)
    head = found.apply(lambda row: f"{row['setting'] or 'natural'} (n = {row['n']:,})", axis=1)
    found = found.assign(head=head, text=[interval(row.accuracy, row.n) for row in found.itertuples()])
    wide = found.pivot(index=["strength", "seed"], columns="head", values="text")[list(dict.fromkeys(head))]
    return wide.fillna(NOT_MEASURED).rename_axis(columns=None).rename(index=lambda key: f"{key:g}")


def robust_gap(records: pd.DataFrame) -> pd.DataFrame:
    """Natural and robust error (PGD-10 at the common radius) on train and test images, last and best weights.

    A row a strength and checkpoint; means over seeds in percent, with the smallest and the largest gap. The gap
    is test − train error, in points.
    """
    last = _rows(records, "last", "test", ("robust_error",))["setting"]
    common = last[last.str.startswith("pgd-10@") & (last != "pgd-10@trained")].unique()
    rows = {}
    for strength in sorted(_rows(records, "last", "test", ("error",))["strength"].unique()):
        for checkpoint in ("last", "best"):
            row = _gap(records, strength, checkpoint, "error", "", "natural")
            for setting in common:
                row |= _gap(records, strength, checkpoint, "robust_error", setting, setting)
            rows[f"{strength:g}", checkpoint] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["strength", "weights"])


def cost(histories: pd.DataFrame) -> pd.DataFrame:
    """What the trainings of each strength took: runs, epochs, minutes and images/s, as recorded."""
    grid = histories[histories["variant"] == ""]
    if grid.empty:
        raise InputError("nothing is recorded; run the study first.")
    rows = {}
    for strength, part in grid.groupby("strength"):
        runs = part.groupby("seed").agg(epochs=("epoch", "max"), seconds=("seconds", "sum"))
        rows[f"{strength:g}"] = {
            "runs": len(runs),
            "epochs": _range(runs["epochs"], "{:.0f}"),
            "minutes a run": _range(runs["seconds"] / 60, "{:.1f}"),
            "images/s (median epoch)": f"{part['images_per_second'].median():,.0f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("strength")


def _rows(records: pd.DataFrame, checkpoint: str, split: str, statistics: tuple[str, ...]) -> pd.DataFrame:
    rows = records[(records["variant"] == "") & (records["checkpoint"] == checkpoint) & (records["split"] == split)]
    rows = rows[rows["statistic"].isin(statistics)]
    if rows.empty:
        raise InputError(f"no {' or '.join(statistics)} of {checkpoint} weights is recorded; run the study first.")
    return rows


def _gap(records: pd.DataFrame, strength: float, checkpoint: str, statistic: str, setting: str, name: str) -> dict:
    chosen = (records["strength"] == strength) & (records["checkpoint"] == checkpoint) & (records["variant"] == "")
    chosen &= (records["statistic"] == statistic) & (records["setting"] == setting)
    wide = records[chosen].pivot(index="seed", columns="split", values="value").reindex(columns=["train", "test"])
    wide = 100 * wide.dropna()
    if wide.empty:
        return {f"{name}: {column}": NOT_MEASURED for column in ("train", "test", "gap")}
    means = {f"{name}: {column}": f"{wide[column].mean():.1f}" for column in ("train", "test")}
    return means | {f"{name}: gap": _range(wide["test"] - wide["train"], "{:.1f}")}


def _range(values: pd.Series, form: str) -> str:
    """ "12.3 (11.8 to 12.9)": mean, smallest and largest; the number alone where all round to it."""
    mean, low, high = (form.format(value) for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
