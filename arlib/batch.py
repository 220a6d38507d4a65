"""Chapters × parameters with papermill, each run in processes of its own.

papermill runs that share one process fail or hang now and then (papermill issues 511, 711), so
every run is a process group with a time limit of its own, tried again at most twice. What is
finished is marked by the hash of chapter and parameters and is not run again.
"""

import hashlib
import importlib.util
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from arlib import chapters, files, processes
from arlib.errors import InputError, one_of

if TYPE_CHECKING:  # a mistyped chapter is said without it
    import pandas as pd

log = logging.getLogger(__name__)
USUAL = ("chapter", "status", "attempts", "seconds", "output", "reason")
HOPELESS = ("ChapterStopped", "InputError")  # errors of the input: a second try would end the same


@dataclass(frozen=True)
class Task:
    """One chapter with one set of parameters, and where its executed copy goes."""

    chapter: Path
    parameters: dict
    output: Path

    @property
    def key(self) -> str:
        """SHA-256 over the chapter's file and the parameters:
        what a finished run is recognised by.
        """
        said = json.dumps(self.parameters, sort_keys=True)
        return hashlib.sha256(self.chapter.read_bytes() + said.encode()).hexdigest()

    @property
    def marker(self) -> Path:
        return self.output.with_suffix(".done.json")

    @property
    def finished(self) -> bool:
        return (
            self.output.is_file()
            and self.marker.is_file()
            and files.read_json(self.marker).get("key") == self.key
        )


def parameter_sets(fixed: list[str], grids: list[str]) -> list[dict]:
    """Parameter sets from `name=value` and `name=value,value` texts; grids multiply.
    Values are read as YAML.
    """
    named = [_split(text) for text in fixed] + [_split(text) for text in grids]
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"parameter {name!r} is given twice; keep one.")
    axes = [[(name, _typed(value))] for name, value in named[: len(fixed)]]
    axes += [[(name, value) for value in _listed(values)] for name, values in named[len(fixed) :]]
    return [dict(chosen) for chosen in itertools.product(*axes)]


def plan(names: list[str], parameters: list[dict], out: Path) -> list[Task]:
    """One task for each chapter and parameter set, checked before anything runs.

    names: of the book's chapters, paths of notebooks, or "all". Raises `InputError` for an
    unknown chapter, a chapter without a parameters cell, or a parameter that a chapter does not
    have.
    """
    tasks = []
    for path in chapters.find(names):
        declared = chapters.declared_parameters(path)
        for chosen in parameters:
            for name in chosen:
                one_of(f"parameter of {path.name}", name, declared)
            tasks.append(Task(path, chosen, Path(out) / path.stem / f"{_slug(chosen)}.ipynb"))
    return tasks


def run(
    tasks: list[Task],
    *,
    jobs: int = 1,
    timeout: float = 3600.0,
    retries: int = 2,
    executor: str = "local",
) -> "pd.DataFrame":
    """Run the tasks that are not finished; one row each:
    status (done, skipped, failed), attempts, seconds, reason.

    timeout: seconds of one attempt, after which all its processes are killed. executor: "local"
    (jobs processes at a time) or "submitit". `summary.csv` beside the outputs always holds the rows
    so far.
    """
    one_of("executor", executor, EXECUTORS)
    if jobs < 1 or not timeout > 0 or not 0 <= retries <= 2:
        raise InputError(
            f"jobs {jobs}, timeout {timeout}, retries {retries}; allowed: at least 1, above 0 s, "
            "0 to 2."
        )
    if importlib.util.find_spec("papermill") is None:
        raise InputError("papermill is not installed; it comes with the book's requirements.txt.")
    rows = {
        task.output: _row(task, "skipped") if task.finished else _row(task, "waiting")
        for task in tasks
    }
    waiting = [task for task in tasks if rows[task.output]["status"] == "waiting"]
    summary = os.path.commonpath([task.output.parent.parent for task in tasks]) if tasks else None
    for row in EXECUTORS[executor](waiting, jobs, timeout, retries):
        rows[Path(row["output"])] = row
        _write_summary(summary, rows)
    return _write_summary(summary, rows)


def run_task(task: Task, timeout: float, retries: int, stop: threading.Event | None = None) -> dict:
    """Run one task, trying again when it fails for a reason that may pass;
    returns its row of the summary.
    """
    task.output.parent.mkdir(parents=True, exist_ok=True)
    reasons, begun = [], time.monotonic()
    for attempt in range(1, retries + 2):
        reason = _attempt(task, timeout, stop)
        if not reason:
            files.write_json(task.marker, {"key": task.key, "parameters": task.parameters})
            return _row(task, "done", attempt, time.monotonic() - begun, "; ".join(reasons))
        reasons.append(f"attempt {attempt}: {reason}")
        log.warning("%s %s, %s", task.chapter.stem, task.parameters, reasons[-1])
        if reason.startswith(HOPELESS) or (stop is not None and stop.is_set()):
            break
    return _row(task, "failed", attempt, time.monotonic() - begun, "; ".join(reasons))


