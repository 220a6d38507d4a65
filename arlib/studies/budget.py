"""What still fits into a time budget, as far as speeds are known."""

import time

from arlib import records
from arlib.errors import InputError
from arlib.studies.file import Entry
from arlib.studies.shelf import Shelf

RESERVE = 1.0  # seconds kept back from a time budget for a clean end


def needed(study: Shelf, entry: Entry) -> float | None:
    """Seconds of one epoch of a run: its own so far,
    else those of a finished sibling; None if never seen.

    0 for a run that is trained and only wants measuring, which goes part by part.
    """
    history = study.history_so_far(entry.run)
    if history is not None and len(history) >= entry.recipe.epochs:
        return 0.0
    if history is not None and len(history):
        return float(history["seconds"].max())
    for sibling in study.entries:
        folder = study.folder / sibling.run
        if _trains_alike(entry, sibling) and records.is_finished(folder):
            return float(study.read(folder).history["seconds"].median())
    return None


def time_for(study: Shelf, entry: Entry, deadline: float | None) -> bool:
    """Whether an epoch of this run ends before the deadline (of `time.monotonic`)."""
    seconds = None if deadline is None else needed(study, entry)
    return seconds is None or time.monotonic() + seconds + RESERVE < deadline


def refuse_small_budget(study: Shelf, seconds: float, *, afresh: bool) -> None:
    """`InputError` if the budget is too short for one epoch of any missing run,
    as far as speeds are known.
    """
    known = [needed(study, entry) for entry in study.missing(afresh=afresh)]
    least = min((value for value in known if value is not None), default=0.0)
    if least and seconds < least + RESERVE:
        raise InputError(
            f"{study.name}: the time budget of {seconds:g} s is too small for one epoch, which "
            f"takes about {least:.3g} s here. Give at least {1.2 * least + RESERVE:.0f}s."
        )


def _trains_alike(entry: Entry, sibling: Entry) -> bool:
    """Whether an epoch of the one costs what an epoch of the other does."""
    if sibling.recipe.strength != entry.recipe.strength:
        return False
    return entry.control or sibling.variant == entry.variant
