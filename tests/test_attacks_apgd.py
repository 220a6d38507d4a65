"""Auto-PGD, Square and the minimum-norm attack against known answers."""

import math

import pytest
import torch
from attacked import (
    Function,
    binary,
    convolutional,
    digits,
    generator,
    linear,
    pictures,
    right,
    smallest_perturbation,
)

from arlib import attacks
from arlib.attacks import steps as parts
from arlib.attacks.apgd import checkpoints
from arlib.attacks.square import HALVINGS, _window, covered
from arlib.errors import InputError

NORMS = ("linf", "l2")


def test_the_step_is_judged_after_the_published_numbers_of_steps():
    assert checkpoints(100) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert checkpoints(1) == [1]


@pytest.mark.parametrize("loss", ["margin-targeted", "dlr-targeted"])
@pytest.mark.parametrize("norm", NORMS)
def test_trying_each_target_breaks_a_linear_model_exactly_from_its_smallest_perturbation_on(
    norm, loss
):
    model, x, y = linear(5, n=16)
    distance = smallest_perturbation(model, x, y, norm)
    assert (distance < 0.39).all()
    options = {"norm": norm, "loss": loss, "steps": 40}
    assert right(model, attacks.apgd(model, x, y, eps=0.999 * distance, **options), y).all()
    x_adv = attacks.apgd(model, x, y, eps=1.01 * distance, **options)
    if loss == "margin-targeted":  # linear in the image, so the climb cannot end anywhere else
        assert not right(model, x_adv, y).any()
    assert right(model, x_adv, y).double().mean() < 0.1
    assert (parts.norms(x_adv - x, norm) <= 1.01 * distance + 1e-9).all()


@pytest.mark.parametrize("loss", ["ce", "dlr", "margin"])
def test_each_plain_loss_breaks_a_linear_model_with_room_to_spare(loss):
    model, x, y = linear(5, n=16)
    x_adv = attacks.apgd(
        model, x, y, eps=2 * smallest_perturbation(model, x, y, "linf"), loss=loss, steps=20
    )
    assert not right(model, x_adv, y).any()


def test_halving_its_step_it_comes_closer_to_an_inner_maximum_than_pgd():
    top = torch.full((1, 3), 0.58, dtype=torch.float64)
    model = binary(lambda x: 1 + 100 * (x - top).square().sum(1))
    x, y = torch.full((1, 3), 0.5, dtype=torch.float64), torch.zeros(1, dtype=torch.int64)

    def miss(x_adv):
        return float((x_adv - top).abs().max())

    assert miss(attacks.apgd(model, x, y, eps=0.1, loss="margin", steps=100)) < 2e-3
    assert miss(attacks.pgd(model, x, y, eps=0.1, loss="margin", steps=100)) > 4e-3


def test_one_forward_pass_a_step_and_one_more():
    model = binary(lambda x: x.sum((1, 2, 3)) - 30)
    attacks.apgd(model, pictures(6), torch.zeros(6, dtype=torch.int64), eps=0.01, steps=9)
    assert model.seen == [2] + [6] * 10  # two images to count the classes


@pytest.mark.parametrize(("classes", "targets", "passes"), [(5, 9, 4), (12, 9, 9), (12, 3, 3)])
def test_the_likeliest_wrong_classes_are_tried_each_on_the_survivors(classes, targets, passes):
    weight = torch.linspace(1, 0, classes)
    model = Function(lambda x: 100 * weight + 0 * x.sum((1, 2, 3))[:, None])  # nothing moves it
    x, y = pictures(4), torch.zeros(4, dtype=torch.int64)
    attacks.apgd(model, x, y, eps=0.1, steps=3, loss="margin-targeted", targets=targets)
    assert model.seen == [2, 4] + [4] * 4 * passes
    model.seen.clear()
    attacks.apgd(
        model,
        x,
        torch.tensor([0, 0, 0, 1]),
        eps=0.1,
        steps=3,
        loss="margin-targeted",
        targets=targets,
    )
    # the misclassified one is dropped
    assert model.seen == [2, 4] + [4] * 4 + [3] * 4 * (passes - 1)


