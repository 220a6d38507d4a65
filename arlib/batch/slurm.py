"""A batch on Slurm: what runs there already is followed, the rest is submitted."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from arlib.batch import cluster
from arlib.batch.cluster import SlurmError
from arlib.batch.options import Slurm
from arlib.batch.submission import Submission, submit, unfinished
from arlib.batch.task import Task
from arlib.batch.watch import Watch
from arlib.errors import InputError

log = logging.getLogger(__name__)
GLANCE = 15.0  # seconds in which a batch that detaches sees whether Slurm takes its tasks


@contextlib.contextmanager
def outcomes(
    tasks: list[Task],
    folder: Path,
    slurm: Slurm,
    jobs: int,
    timeout: float,
    retries: int,
    alone: Callable[[], bool],
) -> Iterator[Iterator[tuple[Task, dict]]]:
    """Gives an iterator of tasks and how they ended. Leaving it by Ctrl-C cancels those that have
    not ended, unless they are another batch's by now (`alone` says no). They go on where it is left
    by an error, which a second try may not meet, and with `slurm.detach`.
    """
    cluster.check()
    watches = found_again(tasks, folder)
    known = {task.output for watch in watches for task in watch.open.values()}
    rest = [task for task in tasks if task.output not in known and not task.finished]
    made = [submit(rest, folder, slurm, jobs, timeout, retries)] if rest else []
    try:
        watches += [Watch(submission, dict(enumerate(rest))) for submission in made]
        if known:
            log.info("Found again on Slurm: %d runs; they keep the options they have.", len(known))
        if made:
            log.info("Submitted to Slurm: %d runs, %s", len(rest), ", ".join(made[0].arrays))
        yield _follow(watches, slurm.detach, submitted=bool(rest))
    except KeyboardInterrupt:
        if alone():
            _cancel(watches)
        raise
    finally:
        for watch in watches:
            watch.close()


def found_again(tasks: list[Task], folder: Path) -> list[Watch]:
    """What earlier batches have submitted of these tasks.

    Raises `InputError` where a job of an earlier version of a chapter is still writing its output.
    """
    wanted, watches = {str(task.output): task for task in tasks}, []
    for submission in unfinished(folder):
        mine = {
            i: wanted[t["output"]] for i, t in enumerate(submission.tasks) if t["output"] in wanted
        }
        if not mine:
            continue
        alive, submitted = _at_work(submission)
        kept = {}
        for index, task in mine.items():
            left = submission.exchange.outcome(index)
            cancelled = left is not None and left["status"] == "cancelled"
            if cancelled or (left is None and index not in submitted):
                continue
            if submission.tasks[index]["key"] == task.key:
                kept[index] = task
            elif left is None and index in alive:
                raise InputError(
                    f"job {alive[index]} on Slurm still runs an earlier version of "
                    f"{task.chapter.name} for {task.output}. Wait for it, or `scancel "
                    f"{alive[index]}`."
                )
        watches.append(Watch(submission, kept))
    return watches


def refuse_if_at_work(tasks: list[Task], folder: Path) -> None:
    """`InputError` where jobs on Slurm work on these tasks."""
    outputs = {str(task.output) for task in tasks}
    for submission in unfinished(folder):
        mine = {i for i, task in enumerate(submission.tasks) if task["output"] in outputs}
        if not mine - submission.exchange.settled():
            continue
        alive, _ = _at_work(submission)
        if jobs := [alive[index] for index in sorted(mine) if index in alive]:
            raise InputError(
                f"jobs on Slurm work on these outputs ({', '.join(jobs[:5])}). Follow them by "
                f"--executor slurm, or cancel them: scancel {' '.join(jobs[:5])}."
            )


def _at_work(submission: Submission) -> tuple[dict[int, str], set[int]]:
    """Numbers of the jobs that wait or run, by task; and the tasks that reached Slurm at all."""
    try:
        cluster.check()
        states = cluster.states(list(submission.arrays))
    except (InputError, SlurmError) as error:
        raise InputError(
            f"{submission.exchange.folder} was submitted to Slurm, which cannot be asked here what "
            f"became of it ({error}). Ask where jobs are submitted from; or, if it is over, delete "
            "that folder."
        ) from error
    alive = {submission.index(s): f"{s.job}_{s.task}" for s in states if s.alive}
    return alive, submission.submitted() | {submission.index(s) for s in states}


def _follow(watches: list[Watch], detach: bool, submitted: bool) -> Iterator[tuple[Task, dict]]:
    until = time.monotonic() + GLANCE * submitted
    while any(watch.open for watch in watches):
        for watch in watches:
            yield from watch.ended()
        seen = time.monotonic() > until or all(watch.quiet for watch in watches)
        if detach and seen:
            return
        time.sleep(0.5)


def _cancel(watches: list[Watch]) -> None:
    for watch in watches:
        try:
            watch.cancel()
        except SlurmError as error:
            names = " ".join(f"scancel --name={name};" for name in watch.submission.arrays)
            log.error("Its jobs could not be cancelled (%s). Do it by hand: %s", error, names)
