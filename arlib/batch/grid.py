"""Chapters × parameters: what people type, read, and one task for each combination."""

import hashlib
import itertools
import json
import re
from pathlib import Path

import yaml

from arlib import chapters
from arlib.batch.task import Task
from arlib.errors import InputError, one_of, shown

_OPENING = re.compile(r"\s*[\[{'\"]")  # how a value begins that is no plain text
_BRACKETS = re.compile(r"[\[\]{}]")


def parameter_sets(fixed: list[str], grids: list[str]) -> list[dict]:
    """Parameter sets from `name=value` and `name=value,value` texts; grids multiply.
    Values are read as YAML.
    """
    named = [_split(text) for text in fixed] + [_split(text) for text in grids]
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"parameter {name!r} is given twice; keep one.")
    axes = [[(name, _typed(value))] for name, value in named[: len(fixed)]]
    axes += [[(name, value) for value in _listed(values)] for name, values in named[len(fixed) :]]
    return [dict(chosen) for chosen in itertools.product(*axes)]


def plan(names: list[str], parameters: list[dict], out: Path) -> list[Task]:
    """One task for each chapter and parameter set, checked before anything runs.

    names: of the book's chapters, paths of notebooks, or "all". Raises `InputError` for an
    unknown chapter, a chapter without a parameters cell, or a parameter that a chapter does not
    have.
    """
    tasks = []
    for path in chapters.find(names):
        declared = chapters.declared_parameters(path)
        for chosen in parameters:
            for name in chosen:
                one_of(f"parameter of {path.name}", name, declared)
            tasks.append(Task(path, chosen, Path(out) / path.stem / f"{_slug(chosen)}.ipynb"))
    return tasks


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise InputError(f"parameter is {text!r}; write it as name=value.")
    return name.strip(), value


class _Values(yaml.SafeLoader):
    """YAML as people type it on a command line:
    `no` is a word, 010 is ten, 1:30 and 2020-01-01 are texts.
    """


_Values.yaml_implicit_resolvers = {}
for _kind, _form, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|None", "~nN"),
    (
        "float",
        r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        "-+.0123456789",
    ),
    ("int", r"[-+]?\d+", "-+0123456789"),
):
    _Values.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_form})$"), list(_first)
    )
_Values.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node), 10)
)


def _read(text: str) -> object:
    loader = _Values(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _typed(text: str) -> object:
    """A number, true or false, a list or mapping, nothing (~), or the text itself.

    `InputError` for brackets or quotes that do not match: a text was hardly meant.
    """
    try:
        return _read(text) if text.strip() else ""
    except (yaml.YAMLError, RecursionError):
        if _OPENING.match(text):
            raise InputError(
                f"a parameter's value is {shown(text)}; its brackets or quotes do not match."
            ) from None
        return text


def _listed(text: str) -> list:
    """The values between commas; those inside brackets belong together."""
    try:
        values = _read(f"[{text}]")
    except (yaml.YAMLError, RecursionError):
        values = None
    if values and all(value is not None for value in values):
        return values
    parts = text.split(",")
    if not all(part.strip() for part in parts) or _BRACKETS.search(text):
        raise InputError(
            f"a grid's values are {shown(text)}; one is empty, or brackets do not match. Write "
            "value,value,… with lists in brackets, and an empty text as ''."
        )
    return [_typed(part) for part in parts]


def _slug(parameters: dict) -> str:
    canonical = json.dumps(parameters, sort_keys=True)
    words = "_".join(f"{name}-{value}" for name, value in parameters.items())
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", words)[:80] or "as-it-is"
    return f"{readable}-{hashlib.sha256(canonical.encode()).hexdigest()[:8]}"