@pytest.mark.parametrize("loss", ["ce", "margin-targeted"])
def test_early_stop_changes_no_verdict_and_works_less(loss):
    model, x = convolutional(dtype=torch.float64), pictures(64, dtype=torch.float64)
    y, seen = model(x).argmax(1), []
    counted = Function(lambda x: model(x))
    standing = []
    for stop in (False, True):
        counted.seen.clear()
        x_adv = attacks.apgd(
            counted, x, y, eps=torch.linspace(0, 0.3, 64), steps=30, loss=loss, early_stop=stop
        )
        standing.append(right(model, x_adv, y))
        seen.append(sum(counted.seen))
    assert 0 < standing[0].sum() < 64 and torch.equal(*standing)
    assert seen[1] < 0.9 * seen[0]


@pytest.mark.parametrize("norm", NORMS)
def test_batch_split_does_not_matter(norm):
    model, x = convolutional(dtype=torch.float64), pictures(dtype=torch.float64)
    y = model(x).argmax(1)

    def run(index):
        return attacks.apgd(
            model,
            x[index],
            y[index],
            eps=0.05,
            steps=25,
            norm=norm,
            generator=attacks.Streams(3, index.tolist()),
        )

    split = torch.cat([run(part) for part in torch.arange(24).split(7)])
    assert torch.allclose(split, run(torch.arange(24)), atol=1e-9)


def test_more_restarts_never_help_the_model_image_by_image_with_auto_pgd():
    model, x, y = digits()

    def run(restarts):
        return attacks.apgd(
            model, x, y, eps=0.09, steps=4, restarts=restarts, generator=generator(1)
        )

    one, four = right(model, run(1), y), right(model, run(4), y)
    assert (four <= one).all() and four.sum() < one.sum()


def test_a_radius_for_each_image_is_kept():
    model, x, y = linear(3)
    eps = torch.linspace(0, 0.1, len(x), dtype=torch.float64)
    for norm in NORMS:
        x_adv = attacks.apgd(model, x, y, eps=eps, steps=10, norm=norm)
        assert (parts.norms(x_adv - x, norm) <= eps + 1e-9).all()
    assert torch.equal(attacks.apgd(model, x, y, eps=0 * eps, steps=3), x)


def test_an_unknown_loss_is_refused():
    model, x, y = linear(3)
    with pytest.raises(InputError, match="Did you mean 'dlr-targeted'"):
        attacks.apgd(model, x, y, eps=0.1, loss="dlr_targeted")


# Square


def test_squares_shrink_on_schedule():
    assert [covered(q, 10_000, 0.8) for q in (1, 10, 11, 51, 9000)] == [
        0.8,
        0.8,
        0.4,
        0.2,
        0.8 / 2**8,
    ]
    assert (
        covered(500, 1000, 0.8)
        == covered(5000, 10_000, 0.8)
        == 0.8 / 2 ** sum(at < 5000 for at in HALVINGS)
    )


def test_windows_are_whole_and_fall_everywhere_alike():
    place = torch.rand(6000, generator=generator())
    window = _window(place, 5, 3)
    assert (window.sum(1) == 3).all()
    first = window.int().argmax(1)
    assert first.max() == 2
    assert torch.allclose(first.bincount() / 6000, torch.full((3,), 1 / 3), atol=0.03)


@pytest.mark.slow
def test_square_stays_on_the_corners_of_the_ball_and_breaks_much():
    model, x, y = digits()
    x_adv = attacks.square(model, x, y, eps=0.1, queries=150)
    delta, before = x_adv - x, right(model, x, y)
    assert delta.abs().max() <= 0.1 + 1e-6 and x_adv.min() >= 0 and x_adv.max() <= 1
    corners = torch.stack([(x + 0.1).clamp(max=1), (x - 0.1).clamp(min=0)])
    assert ((x_adv - corners).abs().amin(0)[before] <= 1e-6).all()
    assert torch.equal(x_adv[~before], x[~before])  # nothing is done to a misclassified image
    after = right(model, x_adv, y)
    strong = right(model, attacks.apgd(model, x, y, eps=0.1, steps=50, early_stop=True), y)
    assert strong.sum() < after.sum() < 0.7 * before.sum()


def test_square_needs_no_gradient():
    """Pixels rounded to 10 levels: gradients are zero everywhere, a search finds the way."""
    model, x, y = linear(3, dtype=torch.float32)
    rounded = Function(lambda x: model((x * 10).round() / 10))
    y = rounded(x).argmax(1)
    blind = right(rounded, attacks.pgd(rounded, x, y, eps=0.1, random_start=False), y)
    seeing = right(rounded, attacks.square(rounded, x, y, eps=0.1, queries=300), y)
    assert blind.all() and not seeing.any()


