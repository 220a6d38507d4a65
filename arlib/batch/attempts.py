"""One task, run by papermill in a process of its own, and again where the failure may pass."""

import contextlib
import logging
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from arlib import files, processes
from arlib.batch import notes
from arlib.batch.task import Task

log = logging.getLogger(__name__)
HOPELESS = ("ChapterStopped", "InputError")  # errors of the input: a second try would end the same


class Stopped(Exception):
    """Somebody asked the run to end; says who or what."""


def run_task(
    task: Task,
    timeout: float,
    retries: int,
    stop: Callable[[], str] = str,
    earlier: tuple[str, ...] = (),
    failed: Callable[[list[str]], object] = lambda reasons: None,
) -> dict:
    """Run one task, trying again when it fails for a reason that may pass;
    returns how that ended: status (done or failed), attempts, seconds, reason.

    stop: says why to stop, asked ten times a second; nothing while there is no reason to.
    earlier: why attempts of before failed (in a job that was interrupted since); they count.
    failed: told the reasons so far, after each attempt that failed.
    """
    task.output.parent.mkdir(parents=True, exist_ok=True)
    reasons, begun = list(earlier), time.monotonic()
    while True:
        key, attempt = task.key, len(reasons) + 1
        try:
            reason = _attempt(task, timeout, stop)
        except Stopped as stopped:
            reasons.append(f"attempt {attempt}: {stopped}")
            break
        if not reason:
            files.write_json(task.marker, {"key": key, "parameters": task.yaml})
            return outcome("done", attempt, time.monotonic() - begun, reasons)
        reasons.append(f"attempt {attempt}: {reason}")
        failed(reasons)
        log.warning("%s %s, %s", task.chapter.stem, task.parameters, reasons[-1])
        if reason.startswith(HOPELESS) or attempt > retries:
            break
    return outcome("failed", attempt, time.monotonic() - begun, reasons)


def outcome(status: str, attempts: int, seconds: float, reasons: list[str]) -> dict:
    """How a task ended, as its row of the summary says it."""
    return {
        "status": status,
        "attempts": attempts,
        "seconds": round(seconds, 1),
        "reason": "; ".join(reasons),
    }


def _attempt(task: Task, timeout: float, stop: Callable[[], str]) -> str:
    """Run papermill once; returns why it failed, or nothing."""
    unfinished = _unfinished(task)
    parameters = task.output.with_suffix(".parameters.yml")
    files.write_text(parameters, task.yaml)
    command = [
        *(sys.executable, "-m", "papermill", str(task.chapter), str(unfinished)),
        *("-f", str(parameters), "--no-progress-bar"),
    ]
    with open(task.log, "ab") as log_file:
        process = subprocess.Popen(
            processes.bound(command), stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file,
            cwd=task.output.parent, start_new_session=True,
        )  # fmt: skip
    try:
        reason = _watched(process, timeout, stop)
        reason = reason or _reason(unfinished, process.returncode, task.log)
    except BaseException:
        processes.kill(process)
        unfinished.unlink(missing_ok=True)
        raise
    failed = task.output.with_suffix(".failed.ipynb")
    if reason:
        with contextlib.suppress(FileNotFoundError):  # papermill may not have come so far
            os.replace(unfinished, failed)
        return reason
    os.replace(unfinished, task.output)
    failed.unlink(missing_ok=True)
    return ""


def _unfinished(task: Task) -> Path:
    """A name of this attempt's own: a writer that was given up elsewhere, on a node that only
    seemed dead, writes to another file. What killed attempts left is removed.
    """
    for left in task.output.parent.glob(f"{task.output.stem}.*.partial.ipynb"):
        left.unlink(missing_ok=True)
    return task.output.with_suffix(f".{uuid.uuid4().hex[:8]}.partial.ipynb")


def _watched(process: subprocess.Popen, timeout: float, stop: Callable[[], str]) -> str:
    """Wait for the process; kill it, and say why, at its time limit. `Stopped` if asked to stop."""
    until = time.monotonic() + timeout
    while process.poll() is None:
        if why := stop():
            raise Stopped(why)
        if time.monotonic() > until:
            processes.kill(process)
            return f"timed out after {timeout:g} s"
        time.sleep(0.1)
    if process.returncode < 0:
        time.sleep(0.5)  # who ends a whole job signals papermill and us, in any order
        if why := stop():
            raise Stopped(why)
    return ""


def _reason(notebook: Path, status: int, log_file: Path) -> str:
    """Why papermill failed: the error in the notebook's outputs, else its last words.
    Nothing where it did not.
    """
    if not status:
        return ""
    for cell in (files.peek_json(notebook) or {}).get("cells", []):
        for output in cell.get("outputs", []):
            if output.get("output_type") == "error":
                name, message = output.get("ename", "error"), output.get("evalue", "")
                return " ".join(f"{name}: {message}".split())
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"papermill {how}: {notes.last_line(log_file)} (see {log_file})"
