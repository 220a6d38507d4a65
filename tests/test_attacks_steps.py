"""Balls, steps, random starts, losses: what all attacks share."""

import math

import pytest
import torch
from attacked import convolutional, generator, linear, pictures
from hypothesis import given
from hypothesis import strategies as st

from arlib import attacks, engine, models
from arlib.attacks import losses
from arlib.attacks import steps as parts
from arlib.errors import InputError

NORMS = ("linf", "l2")
SEEDS = st.integers(0, 10_000)


@pytest.mark.parametrize("norm", NORMS)
@given(seed=SEEDS, eps=st.floats(0, 2))
def test_projection_lands_in_ball_and_range_and_leaves_what_is_there(norm, seed, eps):
    g = generator(seed)
    x, z = torch.rand(5, 1, 3, 3, generator=g), 3 * torch.randn(5, 1, 3, 3, generator=g)
    ball = parts.BALLS[norm](x, eps)
    inside = ball.project(z)
    assert parts.norms(inside - x, norm).max() <= eps + 1e-6
    assert inside.min() >= 0 and inside.max() <= 1
    assert torch.allclose(ball.project(inside), inside, atol=1e-6)


@given(seed=SEEDS)
def test_l2_projection_is_the_nearest_point_of_the_ball(seed):
    g = generator(seed)
    x = torch.full((1, 6), 0.5, dtype=torch.float64)
    z = x + torch.randn(1, 6, generator=g, dtype=torch.float64)
    inside = parts.L2Ball(x, 0.3).project(z)
    others = parts.L2Ball(x.expand(200, 6), 0.3).start(g)
    assert (parts.norms(others - z, "l2") >= parts.norms(inside - z, "l2") - 1e-12).all()