def test_square_asks_only_about_survivors():
    model = Function(lambda x: torch.stack([x[:, 0, 0, 0] - 0.5, 0 * x[:, 0, 0, 0]], 1))
    x = torch.full((6, 1, 4, 4), 0.9)
    x[0] = 0.1  # misclassified from the start
    attacks.square(model, x, torch.zeros(6, dtype=torch.int64), eps=0.1, queries=20)
    assert model.seen == [2, 6] + [5] * 20


def test_square_does_not_depend_on_the_batch():
    model, x = convolutional(dtype=torch.float64), pictures(dtype=torch.float64)
    y = model(x).argmax(1)

    def run(index):
        return attacks.square(
            model,
            x[index],
            y[index],
            eps=0.03,
            queries=60,
            generator=attacks.Streams(3, index.tolist()),
        )

    split = torch.cat([run(part) for part in torch.arange(24).split(7)])
    standing = right(model, split, y)
    assert 0 < standing.sum() < 24
    assert torch.equal(standing, right(model, run(torch.arange(24)), y))


def test_square_refuses_what_it_cannot_do():
    model, x, y = linear(3)
    with pytest.raises(InputError, match="linf only"):
        attacks.square(model, x, y, eps=0.1, norm="l2")
    with pytest.raises(InputError, match="p_init is 0"):
        attacks.square(model, x, y, eps=0.1, p_init=0)
    with pytest.raises(InputError, match="n, c, h, w"):
        attacks.square(model, x.flatten(1), y, eps=0.1)


# Minimum norm


@pytest.mark.parametrize("classes", [2, 7])
@pytest.mark.parametrize("norm", NORMS)
def test_minimum_norm_of_a_linear_model_is_the_closed_form(norm, classes):
    model, x, y = linear(classes)
    expected = smallest_perturbation(model, x, y, norm)
    assert (expected < 0.39).all()
    distances = attacks.distance(
        model, x, attacks.minimum_norm(model, x, y, norm=norm), y, norm=norm
    )
    assert (distances >= expected - 1e-9).all()
    assert (distances <= 1.005 * expected).all()


@pytest.mark.slow
@pytest.mark.parametrize("norm", NORMS)
def test_minimum_norm_finds_less_than_a_bisection_with_auto_pgd(norm):
    model, x, y = digits()
    x, y = x[:60], y[:60]
    low, high = torch.zeros(60), torch.full((60,), 1.0 if norm == "linf" else 8.0)
    for _ in range(7):
        middle = (low + high) / 2
        x_adv = attacks.apgd(
            model, x, y, eps=middle, steps=25, norm=norm, loss="margin", early_stop=True
        )
        hit = ~right(model, x_adv, y)
        low, high = torch.where(hit, low, middle), torch.where(hit, middle, high)
    distances = attacks.distance(
        model, x, attacks.minimum_norm(model, x, y, norm=norm), y, norm=norm
    )
    assert distances.isfinite().all()
    assert (distances <= 1.02 * high).float().mean() >= 0.9
    assert distances.median() <= high.median()


def test_minimum_norm_leaves_alone_what_is_wrong_already_or_cannot_be_moved():
    model, x, y = linear(3)
    wrong = (y + 1) % 3
    assert torch.equal(attacks.minimum_norm(model, x, wrong), x)
    assert (attacks.distance(model, x, x, wrong) == 0).all()
    constant = binary(lambda x: 1 + 0 * x.sum((1, 2, 3)))
    zeros = torch.zeros(len(x), dtype=torch.int64)
    unmoved = attacks.minimum_norm(constant, x, zeros)
    assert torch.equal(unmoved, x)
    assert (attacks.distance(constant, x, unmoved, zeros) == math.inf).all()


def test_a_targeted_minimum_norm_reaches_its_target():
    model, x, y = linear(4)
    target = (y + 1) % 4
    x_adv = attacks.minimum_norm(model, x, target, targeted=True)
    assert right(model, x_adv, target).all()
    any_class = attacks.distance(model, x, attacks.minimum_norm(model, x, y), y)
    assert (1.005 * attacks.distance(model, x, x_adv, target, targeted=True) >= any_class).all()


def test_distance_wants_images_of_one_shape():
    model, x, y = linear(4)
    with pytest.raises(InputError, match="shapes"):
        attacks.distance(model, x, x[:3], y)
