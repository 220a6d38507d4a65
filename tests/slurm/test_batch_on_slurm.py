"""Batches on a real Slurm: whatever happens to one job, the others go on, and every row is said."""

import contextlib
import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import Process, get_context
from pathlib import Path

import onehost
import pytest
import waiting

from arlib import batch, cli
from arlib.batch import cluster as commands
from arlib.batch import slurm, submission, watch
from arlib.errors import InputError

pytestmark = pytest.mark.slow
until = partial(waiting.until, seconds=300)  # a cluster on two cores that others use too
PARAMETERS = 'kind: str = "plain"\nx: int = 1\n'
BODY = """\
import pathlib, subprocess, sys, time
def wait_for(name):
    pathlib.Path(f"{kind}-{x}-waits").touch()
    while not pathlib.Path(name).exists(): time.sleep(0.1)
if kind == "wrong": raise ValueError("three is wrong")
if kind == "memory": held = bytearray(2**30); held[::4096] = b"x" * 2**18; wait_for("never")
if kind in ("sleep", "sleeps too"): wait_for("never")
if kind == "wait": wait_for("go")
if kind == "resume" and not pathlib.Path(f"{kind}-{x}-waits").exists(): wait_for("never")
print(kind, x)
"""


def cell(source: str, *tags: str) -> dict:
    common = {"cell_type": "code", "metadata": {"tags": list(tags)}, "source": source}
    return common | {"execution_count": None, "outputs": []}


@pytest.fixture
def chapter(tmp_path) -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    content = {"cells": [cell(PARAMETERS, "parameters"), cell(BODY)], "metadata": kernel}
    path = tmp_path / "chapter.ipynb"
    path.write_text(json.dumps(content | {"nbformat": 4, "nbformat_minor": 4}))
    return path


@pytest.fixture(autouse=True)
def impatient(cluster, monkeypatch):
    """Asks Slurm more often than a cluster should be asked; leaves no job behind."""
    for name, seconds in {"OFTEN": 0.5, "SELDOM": 0.5, "LATE": 3.0, "NEVER": 3.0}.items():
        monkeypatch.setattr(watch, name, seconds)
    yield
    subprocess.run(["scancel", "--user=root"], check=True)


def plan(chapter: Path, *kinds: str) -> list[batch.Task]:
    sets = [{"kind": kind, "x": x} for x, kind in enumerate(kinds)]
    return batch.plan([str(chapter)], sets, chapter.parent / "out")


def run(tasks: list[batch.Task], jobs: int = 6, **options):
    """The batch on Slurm, a row a kind."""
    table = batch.run(
        tasks, jobs=jobs, timeout=100, retries=0, executor="slurm",
        on_slurm=batch.Slurm(**{"mem": "600M"} | options),
    )  # fmt: skip
    return table.set_index("kind")


@contextlib.contextmanager
def in_background(work, *args, **options):
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(work, *args, **options)


def summary(chapter: Path, out: str = "out") -> dict[str, str]:
    with open(chapter.parent / out / "summary.csv") as stored:
        return {row["kind"]: row["status"] for row in csv.DictReader(stored)}


def squeue(form: str, *options: str) -> list[str]:
    command = ["squeue", "--noheader", "--array", f"--format={form}", *options]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def job_of(tasks: list[batch.Task], index: int) -> str:
    """The number of the job that runs a task of a batch's only submission, like 12_3."""
    (submitted,) = submission.unfinished(tasks[0].output.parents[1] / ".batch")
    return next(
        f"{state.job}_{state.task}"
        for state in commands.states(list(submitted.arrays))
        if submitted.index(state) == index
    )


def waits(task: batch.Task) -> bool:
    """Whether the chapter has come to the place where it waits."""
    kind, x = task.parameters["kind"], task.parameters["x"]
    return (task.output.parent / f"{kind}-{x}-waits").exists()


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work in a folder."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cwd").resolve().is_relative_to(folder):
                pids.append((path / "cmdline").read_text())
    return pids


def test_a_job_that_is_lost_is_one_row_and_the_others_go_on(cluster, chapter):
    kinds = ("plain", "sleep", "sleeps too", "memory", "wrong")
    tasks = plan(chapter, *kinds)
    with in_background(run, tasks, options={"no-requeue": None}) as running:
        until(lambda: waits(tasks[1]) and waits(tasks[2]))
        subprocess.run(["scancel", job_of(tasks, 1)], check=True)
        # all others have ended before a node is taken from under the last
        until(lambda: list(summary(chapter).values()).count("waiting") == 1)
        (node,) = squeue("%N", "--states=RUNNING")
        onehost.kill_node(cluster, node)
        subprocess.run(
            ["scontrol", "update", f"nodename={node}", "state=down", "reason=test"], check=True
        )
        table = running.result(300)
    onehost.bring_back(cluster, node)
    assert dict(table["status"]) == dict(zip(kinds, ["done"] + ["failed"] * 4, strict=True))
    for kind, reason in {
        "sleep": "was cancelled (scancel)",
        "sleeps too": "lost its node",
        "memory": "ran out of memory; give more --mem",
        "wrong": "attempt 1: ValueError: three is wrong",
    }.items():
        assert reason in table["reason"][kind], table["reason"][kind]
    assert summary(chapter) == dict(table["status"]) and tasks[0].output.is_file()
    until(lambda: not processes_of(tasks[0].output.parent))


