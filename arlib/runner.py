"""Running what is missing of a study: claim a run, train it, measure it, publish it into the store.

A run grows in `<store>/<study>/.work/<run>@<token>/` and becomes `<store>/<study>/<run>/` by one
rename; whoever renames first wins. A worker that takes a dead one's claim takes its folder over, by
renaming it to its own token, and goes on from the last checkpoint and the measured parts.
"""

import contextlib
import json
import logging
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from arlib import engine, files, measure, records, training, workers
from arlib.errors import InputError, RecordError, TrainingStopped
from arlib.studyfile import Entry
from arlib.training import store as training_files

if TYPE_CHECKING:
    from arlib.studies import Study

log = logging.getLogger(__name__)
RESERVE = 1.0  # seconds kept back from a time budget for a clean end
POLL = 1.0  # seconds between two looks at what other workers do
Compute = Callable[..., bool]


class OutOfTime(BaseException):
    """The time budget is over; like KeyboardInterrupt, nothing on the way may swallow it."""


def compute(
    study: "Study", entry: Entry, folder: Path, *, device: str, progress: bool, time_left: float | None,
    mode: str = "auto", precision: str = "float32",
) -> bool:  # fmt: skip
    """Train and measure one run in its folder, from wherever it stopped; False if the time was up before the end."""
    keep = () if entry.recipe.eps or entry.control else study.keep_epochs
    run = training.train(
        entry.recipe, folder=folder, device=device, keep_epochs=keep, progress=progress, time_budget=time_left,
        mode=mode, precision=precision,
    )  # fmt: skip
    if not run.finished:
        return False
    log.info("%s: trained; measuring", entry.run)
    rows, arrays = measure.measure(
        folder, entry.recipe, study.settings, data_root=None, device=device, progress=progress,
        part_folder=folder / "parts", control=entry.control,
    )  # fmt: skip
    seconds = rows.attrs.get("seconds", {})
    measured = {"measure_seconds": round(sum(seconds.values()), 1), "warnings": rows.attrs.get("warnings", [])}
    records.write(
        folder, run=entry.run, recipe=entry.recipe.to_dict(), variant=entry.variant,
        provenance=run.provenance | measured, settings=study.settings.to_dict(), history=run.history,
        rows=rows, arrays={} if entry.control else arrays,
    )  # fmt: skip
    return True


def work(
    study: "Study", *, deadline: float | None, device: str, progress: bool, wait: bool, afresh: bool,
    compute: Compute = compute,
) -> bool:  # fmt: skip
    """Compute runs, in the study's order, until none is missing (True) or the time is up (False).

    With nothing left to claim it waits for the other workers, to take over the run of one that dies;
    wait=False returns instead. Raises `TrainingStopped` at the end if trainings stopped by themselves.
    """
    stopped: dict[str, str] = {}
    while missing := [entry for entry in study.missing(afresh=afresh) if entry.run not in stopped]:
        possible = [entry for entry in missing if _time_for(study, entry, deadline)]
        done = _first_free(
            study, possible, stopped, deadline=deadline, device=device, progress=progress, compute=compute
        )
        if done is False:
            return False
        if done is None:
            others = wait and _others_work(study, missing)
            if not others or (deadline is not None and time.monotonic() + POLL > deadline):
                if len(possible) < len(missing):
                    log.info("Too little time is left for an epoch of the next run; %s", how_to_go_on(study))
                return _nothing_more(study, missing, stopped)
            time.sleep(POLL)
    return _nothing_more(study, [], stopped)


def _first_free(study: "Study", entries: list[Entry], stopped: dict[str, str], **options) -> bool | None:
    """Compute the first of the runs that nobody holds: True when done, False out of time, None if there is none.

    Then the caller looks anew from the first run on: one whose worker died goes before later ones.
    """
    for entry in entries:
        try:
            done = _try(study, entry, **options)
        except TrainingStopped as error:
            log.warning("%s", error)
            stopped[entry.run] = str(error)
            return True
        if done is not None:
            return done
    return None


def refuse_mixture(study: "Study", device: str, precision: str, *, afresh: bool) -> None:
    """`InputError` if running here would mix devices or precisions in one study."""
    here = training_files.provenance(engine.device(device), precision)
    for run, folder in study.finished(afresh=afresh).items():
        there = study.read(folder).provenance
        for key in ("device", "precision"):
            if there.get(key) != here[key]:
                raise InputError(
                    f"{study.name}: {run} was computed with {key} {there.get(key)!r}, this would be {here[key]!r}. "
                    "Numbers of one study should come from one kind of machine: choose the same; compute all of it "
                    "afresh in another store (--afresh --store FOLDER); or allow the mixture (--mix)."
                )


def refuse_small_budget(study: "Study", seconds: float, *, afresh: bool) -> None:
    """`InputError` if the budget is too short for one epoch of any missing run, as far as speeds are known."""
    known = [needed(study, entry) for entry in study.missing(afresh=afresh)]
    least = min((value for value in known if value is not None), default=0.0)
    if least and seconds < least + RESERVE:
        raise InputError(
            f"{study.name}: the time budget of {seconds:g} s is too small for one epoch, which takes about "
            f"{least:.3g} s here. Give at least {1.2 * least + RESERVE:.0f}s."
        )


