"""Tables of the chapter on gentler training: what was chosen, and every network of the fronts."""

import math

import pandas as pd

from arlib import claims
from arlib.claims.gentler import NAMES, Outcome, in_words, so_far, usable
from arlib.claims.words import p_text
from arlib.studies.fronts import GRID, KNOBS

_KNOBS = {"strength": "strength", "beta": "β", "mix": "natural share", "gamma": "γ"}


def heights(outcomes: list[Outcome]) -> pd.DataFrame:
    """What each method came to at its chosen knob, as text; see `claims.above_the_front`."""
    rows = {}
    for one in outcomes:
        has = not math.isnan(one.p)
        mean, low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in one.interval)
        knob = "–" if math.isnan(one.value) else f"{_KNOBS[KNOBS[one.method]]} {one.value:g}"
        rows[NAMES[one.method]] = {
            "knob, by validation": knob,
            "height [95 % interval]": f"{mean} points [{low}, {high}]" if has else "–",
            "seeds": str(len(one.heights)),
            "p": p_text(one.p) if has else "–",
            "Holm": p_text(one.holm_p) if has else "–",
            "verdict": one.verdict + (f": {one.why.rstrip('.')}" if one.why else ""),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")
    frame.attrs["finding"] = in_words(outcomes)
    return frame


def fronts(study) -> pd.DataFrame:
    """Every value of every knob, means over the recorded seeds, as text.

    Heights are means over the seeds whose own front is whole; "beyond" counts those whose natural
    accuracy is beyond it.
    """
    points = claims.front_points(study)
    above = claims.heights(points)
    alive = usable(points).index
    rows = []
    for (method, value, budget), own in points.groupby(["method", "value", "budget"], sort=False):
        at = above.query("method == @method and value == @value and budget == @budget")["height"]
        shown = own[own.index.isin(alive) & own["robust"].notna()]
        collapsed = int(own["collapsed"].sum())
        rows.append(
            {
                "method": NAMES[method],
                "knob": f"{_KNOBS[KNOBS[method]]} {value:g}",
                "equal": budget,
                "passes (thousands)": f"{own['passes'].iloc[0] / 1000:,.0f}",
                "seeds": f"{int(own['robust'].notna().sum())} of {len(own)}",
                "natural": _percent(shown["natural"]),
                "robust": _percent(shown["robust"]),
                "robust, validation": _percent(shown["val_robust"]),
                "height": "0 by definition" if method == GRID else _height(at),
                "note": f"{collapsed} collapsed" if collapsed else "",
            }
        )
    frame = pd.DataFrame(rows).set_index("method")
    frame.attrs["finding"] = so_far(points)
    return frame


def _percent(values: pd.Series) -> str:
    return f"{100 * values.mean():.1f} %" if len(values) else "–"


def _height(values: pd.Series) -> str:
    known, beyond = values.dropna(), int(values.isna().sum())
    text = f"{100 * known.mean():+.1f}".replace("-", "−") if len(known) else "–"
    return f"{text} ({beyond} beyond)" if beyond else text
