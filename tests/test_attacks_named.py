"""What the names of attacks mean."""

import pytest
import torch
from attacked import Function, linear, smallest_perturbation

from arlib.attacks.apgd import KEPT, SCOUTED
from arlib.attacks.named import Named
from arlib.attacks.steps import LinfBall, Streams
from arlib.errors import InputError


def unbreakable(classes=6):
    """Logits that depend on the image, with class 0 far ahead; and how often they were asked."""
    tilt = torch.linspace(0, 1, classes)
    ahead = torch.eye(classes)[0] * 100
    return Function(lambda x: x.flatten(1).sum(1, keepdim=True) * tilt + ahead)


@pytest.mark.parametrize("name, steps, targets", [
    ("apgd-ce", 100, 1), ("apgd-ce-7", 7, 1), ("apgd-dlr-9", 9, 1), ("apgd-margin-4", 4, 1),
    ("apgd-t", 100, 5), ("apgd-t-7", 7, 5), ("apgd-t-7x3", 7, 3), ("apgd-margin-t-6x2", 6, 2),
])  # fmt: skip
def test_auto_pgd_takes_as_many_steps_for_as_many_targets_as_its_name_says(name, steps, targets):
    net, x = unbreakable(), torch.full((2, 1, 2, 2), 0.5)
    best = Named(name).run(
        net, LinfBall(x, 0.1), torch.zeros(2, dtype=torch.long), Streams(0, [0, 1])
    )
    assert not best.hit.any()
    ranked = 1 if "-t" in name else 0  # one pass tells which classes are likeliest
    # one pass for the start, one for each step
    assert len(net.seen) == ranked + targets * (1 + steps)


def test_the_focused_attack_looks_at_all_targets_and_climbs_to_two():
    net, x = unbreakable(), torch.full((2, 1, 2, 2), 0.5)
    y = torch.zeros(2, dtype=torch.long)
    best = Named("apgd-focused").run(net, LinfBall(x, 0.1), y, Streams(0, [0, 1]))
    assert not best.hit.any()
    assert len(net.seen) == 1 + 5 * (1 + SCOUTED) + KEPT * (1 + 100)


@pytest.mark.parametrize("factor, broken", [(0.999, False), (1.001, True)])
def test_the_focused_attack_finds_the_nearest_class_of_a_linear_network(factor, broken):
    model, x, y = linear(classes=8, n=24)
    eps = factor * smallest_perturbation(model, x, y, "linf")
    best = Named("apgd-focused").run(model, LinfBall(x, eps), y, Streams(0, range(len(x))))
    assert (best.hit == broken).all()
    likeliest = model(x).scatter(1, y[:, None], -1e9).argmax(1)
    distances = (model(x).gather(1, y[:, None]) - model(x)) / (
        (model[1].weight[y][:, None] - model[1].weight[None]).abs().sum(2).clamp_min(1e-12)
    )
    nearest = distances.scatter(1, y[:, None], 1e9).argmin(1)
    assert (nearest != likeliest).any(), "the likeliest class is not always the nearest"


def test_the_focused_attack_stays_with_the_targets_that_came_nearest():
    """Of ten classes only the least likely can be reached, and only in many steps."""

    def logits(x):
        start = torch.linspace(5, 1, 10, dtype=x.dtype).repeat(len(x), 1)
        start[:, 0] = 10
        up = 12 * x.flatten(1).mean(1)
        return torch.cat([start[:, :9], (start[:, 9] + up)[:, None]], 1)

    net, x, y = Function(logits), torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.long)
    best = Named("apgd-focused").run(net, LinfBall(x, 0.9), y, Streams(0, range(3)))
    assert best.hit.all()
    three = Named("apgd-t-100x3").run(net, LinfBall(x, 0.9), y, Streams(0, range(3)))
    assert not three.hit.any()


@pytest.mark.parametrize(
    "name", ["apgd-ce-0", "apgd-ce-5x2", "apgd-t-", "apgd-t-5x", "apgd-t-5x0", "apgd-x", "pgd-"]
)
def test_other_names_are_refused(name):
    with pytest.raises(InputError, match="attack is"):
        Named(name)


def test_a_targeted_attack_names_the_one_that_fits_few_classes():
    with pytest.raises(InputError, match="apgd-margin-t-25x3"):
        Named("apgd-t-25x3").check(3, (1, 1, 2, 2), "linf")
    Named("apgd-margin-t-25x3").check(2, (1, 1, 2, 2), "linf")
    with pytest.raises(InputError, match="Use 'apgd-margin-t' instead"):
        Named("apgd-focused").check(3, (1, 1, 2, 2), "linf")
