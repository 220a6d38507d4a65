"""What goes with what among networks of one AR strength, as text."""

import math

import pandas as pd

from arlib import claims
from arlib.claims.words import p_text

_WORDS = {
    "features": "feature change",
    "weights": "std of the weights’ spectra",
    "operators": "std/mean of the operators’ spectra",
    "margin": "median |m|",
    "error": "test error",
}
SURE = 0.05


def associations(records: pd.DataFrame, config=None) -> pd.DataFrame:
    """Rank correlations within each AR strength, and at an equal fit, as text: a row per pair.

    Raises `NotMeasured` where no strength has enough networks.
    """
    table = claims.association(records, config)
    rows: dict[str, dict[str, str]] = {}
    for row in table.itertuples():
        line = rows.setdefault(f"{_WORDS[row.first]} with {_WORDS[row.second]}", {})
        at = f"at AR strength {row.strength:g}"
        line[f"ρ {at}"] = _text(row.rho, row.p)
        line[f"ρ {at}, equal fit"] = _text(row.partial, row.partial_p)
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("what with what")
    by_strength = table.groupby("strength")
    nets = ", ".join(f"{int(n)} at {s:g}" for s, n in by_strength["nets"].first().items())
    told = [
        f"of {len(table)} correlations {int((table[p] < SURE).sum())} have p < {SURE} {where}"
        for p, where in (("p", "as they are"), ("partial_p", "at an equal fit"))
    ]
    out.attrs["finding"] = f"Networks: {nets}. {told[0].capitalize()}, {told[1]}."
    return out


def _text(rho: float, p: float) -> str:
    if math.isnan(rho):
        return "–"
    return f"{rho:+.2f} ({p_text(p)})".replace("-", "−")