def _split(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip().isidentifier():
        raise InputError(f"parameter is {text!r}; write it as name=value.")
    return name.strip(), value


class _Values(yaml.SafeLoader):
    """YAML as people type it on a command line:
    `no` is a word, 010 is ten, 1:30 and 2020-01-01 are texts.
    """


_Values.yaml_implicit_resolvers = {}
for _kind, _form, _first in (
    ("bool", r"true|True|false|False", "tTfF"),
    ("null", r"~|null|Null|None", "~nN"),
    (
        "float",
        r"[-+]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][-+]?\d+)?|[-+]?\.(inf|Inf)|\.(nan|NaN)",
        "-+.0123456789",
    ),
    ("int", r"[-+]?\d+", "-+0123456789"),
):
    _Values.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_form})$"), list(_first)
    )
_Values.add_constructor(
    "tag:yaml.org,2002:int", lambda loader, node: int(loader.construct_scalar(node), 10)
)


def _read(text: str) -> object:
    loader = _Values(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _typed(text: str) -> object:
    """A number, true or false, a list or mapping, nothing (~), or the text itself."""
    try:
        return _read(text) if text.strip() else ""
    except yaml.YAMLError:
        return text


def _listed(text: str) -> list:
    """The values between commas; those inside brackets belong together."""
    try:
        found = _read(f"[{text}]")
    except yaml.YAMLError:
        found = None
    return (
        found
        if found and all(value is not None for value in found)
        else [_typed(value) for value in text.split(",")]
    )


def _slug(parameters: dict) -> str:
    said = json.dumps(parameters, sort_keys=True)
    words = "_".join(f"{name}-{value}" for name, value in parameters.items())
    readable = re.sub(r"[^A-Za-z0-9.-]+", "_", words)[:80] or "as-it-is"
    return f"{readable}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _row(
    task: Task, status: str, attempts: int = 0, seconds: float = 0.0, reason: str = ""
) -> dict:
    usual = dict(
        zip(
            USUAL,
            (task.chapter.stem, status, attempts, round(seconds, 1), str(task.output), reason),
            strict=True,
        )
    )
    return {"chapter": task.chapter.stem} | task.parameters | usual


def _write_summary(folder: str | None, rows: dict[Path, dict]) -> "pd.DataFrame":
    import pandas as pd

    table = pd.DataFrame(list(rows.values()))
    if folder is None:
        return pd.DataFrame(columns=list(USUAL))
    table = table[["chapter", *(c for c in table if c not in USUAL), *USUAL[1:]]]
    files.write_text(Path(folder) / "summary.csv", table.to_csv(index=False))
    return table


def _attempt(task: Task, timeout: float, stop: threading.Event | None) -> str:
    """Run papermill once; returns why it failed, or nothing."""
    unfinished, parameters = (
        task.output.with_suffix(".partial.ipynb"),
        task.output.with_suffix(".parameters.yml"),
    )
    files.write_text(parameters, yaml.safe_dump(task.parameters))
    unfinished.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(task.chapter),
        str(unfinished),
        "-f",
        str(parameters),
    ]
    with open(task.output.with_suffix(".log"), "ab") as said:
        process = subprocess.Popen(
            [*command, "--no-progress-bar"], stdin=subprocess.DEVNULL, stdout=said, stderr=said,
            cwd=task.output.parent, start_new_session=True,
        )  # fmt: skip
    try:
        until = time.monotonic() + timeout
        while process.poll() is None:
            if time.monotonic() > until:
                return f"timed out after {timeout:g} s"
            if stop is not None and stop.is_set():
                return "interrupted"
            time.sleep(0.1)
    finally:
        processes.kill(process)
    if process.returncode:
        return _reason(unfinished, process.returncode)
    os.replace(unfinished, task.output)
    return ""


def _reason(notebook: Path, status: int) -> str:
    """The error in the notebook's outputs, else the exit status."""
    if notebook.is_file():
        for cell in files.read_json(notebook)["cells"]:
            for output in cell.get("outputs", []):
                if output["output_type"] == "error":
                    return " ".join(f"{output['ename']}: {output['evalue']}".split())
    return f"papermill ended with status {status}; see the .log file beside the output"


def _local(tasks: list[Task], jobs: int, timeout: float, retries: int) -> Iterator[dict]:
    """Threads that each watch one process group; Ctrl-C kills the groups."""
    stop = threading.Event()
    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(run_task, task, timeout, retries, stop) for task in tasks]
        try:
            for future in as_completed(futures):
                yield future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _submitit(tasks: list[Task], jobs: int, timeout: float, retries: int) -> Iterator[dict]:
    """A Slurm array of at most `jobs` at a time;
    without Slurm, submitit's local processes, `jobs` at a time.
    """
    try:
        import submitit
    except ImportError as error:
        raise InputError(
            "executor 'submitit' needs its package: pip install submitit. Or use executor local."
        ) from error
    if not tasks:
        return
    folder = Path(os.path.commonpath([task.output.parent.parent for task in tasks])) / "submitit"
    engine = submitit.AutoExecutor(folder=folder)
    limit = int(timeout * (retries + 1) / 60) + 5
    engine.update_parameters(timeout_min=limit, name="arlib", slurm_array_parallelism=jobs)
    work = partial(run_task, timeout=timeout, retries=retries)
    width = len(tasks) if engine.cluster == "slurm" else jobs
    for first in range(0, len(tasks), width):
        for job in submitit.helpers.as_completed(
            engine.map_array(work, tasks[first : first + width]), poll_frequency=1
        ):
            yield job.result()


EXECUTORS = {"local": _local, "submitit": _submitit}
