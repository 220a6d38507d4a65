"""A YAML file whose every mistake is one message with file, line, key and what is allowed."""

import re
from collections.abc import Collection
from pathlib import Path

import yaml

from arlib.errors import InputError, one_of
from arlib.fields import Range, check


class _Loader(yaml.SafeLoader):
    """YAML 1.1 reads 5e-4 as a word for want of a dot; here it is a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


class Document:
    """The plain content of a YAML file, and the line on which each key or item stands."""

    def __init__(self, path: Path):
        self.path, self.lines = path, {}
        try:
            self._loader = _Loader(path.read_text(encoding="utf-8"))
            node = self._loader.get_single_node()
            self.content = None if node is None else self._plain(node, ())
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(
                f"{path} cannot be read as YAML: {' '.join(str(error).split())}"
            ) from error

    def _plain(self, node: yaml.Node, place: tuple):
        self.lines.setdefault(place, node.start_mark.line + 1)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*place, index)) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            return self._loader.construct_object(node)
        found = {}
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node)
            inner = (*place, key)
            if not isinstance(key, str) or key in found:
                self.lines[inner] = key_node.start_mark.line + 1
                raise self.error(
                    inner,
                    "is there twice; keep one" if key in found else "is no name; keys are words",
                )
            self.lines[inner] = key_node.start_mark.line + 1
            found[key] = self._plain(value_node, inner)
        return found

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
            raise self.error(place, f"is {value!r}; it must be {wanted}")
        return value

    def numbers(self, place: tuple, kind: type, rule: Range) -> list:
        """A list of different numbers, each within the rule."""
        values = self.typed(place, list)
        for index, value in enumerate(values):
            self.number((*place, index), kind, rule)
            if value in values[:index]:
                raise self.error((*place, index), f"is {value!r} for the second time")
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
    if not place:
        return "the study file"
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in place).lstrip(
        "."
    )
