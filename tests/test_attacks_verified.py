"""What an attack finds on a folded, compiled or half-precision copy counts only if it fools the
model itself, and no strength is lost where it does not.
"""

import warnings

import pytest
import torch
from attacked import convolutional, digits, pictures, right

from arlib import attacks, engine, margins

EPS = 0.08


def quiet(*arguments, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", attacks.TrustWarning)
        return attacks.evaluate(*arguments, eps=EPS, attacks=["pgd-10", "apgd-margin"], **options)


@pytest.fixture
def rough():
    """A network, a copy of it that answers class 0 to everything, and images of other classes."""
    model, x, y = digits()
    copy = engine.prepare(model, "folded").compare(x)
    copy.module.get_submodule("classifier").bias[0] += 1e6
    chosen = (y != 0) & right(model, x, y)
    return model, copy, x[chosen][:60], y[chosen][:60]


def test_what_fools_the_copy_alone_does_not_count_and_the_model_is_attacked_instead(rough):
    model, copy, x, y = rough
    plain = quiet(engine.prepare(model, "plain"), x, y)
    verified = quiet(copy, x, y)
    assert 0.1 < plain.robust.mean() < 0.9, "there is something to break and something that stands"
    assert (verified.robust == plain.robust).all()
    assert verified.natural.all(), "natural answers are the model's, too"
    # each attack is told by the copy that everything is broken at once
    assert verified.unverified == len(x) + verified.state["outcome"][0, 0].tolist().count(1)
    assert any("fooled the prepared copy" in reason for reason in verified.warnings)
    assert plain.unverified == 0 and not any("copy" in reason for reason in plain.warnings)


def test_a_state_of_before_verification_was_counted_goes_on(rough):
    model, _, x, y = rough
    state = {}
    whole = quiet(model, x, y, state=state)
    del state["unverified"]
    assert (quiet(model, x, y, state=state).robust == whole.robust).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_nearest_images_found_in_half_precision_fool_the_model_itself(norm):
    model, x, y = digits()
    x, y = x[:40], y[:40]
    half = engine.prepare(model, "folded", torch.bfloat16)
    with torch.no_grad():
        assert not torch.equal(half(x), model(x))
    images = attacks.minimum_norm(half, x, y, norm=norm)
    reached = attacks.distance(engine.prepare(model, "plain"), x, images, y, norm=norm)
    assert reached.isfinite().all()
    usual = attacks.distance(model, x, attacks.minimum_norm(model, x, y, norm=norm), y, norm=norm)
    assert (reached / usual)[usual > 0].median() < 1.05


def test_instance_margins_found_in_half_precision_are_the_models_own():
    model, x, y = digits()
    x, y = x[:30], y[:30]
    values, images = margins.nearest(engine.prepare(model, "folded", torch.bfloat16), x, y)
    plain, was_right = engine.prepare(model, "plain"), right(model, x, y)
    assert ((values > 0) == was_right).all()
    assert not right(plain, images, y).any()
    lengths = (images - x).flatten(1).abs().amax(1)
    torch.testing.assert_close(lengths[was_right], values[was_right], rtol=1e-5, atol=1e-7)
    assert (values / margins.instance(model, x, y))[was_right].median() < 1.05


def test_a_rough_copy_shortens_no_distance(rough):
    model, copy, x, y = rough
    x, y = x[:20], y[:20]
    plain = engine.prepare(model, "plain")
    images = attacks.minimum_norm(copy, x, y)
    assert not right(plain, images, y).any()
    own = attacks.distance(plain, x, attacks.minimum_norm(plain, x, y), y)
    assert torch.equal(attacks.distance(plain, x, images, y), own)
    values = margins.instance(copy, x, y)
    assert (values / margins.instance(plain, x, y)).median() == pytest.approx(1, abs=0.05)


def test_the_model_itself_answers_through_its_copy():
    model, x = convolutional(), pictures()
    for copy in (engine.prepare(model, "folded"), engine.prepare(model, "plain", torch.bfloat16)):
        assert torch.equal(copy.itself(x), model(x))
