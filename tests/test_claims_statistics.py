"""t intervals and Page's test against enumeration, scipy and simulation."""

from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arlib import claims
from arlib.errors import InputError


def enumerated(values) -> float:
    """Page's two-sided p by writing out every permutation within every seed."""
    ranks = [stats.rankdata(row) for row in values]
    weights = np.arange(1, len(values[0]) + 1)
    totals = np.array(
        [
            sum(weights @ np.array(row) for row in rows)
            for rows in product(*map(permutations, ranks))
        ]
    )
    observed = sum(weights @ row for row in ranks)
    return float(np.mean(np.abs(totals - totals.mean()) >= abs(observed - totals.mean()) - 1e-9))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(2, 3), st.integers(2, 4), st.integers(0, 10**6), st.booleans())
def test_page_p_equals_enumeration_with_and_without_ties(seeds, strengths, rng, ties):
    values = (
        np.random.default_rng(rng)
        .integers(0, 3 if ties else 10**6, (seeds, strengths))
        .astype(float)
    )
    assert claims.page_trend(values).p == pytest.approx(enumerated(values.tolist()), abs=1e-12)


@pytest.mark.parametrize("shape", [(3, 3), (3, 5), (5, 4), (4, 6)])
def test_page_agrees_with_scipy_without_ties(shape):
    for rng in range(10):
        values = np.random.default_rng(rng).normal(size=shape)
        trend, other = claims.page_trend(values), stats.page_trend_test(values, method="exact")
        assert other.statistic == trend.L
        if trend.sign > 0:  # scipy's p is one-sided, for a rise
            assert trend.p == pytest.approx(min(1, 2 * other.pvalue))
        assert claims.page_trend(-values) == (
            trend.L + 2 * (-trend.L + _middle(shape)),
            trend.p,
            -trend.sign,
        )


def _middle(shape) -> float:
    return shape[0] * shape[1] * (shape[1] + 1) ** 2 / 4


def test_page_smallest_p_and_level_rows():
    rising = np.tile([1.0, 2, 3], (3, 1))
    assert claims.page_trend(rising).p == pytest.approx(2 / 6**3)
    assert claims.page_trend(rising[:, :2]).p == pytest.approx(0.25)
    assert claims.page_trend(np.ones((3, 3))) == (36, 1.0, 0)


def test_page_keeps_ties_that_rounding_broke():
    values = np.array([[0.1 + 0.2, 0.3, 0.4]] * 3)
    assert claims.page_trend(values) == claims.page_trend(np.array([[0.3, 0.3, 0.4]] * 3))


@pytest.mark.parametrize("values", [[[1.0], [2]], [[1.0, np.nan], [1, 2]], [1.0, 2]])
def test_page_refuses_incomplete_tables(values):
    with pytest.raises(InputError, match="complete table"):
        claims.page_trend(values)


def test_t_interval_known_answer_and_scipy():
    interval = claims.t_interval([1.0, 2, 3])
    assert interval == pytest.approx((2, 2 - 4.30265 / 3**0.5, 2 + 4.30265 / 3**0.5), abs=1e-5)
    low, high = stats.ttest_1samp([0.3, -0.1, 0.5, 0.2], 0).confidence_interval()
    assert claims.t_interval([0.3, -0.1, 0.5, 0.2])[1:] == pytest.approx((low, high))


def test_t_interval_covers_at_its_level():
    draws = np.random.default_rng(0).normal(size=(4000, 3))
    missed = np.mean([claims.t_interval(row).sign != 0 for row in draws])
    assert abs(missed - 0.05) < 4 * (0.05 * 0.95 / 4000) ** 0.5


@pytest.mark.parametrize("values", [[], [1.0], [1.0, np.nan]])
def test_t_interval_refuses(values):
    with pytest.raises(InputError, match="at least 2"):
        claims.t_interval(values)


def test_interval_sign():
    assert claims.Interval(1, 0.5, 2).sign == 1
    assert claims.Interval(-1, -2, -0.5).sign == -1
    assert claims.Interval(0, -1, 1).sign == claims.Interval().sign == 0
