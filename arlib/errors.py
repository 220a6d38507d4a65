"""The ways arlib says no. Each message names the value, what was allowed, and what to do."""

import difflib
from collections.abc import Collection


class InputError(ValueError):
    """Something the caller gave cannot be used; nothing has been started.

    field: the name of what cannot be used, where it has one.
    """

    def __init__(self, message: str = "", field: str = ""):
        super().__init__(message)
        self.field = field


class NotMeasured(InputError):
    """The records given hold nothing of what was asked for; the message says what is missing."""


class RecordError(RuntimeError):
    """A stored file is damaged, incomplete or of another version; it was not read."""


class TrainingStopped(RuntimeError):
    """A training stopped by itself (NaN, collapse); the message says what was seen."""


def one_of(name: str, value: object, allowed: Collection) -> None:
    """Raise `InputError` unless `value` is one of `allowed`, suggesting the closest spelling."""
    if value in allowed:
        return
    close = difflib.get_close_matches(str(value), [str(a) for a in allowed], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(
        f"{name} is {value!r}; allowed: {', '.join(map(str, allowed))}.{hint}", field=name
    )
