"""Running what is missing of a study: take a run, train it, measure it, publish it into the store.

A run grows in `<store>/<study>/.work/<run>@<token>/` and becomes `<store>/<study>/<run>/` by one
rename; whoever renames first wins. A worker that takes a dead one's run takes its folder over, by
renaming it to its own token, and goes on from the last checkpoint and the measured parts. Should
the other not be dead but have slept, it finds its folder gone, and publishes nothing.
"""

import contextlib
import errno
import logging
import os
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import pandas as pd

from arlib import engine, files, measure, records, training
from arlib.errors import InputError, RecordError, TrainingStopped
from arlib.studies import alive, budget, lease
from arlib.studies.file import Entry
from arlib.studies.shelf import Shelf
from arlib.training.store import CHECKPOINT

log = logging.getLogger(__name__)
POLL = 1.0  # seconds between two looks at what other workers do, at first
LONGEST = 10.0  # the same once nothing was free for a while


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
    options = {"folder": folder, "progress": progress, "time_budget": time_left}
    imposed = []
    if entry.arm:
        networks, sources = sources_of(study, entry)
        run = training.train_arm(machine, entry.recipe, *networks, **options)
        run.provenance["sources"], imposed = sources, run.imposed
    else:
        options |= {"helper": study.helper_of(entry)}
        keep = () if entry.recipe.eps or entry.slim else study.keep_epochs
        run = training.train_on(machine, entry.recipe, keep_epochs=keep, **options)
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
        control=entry.control or entry.spread,
        front=entry.front is not None,
    )
    seconds = by_part(rows.attrs.get("seconds", {}))
    extra = pd.DataFrame([{"checkpoint": "last"} | row for row in imposed], columns=rows.columns)
    measured = {
        "measure_seconds": round(sum(seconds.values()), 1),
        "part_seconds": seconds,
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
        rows=pd.concat([rows, extra], ignore_index=True) if imposed else rows,
        arrays={} if entry.slim else arrays,
    )
    return True


def by_part(seconds: dict[str, float]) -> dict[str, float]:
    """What each part of measuring took over all checkpoints, the longest first, from seconds of
    `checkpoint/part`.
    """
    total: dict[str, float] = {}
    for name, value in seconds.items():
        part = name.rpartition("/")[2]
        total[part] = total.get(part, 0.0) + value
    return {part: round(value, 1) for part, value in sorted(total.items(), key=lambda p: -p[1])}


def sources_of(study: Shelf, entry: Entry) -> tuple[list, dict[str, str]]:
    """The networks that an arm needs, and the SHA-256 of the weights file of each.

    They are as they are published, their convolutions in half precision: so an arm is the same
    whether its sources come from a store or from the records. Raises `RecordError` for weights that
    are not those of their record, or of another network.
    """
    networks, hashes = [], {}
    for recipe in entry.recipe.sources:
        record = study.source.record(recipe.id)
        tensors = files.read_tensors(records.weights_file(record.folder))
        state = {
            name: value.float() if value.is_floating_point() else value
            for name, value in records.halved(tensors).items()
        }
        networks.append(training.model_from(recipe, state, path=record.folder))
        hashes[recipe.id] = files.sha256(records.weights_file(record.folder))
    return networks, hashes


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
    queue, idle = Queue(study, how), 0.0
    while queue.left or queue.look_again():
        done = _first_free(queue, how)
        if done is False:
            return False
        if done:
            idle = 0.0
            continue
        missing = queue.look_again()
        if not missing:
            break
        if not _worth_waiting(study, missing, how) or _out_of_time(how):
            if any(not queue.speeds.time_for(entry, how.deadline) for entry in missing):
                log.info(
                    "Too little time is left for an epoch of the next run; %s", how_to_go_on(study)
                )
            return _nothing_more(study, missing, queue.stopped)
        pause = _pause(idle, how)
        time.sleep(pause)
        idle += pause
    return _nothing_more(study, [], queue.stopped)


