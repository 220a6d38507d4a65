"""Running a batch: what is not finished yet, on this machine or on Slurm, into one table."""

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from arlib.batch import local, slurm
from arlib.batch.options import Slurm
from arlib.batch.summary import Summary
from arlib.batch.task import Task
from arlib.errors import InputError, one_of
from arlib.studies import lease

EXECUTORS = ("local", "slurm")


def run(
    tasks: list[Task],
    *,
    jobs: int = 1,
    timeout: float = 3600.0,
    retries: int = 2,
    executor: str = "local",
    on_slurm: Slurm | None = None,
) -> pd.DataFrame:
    """Run the tasks that are not finished; one row each:
    status (done, skipped, failed; waiting where the batch ended before), attempts, seconds, reason.

    jobs: runs at a time. timeout: seconds of one attempt, after which all its processes are killed.
    executor: "local" or "slurm", with the options `on_slurm`. `summary.csv` beside the outputs
    always holds the rows so far. Raises `InputError` where another batch works on these outputs.
    """
    one_of("executor", executor, EXECUTORS)
    if jobs < 1 or not timeout > 0 or not 0 <= retries <= 2:
        raise InputError(
            f"jobs {jobs}, timeout {timeout}, retries {retries}; allowed: at least 1, above 0 s, "
            "0 to 2."
        )
    if on_slurm is not None and executor != "slurm":
        raise InputError(f"options for Slurm were given, and executor is {executor!r}; use slurm.")
    if importlib.util.find_spec("papermill") is None:
        raise InputError("papermill is not installed; it comes with the book's requirements.txt.")
    if not tasks:
        return Summary(None, []).table()
    out = Path(os.path.commonpath([task.output.parent.parent for task in tasks]))
    with _alone(out) as (folder, held):
        if executor == "slurm":
            running = slurm.outcomes(
                tasks, folder, on_slurm or Slurm(), jobs, timeout, retries, alone=held.holds
            )
        else:
            slurm.refuse_if_at_work(tasks, folder)
            waiting = [task for task in tasks if not task.finished]
            running = local.outcomes(waiting, folder, jobs, timeout, retries)
        with running as outcomes:
            summary = Summary(out, tasks)
            summary.write()
            for task, outcome in outcomes:
                summary.set(task, outcome)
                summary.write()
    return summary.table()


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[tuple[Path, lease.Lease]]:
    """The folder in which the batch keeps its books, and the lease by which it is alone there.
    Where the batch is refused, nothing is left of it.
    """
    new, folder = not out.exists(), out / ".batch"
    held = lease.take(folder, "lease")
    if held is None:
        holder = lease.read(folder / "lease.json") or {}
        host = str(holder.get("host", "?")).partition(" ")[0]
        raise InputError(
            f"another batch works on {out}: process {holder.get('pid', '?')} on {host}. Wait for "
            "it or end it, or give another folder by --out."
        )
    try:
        with held:
            yield folder, held
    except InputError:
        with contextlib.suppress(OSError):
            if set(os.listdir(folder)) <= {".lock"}:
                (folder / ".lock").unlink(missing_ok=True)
                folder.rmdir()
            if new:
                out.rmdir()
        raise
