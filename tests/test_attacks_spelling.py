"""Names from other libraries are answered with the right ones, and do no work."""

import inspect

import pytest
import torch

from arlib import attacks, margins, report, smoothness
from arlib.attacks.spelling import ELSEWHERE
from arlib.errors import InputError

NET = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
X, Y = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 0, 1])
PUBLIC = (
    attacks.pgd,
    attacks.fgsm,
    attacks.perturb,
    attacks.apgd,
    attacks.square,
    attacks.minimum_norm,
    attacks.distance,
    attacks.evaluate,
    margins.instance,
    smoothness.feature_change,
    smoothness.flip_rate,
)


@pytest.mark.parametrize(
    ("function", "wrong", "right"),
    [
        (attacks.pgd, "alpha", "step_size"),
        (attacks.pgd, "epsilon", "eps"),
        (attacks.pgd, "num_steps", "steps"),
        (attacks.fgsm, "epsilon", "eps"),
        (attacks.apgd, "n_iter", "steps"),
        (attacks.square, "n_queries", "queries"),
        (attacks.evaluate, "epsilon", "eps"),
        (attacks.minimum_norm, "ord", "norm"),
        (margins.instance, "max_iter", "steps"),
        (smoothness.feature_change, "epsilon", "radius"),
        (smoothness.feature_change, "eps", "radius"),
        (report.compare, "epsilon", "eps"),
    ],
)
def test_a_name_from_elsewhere_is_answered_with_ours(function, wrong, right):
    with pytest.raises(TypeError, match=f"{function.__name__} has no '{wrong}'.*'{right}' here"):
        function(NET, X, Y, **{wrong: 0.1})


def test_a_mistyped_name_gets_its_suggestion():
    with pytest.raises(TypeError, match=r"pgd: argument is 'step_sise'.*Did you mean 'step_size'"):
        attacks.pgd(NET, X, Y, eps=0.1, step_sise=0.1)


@pytest.mark.parametrize(
    ("norm", "right"),
    [("Linf", "linf"), ("inf", "linf"), (float("inf"), "linf"), ("L2", "l2"), (2, "l2")],
)
def test_a_norm_written_otherwise_is_answered_with_ours(norm, right):
    with pytest.raises(InputError, match=f"it is called '{right}' here"):
        attacks.pgd(NET, X, Y, eps=0.1, norm=norm)


def test_another_norm_is_refused_as_before():
    with pytest.raises(InputError, match="norm is 'l1'; allowed: linf, l2"):
        attacks.pgd(NET, X, Y, eps=0.1, norm="l1")


@pytest.mark.parametrize("function", PUBLIC, ids=lambda function: function.__name__)
def test_signature_and_docstring_stay_the_function_s_own(function):
    assert function.__doc__ and "kwargs" not in inspect.signature(function).parameters


def test_nothing_is_answered_with_a_name_that_nobody_has():
    ours = {name for function in PUBLIC for name in inspect.signature(function).parameters}
    assert {name for names in ELSEWHERE.values() for name in names} <= ours