def test_what_can_never_start_is_said_and_given_up(chapter, caplog):
    table = run(plan(chapter, "plain"), partition="short", time=5 * 3600)
    assert table["status"]["plain"] == "failed"
    assert "PartitionTimeLimit" in table["reason"]["plain"]
    assert "PartitionTimeLimit: it will never start" in caplog.text
    assert squeue("%i") == []


def test_a_refusal_is_one_message_and_leaves_nothing(chapter, monkeypatch):
    tasks = plan(chapter, *["plain"] * 6)
    with pytest.raises(InputError, match=r"nothing was submitted.*invalid partition.*nowhere"):
        run(tasks, partition="nowhere")
    assert not (chapter.parent / "out").exists()
    # also where the first array, of four, was taken
    submit, calls = commands.submit, []

    def only_once(*args):
        calls.append(args)
        if len(calls) > 1:
            raise commands.SlurmError("sbatch: job limit reached")
        return submit(*args)

    monkeypatch.setattr(commands, "submit", only_once)
    with pytest.raises(InputError, match="job limit reached"):
        run(tasks, options={"hold": None})
    assert not (chapter.parent / "out").exists() and squeue("%i", "--states=PENDING") == []


def test_arrays_are_as_large_as_the_cluster_allows(chapter, tmp_path):
    tasks = plan(chapter, *["plain"] * 6)
    held = batch.Slurm(options={"hold": None, "comment": "two words"}, time=3600, gpus=None)
    made = submission.submit(tasks, tmp_path / "books", held, 2, 60.0, 0)
    states = commands.states(list(made.arrays))
    assert sorted(made.index(state) for state in states) == list(range(6))
    assert len({state.job for state in states}) == 2
    assert set(squeue("%l")) == {"1:00:00"}
    # two at a time, also of two arrays: the second begins when the first has ended
    first, second = sorted({int(state.job) for state in states})
    shown = subprocess.run(
        ["scontrol", "show", "job", str(second)], capture_output=True, text=True, check=True
    ).stdout
    assert f"Dependency=afterany:{first}_*" in shown and "ArrayTaskThrottle=2" in shown
    assert "Comment=two words" in shown
    made.cancel_all()
    assert squeue("%i") == []


@pytest.mark.parametrize(
    ("error", "alone", "left"),
    [(KeyboardInterrupt, True, 0), (KeyboardInterrupt, False, 1), (OSError, True, 1)],
)
def test_only_who_is_asked_to_end_cancels(chapter, tmp_path, error, alone, left):
    """Not who has lost the outputs to another batch, nor who could not write its summary."""
    held = batch.Slurm(options={"hold": None})
    with (
        pytest.raises(error),
        slurm.outcomes(
            plan(chapter, "plain"), tmp_path / "books", held, 1, 60.0, 0, alone=lambda: alone
        ),
    ):
        raise error
    assert len(squeue("%i")) == left


def start_at_once(job: str) -> None:
    """A requeued job waits two minutes; let it not."""
    command = ["scontrol", "update", f"jobid={job}", "starttime=now"]
    until(lambda: subprocess.run(command, capture_output=True).returncode == 0)


def test_a_preempted_chapter_goes_on_and_restarts_are_bounded(chapter):
    tasks = plan(chapter, "resume")
    other = batch.plan([str(chapter)], [{"kind": "sleep"}], chapter.parent / "other")
    with (
        in_background(run, tasks, options={"nodelist": "n1"}) as running,
        in_background(run, other, options={"nodelist": "n2"}, restarts=0) as bounded,
    ):
        until(lambda: waits(tasks[0]))
        until(lambda: list(chapter.parent.glob("other/chapter/*-waits")))
        urgent = ["sbatch", "--partition=urgent", "--nodelist=n1", "--exclusive", "--wrap=true"]
        subprocess.run([*urgent, "--output=/dev/null"], check=True, capture_output=True)
        subprocess.run(["scontrol", "requeue", job_of(other, 0)], check=True)
        for batch_of in (tasks, other):
            job = job_of(batch_of, 0)
            until(lambda job=job: squeue("%T", f"--jobs={job}") == ["PENDING"])
            start_at_once(job)
        table, other_table = running.result(300), bounded.result(300)
    assert table["status"]["resume"] == "done", table["reason"]["resume"]
    assert table["reason"]["resume"] == "Slurm interrupted it, restarts: 1"
    assert other_table["status"]["sleep"] == "failed"
    assert other_table["reason"]["sleep"] == (
        "Slurm interrupted it, restarts: 1; allowed: 0; see --restarts"
    )