class Queue:
    """The runs that are still missing, as far as this process knows, in the study's order.

    A study is looked through once, at the beginning and whenever nothing is free. In between, of
    all its runs only those are looked at that come before the next free one: what others work on.
    """

    def __init__(self, study: Shelf, how: Work):
        self.study, self.afresh = study, how.afresh
        self.speeds = budget.Speeds(study)
        self.stopped: dict[str, str] = {}
        """Messages of the trainings that stopped by themselves."""
        self.left: list[Entry] = []
        self._held: dict[str, float] = {}  # until when, of `time.monotonic`
        self.look_again()

    def look_again(self) -> list[Entry]:
        """Look through the whole study: what is missing now."""
        missing = self.study.missing(afresh=self.afresh)
        self.left = [
            entry
            for entry in missing
            if entry.run not in self.stopped and not self.study.lacking(entry)
        ]
        return self.left

    def free(self) -> Iterator[Entry]:
        """Runs that are missing and on which nobody seems to work, in order."""
        leased = self.study.leased()
        for entry in list(self.left):
            if entry.run in leased and not self._abandoned(entry):
                continue
            if self.study.place_of(entry, afresh=self.afresh) is None:
                yield entry
            else:
                self.left.remove(entry)

    def _abandoned(self, entry: Entry) -> bool:
        """Whether nobody works on a leased run any more; what was held just now still is."""
        if time.monotonic() < self._held.get(entry.run, 0.0):
            return False
        # a look without the lock, which all workers share; it is asked again under the lock
        judgement = alive.judge(self.study.leases_folder / f"{entry.run}.json")
        abandoned = judgement.void or judgement.reason == alive.LET_GO
        if not abandoned:
            self._held[entry.run] = time.monotonic() + POLL
        return abandoned


def _pause(idle: float, how: Work) -> float:
    """Seconds until the next look: the longer nothing was free, the longer, up to `LONGEST`."""
    pause = min(LONGEST, max(POLL, idle / 2))
    return pause if how.deadline is None else min(pause, how.deadline - time.monotonic())


def _out_of_time(how: Work) -> bool:
    return how.deadline is not None and time.monotonic() + POLL > how.deadline


def _first_free(queue: Queue, how: Work) -> bool | None:
    """Compute the first of the runs that nobody holds:
    True when done, False out of time, None if there is none.

    Then the caller looks anew from the first run on: one whose worker died goes before later ones.
    """
    for entry in queue.free():
        if not queue.speeds.time_for(entry, how.deadline):
            continue
        if entry.recipe.helper and queue.study.helper_of(entry) is None:
            continue  # its labels come from a run that is not finished
        try:
            done = _try(queue.study, entry, how)
        except TrainingStopped as error:
            log.warning("%s", error)
            queue.stopped[entry.run] = str(error)
            done = True
        if done:
            queue.left.remove(entry)
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
    done = None
    try:
        with held, _alarm(how.deadline):
            done = _under_lease(study, entry, held, how)
    except OutOfTime:
        done = False
        log.info("%s: stopped because the time budget was over; %s", entry.run, how_to_go_on(study))
    except lease.Lost:
        held.lost = True
    except Exception:
        # A worker that slept finds its folder gone before it hears that the run was taken.
        if not held.lost:
            raise
    if held.lost and not done:
        log.warning(
            "%s: another worker took this run while this one showed no sign of life; this one "
            "published nothing of it and goes on with other runs",
            entry.run,
        )
    return done


def _under_lease(study: Shelf, entry: Entry, held: lease.Lease, how: Work) -> bool:
    """Compute and publish one run; False when the time was up."""
    if study.is_finished(entry):  # published between our look and our lease
        return True
    folder = _adopt(study, entry.run, held)
    log.info("%s: %s", study.name, entry.run)
    options = {"machine": how.machine, "progress": how.progress, "time_left": how.time_left}
    with files.not_made_anew(folder):
        done = compute(study, entry, folder, **options)
    if done:
        _publish(study, entry.run, folder, held)
    else:
        log.info("%s: stopped for want of time; %s", entry.run, how_to_go_on(study))
    return done


