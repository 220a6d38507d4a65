"""The process in which one task runs: `python -m arlib.batch.worker FOLDER INDEX`.

It guards papermill, the kernel and all they start. All of it ends when the task ends, when the
worker is asked to end (SIGTERM, SIGINT), and when the process that started the worker dies.
"""

import logging
import os
import signal
import sys
from pathlib import Path

from arlib import processes
from arlib.batch.attempts import outcome, run_task
from arlib.batch.exchange import Exchange
from arlib.batch.task import Task


class Stop:
    """Why to stop; empty while there is no reason to."""

    def __init__(self):
        self.parent, self.signal = os.getppid(), ""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._told)

    def __call__(self) -> str:
        orphaned = os.getppid() != self.parent
        return self.signal or ("what had started it died" if orphaned else "")

    def _told(self, number: int, _) -> None:
        self.signal = f"ended by {signal.Signals(number).name}"


def main(folder: str, index: int) -> int:
    """Run task `index` of the folder and leave its outcome there. Exit status 0 where it is done,
    1 where it failed; 3 where it was stopped, which leaves no outcome: it may be started again.
    """
    stop = Stop()
    processes.adopt_orphans()
    exchange = Exchange(Path(folder))
    try:
        ended = _run(exchange, index, stop)
        if stop() and ended["status"] != "done":
            return 3
        exchange.settle(index, ended)
        return 0 if ended["status"] == "done" else 1
    finally:
        processes.kill_descendants()


def _run(exchange: Exchange, index: int, stop: Stop) -> dict:
    """The outcome of a task, which an earlier start of this job may have brought forward."""
    tasks, how = exchange.read()
    task = Task.unpacked(tasks[index])
    tried = exchange.tried(index)
    reasons, allowed = tried["reasons"], how.get("restarts")
    restarts = 0 if allowed is None else int(os.environ.get("SLURM_RESTART_COUNT") or 0)
    again = [f"Slurm interrupted it, restarts: {restarts}"] if restarts else []
    if restarts and restarts > allowed:
        again.append(f"allowed: {allowed}; see --restarts")
        return outcome("failed", len(reasons), 0.0, reasons + again)

    def note(reasons: list[str]) -> None:
        exchange.note(index, {"reasons": reasons, "restarts": restarts})

    note(reasons)
    try:
        if task.finished:  # by the start that was interrupted just afterwards
            return outcome("done", len(reasons) + 1, 0.0, reasons + again)
        ended = run_task(task, how["timeout"], how["retries"], stop, tuple(reasons), note)
    except Exception as error:  # whatever happens to one task happens to one row
        reasons = [*exchange.tried(index)["reasons"], f"{type(error).__name__}: {error}"]
        return outcome("failed", len(reasons), 0.0, reasons + again)
    return ended | {"reason": "; ".join(filter(None, [ended["reason"], *again]))}


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
