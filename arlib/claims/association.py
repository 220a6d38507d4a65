"""What goes with what among networks of one strength: association, and no mechanism.

Within one AR strength adversarial training moves nothing. Networks that differ in weight decay,
width, epochs and seed differ in everything else, too, and what follows what cannot be seen; only
whether two things go together at all, and whether they still do at an equal fit.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from arlib.claims.declared import CLAIMS, Config, Statistic
from arlib.claims.second import CLAIMS_2
from arlib.claims.values import clean, collapsed, values
from arlib.errors import NotMeasured

FEWEST = 12  # networks of a strength, by protocol 2
FIT = Statistic("natural train cross-entropy", "ce", split="train")
SIDES = {
    "features": CLAIMS_2["C5a"].primary,
    "weights": CLAIMS_2["C6a"].primary,
    "operators": CLAIMS_2["C6b"].primary,
    "margin": CLAIMS["C4"].primary,
    "error": CLAIMS["C1"].primary,
    "fit": FIT,
}
"""What is compared; of layers and blocks the median. The last is what is held equal."""
_CAUSES = ("features", "weights", "operators")
PAIRS = (*((cause, effect) for effect in ("margin", "error") for cause in _CAUSES),
         ("margin", "error"))  # fmt: skip


def spread_of(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """One row per network that did not collapse, with a column for each of `SIDES`, strength first.

    records: of a study with a spread, `Study.records()`. Networks that lack a number are left out.
    Raises `NotMeasured` where none is left.
    """
    if records.empty:
        raise NotMeasured("no network of the spread is recorded; run the study first.")
    config = Config.of(config)
    # a network is one of a strength, whatever else it differs in: numbered where seeds stand
    table = clean(records.assign(variant="", seed=records["run"].factorize()[0]))
    gone = collapsed(table, config)
    columns = {}
    for name, statistic in SIDES.items():
        wide = values(table, statistic.at(config))
        if wide.shape[1] == 0:
            raise NotMeasured(f"no network has the {statistic.at(config).label} recorded.")
        columns[name] = wide.median(axis=1)
    out = pd.DataFrame(columns).dropna().reset_index("strength")
    out = out.drop(index=gone["seed"], errors="ignore").reset_index(drop=True)
    if out.empty:
        raise NotMeasured("no network has all that is compared.")
    return out


def association(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """Rank correlations within each strength, and the same at an equal fit.

    Spearman's ρ of every pair of `PAIRS`, and the partial correlation of ranks with the natural
    train cross-entropy held equal; p is two-sided, from Student's t with n − 2 and n − 3 degrees of
    freedom. Columns: strength, first, second, rho, p, partial, partial_p, nets.

    Raises `NotMeasured` where no strength has the twelve networks that the protocol asks for.
    """
    spread, rows = spread_of(records, config), []
    for strength, part in spread.groupby("strength"):
        if len(part) < FEWEST:
            continue
        for first, second in PAIRS:
            a, b, fit = (part[name].rank().to_numpy() for name in (first, second, "fit"))
            rho, partial = correlation(a, b), partial_correlation(a, b, fit)
            p, partial_p = two_sided(rho, len(part) - 2), two_sided(partial, len(part) - 3)
            rows.append((strength, first, second, rho, p, partial, partial_p, len(part)))
    if not rows:
        most = int(spread.groupby("strength").size().max())
        raise NotMeasured(
            f"an association needs {FEWEST} networks of one AR strength that differ in other "
            f"things; {most} are recorded."
        )
    columns = ["strength", "first", "second", "rho", "p", "partial", "partial_p", "nets"]
    return pd.DataFrame(rows, columns=columns)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's, of ranks Spearman's; NaN where one of them is the same for all."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return math.nan
    return float(np.corrcoef(a, b)[0, 1])


def partial_correlation(a: np.ndarray, b: np.ndarray, held: np.ndarray) -> float:
    """That of a and b with `held` held equal: of what a straight line in `held` leaves of them.

    NaN where it leaves nothing.
    """
    ab, ah, bh = correlation(a, b), correlation(a, held), correlation(b, held)
    if math.isnan(ah) or math.isnan(bh):  # nothing to hold equal, or nothing to correlate
        return ab if np.ptp(held) == 0 else math.nan
    rest = (1 - ah**2) * (1 - bh**2)
    return math.nan if rest < 1e-12 else (ab - ah * bh) / math.sqrt(rest)


def two_sided(rho: float, freedom: int) -> float:
    """p of a correlation that is 0 in truth."""
    if math.isnan(rho) or freedom < 1:
        return math.nan
    if abs(rho) >= 1:
        return 0.0
    return float(2 * stats.t.sf(abs(rho) * math.sqrt(freedom / (1 - rho**2)), freedom))
