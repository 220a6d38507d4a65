"""What the names of attacks mean."""

import pytest
import torch
from attacked import Function

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
