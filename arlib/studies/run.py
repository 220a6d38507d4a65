"""Running what is missing of a study: take a run, train it, measure it, publish it into the store.

A run grows in `<store>/<study>/.work/<run>@<token>/` and becomes `<store>/<study>/<run>/` by one
rename; whoever renames first wins. A worker that takes a dead one's run takes its folder over, by
renaming it to its own token, and goes on from the last checkpoint and the measured parts.
"""

import contextlib
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arlib import engine, measure, records, training
from arlib.errors import RecordError, TrainingStopped
from arlib.studies import budget, lease
from arlib.studies.file import Entry
from arlib.studies.shelf import Shelf

log = logging.getLogger(__name__)
POLL = 1.0  # seconds between two looks at what other workers do


class OutOfTime(BaseException):
    """The time budget is over; like KeyboardInterrupt, nothing on the way may swallow it."""


def compute(
    study: Shelf,
    entry: Entry,
    folder: Path,
    *,
    machine: engine.Machine,
    progress: bool,
    time_left: float | None,
) -> bool:
    """Train and measure one run in its folder, from wherever it stopped;
    False if the time was up before the end.
    """
    keep = () if entry.recipe.eps or entry.control else study.keep_epochs
    run = training.train_on(
        machine,
        entry.recipe,
        folder=folder,
        keep_epochs=keep,
        progress=progress,
        time_budget=time_left,
    )
    if not run.finished:
        return False
    log.info("%s: trained; measuring", entry.run)
    rows, arrays = measure.measure(
        folder,
        entry.recipe,
        study.settings,
        device=str(machine.device),
        progress=progress,
        part_folder=folder / "parts",
        control=entry.control,
    )
    seconds = rows.attrs.get("seconds", {})
    measured = {
        "measure_seconds": round(sum(seconds.values()), 1),
        "warnings": rows.attrs.get("warnings", []),
    }
    records.write(
        folder,
        run=entry.run,
        recipe=entry.recipe.to_dict(),
        variant=entry.variant,
        provenance=run.provenance | measured,
        settings=study.settings.to_dict(),
        history=run.history,
        rows=rows,
        arrays={} if entry.control else arrays,
    )
    return True


@dataclass(frozen=True)
class Work:
    """How this process works on a study. deadline: of `time.monotonic`, None for no limit."""

    machine: engine.Machine
    deadline: float | None = None
    progress: bool = True
    wait: bool = True
    afresh: bool = False

    @property
    def time_left(self) -> float | None:
        return None if self.deadline is None else self.deadline - time.monotonic() - budget.RESERVE


def work(study: Shelf, how: Work) -> bool:
    """Compute runs, in the study's order, until none is missing (True) or the time is up (False).

    With nothing left to take it waits for the other workers, to take over the run of one that dies;
    without `how.wait` it returns instead. Raises `TrainingStopped` at the end if trainings stopped
    by themselves.
    """
    stopped: dict[str, str] = {}
    while missing := [
        entry for entry in study.missing(afresh=how.afresh) if entry.run not in stopped
    ]:
        possible = [entry for entry in missing if budget.time_for(study, entry, how.deadline)]
        done = _first_free(study, possible, stopped, how)
        if done is False:
            return False
        if done is None:
            if not (how.wait and _others_work(study, missing)) or _out_of_time(how):
                if len(possible) < len(missing):
                    log.info(
                        "Too little time is left for an epoch of the next run; %s",
                        how_to_go_on(study),
                    )
                return _nothing_more(study, missing, stopped)
            time.sleep(POLL)
    return _nothing_more(study, [], stopped)


def _out_of_time(how: Work) -> bool:
    return how.deadline is not None and time.monotonic() + POLL > how.deadline


def _first_free(
    study: Shelf, entries: list[Entry], stopped: dict[str, str], how: Work
) -> bool | None:
    """Compute the first of the runs that nobody holds:
    True when done, False out of time, None if there is none.

    Then the caller looks anew from the first run on: one whose worker died goes before later ones.
    """
    for entry in entries:
        try:
            done = _try(study, entry, how)
        except TrainingStopped as error:
            log.warning("%s", error)
            stopped[entry.run] = str(error)
            return True
        if done is not None:
            return done
    return None


def _try(study: Shelf, entry: Entry, how: Work) -> bool | None:
    """One run, if it is free: True when done, None when it is another worker's,
    False when the time was up.
    """
    held = lease.take(study.leases_folder, entry.run)
    if held is None:
        return None
    try:
        with held, _alarm(how.deadline):
            if study.is_finished(entry):  # published between our look and our lease
                return True
            folder = _adopt(study, entry.run, held.token)
            log.info("%s: %s", study.name, entry.run)
            options = {"machine": how.machine, "progress": how.progress, "time_left": how.time_left}
            if not compute(study, entry, folder, **options):
                log.info("%s: stopped for want of time; %s", entry.run, how_to_go_on(study))
                return False
            _publish(study, entry.run, folder)
            return True
    except OutOfTime:
        log.info("%s: stopped because the time budget was over; %s", entry.run, how_to_go_on(study))
        return False
    except KeyboardInterrupt:
        if not held.lost:
            raise
        log.warning(
            "%s: another worker took this run while this one showed no sign of life", entry.run
        )
        return None


def how_to_go_on(study: Shelf) -> str:
    return f"what is done is kept, `arlib study run {study.name}` goes on from here."


def _others_work(study: Shelf, missing: list[Entry]) -> bool:
    leases = [study.leases_folder / f"{entry.run}.json" for entry in missing]
    return any(path.exists() and not lease.void(path) for path in leases)


def _nothing_more(study: Shelf, missing: list[Entry], stopped: dict[str, str]) -> bool:
    if stopped:
        raise TrainingStopped(
            f"{study.name}: {len(stopped)} trainings stopped by themselves; the other runs are "
            "kept. " + " ".join(f"[{message}]" for message in stopped.values())
        )
    return not missing


def _adopt(study: Shelf, run: str, token: str) -> Path:
    """The folder of a run, under our token:
    what a former worker left, or a finished run with other settings.
    """
    mine = study.work_folder / f"{run}@{token}"
    study.work_folder.mkdir(parents=True, exist_ok=True)
    for folder in [study.folder / run, *reversed(study.left_behind(run))]:
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, mine)
            (mine / "record.json").unlink(missing_ok=True)
            return mine
    mine.mkdir()
    return mine


def _publish(study: Shelf, run: str, folder: Path) -> None:
    final = study.folder / run
    records.read(folder)  # what is published can be read
    try:
        os.rename(folder, final)
    except OSError as error:
        if not records.is_finished(final):
            raise RecordError(
                f"{final} is in the way and no finished run ({error}). Delete it and go on."
            ) from error
        log.warning("%s: another worker had finished it first; its result stays", run)
    for path in study.left_behind(run):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alarm(deadline: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread shortly
    before the deadline (where the system has such alarms).
    """
    possible = (
        hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    )
    if deadline is None or not possible:
        yield
        return

    def ring(*_):
        raise OutOfTime

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, deadline - time.monotonic() - budget.RESERVE))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