def how_to_go_on(study: Shelf) -> str:
    """What to do next; of work that is kept it speaks only if there is some."""
    finished = study.folder.glob("*/record.json")
    if not any(True for _ in chain(finished, study.work_folder.glob(f"*/{CHECKPOINT}"))):
        return f"no epoch was finished, `arlib study run {study.name}` begins anew."
    return f"what is done is kept, `arlib study run {study.name}` goes on from here."


def _worth_waiting(study: Shelf, missing: list[Entry], how: Work) -> bool:
    """Whether others work on what is missing. Without `how.wait` only for as long as it takes to
    tell a dead worker from a clock that jumped.
    """
    leased = study.leased()
    held = [entry.run for entry in missing if entry.run in leased]
    judged = [alive.judge(study.leases_folder / f"{run}.json") for run in held]
    return any(one.in_doubt or (how.wait and not one.void) for one in judged)


def _nothing_more(study: Shelf, missing: list[Entry], stopped: dict[str, str]) -> bool:
    if stopped:
        raise TrainingStopped(
            f"{study.name}: {len(stopped)} trainings stopped by themselves; the other runs are "
            "kept. " + " ".join(f"[{message}]" for message in stopped.values())
        )
    return not missing


def refuse_odd_folders(study: Shelf, missing: list[Entry]) -> None:
    """`InputError` for what stands where folders of ours should and cannot be worked in."""
    for path in (study.places.store, study.folder, study.work_folder, study.leases_folder):
        if (path.is_symlink() or path.exists()) and not path.is_dir():
            what = "a link that leads to no folder" if path.is_symlink() else "no folder"
            raise InputError(f"{path} is {what}; remove it, or give another store.")
    for path in (study.folder / entry.run for entry in missing):
        if path.is_symlink():  # what it leads to would be rewritten
            raise InputError(
                f"{path} is a link, and this run is to be measured anew in its place. Put a copy "
                "of the folder there, or remove the link."
            )


def refuse_lacking_helpers(study: Shelf, missing: list[Entry]) -> None:
    """`InputError` for runs whose labels are of a run that is recorded without its weights."""
    coming = {entry.run for entry in missing}
    for entry in missing:
        helper = entry.recipe.helper
        if helper and helper not in coming and study.helper_of(entry) is None:
            raise InputError(
                f"{study.name}: {entry.run} takes labels from {helper}, which is recorded without "
                f"its weights. Compute all anew in a store of your own: `arlib study run "
                f"{study.name} --afresh --store FOLDER`."
            )


def _adopt(study: Shelf, run: str, held: lease.Lease) -> Path:
    """The folder of a run, under our token:
    what a former worker left, or a finished run with other settings.
    """
    mine = study.work_folder / f"{run}@{held.token}"
    study.work_folder.mkdir(parents=True, exist_ok=True)
    # Under the lock, lest we take the folder of one who took the run from us in this moment.
    with held.confirmed():
        for folder in [study.folder / run, *reversed(study.left_behind(run))]:
            with contextlib.suppress(FileNotFoundError):
                _move(folder, mine)
                break
        else:
            mine.mkdir()
    (mine / "record.json").unlink(missing_ok=True)
    for half_written in mine.rglob(".*"):  # by a worker that was killed
        if half_written.is_file():
            half_written.unlink(missing_ok=True)
    return mine


def _publish(study: Shelf, run: str, folder: Path, held: lease.Lease) -> None:
    final = study.folder / run
    records.read_finished(folder)  # what is published can be read, and has its weights
    with held.confirmed():
        try:
            _move(folder, final)
        except OSError as error:
            if not records.is_finished(final):
                raise RecordError(
                    f"{final} is in the way and no finished run ({error}). Delete it and go on."
                ) from error
            log.warning("%s: another worker had finished it first; its result stays", run)
        left = study.left_behind(run)
    for path in left:
        shutil.rmtree(path, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    """Rename a folder; where the work folder is a link to another disk, copy it beside the target
    first, so that the target still appears whole or not at all.
    """
    try:
        os.rename(folder, target)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    beside = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(folder, beside, symlinks=True)
        os.rename(beside, target)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)


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
