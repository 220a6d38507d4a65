"""One checker of values. Types and bounds stand on the field; everybody who takes values asks here.

Recipes, settings, study files, chapter parameters and the command line are all checked by `check`,
so that each says the same of the same value. A field reads

    eps: Annotated[float, Range(0, 1, below=True)] = 0.0

Strict pydantic dataclasses would do most of it, but they are a compiled dependency of the core,
their errors speak of "inputs" on several lines, and they know nothing of fields without effect.
This is shorter.
"""

import ast
import dataclasses
import inspect
import itertools
import math
import re
import textwrap
import types
import typing
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache

from arlib.errors import InputError, one_of, shown

_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    type(None): "None",
}
_PLURAL = {str: "texts", int: "whole numbers", float: "numbers", bool: "truth values"}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`. above: without `low` itself; below: without `high` itself.

    note: what a reader needs to know of the unit.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    note: str = ""

    def check(self, name: str, value: float) -> None:
        high_enough = value > self.low if self.above else value >= self.low
        low_enough = value < self.high if self.below else value <= self.high
        if not (high_enough and low_enough):  # written so that NaN fails
            given = f"{value:g}" if isinstance(value, float) else shown(value)
            raise InputError(f"{name} is {given}; allowed: {self.words()}.", field=name)

    def words(self) -> str:
        """The range in words: "at least 1", "0 to 1", "at least 0 and below 1"."""
        note = f" ({self.note})" if self.note else ""
        low, high = (
            f"{end:.0f}" if float(end).is_integer() else f"{end:g}" for end in (self.low, self.high)
        )
        least = f"above {low}" if self.above else f"at least {low}"
        if self.high == math.inf:
            return least + note
        if self.above or self.below:
            return f"{least} and {'below' if self.below else 'at most'} {high}{note}"
        return f"{low} to {high}{note}"


@dataclass(frozen=True)
class Choice:
    """One of a few words."""

    allowed: Collection

    def check(self, name: str, value: object) -> None:
        one_of(name, value, self.allowed)


@dataclass(frozen=True)
class Written:
    """A text that is empty or written in one way. pattern: what all of it must match.

    note: what such a text is, with an example.
    """

    pattern: str
    note: str

    def check(self, name: str, value: str) -> None:
        if value and not re.fullmatch(self.pattern, value):
            raise InputError(f"{name} is {shown(value)}; allowed: {self.note}.", field=name)


POSITIVE = Range(0, above=True)
COUNT = Range(1)
FROM_0 = Range(0)
SEED = Range(0, 2**31, below=True)


def check(name: str, value: object, kind: object, *rules: Range | Choice | Written) -> object:
    """`value` as its kind, within its rules;
    one message with name, value and what is allowed otherwise.

    kind: str, int, float, bool, X | None, tuple[X, ...] or list[X], any of them `Annotated` with
    rules. Whole numbers pass as floats, lists as tuples; truth values are no numbers, and
    infinities and NaN are refused. Rules hold for each item of a list.

    >>> check("steps", 3, typing.Annotated[int, COUNT])
    3
    >>> check("lr", 1, float, POSITIVE)
    1.0

    Raises `InputError`, whose `field` is the name.
    """
    if typing.get_origin(kind) is typing.Annotated:
        kind, *own = typing.get_args(kind)
        rules = (*own, *rules)
    checked = _typed(name, value, kind)
    for one in checked if isinstance(checked, list | tuple) else [checked]:
        for rule in rules:
            if one is not None:
                rule.check(name, one)
    return checked


def check_all(instance: object) -> None:
    """Check every field of a frozen dataclass against its annotation,
    and keep it in its own type.
    """
    for name, kind in _kinds(type(instance)).items():
        object.__setattr__(instance, name, check(name, getattr(instance, name), kind))


def words(kind: object) -> str:
    """What a kind takes, in words: "a whole number or None", "a list of numbers"."""
    if typing.get_origin(kind) is typing.Annotated:
        kind = typing.get_args(kind)[0]
    inner = typing.get_args(kind)
    if _is_union(kind):
        return " or ".join(words(one) for one in inner)
    return f"a list of {_PLURAL.get(inner[0], 'values')}" if inner else _WORDS.get(kind, str(kind))


@cache
def docs(cls: type) -> dict[str, str]:
    """The docstring under each field of a dataclass."""
    (body,) = [node.body for node in ast.parse(textwrap.dedent(inspect.getsource(cls))).body]
    texts = {}
    for field, text in itertools.pairwise(body):
        is_text = isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and is_text:
            texts[field.target.id] = inspect.cleandoc(text.value.value)
    return texts


@cache
def _kinds(cls: type) -> dict[str, object]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _typed(name: str, value: object, kind: object) -> object:
    if not _fits(value, kind):
        raise InputError(f"{name} is {shown(value)}; it must be {words(kind)}.", field=name)
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
        return (
            None
            if value is None
            else _typed(name, value, next(one for one in inner if _fits(value, one)))
        )
    if origin in (list, tuple):
        if not value:
            raise InputError(f"{name} is an empty list; give at least one value.", field=name)
        return origin(_typed(name, one, inner[0]) for one in value)
    return float(value) if kind is float else value


def _fits(value: object, kind: object) -> bool:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if _is_union(kind):
        return any(_fits(value, one) for one in inner)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if kind in (int, float) and isinstance(value, bool):
        return False
    if kind is float:
        try:
            return isinstance(value, int | float) and math.isfinite(value)
        except OverflowError:  # a whole number beyond every float
            return False
    return isinstance(value, kind or type(None))


def _is_union(kind: object) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)
