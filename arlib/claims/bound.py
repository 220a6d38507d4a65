"""C10 beside its verdict: the whole curve of q(v), where curves cross, what the bound would make of
them, and how q goes with the generalization gaps.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from itertools import permutations, product

import numpy as np
import pandas as pd
from scipy import stats

from arlib.bounds import generalization
from arlib.claims.declared import CLAIMS, Config, Statistic
from arlib.claims.second import Q
from arlib.claims.values import clean, collapsed, values
from arlib.errors import NotMeasured

DISTANCES = "instance_margin|train"
RADII = np.geomspace(1 / 16, 64, 241)  # 255·v, of curves
EXACT = 20_000  # permutations that are counted one by one; of more, so many are drawn
FEWEST = 3  # networks with a rank correlation


def training_distances(arrays: Mapping) -> dict[float, dict[int, np.ndarray]]:
    """{strength: {seed: distances of training images in 255·ε}} of the runs that have them, in
    order; a wrong image has distance 0.

    arrays: {(strength, seed): arrays of the run}. Raises `NotMeasured` where no run has them.
    """
    grouped = defaultdict(dict)
    for (strength, seed), run in sorted(arrays.items()):
        if DISTANCES in run:
            grouped[strength][seed] = 255 * np.asarray(run[DISTANCES], dtype=float)
    if not grouped:
        raise NotMeasured(
            "no distances of training images are recorded, so there is no q(v); a study measures "
            "them where its file has bound_images."
        )
    return dict(grouped)


def q_of(distances: np.ndarray, radii: np.ndarray = RADII) -> np.ndarray:
    """q at each radius: the share of distances (n,) below it; all in one unit."""
    return np.searchsorted(np.sort(distances), radii, side="left") / len(distances)


def crossings(arrays: Mapping) -> pd.DataFrame:
    """Where the q(v) of each strength falls below that of strength 0, from means over shared seeds.

    Columns: strength, radius (255·v, the smallest from which q is smaller than at strength 0 up to
    some larger radius; NaN where it never is; 0 where it is from the start), seeds (their number),
    wrong_at_zero, wrong (shares of wrong images), n (images per network).
    Raises `NotMeasured` without strength 0 or without another.
    """
    distances, rows = training_distances(arrays), []
    for strength in sorted(set(distances) - {0.0}):
        seeds = sorted(distances[strength].keys() & distances.get(0.0, {}).keys())
        if not seeds:
            continue
        at_zero, robust = ([distances[s][seed] for seed in seeds] for s in (0.0, strength))
        places = np.unique(np.concatenate([*at_zero, *robust]))  # no curve moves elsewhere
        after = np.append((places[1:] + places[:-1]) / 2, places[-1] + 1)
        lower = np.mean([q_of(d, after) for d in robust], axis=0) < np.mean(
            [q_of(d, after) for d in at_zero], axis=0
        )
        wrong = [float(np.mean([(d == 0).mean() for d in group])) for group in (at_zero, robust)]
        radius = float(places[lower.argmax()]) if lower.any() else math.nan
        rows.append((strength, radius, len(seeds), *wrong, len(robust[0])))
    if not rows:
        raise NotMeasured("q(v) is not recorded at AR strength 0 and at another of the same seed.")
    columns = ["strength", "radius", "seeds", "wrong_at_zero", "wrong", "n"]
    return pd.DataFrame(rows, columns=columns)


def lowest_bounds(
    arrays: Mapping, constants: Iterable[tuple[float, float]], *, samples: int, classes: int
) -> pd.DataFrame:
    """For each pair (C, k): at which radius the bound would be smallest, and for which strength.

    q is the mean over seeds. Columns: c, k, strength, radius (255·v), says (whether any of the
    bounds is below 1: above, it says nothing). No value of a bound is given: C and k are guesses.
    """
    curves = {
        strength: np.mean([q_of(d) for d in seeds.values()], axis=0)
        for strength, seeds in training_distances(arrays).items()
    }
    inside, rows = RADII[RADII < 255], []
    for c, k in constants:
        at = {"samples": samples, "classes": classes, "c": c, "k": k}
        best = min(
            (generalization(float(q), float(r) / 255, **at), float(r), strength)
            for strength, curve in curves.items()
            for r, q in zip(inside, curve, strict=True)
        )
        rows.append((c, k, best[2], best[1], best[0] < 1))
    return pd.DataFrame(rows, columns=["c", "k", "strength", "radius", "says"])


def gap_correlations(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """Spearman's rank correlation of q at the deciding radius with two gaps, over all networks.

    gap: "natural" (test − train error) and "robust" (the same under PGD-10 at the common radius);
    rows without data are left out. Strengths with a collapsed run do not count. p is two-sided,
    from permuting the strengths within each seed: of every order, or of 20,000 drawn ones.

    Columns: gap, statistic, rho, p, nets, strengths, seeds. Raises `NotMeasured` where fewer than
    three networks have q and a gap, or where either is the same for all.
    """
    config, table = Config.of(config), clean(records)
    out = set(collapsed(table, config)["strength"])
    table = table[~table["strength"].isin(out)]
    q, rows = values(table, Q.at(config)), []
    for name, statistic in _gaps(table).items():
        gap = values(table, statistic)
        if q.empty or gap.empty:
            continue
        both = pd.concat({"q": q.iloc[:, 0], "gap": gap.iloc[:, 0]}, axis=1).dropna()
        if len(both) < FEWEST or (both.nunique() < 2).any():
            continue
        seeds = both.index.get_level_values("seed")
        rho, p = _permuted(both["q"].to_numpy(), both["gap"].to_numpy(), seeds.to_numpy())
        strengths = both.index.get_level_values("strength").nunique()
        rows.append((name, statistic.label, rho, p, len(both), strengths, seeds.nunique()))
    if not rows:
        raise NotMeasured(f"fewer than {FEWEST} networks have both q and a gap that differ.")
    columns = ["gap", "statistic", "rho", "p", "nets", "strengths", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def _gaps(table: pd.DataFrame) -> dict[str, Statistic]:
    gaps = {"natural": CLAIMS["C2"].primary}
    attacked = table[table["statistic"] == "robust_error"]["setting"].unique()
    common = [s for s in attacked if s.startswith("pgd-10@") and s != "pgd-10@trained"]
    if len(common) == 1:
        label = f"test − train error under PGD-10 at {common[0].partition('@')[2]}/255"
        gaps["robust"] = Statistic(label, "robust_error", minus="train", setting=common[0])
    return gaps


def _permuted(q: np.ndarray, gap: np.ndarray, seeds: np.ndarray) -> tuple[float, float]:
    """(rho, p): the correlation, and the share of orders within seeds with one at least as far
    from 0.
    """
    a, b = (stats.zscore(stats.rankdata(side)) for side in (q, gap))
    rho = float(a @ b / len(a))
    groups = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    if math.prod(math.factorial(len(group)) for group in groups) <= EXACT:
        parts = [[a[list(order)] @ b[group] for order in permutations(group)] for group in groups]
        sums = np.array([sum(chosen) for chosen in product(*parts)])
        return rho, float((np.abs(sums / len(a)) >= abs(rho) - 1e-9).mean())
    draw, sums = np.random.default_rng(0), np.zeros(EXACT)
    for group in groups:
        sums += draw.permuted(np.tile(a[group], (EXACT, 1)), axis=1) @ b[group]
    extreme = int((np.abs(sums / len(a)) >= abs(rho) - 1e-9).sum())
    return rho, (extreme + 1) / (EXACT + 1)
