"""Small tables of text for the chapter on the bound."""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd

from arlib import claims
from arlib.bounds import check_radius
from arlib.claims.words import p_text

_FROM = "q smaller from v (255·ε)"


def crossings(arrays: Mapping) -> pd.DataFrame:
    """Where each strength's q(v) falls below that of strength 0, as text;
    see `claims.crossings`.
    """
    rows = {}
    for row in claims.crossings(arrays).itertuples():
        place = "nowhere" if math.isnan(row.radius) else f"{row.radius:.2f}"
        rows[f"{row.strength:g}"] = {
            "wrong at strength 0": f"{100 * row.wrong_at_zero:.1f} %",
            "wrong at this strength": f"{100 * row.wrong:.1f} %",
            _FROM: "0" if row.radius == 0 else place,
            "images": f"{row.n:,}",
            "seeds": str(row.seeds),
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("AR strength")
    places = "; ".join(f"{s}: {row[_FROM]}" for s, row in out.iterrows())
    out.attrs["finding"] = (
        f"The radius (255·ε) from which q is smaller than at AR strength 0, by strength: {places}."
    )
    return out


def gap_correlations(study) -> pd.DataFrame:
    """Rank correlations of q with the gaps of a study's networks, as text; see
    `claims.gap_correlations`.
    """
    correlations = claims.gap_correlations(study.records(), claims.config_of(study))
    rows = {
        row.statistic: {
            "rank correlation with q": f"{row.rho:+.2f}".replace("-", "−"),
            "p": p_text(row.p),
            "networks": str(row.nets),
            "strengths × seeds": f"{row.strengths} × {row.seeds}",
        }
        for row in correlations.itertuples()
    }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("gap")
    signs = {row.statistic: np.sign(row.rho) for row in correlations.itertuples()}
    apart = "opposite ways" if len(set(signs.values())) > 1 else "the same way"
    told = "; ".join(
        f"{name} {row['rank correlation with q']} ({row['p']})" for name, row in out.iterrows()
    )
    several = f", {apart}" if len(out) > 1 else ""
    out.attrs["finding"] = f"Rank correlation of q with the gap{several}: {told}."
    return out


def lowest_bounds(
    arrays: Mapping, cs: list[float], ks: list[float], *, samples: int, classes: int
) -> pd.DataFrame:
    """Which strength would have the lowest bound, and at which v, if C and k were these:
    a row per k, a column per C.

    "vacuous" where every bound at every v is 1 or more.
    """
    pairs = [(c, k) for k in ks for c in cs]
    bounds = claims.lowest_bounds(arrays, pairs, samples=samples, classes=classes)
    cells = [
        f"strength {row.strength:g}, v = {row.radius:.2g}" if row.says else "vacuous"
        for row in bounds.itertuples()
    ]
    wide = bounds.assign(cell=cells, c=[f"C = {c:g}" for c in bounds["c"]])
    wide = wide.pivot(index="k", columns="c", values="cell")[[f"C = {c:g}" for c in cs]]
    wide = wide.rename(index=lambda k: f"{k:g}").rename_axis(columns=None)
    named = sorted({row.strength for row in bounds.itertuples() if row.says})
    preferred = f"; the others prefer AR strength {', '.join(f'{s:g}' for s in named)}"
    wide.attrs["finding"] = (
        f"{cells.count('vacuous')} of {len(cells)} guesses of C and k leave every bound vacuous"
        f"{preferred if named else ''}."
    )
    return wide


def images_needed(v: float, ks: list[float], *, c: float, classes: int) -> pd.DataFrame:
    """How many training images bring the covering term at v down to ½, as powers of ten:
    a row per k.

    v: in [0, 1] pixel units. Raises `InputError` for a v outside.
    """
    check_radius(v)
    powers = {
        k: math.log10(4 * math.log(2) * classes) + (k + 1) * math.log10(2) + k * math.log10(c / v)
        for k in ks
    }
    rows = {f"{k:g}": {"images": f"about 10{_raised(power)}"} for k, power in powers.items()}
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("k")
    out.attrs["finding"] = (
        f"From {out['images'].iloc[0]} images at k = {out.index[0]} to {out['images'].iloc[-1]} at "
        f"k = {out.index[-1]}."
    )
    return out


def _raised(power: float) -> str:
    """A power of ten, rounded, as it is written above the line."""
    return f"{max(power, 0):.0f}".translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))


def proved(networks: Mapping[float, claims.Proved]) -> pd.DataFrame:
    """What the chain of norms proves of each network beside what was measured, as text.

    networks: what `claims.chains` returns. Slopes are from the image to the last residual block;
    distances are medians over the images that are right, in 255·ε.
    """
    rows = {}
    for strength, network in networks.items():
        last = network.blocks.iloc[-1]
        rows[f"{strength:g}"] = {
            "seed": str(network.seed),
            "slope proved": f"{last['proved']:.1e}",
            "slope measured": f"{last['measured']:.3g}",
            "distance certified": f"{np.median(network.lower):.1e}",
            "distance found": f"{np.median(network.upper):.2g}",
            "found / certified": f"{network.factor:.1e}",
            "images": str(len(network.upper)),
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("AR strength")
    told = "; ".join(f"{s}: {row['found / certified']}" for s, row in out.iterrows())
    out.attrs["finding"] = f"Found over certified distance, median over images: {told}."
    return out
