"""Statistics of spectra with answers known by hand."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from arlib.errors import InputError
from arlib.spectra import quantiles, statistics


def test_equal_values_are_as_concentrated_as_can_be():
    summary = statistics(torch.full((50,), 2.0))
    assert summary == pytest.approx(
        {"count": 50, "max": 2, "min": 2, "mean": 2, "std": 0, "std_over_mean": 0}
        | {"effective_rank": 1, "stable_rank": 1, "condition": 1}
    )


def test_one_value_among_zeros():
    summary = statistics(torch.tensor([0.0, 3.0, 0.0, 0.0]))
    assert summary["mean"] == 0.75
    assert summary["std"] == pytest.approx(math.sqrt(9 / 4 - 0.75**2))  # ddof 0, zeros included
    assert summary["effective_rank"] == pytest.approx(1 / 4)
    assert summary["stable_rank"] == pytest.approx(1 / 4)
    assert summary["condition"] == math.inf


def test_by_hand():
    summary = statistics(torch.tensor([1.0, 3.0]))
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert (summary["std"], summary["std_over_mean"]) == (1.0, 0.5)
    assert summary["effective_rank"] == pytest.approx(math.exp(entropy) / 2)
    assert summary["stable_rank"] == pytest.approx(10 / 9 / 2)
    assert summary["condition"] == pytest.approx(2.9 / 1.1)


def test_an_all_zero_operator_has_no_ratios():
    summary = statistics(torch.zeros(3))
    assert summary["std"] == 0
    assert math.isnan(summary["std_over_mean"])
    assert math.isnan(summary["effective_rank"])


@settings(deadline=None, derandomize=True, max_examples=50)
@given(st.lists(st.floats(0.001, 1000), min_size=2, max_size=30), st.floats(0.1, 10))
def test_ratios_are_scale_free_and_bounded(values, scale):
    sigma = torch.tensor(values, dtype=torch.float64)
    one, other = statistics(sigma), statistics(sigma * scale)
    for name in ("std_over_mean", "effective_rank", "stable_rank", "condition"):
        assert other[name] == pytest.approx(one[name], rel=1e-9, abs=1e-9)
    assert 1 / len(values) - 1e-9 <= one["effective_rank"] <= 1 + 1e-9
    assert other["std"] == pytest.approx(one["std"] * scale, rel=1e-6, abs=1e-9)


def test_quantiles_run_from_min_to_max():
    result = quantiles(torch.tensor([5.0, 1.0, 3.0]))
    assert result.shape == (201,)
    assert result.dtype.name == "float32"
    assert (result[0], result[100], result[-1]) == (1, 3, 5)


@pytest.mark.parametrize(
    "bad", [torch.zeros(0), torch.ones(2, 2), torch.tensor([1.0, math.nan]), torch.tensor([-1.0])]
)
def test_bad_values_are_refused(bad):
    with pytest.raises(InputError, match="1-D tensor"):
        statistics(bad)
