import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from arlib import margins
from arlib.errors import InputError


def GENERATOR(seed=0):
    return torch.Generator().manual_seed(seed)


def test_output_margins_of_hand_made_logits():
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [0.0, 0.0, -1.0]])
    assert margins.output(logits, torch.tensor([0, 1, 0])).tolist() == [0.5, -2.0, 0.0]


def test_logit_scale_of_hand_made_logits():
    logits = torch.tensor([[2.0, 0.0], [10.0, 4.0]])  # centred: ±1, ±3
    assert margins.logit_scale(logits) == pytest.approx(math.sqrt((1 + 1 + 9 + 9) / 4))


@given(st.integers(0, 10_000), st.floats(0.01, 100), st.floats(-20, 20))
def test_scale_free_margins_ignore_logit_scale_and_shifts(seed, factor, shift):
    logits = torch.randn(12, 5, generator=GENERATOR(seed), dtype=torch.float64)
    y = torch.randint(5, (12,), generator=GENERATOR(seed))
    free = margins.scale_free(margins.output(logits, y), margins.logit_scale(logits))
    moved = factor * logits + shift * torch.randn(
        12, 1, generator=GENERATOR(seed + 1), dtype=torch.float64
    )
    assert torch.allclose(
        margins.scale_free(margins.output(moved, y), margins.logit_scale(moved)), free, atol=1e-9
    )
    assert margins.logit_scale(moved) == pytest.approx(
        factor * margins.logit_scale(logits), rel=1e-9
    )


def linear(classes=4, pixels=12, seed=0):
    """A linear classifier, its images well inside [0, 1] and its own predictions as labels."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(pixels, classes)).double()
    x = 0.4 + 0.2 * torch.rand(30, 1, 1, pixels, generator=GENERATOR(seed), dtype=torch.float64)
    with torch.no_grad():
        model[1].bias -= model(x).mean(0)
        return model, x, model(x).argmax(1)


def closed_form(model, x, y, dual):
    """min over other classes j of (z_y − z_j) / ‖w_y − w_j‖_q."""
    with torch.no_grad():
        z, w = model(x), model[1].weight
        gaps = z.gather(1, y[:, None]) - z  # (n, classes)
        norms = torch.linalg.vector_norm(w[y][:, None] - w[None], dual, dim=2)
        return (gaps / norms.clamp_min(1e-12)).scatter(1, y[:, None], math.inf).amin(1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2)])
def test_instance_margins_of_a_linear_model_are_the_closed_form(norm, dual):
    model, x, y = linear()
    expected = closed_form(model, x, y, dual)
    assert expected.max() < 0.35
    distances = margins.instance(model, x, y, norm=norm, batch_size=11)
    assert (distances >= expected - 1e-9).all()  # an upper bound
    assert torch.allclose(distances, expected, rtol=0.01, atol=1e-4)


def test_bisection_alone_is_an_upper_bound_to_its_resolution(monkeypatch):
    # two classes: the margin loss climbs straight to the corner
    model, x, y = linear(classes=2, seed=1)
    expected = closed_form(model, x, y, 1)
    monkeypatch.setattr("arlib.attacks.minimum_norm", lambda f, x, *_, **__: x)  # finds nothing
    distances = margins.instance(model, x, y)
    assert (distances >= expected - 1e-9).all()
    assert (distances - expected).max() <= 1 / 256 + 1e-9


def test_wrong_predictions_have_margin_zero_and_hopeless_ones_the_cap():
    constant = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        constant[1].weight.zero_()
        constant[1].bias.copy_(torch.tensor([1.0, 0.0]))
    x, y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 0])
    assert margins.instance(constant, x, y, steps=3).tolist() == [1, 0, 1]
    assert margins.instance(constant, x, y, steps=3, cap=0.5).tolist() == [0.5, 0, 0.5]


def test_instance_margins_repeat_and_leave_the_model_alone():
    model, x, y = linear(seed=2)
    model.train()
    first = margins.instance(model, x, y, steps=5, generator=GENERATOR(3))
    assert torch.equal(first, margins.instance(model, x, y, steps=5, generator=GENERATOR(3)))
    assert model.training
    assert model[1].weight.requires_grad


def test_acceptance_needs_the_share_below_every_radius():
    values = torch.tensor([0.0, 0.01, 0.02, 0.5])
    assert margins.accepted(values, {0.01: 0.5, 0.02: 0.75})
    assert margins.accepted(values, {0.02: 0.7549})
    assert not margins.accepted(values, {0.01: 0.5, 0.02: 0.7551})
    assert not margins.accepted(values, {0.01: 0.75, 0.02: 0.75})
    assert margins.accepted(torch.tensor([8 / 255 + 1e-8]), {8 / 255: 1.0})
    with pytest.raises(InputError, match="robust_errors is empty"):
        margins.accepted(values, {})


def test_bad_input_is_named():
    model, x, y = linear()
    with pytest.raises(InputError, match="halvings is 0"):
        margins.instance(model, x, y, halvings=0)
    with pytest.raises(InputError, match="Did you mean 'linf'"):
        margins.instance(model, x, y, norm="lin")
    with pytest.raises(InputError, match="one for each"):
        margins.output(torch.zeros(3, 2), torch.tensor([0]))
    with pytest.raises(InputError, match="scale is 0"):
        margins.scale_free(torch.ones(2), 0.0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nearest_images_are_wrong_and_at_the_margin(norm):
    model, x, y = linear()
    y = y.clone()
    y[0] = (y[0] + 1) % 4  # wrong already
    values, images = margins.nearest(model, x, y, norm=norm)
    assert torch.equal(values, margins.instance(model, x, y, norm=norm))
    assert torch.equal(images[0], x[0]) and values[0] == 0
    with torch.no_grad():
        assert (model(images).argmax(1) != y).all()
    order = math.inf if norm == "linf" else 2
    away = torch.linalg.vector_norm((images - x).flatten(1), order, dim=1)
    assert torch.allclose(away, values, rtol=1e-6, atol=1e-9)
    assert images.min() >= 0 and images.max() <= 1


def test_nearest_leaves_what_it_cannot_reach():
    model = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        model[1].weight.zero_()
        model[1].bias.copy_(torch.tensor([1.0, 0.0]))
        model[1].weight[0, 0] = 1e-3
    x = torch.full((1, 1, 1, 2), 0.5)
    values, images = margins.nearest(model, x, torch.tensor([0]))
    assert values.tolist() == [1.0] and torch.equal(images, x)


def test_both_views_of_the_instance_margin_take_the_same_arguments():
    """But for images in a data set: who wants the nearest images, has room for them."""
    one, both = (
        {name: p.default for name, p in inspect.signature(view).parameters.items()}
        for view in (margins.instance, margins.nearest)
    )
    assert one | {"y": inspect.Parameter.empty} == both
