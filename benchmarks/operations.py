"""How often a call asks the file system for something; unlike a time, it is the same on every
machine, so that a test can hold it.

Counted are opened and listed files and folders, renames, removals, and looks at a file's status.
"""

import contextlib
import os
import sys
from collections import Counter
from collections.abc import Iterator

EVENTS = frozenset(
    {
        "open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "os.rmdir",
        "os.utime", "os.chmod",
    }
)  # fmt: skip
_running: list[Counter] = []
_hooked = False


@contextlib.contextmanager
def counted() -> Iterator[Counter]:
    """What is asked inside, by kind; `sum(counter.values())` is all of it."""
    _hook()
    counter: Counter = Counter()
    _running.append(counter)
    try:
        yield counter
    finally:
        # by identity: equal counters may be running
        _running[:] = [one for one in _running if one is not counter]


@contextlib.contextmanager
def not_counted() -> Iterator[None]:
    """For a part inside `counted` that is no part of what is measured."""
    paused = _running[:]
    _running.clear()
    try:
        yield
    finally:
        _running[:] = paused


def _count(event: str) -> None:
    for counter in _running:
        counter[event] += 1


def _hook() -> None:
    """Once for the process: what Python audits, and looks at a status, which it does not."""
    global _hooked
    if _hooked:
        return
    _hooked = True
    sys.addaudithook(lambda event, _: _count(event) if event in EVENTS else None)
    for name in ("stat", "lstat"):
        setattr(os, name, _with_count(getattr(os, name)))


def _with_count(function):
    def look(*args, **options):
        _count("os.stat")
        return function(*args, **options)

    return look
