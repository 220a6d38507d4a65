"""What still fits into a time budget, as far as speeds are known."""

import time
from functools import cached_property

from arlib import records
from arlib.errors import InputError
from arlib.studies.file import Entry
from arlib.studies.shelf import Shelf

RESERVE = 1.0  # seconds kept back from a time budget for a clean end
FORGET = 60.0  # seconds after which finished siblings are looked for again


class Speeds:
    """How long an epoch of each run takes, remembered: one look at a sibling serves all.

    That no sibling is finished is forgotten after a minute: another worker may finish one.
    """

    def __init__(self, study: Shelf):
        self.study = study
        self._seconds: dict[tuple, float] = {}
        self._in_vain: dict[tuple, float] = {}  # since when, of `time.monotonic`

    def needed(self, entry: Entry) -> float | None:
        """Seconds of one epoch of a run: its own so far,
        else those of a finished sibling; None if never seen.

        0 for a run that is trained and only wants measuring, which goes part by part.
        """
        history = self.study.history_so_far(entry.run)
        if history is not None and len(history) >= entry.recipe.epochs:
            return 0.0
        if history is not None and len(history):
            return float(history["seconds"].max())
        return self._of_siblings(entry)

    def time_for(self, entry: Entry, deadline: float | None) -> bool:
        """Whether an epoch of this run ends before the deadline (of `time.monotonic`)."""
        seconds = None if deadline is None else self.needed(entry)
        return seconds is None or time.monotonic() + seconds + RESERVE < deadline

    def _of_siblings(self, entry: Entry) -> float | None:
        # an epoch of a control costs what one of any run of its strength does
        kind = (entry.recipe.strength, None if entry.control else entry.variant)
        looked = self._in_vain.get(kind)
        if kind in self._seconds or (looked is not None and time.monotonic() < looked + FORGET):
            return self._seconds.get(kind)
        for sibling in self._kinds[kind]:
            folder = self.study.folder / sibling.run
            if records.is_finished(folder):
                history = self.study.read(folder).history
                self._seconds[kind] = float(history["seconds"].median())
                return self._seconds[kind]
        self._in_vain[kind] = time.monotonic()
        return None

    @cached_property
    def _kinds(self) -> dict[tuple, list[Entry]]:
        """The runs whose epochs cost the same, by strength and variant, and by strength alone."""
        kinds: dict[tuple, list[Entry]] = {}
        for entry in self.study.entries:
            for variant in (None, entry.variant):
                kinds.setdefault((entry.recipe.strength, variant), []).append(entry)
        return kinds


def refuse_small_budget(study: Shelf, seconds: float, *, afresh: bool) -> None:
    """`InputError` if the budget is too short for one epoch of any missing run,
    as far as speeds are known.
    """
    speeds = Speeds(study)
    known = [speeds.needed(entry) for entry in study.missing(afresh=afresh)]
    least = min((value for value in known if value is not None), default=0.0)
    if least and seconds < least + RESERVE:
        raise InputError(
            f"{study.name}: the time budget of {seconds:g} s is too small for one epoch, which "
            f"takes about {least:.3g} s here. Give at least {1.2 * least + RESERVE:.0f}s."
        )
