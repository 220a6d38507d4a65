"""Small-sample statistics: t intervals over seeds and Page's trend test with its exact p."""

import math
from collections import Counter, defaultdict
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import stats

from arlib.errors import InputError


class Interval(NamedTuple):
    """A mean with its 95 % interval."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def sign(self) -> int:
        """+1 or −1 if the interval lies on that side of 0,
        else 0 (also when nothing was measured).
        """
        return int(self.low > 0) - int(self.high < 0)


def t_interval(values, level: float = 0.95) -> Interval:
    """Mean of independent `values` (one per seed) with Student's t interval, df = values − 1.

    With 3 seeds t is 4.30; a percentile bootstrap of 3 values would cover 75 % instead of 95 %.
    """
    values = np.asarray(values, dtype=float)
    if values.size < 2 or not np.isfinite(values).all():
        raise InputError(f"a t interval needs at least 2 finite values; got {values.tolist()}.")
    half = _student((1 + level) / 2, values.size - 1) * values.std(ddof=1) / math.sqrt(values.size)
    return Interval(float(values.mean()), float(values.mean() - half), float(values.mean() + half))


def t_test(values) -> float:
    """Two-sided p of Student's t test that the mean of independent `values` is 0;
    0 where all are equal and not 0.
    """
    values = np.asarray(values, dtype=float)
    spread = values.std(ddof=1) / math.sqrt(values.size)
    if spread == 0:
        return float(values.mean() == 0)
    return float(2 * stats.t.sf(abs(values.mean()) / spread, values.size - 1))


def holm(values) -> list[float]:
    """p values adjusted for their number by Holm (1979):
    the k-th smallest of m times m − k + 1, never falling.
    """
    values = np.asarray(values, dtype=float)
    order, out, largest = np.argsort(values, kind="stable"), np.empty(len(values)), 0.0
    for place, index in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - place) * values[index]))
        out[index] = largest
    return out.tolist()


class Ratio(NamedTuple):
    """A ratio of two means with Fieller's 95 % interval;
    ends are infinite where it is not bounded.
    """

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def bounded(self) -> bool:
        return math.isfinite(self.low) and math.isfinite(self.high)


def fieller(above, below, level: float = 0.95) -> Ratio:
    """Mean(above) / mean(below) of paired values (one per seed),
    with Fieller's interval (Fieller 1954).

    Exact for normal pairs. It is unbounded exactly where the denominator does not differ from 0 at
    this level.
    """
    above, below = np.asarray(above, dtype=float), np.asarray(below, dtype=float)
    if above.shape != below.shape or above.size < 2 or not np.isfinite([above, below]).all():
        raise InputError(
            f"a ratio needs at least 2 finite pairs; got {above.tolist()} and {below.tolist()}."
        )
    a, b, square = (
        above.mean(),
        below.mean(),
        _student((1 + level) / 2, above.size - 1) ** 2 / above.size,
    )
    (aa, ab), (_, bb) = square * np.cov(above, below, ddof=1)
    # The interval is where (a − ρ b)² <= t² var(above − ρ below) / n, a quadratic in ρ.
    leading, middle, last = b * b - bb, a * b - ab, a * a - aa
    value = float(a / b) if b else math.nan
    if leading <= 0:
        return Ratio(value, -math.inf, math.inf)
    # rounding may take a discriminant of 0 just below it
    root = math.sqrt(max(0.0, middle * middle - leading * last))
    return Ratio(value, float((middle - root) / leading), float((middle + root) / leading))


@lru_cache
def _student(quantile: float, df: int) -> float:
    return float(stats.t.ppf(quantile, df))


class Trend(NamedTuple):
    """Page's L, its exact two-sided p, and the direction: +1 rising, −1 falling, 0 level."""

    L: float
    p: float
    sign: int


def page_trend(values) -> Trend:
    """Page's trend test of `values` (seeds, strengths), columns in order of strength (Page 1963).

    L = Σ_j j · (sum over seeds of the rank at strength j), ties at midrank. p = the share of all
    permutations of strengths within seeds whose L is at least as far from its mean: counted
    exactly, by convolving the seeds' distributions. 3 seeds × 2 strengths cannot go below .25.
    """
    values = np.asarray(values, dtype=float)
    if values.ndim != 2 or values.shape[1] < 2 or not np.isfinite(values).all():
        raise InputError(
            "a trend needs a complete table of seeds × (2 or more) strengths; got shape "
            f"{values.shape}."
        )
    # Doubled midranks are whole numbers;
    # rounding keeps ties that a subtraction broke in the last bit.
    ranks = [tuple((2 * stats.rankdata(row)).astype(int).tolist()) for row in np.round(values, 12)]
    count = values.shape[1]
    observed = sum(j * rank for row in ranks for j, rank in enumerate(row, 1))
    centre = len(ranks) * (count + 1) * count * (count + 1)  # twice the mean of the doubled L
    # Ties make the seeds' distributions differ, and only ties do.
    kinds = Counter(tuple(sorted(row)) for row in ranks)
    totals = _distribution(tuple(sorted(kinds.items())))
    distance = abs(2 * observed - centre)
    extreme = sum(times for total, times in totals.items() if abs(2 * total - centre) >= distance)
    return Trend(observed / 2, extreme / sum(totals.values()), int(np.sign(2 * observed - centre)))


@lru_cache(maxsize=256)
def _distribution(kinds: tuple[tuple[tuple[int, ...], int], ...]) -> Counter:
    """How many orders of the ranks within all seeds give each sum of their Σ j·rank_j.

    kinds: the ranks of a seed, in order, and how many seeds have them. Python's whole numbers:
    however many orders there are, p is an exact ratio.
    """
    totals = Counter({0: 1})
    for ranks, seeds in kinds:
        totals = _convolve(totals, _power(_rank_sums(ranks), seeds))
    return totals


def _convolve(left: Counter, right: Counter) -> Counter:
    out: Counter = Counter()
    for a, times_a in left.items():
        for b, times_b in right.items():
            out[a + b] += times_a * times_b
    return out


def _power(sums: Counter, seeds: int) -> Counter:
    """The distribution of the total of `seeds` equal and independent ones.

    With counts p of a distribution, those of the total, q, are the coefficients of (Σ p_i x^i)^n:
    k p_0 q_k = Σ_i (i n − k + i) p_i q_(k−i) (Knuth, The Art of Computer Programming 2, 4.7).
    """
    least = min(sums)
    p = [sums[least + i] for i in range(max(sums) - least + 1)]
    q = [p[0] ** seeds]
    for k in range(1, (len(p) - 1) * seeds + 1):
        terms = range(1, min(k, len(p) - 1) + 1)
        total = sum((i * seeds - k + i) * p[i] * q[k - i] for i in terms if p[i])
        q.append(total // (k * p[0]))
    return Counter({seeds * least + k: times for k, times in enumerate(q) if times})


@lru_cache(maxsize=256)
def _rank_sums(ranks: tuple[int, ...]) -> Counter:
    """How many orders of `ranks` give each Σ j·rank_j (over sets of ranks already placed: 2^k, not
    k!).
    """
    placed = {0: Counter({0: 1})}
    for j in range(1, len(ranks) + 1):
        following: dict[int, Counter] = defaultdict(Counter)
        for used, sums in placed.items():
            for i, rank in enumerate(ranks):
                if not used >> i & 1:
                    for total, times in sums.items():
                        following[used | 1 << i][total + j * rank] += times
        placed = following
    return placed[(1 << len(ranks)) - 1]