@pytest.mark.parametrize("norm", NORMS)
def test_each_image_may_have_its_own_radius_and_step(norm):
    x, gradient = torch.full((3, 1, 2, 2), 0.5), torch.ones(3, 1, 2, 2)
    eps = torch.tensor([0.0, 0.1, 0.2])
    moved = parts.BALLS[norm](x, eps).ascend(x, gradient, 2 * eps)
    assert torch.allclose(parts.norms(moved - x, norm), eps, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_the_step_is_the_steepest_one_of_the_norm(norm):
    x, g = torch.full((1, 8), 0.5, dtype=torch.float64), generator()
    gradient = torch.randn(1, 8, generator=g, dtype=torch.float64)
    ball = parts.BALLS[norm](x, 0.2)
    gain = ((ball.ascend(x, gradient, 0.2) - x) * gradient).sum()
    others = parts.BALLS[norm](x.expand(500, 8), 0.2).start(g)
    assert (((others - x) * gradient).sum(1) <= gain).all()
    assert gain == pytest.approx(
        0.2 * float(torch.linalg.vector_norm(gradient, 1 if norm == "linf" else 2))
    )


def test_a_tiny_gradient_still_gives_a_full_l2_step_and_a_zero_one_none():
    gradient = torch.stack([torch.full((4,), 1e-30), torch.zeros(4)])
    assert torch.allclose(parts.norms(parts.unit(gradient), "l2"), torch.tensor([1.0, 0.0]))


def test_linf_start_is_uniform_in_the_cube_and_clipped():
    x = torch.full((2000, 1, 5, 5), 0.5, dtype=torch.float64)
    x[:, :, 0] = 1.0
    start = attacks.random_start(x, eps=0.2, generator=generator())
    inner = ((start - x)[:, :, 1:] / 0.2).flatten()
    assert abs(inner.mean()) < 0.01 and inner.abs().max() <= 1
    for share in (0.1, 0.25, 0.5, 0.9):
        assert (inner < 2 * share - 1).double().mean() == pytest.approx(share, abs=0.01)
    edge = start[:, :, 0]
    assert edge.max() == 1 and (edge == 1).double().mean() == pytest.approx(0.5, abs=0.02)


def test_l2_start_is_uniform_in_the_ball():
    x = torch.full((4000, 5), 0.5, dtype=torch.float64)
    delta = (attacks.random_start(x, eps=0.3, norm="l2", generator=generator()) - x) / 0.3
    # uniform on [0, 1] if the points are uniform in the ball
    volume = parts.norms(delta, "l2") ** 5
    for share in (0.1, 0.5, 0.9):
        assert (volume < share).double().mean() == pytest.approx(share, abs=0.03)
    assert delta.mean(0).abs().max() < 0.03


@pytest.mark.parametrize("norm", NORMS)
def test_an_image_keeps_its_stream_in_any_batch(norm):
    x = pictures(6)

    def start(index):
        return attacks.random_start(
            x[index], eps=0.1, norm=norm, generator=attacks.Streams(7, index)
        )

    together = start([0, 1, 2, 3, 4, 5])
    assert torch.equal(start([4, 2]), together[[4, 2]])
    assert not torch.equal(
        together,
        attacks.random_start(x, eps=0.1, norm=norm, generator=attacks.Streams(8, range(6))),
    )


def test_the_default_generator_always_gives_the_same():
    x = pictures()
    first, second = (parts.default_generator(None, x) for _ in range(2))
    assert torch.equal(torch.rand(3, generator=first), torch.rand(3, generator=second))


def test_an_images_gradient_does_not_depend_on_the_size_of_its_batch():
    model, x, y = linear(4)
    goal = losses.Goal(y)
    together, _, _ = parts.ascent(model, x, goal)
    alone, _, _ = parts.ascent(model, x[:1], goal.take(torch.tensor([0])))
    assert torch.allclose(together[:1], alone, rtol=1e-12)


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_networks_get_fp32_images_loss_and_projection(half):
    model, x = convolutional().to(half), pictures()
    logits = parts.forward_of(model)(x)
    assert logits.dtype == torch.float32
    y = logits.argmax(1)
    gradient, _, result = parts.ascent(parts.forward_of(model), x, losses.Goal(y))
    assert gradient.dtype == result.dtype == torch.float32
    x_adv = attacks.pgd(model, x, y, eps=8 / 255)
    assert x_adv.dtype == torch.float32
    assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6
    assert (parts.forward_of(model)(x_adv).argmax(1) == y).double().mean() < 1


@pytest.mark.parametrize("n", [1, 8, 32, 33, 65, 70, 128])
def test_on_a_cpu_a_pass_goes_in_parts_of_nearly_equal_size(monkeypatch, n):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    seen, x = [], torch.rand(n, 3, 32, 32, generator=generator())
    images, double = parts.in_parts(
        x, lambda part: (seen.append(len(x[part])) or x[part], 2 * x[part])
    )
    assert torch.equal(images, x) and torch.equal(double, 2 * x)
    assert sum(seen) == n and max(seen) <= 32 and len(seen) == -(-n // 32)
    # no rest of one image, for which a matrix product rounds in another way
    assert max(seen) - min(seen) < len(seen)


def test_small_images_and_other_devices_go_in_one_pass():
    for x in (
        torch.rand(500, 1, 8, 8),
        torch.empty(500, 3, 32, 32, device="meta"),
        torch.rand(5000, 7),
    ):
        seen = []
        parts.in_parts(x, lambda part: seen.append(part) or (x[part],))  # noqa: B023
        assert seen == [slice(None)]


@pytest.mark.parametrize("loss", ["ce", "dlr-targeted"])
def test_a_pass_in_parts_gives_the_same_bits(monkeypatch, loss):
    model, x = (
        models.resnet(8, width=8).eval().requires_grad_(False),
        torch.rand(70, 3, 32, 32, generator=generator()),
    )
    y, target = torch.arange(70) % 10, (torch.arange(70) + 1) % 10
    goal = losses.Goal(y, loss, target=target if loss in losses.TO_TARGET else None)
    in_parts = [
        *parts.ascent(model, x, goal),
        *parts.look(model, x, goal),
        *parts.input_gradient(model, x, y, own),
    ]
    monkeypatch.setattr(parts, "PIXELS_A_CORE", 10**9)
    at_once = [
        *parts.ascent(model, x, goal),
        *parts.look(model, x, goal),
        *parts.input_gradient(model, x, y, own),
    ]
    assert all(torch.equal(a, b) for a, b in zip(in_parts, at_once, strict=True))


def own(outputs, y):
    """A loss of one's own that reads the labels."""
    return outputs.gather(1, y[:, None])[:, 0].square()


def test_a_network_prepared_in_half_precision_gets_whole_images_and_gives_whole_logits():
    model, x = convolutional(), pictures()
    half = engine.prepare(model, "folded", torch.bfloat16)
    seen = []
    half.module.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    gradient, logits, values = parts.slope(
        parts.forward_of(half), x, losses.Goal(model(x).argmax(1))
    )
    assert set(seen) == {torch.float32} and {t.dtype for t in (gradient, logits, values)} == {
        torch.float32
    }
    assert not torch.equal(logits, model(x)) and torch.allclose(logits, model(x), atol=0.05)


def test_double_precision_stays_double():
    model, x, y = linear(3)
    assert attacks.pgd(model, x, y, eps=0.1).dtype == torch.float64


# Losses


def test_dlr_is_free_of_scale_and_shift_and_as_defined():
    logits = torch.tensor([[3.0, 1.0, 2.0, -1.0]])
    y = torch.tensor([0])
    assert losses.dlr(logits, y).item() == pytest.approx(-(3 - 2) / (3 - 1))
    assert losses.dlr(10 * logits + 5, y).item() == pytest.approx(losses.dlr(logits, y).item())
    assert losses.dlr(logits, torch.tensor([1])).item() == pytest.approx((3 - 1) / (3 - 1))
    assert losses.dlr_to(logits, y, torch.tensor([3])).item() == pytest.approx(
        -(3 - -1) / (3 - (1 + -1) / 2)
    )


@pytest.mark.parametrize("loss", ["margin", "dlr"])
@given(seed=SEEDS)
def test_margin_losses_are_positive_exactly_where_the_prediction_is_wrong(loss, seed):
    g = generator(seed)
    logits, y = torch.randn(20, 5, generator=g), torch.randint(5, (20,), generator=g)
    goal = losses.Goal(y, loss)
    assert torch.equal(goal.losses(logits) > 0, goal.hits(logits))


@pytest.mark.parametrize("loss", ["margin-targeted", "dlr-targeted"])
def test_losses_to_a_target_count_any_wrong_answer_as_a_hit(loss):
    logits, y, target = torch.tensor([[1.0, 2.0, 0.0, -1.0]]), torch.tensor([0]), torch.tensor([2])
    goal = losses.Goal(y, loss, target=target)
    assert goal.hits(logits).all()
    assert goal.losses(logits) < 0  # class 2 is still below class 0


def test_a_targeted_goal_turns_the_sign_and_hits_at_the_target():
    logits, y = torch.randn(6, 3, generator=generator()), torch.tensor([0, 1, 2, 0, 1, 2])
    assert torch.equal(losses.Goal(y, targeted=True).losses(logits), -losses.Goal(y).losses(logits))
    assert torch.equal(losses.Goal(y, targeted=True).hits(logits), ~losses.Goal(y).hits(logits))


@pytest.mark.parametrize(
    ("loss", "classes", "instead"),
    [("dlr", 2, "'margin'"), ("dlr-targeted", 3, "'margin-targeted'")],
)
def test_dlr_is_refused_with_too_few_classes_and_says_what_to_use(loss, classes, instead):
    model, x, y = linear(classes)
    with pytest.raises(InputError, match=f"at least {classes + 1} classes.*{instead}"):
        attacks.apgd(model, x, y, eps=0.1, loss=loss)
    model, x, y = linear(classes + 1)
    attacks.apgd(model, x, y, eps=0.1, loss=loss, steps=2)


# Bad input, one message each, before any work


def refused(message, model=None, **changes):
    a_model, x, y = linear(3, n=4)
    arguments = {"eps": 0.1} | changes
    with pytest.raises(InputError, match=message):
        attacks.pgd(model or a_model, arguments.pop("x", x), arguments.pop("y", y), **arguments)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eps": 8}, "eps is 8; allowed for linf: 0 to 1.*eps=8/255"),
        ({"eps": -0.1}, "eps is -0.1"),
        ({"eps": math.nan}, "eps is nan"),
        ({"eps": torch.tensor([0.1, 0.1])}, "eps has shape"),
        ({"eps": 5.0, "norm": "l2"}, "eps is 5; allowed for l2: 0 to 4"),
        ({"norm": "l1"}, "norm is 'l1'"),
        ({"loss": "cee"}, "Did you mean 'ce'"),
        ({"steps": 0}, "steps is 0"),
        ({"restarts": 0}, "restarts is 0"),
        ({"restarts": 2, "random_start": False}, "restarts is 2 without a random start"),
        ({"loss": "dlr", "targeted": True}, "targeted=True"),
        ({"x": torch.full((4, 1, 4, 4), 1.01)}, r"outside \[0.0, 1.0\].*normalisation"),
        ({"x": torch.full((4, 1, 4, 4), math.nan)}, "images go from nan"),
        (
            {"x": torch.zeros(4, 1, 4, 4, dtype=torch.uint8)},
            "uint8, on the scale 0 to 255.*x / 255 as float32",
        ),
        ({"x": torch.zeros(4, 1, 4, 4, dtype=torch.float16)}, "torch.float16; give float32"),
        (
            {"x": torch.zeros(0, 1, 4, 4), "y": torch.zeros(0, dtype=torch.int64)},
            "at least one image",
        ),
        ({"y": torch.tensor([0, 1, 2])}, "one int64 label"),
        ({"y": torch.tensor([0.0, 1, 2, 0])}, "one int64 label"),
        (
            {"y": torch.tensor([0, 1, 2, 3])},
            "labels go from 0 to 3, but the model has classes 0 to 2",
        ),
        ({"y": torch.tensor([0, 1, 2, -1])}, "labels go from -1"),
        ({"x": torch.zeros(4, 1, 4, 4, dtype=torch.float64, device="meta")}, "different devices"),
    ],
)
def test_bad_input_is_refused_with_one_message(changes, message):
    refused(message, **changes)


def test_a_model_that_returns_no_logits_is_refused():
    refused("the model returns shape", torch.nn.Identity())
