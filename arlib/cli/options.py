"""What the commands have in common: options, stores, times, and how they end."""

import difflib
import logging
import os
import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from arlib.errors import InputError

log = logging.getLogger(__name__)


def study_names(ctx: typer.Context, incomplete: str) -> list[str]:
    """Studies whose names begin so, as a shell asks for them at every Tab."""
    from arlib import studies

    try:
        names = studies.names(ctx.params.get("store"))
    except InputError:  # of a store; a shell has no place for messages
        return []
    return [name for name in names if name.startswith(incomplete)]


Name = Annotated[
    str,
    typer.Argument(
        help="Name of a study (see `arlib study list`), or the path of a .yml file.",
        autocompletion=study_names,
    ),
]
Store = Annotated[
    Path | None,
    typer.Option(
        help=(
            "Folder where runs are computed and kept. Default: $ARLIB_STORE, else runs/ of the "
            "checkout."
        ),
        resolve_path=True,
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, …")]
Mode = Annotated[
    str,
    typer.Option(
        help=(
            "How fast: plain, folded, compiled, graphed, compiled+graphed; auto: what is proven "
            "here."
        ),
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help=(
            "Of the network's passes in training: float32, bfloat16, bfloat16-attack (the "
            "attack's only), or auto: what the study has so far, else the fastest here of those "
            "with equivalent results."
        ),
    ),
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse a mode or precision the device lacks.")
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Stop cleanly within this time, e.g. 9m, 1h30m, 90s; the same command goes on later."
    ),
]


Json = Annotated[bool, typer.Option("--json", help="Print it as JSON, for programs.")]


def existing(store: Path | None) -> Path | None:
    """The store of a command that only looks into it.

    `InputError` if it is given and not there: an empty one would be taken for a mistyped one's.
    """
    if store is not None and not store.is_dir():
        raise InputError(
            f"store is {str(store)!r}; there is no such folder.{_beside(store)} `arlib study run` "
            "makes a store that is new."
        )
    if store is None and (named := os.environ.get("ARLIB_STORE")) and not Path(named).is_dir():
        log.warning("ARLIB_STORE is %r; there is no such folder yet.", named)
    return store


def made_if_new(store: Path | None) -> Path | None:
    """The store of a command that works in it; that it will be made is said."""
    if store is not None and not store.exists():
        log.info("The store %s is new.%s", store, _beside(store))
    return store


def _beside(store: Path) -> str:
    """The folder that was probably meant; empty if none is like it."""
    if not store.parent.is_dir():
        return f" Nor is there {store.parent}."
    folders = [path.name for path in store.parent.iterdir() if path.is_dir()]
    close = difflib.get_close_matches(store.name, folders, n=1)
    return f" Did you mean {str(store.parent / close[0])!r}?" if close else ""


def stop(message: str, status: int = 2) -> None:
    """End with one line and an exit status."""
    print(f"arlib: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def seconds(text: str | None) -> float | None:
    """Seconds of a time like 9m, 1h30m, 90s or 1.5h; None stays None.
    `InputError` for anything else.
    """
    if text is None:
        return None
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    try:
        amounts = [float(part or 0) for part in parts.groups()] if parts else [0.0]
    except ValueError:
        amounts = [0.0]
    total = sum(value * unit for value, unit in zip(amounts, (3600, 60, 1), strict=False))
    if not total > 0:
        raise InputError(
            f"time is {text!r}; write hours, minutes and seconds like 9m, 1h30m or 90s."
        )
    return total


def as_interrupt(*_) -> None:
    """Being asked to end (a cluster's time limit, a closed session) is like Ctrl-C."""
    raise KeyboardInterrupt
