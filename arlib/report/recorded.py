"""The book's recorded networks in the terms of a comparison:
what they span is a scale to read others against.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from arlib import places
from arlib.errors import InputError, NotMeasured
from arlib.sources import source

# A comparison's quantity: (statistic of a record, setting, or what a setting begins with before its
# radius).
WHOLE = {
    "error": ("error", ""),
    "ce": ("ce", ""),
    "max_softmax": ("max_softmax", ""),
    "overconfidence": ("overconfidence", ""),
    "median_abs_margin": ("median_abs_margin", ""),
    "median_abs_margin_scalefree": ("median_abs_margin_scalefree", ""),
    "flip_pgd": ("flip_rate", "pgd@"),
    "flip_sign": ("flip_rate", "sign@"),
    "robust_accuracy": ("robust_error", "apgd-ce+t@"),
}
LAYERED = {
    "feature_change": ("feature_change", "random@"),
    "feature_gain": ("feature_gain", "random@"),
    "sv_std": ("sv_std", "circular"),
    "sv_std_over_mean": ("sv_std_over_mean", "circular"),
    "applied_std_over_mean": ("sv_std_over_mean", "circular+bn"),
    "jacobian_uniformity": ("jacobian_uniformity_median", "image"),
}
SPECTRA = ("sv_std", "sv_std_over_mean", "applied_std_over_mean")
# Of a comparison but not here: the calibration error, whose size depends on the number of images,
# and the median instance margin, which is over images that all the compared models get right.
AUTO = "auto"
_COLUMNS = ["strength", "seed", "quantity", "setting", "layer", "n", "value"]


@dataclass(frozen=True)
class Band:
    """What the recorded networks of one study span.

    strengths: the AR strength of the standard networks, 0, and the one that the study's effects are
    of. networks: how many there are of each. rows: quantity, setting, strength, low, high (the
    least and the largest of the networks).
    """

    study: str
    dataset: str
    strengths: tuple[float, float]
    networks: tuple[int, int]
    rows: pd.DataFrame

    @property
    def about(self) -> str:
        """What the band is, in a few sentences."""
        weak, strong = self.strengths
        return (
            f"The band is what the book's recorded networks of the study {self.study} span, from "
            f"the least to the largest: {self.networks[0]} networks trained at AR strength "
            f"{weak:g} and {self.networks[1]} at {strong:g}, which differ in their seed, measured "
            f"on test images of {self.dataset}. It is a scale for your models where your images "
            f"are of {self.dataset} too. Quantities of layers have a band only if all models have "
            "the same layers as the study's; no band stands where the records lack the quantity, "
            "or took it at another radius."
        )

    def of(self, quantity: str, setting: str = "") -> dict[float, tuple[float, float]]:
        """(low, high) by strength; empty where there is no band."""
        rows = self.rows[(self.rows["quantity"] == quantity) & (self.rows["setting"] == setting)]
        return {row.strength: (row.low, row.high) for row in rows.itertuples()}

    def to_dict(self) -> dict:
        plain = {
            name: getattr(self, name) for name in ("study", "dataset", "strengths", "networks")
        }
        return plain | {"rows": self.rows.to_dict("records")}


def in_terms_of_a_comparison(table: pd.DataFrame) -> pd.DataFrame:
    """The records of a study (`Study.records()`) as `_COLUMNS`:
    of layers each one's value, and their median as "".
    """
    from arlib.claims.values import clean, counted

    table = clean(table)
    table = table[(table["checkpoint"] == "last") & table["split"].isin(["test", ""])]
    convolutions = counted(table)
    parts = []
    for quantity, (statistic, setting) in {**WHOLE, **LAYERED}.items():
        rows = table[(table["statistic"] == statistic) & _begins(table["setting"], setting)]
        if quantity in SPECTRA:
            rows = rows[rows["layer"].isin(convolutions)]
        value = 1 - rows["value"] if quantity == "robust_accuracy" else rows["value"]
        rows = rows.assign(
            quantity=quantity, value=value, setting=_as_compared(quantity, rows["setting"])
        )[_COLUMNS]
        parts.append(rows)
        if quantity in LAYERED:
            keys = ["strength", "seed", "quantity", "setting"]
            parts.append(
                rows.groupby(keys, as_index=False).agg(value=("value", "median"), n=("n", "min"))
            )
    return pd.concat(parts, ignore_index=True).fillna({"layer": ""})[_COLUMNS]


def chosen(band: str | None, shape: tuple[int, ...], classes: int):
    """The study that a comparison of such images is shown beside, or None.

    band: its name; "auto": the one with most networks on images of this shape and so many classes,
    if any; None.

    Raises `InputError` for what is no study's name, `NotMeasured` for one without networks at both
    its strengths.
    """
    if band is not None and not isinstance(band, str):
        raise InputError(f"band is {band!r}; give a study's name, {AUTO!r}, or None.")
    name = fitting(shape, classes) if band == AUTO else band
    if name is None:
        return None
    study = _published(name)
    if "effect" not in study.claims:
        raise NotMeasured(
            f"band is {name!r}, a study that decides no claim between two strengths, so it has no "
            "standard and robust networks to show beside yours; give another study, or None."
        )
    if not _networks(study):
        weak, strong = _ends(study)
        raise NotMeasured(
            f"band is {name!r}, of which no networks at AR strength {weak:g} and {strong:g} are "
            "recorded; give another study, or None."
        )
    return study


def band_of(study, settings, rows: pd.DataFrame) -> Band | None:
    """The band of a study for the rows of a comparison; None without a study, or without rows.

    settings: of the comparison; its radius decides which recorded feature changes are the same
    quantity.
    """
    if study is None or not len(rows):
        return None
    table = in_terms_of_a_comparison(study.records())
    table = table[table["strength"].isin(_ends(study))]
    networks = tuple(int(table.loc[table["strength"] == s, "seed"].nunique()) for s in _ends(study))
    comparable = table[_comparable(table, settings, rows)]
    comparable = comparable.assign(
        setting=comparable["setting"].mask(comparable["quantity"].isin(LAYERED), "")
    )
    spans = comparable.groupby(["quantity", "setting", "strength"], as_index=False)["value"].agg(
        low="min", high="max"
    )
    return Band(study.name, study.recipes[0].dataset, _ends(study), networks, spans)


def fitting(shape: tuple[int, ...], classes: int) -> str | None:
    """The study with most networks at its two strengths whose data have images of this shape
    and so many classes.
    """
    from arlib import studies

    counts = {}
    for name in studies.names(_NO_STORE):
        study = _published(name)
        if "effect" not in study.claims:  # of fronts or a spread: no networks that users' are like
            continue
        read = source(study.recipes[0].dataset)
        if (read.shape, read.classes) == (tuple(shape), classes):
            counts[name] = _networks(study)
    best = max(counts, key=counts.get, default=None)
    return best if counts.get(best) else None


def _networks(study) -> int:
    """How many recorded networks a study has at its two strengths; 0 if one of them has none."""
    finished = study.finished()
    there = [
        entry.recipe.strength
        for entry in study.entries
        if entry.run in finished and not entry.variant
    ]
    counts = [there.count(strength) for strength in _ends(study)]
    return sum(counts) if all(counts) else 0


def _ends(study) -> tuple[float, float]:
    """The strengths of the standard networks and of those that the study's effects are of."""
    return 0.0, float(study.claims["effect"])