def needed(study: "Study", entry: Entry) -> float | None:
    """Seconds of one epoch of a run: its own so far, else those of a finished sibling; None if never seen.

    0 for a run that is trained and only wants measuring, which goes part by part.
    """
    history = progress_of(study, entry.run)
    if history is not None and len(history) >= entry.recipe.epochs:
        return 0.0
    if history is not None and len(history):
        return float(history["seconds"].max())
    for sibling in study.entries:
        same = sibling.recipe.strength == entry.recipe.strength and (entry.control or sibling.variant == entry.variant)
        if same and records.is_finished(study.folder / sibling.run):
            return float(study.read(study.folder / sibling.run).history["seconds"].median())
    return None


def progress_of(study: "Study", run: str) -> pd.DataFrame | None:
    """History so far of a run that somebody has begun in this store; None if nobody has."""
    for folder in reversed(_left_behind(study, run)):
        path = folder / training_files.CHECKPOINT
        if path.exists():
            return pd.DataFrame(json.loads(files.read_metadata(path)["arlib"])["history"])
    return None


def _try(
    study: "Study", entry: Entry, *, deadline: float | None, device: str, progress: bool, compute: Compute
) -> bool | None:
    """One run, if it is free: True when done, None when it is another worker's, False when the time was up."""
    claim = workers.take(study.claims_folder, entry.run)
    if claim is None:
        return None
    try:
        with claim, _alarm(deadline):
            if study.is_finished(entry):  # published between our look and our claim
                return True
            folder = _adopt(study, entry.run, claim.token)
            log.info("%s: %s", study.name, entry.run)
            left = None if deadline is None else deadline - time.monotonic() - RESERVE
            if not compute(study, entry, folder, device=device, progress=progress, time_left=left):
                log.info("%s: stopped for want of time; %s", entry.run, how_to_go_on(study))
                return False
            _publish(study, entry.run, folder)
            return True
    except OutOfTime:
        log.info("%s: stopped because the time budget was over; %s", entry.run, how_to_go_on(study))
        return False
    except KeyboardInterrupt:
        if not claim.lost:
            raise
        log.warning("%s: another worker took this run while this one showed no sign of life", entry.run)
        return None


def how_to_go_on(study: "Study") -> str:
    return f"what is done is kept, `arlib study run {study.name}` goes on from here."


def _time_for(study: "Study", entry: Entry, deadline: float | None) -> bool:
    seconds = None if deadline is None else needed(study, entry)
    return seconds is None or time.monotonic() + seconds + RESERVE < deadline


def _others_work(study: "Study", missing: list[Entry]) -> bool:
    claims = [study.claims_folder / f"{entry.run}.json" for entry in missing]
    return any(path.exists() and not workers.void(path) for path in claims)


def _nothing_more(study: "Study", missing: list[Entry], stopped: dict[str, str]) -> bool:
    if stopped:
        raise TrainingStopped(
            f"{study.name}: {len(stopped)} trainings stopped by themselves; the other runs are kept. "
            + " ".join(f"[{message}]" for message in stopped.values())
        )
    return not missing


def _left_behind(study: "Study", run: str) -> list[Path]:
    """Work folders of a run, the most advanced last."""
    age = lambda path: path.stat().st_mtime if path.exists() else 0.0
    return sorted(study.work_folder.glob(f"{run}@*"), key=lambda p: ((p / training_files.CHECKPOINT).exists(), age(p)))


def _adopt(study: "Study", run: str, token: str) -> Path:
    """The folder of a run, under our token: what a former worker left, or a finished run with other settings."""
    mine = study.work_folder / f"{run}@{token}"
    study.work_folder.mkdir(parents=True, exist_ok=True)
    for folder in [study.folder / run, *reversed(_left_behind(study, run))]:
        with contextlib.suppress(FileNotFoundError):
            os.rename(folder, mine)
            (mine / "record.json").unlink(missing_ok=True)
            return mine
    mine.mkdir()
    return mine


def _publish(study: "Study", run: str, folder: Path) -> None:
    final = study.folder / run
    records.read(folder)  # what is published can be read
    try:
        os.rename(folder, final)
    except OSError as error:
        if not records.is_finished(final):
            raise RecordError(f"{final} is in the way and no finished run ({error}). Delete it and go on.") from error
        log.warning("%s: another worker had finished it first; its result stays", run)
    for path in _left_behind(study, run):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _alarm(deadline: float | None) -> Iterator[None]:
    """Raise `OutOfTime` in the main thread shortly before the deadline (where the system has such alarms)."""
    possible = hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread()
    if deadline is None or not possible:
        yield
        return

    def ring(*_):
        raise OutOfTime

    former = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(0.01, deadline - time.monotonic() - RESERVE))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)
