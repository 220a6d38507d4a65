"""Names from other libraries of attacks, answered with what they are called here."""

import functools
import inspect
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from arlib.errors import InputError, one_of

P = ParamSpec("P")
R = TypeVar("R")
NORMS = ("linf", "l2")
# torchattacks, foolbox, adversarial-robustness-toolbox, cleverhans, auto-attack
ELSEWHERE = {
    "alpha": ("step_size",),
    "eps_iter": ("step_size",),
    "eps_step": ("step_size",),
    "rel_stepsize": ("step_size",),
    "epsilon": ("eps", "radius"),
    "epsilons": ("eps", "radius"),
    "eps": ("radius",),
    "radius": ("eps",),
    "iterations": ("steps",),
    "max_iter": ("steps",),
    "n_iter": ("steps",),
    "nb_iter": ("steps",),
    "num_steps": ("steps",),
    "n_queries": ("queries",),
    "n_restarts": ("restarts",),
    "num_random_init": ("restarts",),
    "bounds": ("clip",),
    "clip_max": ("clip",),
    "clip_min": ("clip",),
    "ord": ("norm",),
    "p": ("norm",),
    "rand_init": ("random_start",),
    "images": ("x",),
    "inputs": ("x",),
    "labels": ("y",),
}
_NORMS = {"inf": "linf", "linf": "linf", "linfty": "linf", "l∞": "linf", "2": "l2", "l2": "l2"}


def answered(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose `TypeError` for an unknown keyword names the right one."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        for name in kwargs:
            if name not in known:
                raise TypeError(_answer(function.__name__, name, list(known)))
        return function(*args, **kwargs)

    return called


def _answer(function: str, name: str, known: list[str]) -> str:
    for right in ELSEWHERE.get(name, ()):
        if right in known:
            return f"{function} has no {name!r}; it is called {right!r} here."
    try:
        one_of("argument", name, known)
    except InputError as error:
        return f"{function}: {error}"
    raise AssertionError("only unknown names are answered")


def check_norm(norm: object) -> None:
    """`InputError` for an unknown norm, with its name here if it is only written otherwise."""
    if norm in NORMS:
        return
    plain = str(norm).lower().replace("_", "").replace("-", "").removesuffix(".0")
    if right := _NORMS.get(plain):
        raise InputError(
            f"norm is {norm!r}; it is called {right!r} here (allowed: {', '.join(NORMS)}).",
            field="norm",
        )
    one_of("norm", norm, NORMS)
