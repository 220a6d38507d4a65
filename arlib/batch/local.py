"""Workers on this machine, some at a time. Ctrl-C ends them."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from arlib import places, processes
from arlib.batch import notes
from arlib.batch.attempts import outcome
from arlib.batch.exchange import Exchange
from arlib.batch.task import Task

PATIENCE = 10.0  # seconds that a worker has for ending what it has started


@contextlib.contextmanager
def outcomes(
    tasks: list[Task], folder: Path, jobs: int, timeout: float, retries: int
) -> Iterator[Iterator[tuple[Task, dict]]]:
    """Gives an iterator of tasks and how they ended; leaving it ends the workers."""
    exchange = Exchange.create(folder / "local", tasks, timeout=timeout, retries=retries)
    running: dict[int, subprocess.Popen] = {}
    try:
        yield _each(exchange, tasks, jobs, running)
    finally:
        _end(list(running.values()))
        exchange.remove()


def _each(
    exchange: Exchange, tasks: list[Task], jobs: int, running: dict[int, subprocess.Popen]
) -> Iterator[tuple[Task, dict]]:
    waiting = list(range(len(tasks)))
    while waiting or running:
        while waiting and len(running) < jobs:
            index = waiting.pop(0)
            try:
                running[index] = _start(exchange, index, tasks[index])
            except OSError as error:
                yield tasks[index], outcome("failed", 0, 0.0, [f"it could not start: {error}"])
        for index, process in list(running.items()):
            if process.poll() is not None:
                del running[index]
                yield tasks[index], _outcome(exchange, index, tasks[index], process.returncode)
        time.sleep(0.05)


def _start(exchange: Exchange, index: int, task: Task) -> subprocess.Popen:
    task.output.parent.mkdir(parents=True, exist_ok=True)
    with open(task.log, "ab") as log_file:
        return subprocess.Popen(
            [*worker_command(exchange.folder), str(index)], env=environment(os.environ),
            stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file, start_new_session=True,
        )  # fmt: skip


def worker_command(folder: Path) -> list[str]:
    """How a worker is started, but for the index of its task."""
    return [sys.executable, "-m", "arlib.batch.worker", str(folder)]


def environment(given: dict[str, str]) -> dict[str, str]:
    """The environment with this checkout on Python's path, wherever a worker is started.
    Where arlib is installed, Python finds it.
    """
    checkout = places.checkout()
    paths = [*([str(checkout)] if checkout else []), *filter(None, [given.get("PYTHONPATH")])]
    return dict(given) | ({"PYTHONPATH": os.pathsep.join(paths)} if paths else {})


def _outcome(exchange: Exchange, index: int, task: Task, status: int) -> dict:
    """What the worker left; where it left nothing, how it ended."""
    if left := exchange.outcome(index):
        return left
    how = f"ended with exit status {status}" if status >= 0 else f"was {_killed_by(-status)}"
    reasons = [
        *exchange.tried(index)["reasons"],
        f"its process {how}; last words: {notes.last_line(task.log)} (see {task.log})",
    ]
    return outcome("failed", len(reasons), 0.0, reasons)


def _killed_by(number: int) -> str:
    name = signal.Signals(number).name
    return f"killed by {name}" + " (out of memory?)" * (name == "SIGKILL")


def _end(workers: list[subprocess.Popen]) -> None:
    """Ask workers to end all they have started; kill what has not ended in time."""
    for worker in workers:
        worker.terminate()
    until = time.monotonic() + PATIENCE
    for worker in workers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(max(0.1, until - time.monotonic()))
        processes.kill(worker)
