import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from arlib import confidence
from arlib.errors import InputError


def sampled(n=200_000, classes=10, scale=2.0, seed=0):
    """Logits whose softmax is, by construction, the distribution their labels were drawn from."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=generator, dtype=torch.float64)
    y = torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]
    return logits, y


def test_hand_made_logits():
    logits = torch.log(torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]))
    y = torch.tensor([0, 0])
    assert confidence.max_softmax(logits).tolist() == pytest.approx([0.7, 0.5])
    assert confidence.entropy(logits).tolist() == pytest.approx(
        [-(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1)), 1.5 * math.log(2)],
        abs=1e-6,
    )
    assert confidence.cross_entropy(logits, y).tolist() == pytest.approx(
        [-math.log(0.7), math.log(4)], abs=1e-6
    )
    assert confidence.overconfidence(logits, y) == pytest.approx(0.6 - 0.5)
    assert confidence.ece(logits, y, bins=1) == pytest.approx(0.1)
    assert confidence.ece(logits, y, bins=2) == pytest.approx((0.3 + 0.5) / 2)


def test_entropy_of_certainty_and_of_ignorance():
    logits = torch.tensor([[1e4, 0.0, 0.0], [0.0, 0.0, 0.0]])
    assert confidence.entropy(logits).tolist() == pytest.approx([0.0, math.log(3)])


@pytest.mark.slow
def test_a_calibrated_sampler_has_no_calibration_error():
    logits, y = sampled(n=800_000)  # torch versions draw other numbers from a seed
    assert confidence.ece(logits, y) < 0.004  # 15 bins of 53,333 images: noise of about 0.00125
    assert abs(confidence.overconfidence(logits, y)) < 0.004
    assert confidence.ece(3 * logits, y) > 0.1
    assert confidence.overconfidence(3 * logits, y) > 0.1
    assert confidence.overconfidence(logits / 3, y) < -0.1


def test_signed_errors_do_not_cancel_between_bins():
    # Half of the images 10 points too sure, half 10 points not sure enough.
    p = torch.tensor([0.6] * 10 + [0.9] * 10, dtype=torch.float64)
    logits = torch.stack([p.log(), (1 - p).log()], 1)
    y = torch.tensor([0] * 5 + [1] * 5 + [0] * 10)
    assert confidence.overconfidence(logits, y) == pytest.approx(0.0)
    assert confidence.ece(logits, y, bins=2) == pytest.approx(0.1)


@pytest.mark.parametrize("planted", [0.3, 1.0, 4.0])
def test_temperature_recovers_a_planted_scaling(planted):
    logits, y = sampled(n=20_000)
    own = confidence.temperature(logits, y)
    assert own == pytest.approx(1, abs=0.03)
    assert confidence.temperature(planted * logits, y) == pytest.approx(planted * own, rel=1e-9)


def test_temperature_is_the_minimum_of_the_cross_entropy():
    logits, y = sampled(n=500, scale=5.0, seed=1)
    y = torch.where(torch.arange(500) % 4 == 0, (y + 1) % 10, y)
    best = confidence.temperature(logits, y)

    def loss(t):
        return confidence.cross_entropy(logits / t, y).mean()

    assert best > 1.5
    assert loss(best) < min(loss(best * 1.001), loss(best / 1.001))


def test_temperature_without_an_optimum_warns():
    logits = torch.tensor([[5.0, 0.0], [0.0, 5.0]])
    with pytest.warns(UserWarning, match="no finite optimum"):
        assert confidence.temperature(logits, torch.tensor([0, 1])) == pytest.approx(1e-3)
    with pytest.warns(UserWarning, match="no finite optimum"):
        assert confidence.temperature(logits, torch.tensor([1, 0])) == pytest.approx(1e3)


@given(st.integers(0, 10_000), st.floats(-50, 50), st.integers(1, 30))
def test_nothing_depends_on_a_shift_of_the_logits_or_the_order_of_images(seed, shift, bins):
    logits, y = sampled(n=30, classes=4, seed=seed)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
    for statistic in (lambda z, t: confidence.ece(z, t, bins), confidence.overconfidence):
        assert statistic((logits + shift)[order], y[order]) == pytest.approx(
            statistic(logits, y), abs=1e-9
        )


@pytest.mark.parametrize(
    ("logits", "y", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), "shape"),
        (torch.zeros(3), torch.tensor([0]), "shape"),
        (torch.full((1, 3), torch.nan), torch.tensor([0]), "NaN"),
        (torch.zeros(2, 3), torch.tensor([0]), "one for each"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), "labels run from 0 to 3"),
    ],
)
def test_bad_input_is_named(logits, y, message):
    with pytest.raises(InputError, match=message):
        confidence.ece(logits, y, bins=1)


def test_more_bins_than_images_is_refused():
    with pytest.raises(InputError, match="bins is 15"):
        confidence.ece(torch.zeros(3, 2), torch.zeros(3, dtype=torch.int64))
