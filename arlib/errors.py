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


def shown(value: object, length: int = 80) -> str:
    """A value as a message shows it: in one line, and a long one by its two ends.

    >>> shown("a" * 1000, 9)
    "'aa … aa'"
    """
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        text = f"a number of {value.bit_length()} bits" if isinstance(value, int) else "unreadable"
    half = (length - 3) // 2
    return text if len(text) <= length else f"{text[:half]} … {text[-half:]}"


def one_of(name: str, value: object, allowed: Collection) -> None:
    """Raise `InputError` unless `value` is one of `allowed`, suggesting the closest spelling."""
    if any(value == one for one in allowed):
        return
    # comparing spellings takes the square of their length
    word = value[:100] if isinstance(value, str) else shown(value)
    close = difflib.get_close_matches(word, [str(one) for one in allowed], n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise InputError(
        f"{name} is {shown(value)}; allowed: {', '.join(map(str, allowed))}.{hint}", field=name
    )
