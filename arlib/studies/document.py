"""A YAML file whose every mistake is one message with file, line, key and what is allowed.

The file may come from anybody. Its size, depth and number of values are limited while it is read,
and what YAML can do beyond plain keys and values is refused: aliases (a few lines of them unfold
into gigabytes), tags, and numbers that mean another number than they look like.
"""

import re
from collections.abc import Collection
from pathlib import Path

import yaml

from arlib.errors import InputError, one_of, shown
from arlib.fields import Range, check

BYTES = 100_000  # of a study file; those of this repository have at most 4,000
DEPTH = 8  # of keys and lists inside each other; a study needs 4
VALUES = 5_000  # keys and values of the whole file

_NUMBER = re.compile(r"[-+]?(0|[1-9]\d*)")
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT_TAG, _FLOAT_TAG = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"


class _Loader(yaml.SafeLoader):
    """YAML 1.1 but for what nobody means: 5e-4 is a number, a date is the text it looks like."""


_Loader.yaml_implicit_resolvers = {
    first: [pair for pair in pairs if pair[0] != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    _FLOAT_TAG, re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Document:
    """The plain content of a YAML file, and the line on which each key or item stands."""

    def __init__(self, path: Path):
        self.path, self.lines = path, {}
        try:
            with open(path, "rb") as stored:
                text = stored.read(BYTES + 1)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        if len(text) > BYTES:
            raise InputError(
                f"{path} has more than {BYTES} bytes, the limit of a study file. Leave out what is "
                "no part of the study."
            )
        try:
            self._refuse_extravagance(text.decode("utf-8"))
            self._loader = _Loader(text.decode("utf-8"))
            node = self._loader.get_single_node()
            self.content = None if node is None else self._plain(node, ())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            why = " ".join(str(error).split())
            raise InputError(f"{path} cannot be read as YAML: {why[:300]}") from error

    def _refuse_extravagance(self, text: str) -> None:
        """Piece by piece as it is parsed, before anything is built of it."""
        depth = values = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            values += isinstance(event, yaml.NodeEvent)
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            if isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            why = ""
            if isinstance(event, yaml.AliasEvent):
                why = f"the alias *{event.anchor}; write the value out"
            elif getattr(event, "tag", None) is not None:
                why = f"the tag {shown(event.tag)}; write the value without it"
            elif depth > DEPTH:
                why = f"more than {DEPTH} lists and mappings inside each other"
            elif values > VALUES:
                why = f"more than {VALUES} keys and values"
            if why:
                line = event.start_mark.line + 1
                raise InputError(f"{self.path}, line {line}: a study file cannot have {why}.")

    def _plain(self, node: yaml.Node, place: tuple):
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._scalar(node, place)
        content = {}
        for key_node, value_node in node.value:
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else "?"
            inner = (*place, key)
            if key_node.tag != "tag:yaml.org,2002:str" or key in content:
                self.lines[inner] = key_node.start_mark.line + 1
                raise self.error(
                    inner,
                    "is there twice; keep one" if key in content else "is no name; keys are words",
                )
            self.lines[inner] = key_node.start_mark.line + 1
            content[key] = self._plain(value_node, inner)
        return content

    def _scalar(self, node: yaml.ScalarNode, place: tuple):
        """A text, truth value, nothing, or a number that is written like one."""
        allowed = {_INT_TAG: _NUMBER, _FLOAT_TAG: _FLOAT}.get(node.tag)
        if allowed is not None and not allowed.fullmatch(node.value):
            # YAML 1.1 reads 010 as 8, 1:30 as 90, 0x10 as 16 and 1_0 as 10
            raise self.error(
                place,
                f"is {node.value[:40]}, which YAML reads as another number than it looks like; "
                "write it in plain decimal digits, or in quotes if it is a text",
            )
        if node.tag == _INT_TAG and len(node.value) > 300:
            raise self.error(place, f"is a number of {len(node.value)} digits; that is no quantity")
        return self._loader.construct_object(node)

    def error(self, place: tuple, message: str) -> InputError:
        known = next(
            place[:size]
            for size in range(len(place), -1, -1)
            if place[:size] in self.lines or not size
        )
        return InputError(
            f"{self.path}, line {self.lines.get(known, 1)}: {words_of(place)} {message}."
        )

    def get(self, place: tuple):
        value = self.content
        for step in place:
            value = value[step]
        return value

    def mapping(
        self, place: tuple, allowed: Collection[str], required: Collection[str] = ()
    ) -> dict:
        """The mapping at `place`, with no key that is not allowed
        and every one that is required.
        """
        value = self.typed(place, dict)
        for key in value:
            try:
                one_of("key", key, allowed)
            except InputError as error:
                raise self.error(
                    (*place, key), f"is an unknown key: {str(error).rstrip('.')}"
                ) from None
        for key in required:
            if key not in value:
                raise self.error(place, f"lacks the key {key!r}; needed: {', '.join(required)}")
        return value

    def typed(self, place: tuple, kind: type):
        value = self.get(place)
        wanted = {
            str: "a text",
            bool: "true or false",
            dict: "a mapping of keys to values",
            list: "a list",
        }[kind]
        if not isinstance(value, kind):
            raise self.error(place, f"is {shown(value)}; it must be {wanted}")
        return value

    def numbers(self, place: tuple, kind: type, rule: Range) -> list:
        """A list of different numbers, each within the rule."""
        values = self.typed(place, list)
        before = set()
        for index, value in enumerate(values):
            self.number((*place, index), kind, rule)
            if value in before:
                raise self.error((*place, index), f"is {value!r} for the second time")
            before.add(value)
        if not values:
            raise self.error(place, "is empty; give at least one number")
        return values

    def number(self, place: tuple, kind: type, rule: Range) -> float:
        """A number within the rule, as it stands in the file."""
        value, name = self.get(place), words_of(place)
        try:
            check(name, value, kind, rule)
        except InputError as error:
            raise self.error(place, str(error).removeprefix(f"{name} ").rstrip(".")) from None
        return value


def words_of(place: tuple) -> str:
    """A place as people write it: grid.seed[1]."""
    if not place:
        return "the study file"
    short = [" ".join(step.split())[:40] if isinstance(step, str) else step for step in place]
    steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in short]
    return "".join(steps).lstrip(".")
