"""How much a command says on its way: -q, -v, progress bars, and what a log gets instead.

Results go to stdout, all else to stderr. Nothing is coloured, so that NO_COLOR asks for nothing.
"""

import functools
import inspect
import logging
import platform
import sys
import warnings
from collections.abc import Callable
from typing import Annotated

import typer

from arlib import __version__
from arlib.errors import InputError

Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Say only what goes wrong; no progress bars.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Say also when, where things lie, and where an error comes from."
    ),
]

ours = logging.getLogger("arlib")


def set_up() -> None:
    """Messages and warnings of this process, as a command says them: one line each, on stderr."""
    handler = logging.StreamHandler()
    handler.set_name("arlib")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])
    ours.setLevel(logging.INFO)
    warnings.formatwarning = lambda message, *_: f"arlib: {message}\n"  # no source lines


def say(quiet: bool, verbose: bool) -> None:
    """Say less or more from now on; with neither, as before."""
    if quiet and verbose:
        raise InputError("--quiet and --verbose are both given; keep one.")
    if quiet:
        ours.setLevel(logging.WARNING)
    if verbose:
        ours.setLevel(logging.DEBUG)
        for handler in logging.getLogger().handlers:
            if handler.get_name() == "arlib":
                handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        ours.debug("arlib %s, Python %s", __version__, platform.python_version())


def is_verbose() -> bool:
    return ours.isEnabledFor(logging.DEBUG)


def bars(asked: bool | None = None) -> bool:
    """Whether progress bars are shown: as asked, else on a terminal, unless -q is given.

    Where there are none, the log has a line for each epoch and each measured part.
    """
    if asked is not None:
        return asked
    return sys.stderr.isatty() and ours.isEnabledFor(logging.INFO)


def loud(command: Callable) -> Callable:
    """The command with -q and -v, which may stand before or after its name."""
    signature = inspect.signature(command)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [
        inspect.Parameter("quiet", keyword, default=False, annotation=Quiet),
        inspect.Parameter("verbose", keyword, default=False, annotation=Verbose),
    ]

    @functools.wraps(command)
    def called(*args, quiet: bool, verbose: bool, **kwargs):
        say(quiet, verbose)
        return command(*args, **kwargs)

    called.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *own])
    return called