def _command(words: list[str], log: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["arlib", "batch", *words]
    with open(log, "w", buffering=1) as sys.stderr:
        cli.main()


@contextlib.contextmanager
def started(chapter: Path, out: str, *kinds: str, detach: bool = False) -> Iterator[Process]:
    """The command of a batch in a process of its own, which gets signals.

    A fork of this process, which has loaded torch: a fresh one would load it for seconds.
    """
    words = [str(chapter), "--grid", f"kind={','.join(kinds)}", "--out", str(chapter.parent / out)]
    words += ["--executor", "slurm", "--mem", "600M", "--jobs", "4"] + ["--detach"] * detach
    process = get_context("fork").Process(
        target=_command, args=(words, chapter.parent / f"{out}.said")
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def as_command(chapter: Path, out: str, *kinds: str) -> list[batch.Task]:
    """The tasks of that command."""
    sets = batch.parameter_sets([], [f"kind={','.join(kinds)}"])
    return batch.plan([str(chapter)], sets, chapter.parent / out)


def test_an_interrupt_cancels_what_was_submitted(chapter):
    with (
        started(chapter, "one", "sleep", "plain") as one,
        started(chapter, "two", "sleep", "plain") as two,
    ):
        _interrupt(chapter, "one", one, signal.SIGINT)
        _interrupt(chapter, "two", two, signal.SIGTERM)
    assert squeue("%i", "--states=PENDING,RUNNING") == []
    # the same command submits again what was cancelled
    table = run(as_command(chapter, "two", "sleep", "plain"), detach=True)
    assert dict(table["status"]) == {"sleep": "waiting", "plain": "skipped"}
    assert len(squeue("%i", "--states=PENDING,RUNNING")) == 1


def _interrupt(chapter: Path, out: str, parent: Process, number: signal.Signals) -> None:
    where = chapter.parent / out / "chapter"
    until(lambda: (where / "sleep-1-waits").exists())
    until(lambda: summary(chapter, out)["plain"] == "done")
    os.kill(parent.pid, number)
    parent.join(300)
    assert parent.exitcode == 130
    assert "the same command goes on" in (chapter.parent / f"{out}.said").read_text()
    assert summary(chapter, out) == {"sleep": "waiting", "plain": "done"}
    until(lambda: not processes_of(where))
    until(lambda: not list(where.glob("*.partial.ipynb")))  # the worker's last act


def test_jobs_of_a_killed_batch_are_found_again_by_the_same_command(chapter):
    where = chapter.parent / "out" / "chapter"
    with started(chapter, "out", "wait", "plain"):
        until(lambda: (where / "wait-1-waits").exists())  # then it is killed
    tasks = as_command(chapter, "out", "wait", "plain")
    with pytest.raises(InputError, match="jobs on Slurm work on these outputs"):
        batch.run(tasks)
    until(lambda: tasks[1].finished)
    known = set(squeue("%i", "--states=all"))
    assert dict(run(tasks, detach=True)["status"]) == {"wait": "waiting", "plain": "done"}
    (where / "go").touch()
    assert dict(run(tasks)["status"]) == {"wait": "done", "plain": "done"}
    assert set(squeue("%i", "--states=all")) <= known  # nothing was submitted anew
    assert dict(run(tasks)["status"]) == {"wait": "skipped", "plain": "skipped"}


def test_a_second_batch_on_the_same_outputs_is_refused(chapter):
    tasks = plan(chapter, "wait")
    with in_background(run, tasks) as running:
        until(lambda: waits(tasks[0]))
        for executor in ("slurm", "local"):
            with pytest.raises(InputError, match=f"another batch works on .*{os.getpid()}"):
                batch.run(tasks, executor=executor)
        (tasks[0].output.parent / "go").touch()
        assert running.result(300)["status"]["wait"] == "done"


def test_a_changed_chapter_is_not_mixed_with_what_runs(chapter):
    with started(chapter, "out", "wait", detach=True) as parent:
        parent.join(300)
        assert parent.exitcode == 3  # submitted, and nothing has failed so far
    tasks = as_command(chapter, "out", "wait")
    assert summary(chapter) == {"wait": "waiting"}
    chapter.write_text(chapter.read_text().replace("three", "four"))
    with pytest.raises(InputError, match=r"still runs an earlier version of chapter\.ipynb"):
        run(tasks)


def test_a_controller_that_is_gone_and_forgets(cluster, chapter, caplog):
    """The last test: numbers of jobs begin anew."""
    tasks = plan(chapter, "wait", "sleep")
    with in_background(run, tasks) as running:
        until(lambda: waits(tasks[0]) and waits(tasks[1]))
        controller = int((cluster.parent / "slurmctld.pid").read_text())
        os.kill(controller, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{controller}").exists())
        (tasks[0].output.parent / "go").touch()
        # the outcome of a task is seen without Slurm
        until(lambda: summary(chapter)["wait"] == "done")
        until(lambda: "Slurm does not answer" in caplog.text)
        subprocess.run(["slurmctld", "-c", "-i"], check=True)
        table = running.result(300)
    assert dict(table["status"]) == {"wait": "done", "sleep": "failed"}
    assert "its job is gone and left no outcome" in table["reason"]["sleep"]
