"""Signs: which way each quantity goes from a network to a more robust one,
of others and of the book, without verdict.

One pair of networks stands in a cell, so a sign is an observation about two networks; nothing is
decided from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arlib.errors import NotMeasured
from arlib.report import others, recorded


@dataclass(frozen=True)
class Shown:
    """A column of the table. expected: as the paper has it; 0 where it says nothing."""

    claim: str
    label: str
    expected: int
    layered: bool = False

    @property
    def head(self) -> str:
        return f"{self.claim} {self.label} {_arrow(self.expected)}".rstrip()


SHOWN = {
    "error": Shown("C1", "natural error", 1),
    "gap": Shown("C2", "test − train error", -1),
    "max_softmax": Shown("C3", "max-softmax", -1),
    "overconfidence": Shown("C3", "over-confidence", -1),
    "median_abs_margin": Shown("C4", "|m|", -1),
    "median_abs_margin_scalefree": Shown("C4", "|m|/R", -1),
    "instance_margin": Shown("C4", "instance margin", 0),
    "flip_pgd": Shown("C7", "flips under PGD", -1),
    "feature_change": Shown("C5", "feature change", -1, layered=True),
    "feature_gain": Shown("C5", "gain by itself", -1, layered=True),
    "sv_std": Shown("C6", "std, raw", -1, layered=True),
    "sv_std_over_mean": Shown("C6", "std/mean, raw", -1, layered=True),
    "applied_std_over_mean": Shown("C6", "std/mean, as applied", -1, layered=True),
    "jacobian_uniformity": Shown("C6", "Jacobian uniformity", -1, layered=True),
}
PRIMARY = (
    "error",
    "gap",
    "max_softmax",
    "median_abs_margin",
    "feature_change",
    "sv_std",
    "sv_std_over_mean",
    "flip_pgd",
)
OF_NETWORKS = tuple(name for name, shown in SHOWN.items() if not shown.layered)
OF_LAYERS = tuple(name for name, shown in SHOWN.items() if shown.layered)
NONE = "–"
_COLUMNS = [
    "pair",
    "data",
    "images",
    "quantity",
    "sign",
    "sure",
    "smaller",
    "larger",
    "layers",
    "book",
]


def of_others(content: dict | None = None) -> pd.DataFrame:
    """A row per pair of other people's networks and quantity: what is in `_COLUMNS`.

    content: what `others.read` gives, by default what is recorded. sign: 1 up, −1 down, 0 neither
    (of layers: what most of them do); sure: False where the intervals over images of the two
    networks overlap; smaller,
    larger of layers: in how many of them the quantity is smaller or larger in the more robust
    network.
    """
    content = others.read() if content is None else content
    rows = []
    for family in content["families"]:
        frames = {one["name"]: _frame(one["rows"]) for one in family["networks"]}
        for robust in family["robust"]:
            before, after = frames[family["base"]], frames[robust]
            for quantity, shown in SHOWN.items():
                sign = (
                    _layers(before, after, quantity)
                    if shown.layered
                    else _whole(before, after, quantity)
                )
                about = {
                    "pair": f"{_short(family['base'])} → {_short(robust)}",
                    "data": family["dataset"],
                }
                about |= {"images": _images(after), "quantity": quantity, "book": False}
                rows += [about | sign] if sign else []
    return pd.DataFrame(rows, columns=_COLUMNS)


def of_study(study) -> pd.DataFrame:
    """The same of the book's own networks, from the records of a study:
    means over seeds of strength 0 and its effect.

    sure: whether the networks of every seed go the same way; of layers always True. Nothing of a
    study that compares no two strengths.
    """
    if study.records().empty or "effect" not in study.claims:
        return pd.DataFrame(columns=_COLUMNS)
    table = recorded.in_terms_of_a_comparison(study.records())
    weak, strong = 0.0, float(study.claims["effect"])
    radius = {"feature_change": "feature", "feature_gain": "feature", "flip_pgd": "flip_pgd"}
    special = {"gap": _gaps, "instance_margin": _distances}
    rows = []
    for quantity, shown in SHOWN.items():
        if quantity in special:
            own = special[quantity](study)
        else:
            own = table[table["quantity"] == quantity]
        if quantity in radius:
            own = own[own["setting"] == f"{study.claims[radius[quantity]]:g}/255"]
        own = own[(own["layer"] != "") == shown.layered]
        wide = own.pivot(index=["layer", "seed"], columns="strength", values="value")
        if not {weak, strong} <= set(wide.columns):
            continue
        wide = wide[[weak, strong]].dropna()
        about = {
            "pair": f"strength {weak:g} → {strong:g}",
            "data": f"study {study.name}",
            "quantity": quantity,
        }
        about |= {"images": f"{wide.index.unique('seed').size} seeds", "book": True}
        rows.append(
            about
            | (_of_layers(wide, weak, strong) if shown.layered else _of_seeds(wide, weak, strong))
        )
    return pd.DataFrame(rows, columns=_COLUMNS)


def together(studies: Sequence) -> pd.DataFrame:
    """`of_others`, then `of_study` of each of these studies;
    `NotMeasured` if the first is not recorded.
    """
    return pd.concat([of_others(), *map(of_study, studies)], ignore_index=True)


def table(frame: pd.DataFrame, quantities: Sequence[str]) -> pd.DataFrame:
    """Rows of `of_others` and `of_study` as text:
    a row per pair, a column per quantity with the paper's direction.
    """
    lines = {}
    for (pair, data), part in frame.groupby(["pair", "data"], sort=False):
        by_quantity = part.set_index("quantity")
        line = {"data": data, "n": by_quantity["images"].iloc[0]}
        line |= {
            SHOWN[q].head: _cell(by_quantity.loc[q]) if q in by_quantity.index else NONE
            for q in quantities
        }
        lines[pair, data] = line
    wide = pd.DataFrame(list(lines.values()), index=[pair for pair, _ in lines])
    wide.attrs["finding"] = counted(frame, quantities)
    return wide.rename_axis("networks")


def counted(frame: pd.DataFrame, quantities: Sequence[str]) -> str:
    """How many clear signs of other people's pairs go the paper's way or against it, where it
    expects a way.
    """
    expected = {quantity: SHOWN[quantity].expected for quantity in quantities}
    others_ = frame[~frame["book"].astype(bool) & frame["quantity"].isin(expected)]
    way = others_["sign"] * others_["quantity"].map(expected) * others_["sure"].astype(bool)
    named = others_[way < 0]["quantity"].value_counts()
    which = ", ".join(f"{SHOWN[quantity].label} {count}" for quantity, count in named.items())
    return (
        f"Other people's networks: {(way > 0).sum()} clear signs go the paper's way, "
        f"{(way < 0).sum()} against it{f' ({which})' if which else ''}."
    )


def sentence(frame: pd.DataFrame) -> str:
    """How many of other people's pairs go the paper's way, against it, or neither clearly,
    by primary quantity.
    """
    frame = frame[~frame["book"].astype(bool)]
    counts = []
    for quantity in PRIMARY:
        part, shown = frame[frame["quantity"] == quantity], SHOWN[quantity]
        way = part["sign"] * shown.expected * part["sure"].astype(bool)
        if len(part):
            counts.append(f"{shown.head} {(way > 0).sum()}, {(way < 0).sum()}, {(way == 0).sum()}")
    if not counts:
        raise NotMeasured("no pair of networks is recorded of which the paper says anything.")
    return (
        f"Of {frame['pair'].nunique()} pairs of networks that others trained, so many go the "
        f"paper's way, against it, or neither clearly: {'; '.join(counts)}."
    )


def sources(content: dict | None = None) -> pd.DataFrame:
    """What was measured: a row per network, with its data, training, source,
    licence and the start of its SHA-256.
    """
    content = others.read() if content is None else content
    rows = {}
    for family in content["families"]:
        source = family["source"]
        for one in family["networks"]:
            training = family["base_training" if one["name"] == family["base"] else "training"]
            rows[_short(one["name"])] = {
                "network": family["title"], "data": family["dataset"], "training": training,
                "source": f"{source['address']} @ {source['commit']}", "licence": source["licence"],
                "SHA-256": one["sha256"][:12],
            }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("name")


def _frame(rows: list) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["quantity", "setting", "layer", "n", "value", "low", "high"])


def _whole(before: pd.DataFrame, after: pd.DataFrame, quantity: str) -> dict:
    pair = [
        frame[(frame["quantity"] == quantity) & (frame["layer"] == "")] for frame in (before, after)
    ]
    if not all(map(len, pair)):
        return {}
    first, second = (part.iloc[0] for part in pair)
    known = all(pd.notna(row[end]) for row in (first, second) for end in ("low", "high"))
    apart = first["high"] < second["low"] or second["high"] < first["low"] if known else True
    return {"sign": int(np.sign(second["value"] - first["value"])), "sure": bool(apart)}


def _layers(before: pd.DataFrame, after: pd.DataFrame, quantity: str) -> dict:
    pair = [
        frame[(frame["quantity"] == quantity) & (frame["layer"] != "")].set_index("layer")
        for frame in (before, after)
    ]
    both = pd.concat([part["value"] for part in pair], axis=1, keys=["before", "after"]).dropna()
    both = both[(both > 0).all(axis=1)]  # a layer with one singular value has no spread
    return _count(np.log(both["after"] / both["before"])) if len(both) else {}


def _of_layers(wide: pd.DataFrame, weak: float, strong: float) -> dict:
    return _count(np.log(wide[strong] / wide[weak]).groupby("layer").mean())


def _count(logs: pd.Series) -> dict:
    smaller, larger = int((logs < 0).sum()), int((logs > 0).sum())
    counts = {"smaller": smaller, "larger": larger, "layers": len(logs)}
    return {"sign": int(np.sign(larger - smaller)), "sure": True} | counts


def _of_seeds(wide: pd.DataFrame, weak: float, strong: float) -> dict:
    moved = np.sign(wide[strong] - wide[weak])
    return {
        "sign": int(np.sign((wide[strong] - wide[weak]).mean())),
        "sure": bool(moved.nunique() == 1),
    }


def _gaps(study) -> pd.DataFrame:
    """Test − train error of every run, as rows of one quantity."""
    from arlib.claims.values import clean

    rows = clean(study.records())
    rows = rows[(rows["statistic"] == "error") & (rows["checkpoint"] == "last")]
    wide = rows.pivot(index=["strength", "seed"], columns="split", values="value")
    return (wide["test"] - wide["train"]).rename("value").reset_index().assign(layer="")


def _distances(study) -> pd.DataFrame:
    """The median instance margin of every run over the images that all runs
    of the study get right.
    """
    from arlib.figures.margins import shared_margins
    from arlib.figures.shared import collect

    try:
        _, medians = shared_margins(collect(study))
    except NotMeasured:
        return pd.DataFrame(columns=["strength", "seed", "layer", "value"])
    return medians["instance"].rename("value").reset_index().assign(layer="")


def _cell(row: pd.Series) -> str:
    text = "=" if row["sign"] == 0 else _arrow(row["sign"])
    if row["layers"] == row["layers"]:
        moved = row["smaller"] if row["sign"] <= 0 else row["larger"]
        text += f" {moved:.0f}/{row['layers']:.0f}"
    elif not row["sure"]:
        text = f"({text})"
    against = row["sure"] and row["sign"] * SHOWN[row.name].expected < 0
    return f"{text} against" if against else text


def _arrow(sign: int) -> str:
    return {1: "↑", -1: "↓", 0: ""}[sign]


def _images(rows: pd.DataFrame) -> str:
    """How many images: of what takes one pass, of PGD, and of distances and the strong attack."""
    counts = [
        rows.loc[rows["quantity"] == q, "n"].max() for q in ("error", "flip_pgd", "robust_accuracy")
    ]
    return " / ".join(f"{count:,.0f}" for count in counts)


def _short(name: str) -> str:
    """Without the word for the source, which its table names, and the data,
    which has a column of its own.
    """
    return name.partition("_")[2].removeprefix("mnist_")