_NO_STORE = places.PACKAGE / "_no_store"  # is never made: only what is published counts


def _published(name: str):
    from arlib import studies

    return studies.load(name, store=_NO_STORE)


def _begins(settings: pd.Series, setting: str) -> pd.Series:
    return settings.str.startswith(setting) if setting.endswith("@") else settings == setting


def _as_compared(quantity: str, settings: pd.Series) -> pd.Series:
    """ "pgd@4" of a record is "4/255" of a comparison; operators are no setting there."""
    if quantity in SPECTRA or quantity == "jacobian_uniformity":
        return settings.map(lambda _: "")
    return settings.str.partition("@")[2].map(lambda radius: f"{radius}/255" if radius else "")


def _comparable(table: pd.DataFrame, settings, rows: pd.DataFrame) -> pd.Series:
    """Which rows of the networks as a whole are the same quantity as one
    of the comparison's, taken alike.
    """
    same = pd.Series(False, index=table.index)
    whole = table["layer"] == ""
    for quantity in WHOLE:
        taken = rows.loc[rows["quantity"] == quantity, "setting"].unique()
        same |= whole & (table["quantity"] == quantity) & table["setting"].isin(taken)
    for quantity in LAYERED:
        own = table[table["quantity"] == quantity]
        setting = f"{255 * settings.radius:g}/255" if quantity.startswith("feature") else ""
        own = own[own["setting"] == setting]
        if _same_layers(quantity, own, rows[rows["quantity"] == quantity]):
            same |= whole & (table["quantity"] == quantity) & (table["setting"] == setting)
    return same


def _same_layers(quantity: str, recorded: pd.DataFrame, compared: pd.DataFrame) -> bool:
    """Whether every compared model has the recorded layers;
    of spectra, with as many singular values each.
    """
    wanted = _layers(quantity, recorded)
    each = [_layers(quantity, part) for _, part in compared.groupby("model")]
    # stem, shortcuts and classifier stand in a comparison's rows, but are not counted
    if quantity in SPECTRA:
        taken = set(compared.loc[compared["layer"] == "", "n"])
        return (
            bool(wanted)
            and taken == {len(wanted)}
            and all(wanted.items() <= one.items() for one in each)
        )
    return bool(wanted) and bool(each) and all(set(one) == set(wanted) for one in each)


def _layers(quantity: str, rows: pd.DataFrame) -> Mapping[str, int]:
    rows = rows[rows["layer"] != ""]
    return dict(zip(rows["layer"], rows["n"].astype(int), strict=True))
