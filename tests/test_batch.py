import csv
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from waiting import until

from arlib import batch, chapters, cli, files, places, processes
from arlib.batch.task import Task
from arlib.errors import InputError

PARAMETERS = 'study: str = "digits"  # which études\nx: int = 2  # a number\n'
BODY = """\
import subprocess, sys, time
if x == 3: raise ValueError("three is wrong")
if x == 4:
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(sleeper, start_new_session=True)
    print(child.pid, file=open("child", "w"), flush=True)
    time.sleep(600)
if x == 5:
    class InputError(ValueError): ...
    raise InputError("x is 5; allowed: 2, 3")
print(x + 1, study)
"""


def cell(source: str, kind: str = "code", tags=()) -> dict:
    common = {
        "cell_type": kind,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source.splitlines(True),
    }
    return common | ({"execution_count": None, "outputs": []} if kind == "code" else {})


@pytest.fixture
def chapter(tmp_path) -> Path:
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    cells = [cell(PARAMETERS, tags=["parameters"]), cell(BODY)]
    path = tmp_path / "a chapter.ipynb"
    path.write_text(
        json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4})
    )
    return path


def plan(chapter, out, *sets):
    return batch.plan([str(chapter)], list(sets), out)


def outputs(path: Path) -> str:
    return "".join(
        "".join(o.get("text", ""))
        for c in files.read_json(path)["cells"]
        for o in c.get("outputs", [])
    )


def test_parameters_are_typed_and_grids_multiply():
    result = batch.parameter_sets(
        ["eps=0.5", "fast=true", "lr=1e-3"], ["study=digits,cifar10", "x=1,2"]
    )
    assert len(result) == 4 and {(p["study"], p["x"]) for p in result} == {
        (s, x) for s in ("digits", "cifar10") for x in (1, 2)
    }
    assert all((p["eps"], p["fast"], p["lr"]) == (0.5, True, 0.001) for p in result)
    assert batch.parameter_sets([], []) == [{}]
    assert batch.parameter_sets(["eps=8/255", "note=a: b: c"], []) == [
        {"eps": "8/255", "note": "a: b: c"}
    ]
    with pytest.raises(InputError, match="name=value"):
        batch.parameter_sets(["eps"], [])
    with pytest.raises(InputError, match="'x' is given twice"):
        batch.parameter_sets(["x=1"], ["x=2,3"])


@pytest.mark.parametrize(
    ("fixed", "grids", "message"),
    [
        (["x=[0,8"], [], "a parameter's value is '[0,8'; its brackets"),
        (["x={a: 1"], [], "brackets or quotes do not match"),
        (["x='8"], [], "brackets or quotes do not match"),
        (["x=" + "[" * 3000], [], "brackets or quotes do not match"),
        ([], ["x=[0,8"], "a grid's values are '[0,8'; one is empty, or brackets do not match"),
        ([], ["x=1,2]"], "brackets do not match"),
        ([], ["x=1,,2"], "one is empty"),
        ([], ["x="], "one is empty"),
        ([], ["x=" + "[" * 3000], "brackets do not match"),
    ],
)
def test_values_that_are_neither_text_nor_whole_are_refused(fixed, grids, message):
    with pytest.raises(InputError) as error:
        batch.parameter_sets(fixed, grids)
    assert message in str(error.value) and len(str(error.value)) < 250


def test_words_with_quotes_and_brackets_inside_are_texts_and_an_empty_text_is_written():
    assert batch.parameter_sets(["x=it's", "y=a[0]"], []) == [{"x": "it's", "y": "a[0]"}]
    assert batch.parameter_sets([], ["x='',a", "y=[0,8],[0,16]"])[0] == {"x": "", "y": [0, 8]}


def test_a_plan_is_checked_before_anything_runs(chapter, tmp_path):
    with pytest.raises(InputError, match=r"'y'; allowed: study, x"):
        plan(chapter, tmp_path, {"y": 1})
    with pytest.raises(InputError, match="no such file"):
        plan(tmp_path / "other.ipynb", tmp_path, {})
    with pytest.raises(InputError, match="chapter is 'marginz'"):
        batch.plan(["marginz"], [{}], tmp_path)
    bare = tmp_path / "bare.ipynb"
    bare.write_text(json.dumps({"cells": [cell("1")]}))
    with pytest.raises(InputError, match="no cell tagged 'parameters'"):
        plan(bare, tmp_path, {})
    tasks = plan(chapter, tmp_path / "out", {"x": 2}, {"x": 3})
    assert len({task.output for task in tasks}) == 2 and {
        task.output.parent.name for task in tasks
    } == {"a chapter"}


def test_a_finished_task_is_recognised_by_chapter_and_parameters(chapter, tmp_path):
    (task,) = plan(chapter, tmp_path / "out", {"x": 2})
    assert not task.finished
    files.write_text(task.output, "{}")
    files.write_json(task.marker, {"key": task.key})
    assert task.finished
    assert list(batch.run([task])["status"]) == ["skipped"]
    chapter.write_text(chapter.read_text().replace("x + 1", "x + 2"))
    assert not task.finished


def test_options_out_of_range_are_refused(chapter, tmp_path):
    tasks = plan(chapter, tmp_path, {})
    for options in ({"jobs": 0}, {"timeout": 0}, {"retries": 3}, {"executor": "sge"}):
        with pytest.raises(InputError):
            batch.run(tasks, **options)


def test_where_there_is_no_slurm_it_says_so(chapter, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="here is no sbatch, no squeue, no scancel"):
        batch.run(plan(chapter, tmp_path / "out", {}), executor="slurm")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mem": "4X"}, "mem is '4X'; write a number and K, M, G or T"),
        ({"mem": "0"}, "mem is '0'"),
        ({"gpus": "a100:"}, "gpus is 'a100:'; write 1, or a type and a number"),
        ({"restarts": -1}, "restarts is -1; allowed: 0 and more"),
        ({"options": {"--qos": "high"}}, "without dashes before it"),
        ({"options": {"array": "0-3"}}, "'array', which the batch sets itself"),
        ({"options": {"mem": "4G"}}, "'mem'; give it as --mem"),
    ],
)
def test_options_for_slurm_are_checked_before_anything_is_submitted(options, message):
    with pytest.raises(InputError, match=message):
        batch.Slurm(**options)


def test_options_are_given_to_sbatch_as_it_takes_them():
    given = batch.Slurm(
        partition="gpu", time=90, mem="16G", gpus="a100:2", options={"qos": "high", "exclusive": ""}
    )
    assert given.arguments(3600) == [
        *("--partition=gpu", "--time=2", "--mem=16G", "--gpus=a100:2"),
        *("--qos=high", "--exclusive"),
    ]
    assert batch.Slurm().arguments(3601) == ["--time=61"]


def test_options_for_slurm_need_slurm(chapter, tmp_path):
    with pytest.raises(InputError, match="executor is 'local'"):
        batch.run(plan(chapter, tmp_path, {}), on_slurm=batch.Slurm(mem="4G"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mem", "4G", "--detach"], "--mem, --detach: for --executor slurm only"),
        (["--executor", "slurm", "--time", "2 days"], "write hours, minutes and seconds"),
        (["--executor", "slurm", "--slurm", "qos=a", "--slurm", "qos=b"], "'qos' is given twice"),
        (["--executor", "submitit"], "executor is 'submitit'; allowed: local, slurm"),
    ],
)
def test_the_command_says_what_it_cannot_use(
    chapter, tmp_path, monkeypatch, capsys, options, message
):
    words = ["arlib", "batch", str(chapter), "--out", str(tmp_path / "out"), *options]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    error = capsys.readouterr().err
    assert ended.value.code == 2 and message in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_damaged_marker_means_that_the_task_runs_again(chapter, tmp_path):
    (task,) = plan(chapter, tmp_path / "out", {"x": 2})
    files.write_text(task.output, "{}")
    files.write_text(task.marker, '{"key": ')
    assert not task.finished


def test_parameters_reach_a_worker_as_they_are(chapter, tmp_path):
    given = {"x": 1.5, "study": {1: [True, None, "no"]}}
    (task,) = plan(chapter, tmp_path, given)
    assert Task.unpacked(json.loads(json.dumps(task.packed()))) == task


def test_workers_load_neither_torch_nor_pandas():
    code = (
        "import sys, arlib.batch.worker\n"
        "print([name for name in ('torch', 'pandas') if name in sys.modules])"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=in_checkout(), check=True
    )
    assert ended.stdout.strip() == "[]"


def in_checkout() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(places.PACKAGE.parent)}


def test_a_bound_process_dies_with_the_one_that_started_it():
    code = (
        "import subprocess, sys, time\n"
        "from arlib import processes\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "print(subprocess.Popen(processes.bound(sleep), start_new_session=True).pid, flush=True)\n"
        "time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=in_checkout()
    ) as parent:
        child = int(parent.stdout.readline())
        assert processes.started(child)
        parent.kill()
    until(lambda: processes.started(child) is None)


def test_orphans_that_were_adopted_are_killed_too():
    code = (
        "import subprocess, sys, time\n"
        "from arlib import processes\n"
        "processes.adopt_orphans()\n"
        "sleep = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
        "popen = f'subprocess.Popen({sleep}, start_new_session=True)'\n"
        "start = f'import subprocess; print({popen}.pid)'\n"
        "subprocess.run([sys.executable, '-c', start])\n"  # ends; its child goes on
        "processes.kill_descendants()\n"
        "print('killed', flush=True); time.sleep(600)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=in_checkout()
    ) as parent:
        orphan, grandchild = int(parent.stdout.readline()), parent.stdout.readline()
        assert grandchild == "killed\n" and processes.started(orphan) is None
        parent.kill()


def test_killing_reaches_processes_in_groups_of_their_own():
    code = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], "
        "start_new_session=True)\n"
        "print(child.pid, flush=True); time.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    child = int(parent.stdout.readline())
    assert child in processes.descendants(os.getpid()) and processes.started(child)
    processes.kill(parent)
    parent.stdout.close()
    until(lambda: processes.started(child) is None and processes.started(parent.pid) is None)


def notebook(study_line: str, **dump) -> str:
    cells = [
        cell('study: str = "digits"', "markdown"),
        cell(f"# é\n{study_line}\nx: int = 1", tags=["parameters"]),
    ]
    return (
        json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}, **dump)
        + "\n"
    )


@pytest.mark.parametrize("style", [{"indent": 1, "ensure_ascii": False}, {"indent": 2}, {}])
def test_use_changes_one_line_of_each_chapter_and_no_other_byte(tmp_path, style):
    old, new = (
        'study: str = "digits"  # which étude',
        'study: str = "cifar10-resnet56"  # which étude',
    )
    (tmp_path / "a.ipynb").write_text(notebook(old, **style), encoding="utf-8")
    (tmp_path / "b.ipynb").write_text(notebook("other: str = 'digits'", **style), encoding="utf-8")
    assert chapters.use_study("cifar10-resnet56", tmp_path) == [tmp_path / "a.ipynb"]
    assert (tmp_path / "a.ipynb").read_text(encoding="utf-8") == notebook(new, **style)
    assert (tmp_path / "b.ipynb").read_text(encoding="utf-8") == notebook(
        "other: str = 'digits'", **style
    )
    assert chapters.use_study("cifar10-resnet56", tmp_path) == []
    kept = {"fits": lambda other: other != "cifar10-resnet56"}
    assert chapters.use_study("digits", tmp_path, **kept) == []


@pytest.mark.slow
def test_a_batch_ends_with_one_row_a_run_and_goes_on_where_it_was(chapter, tmp_path):
    tasks = plan(chapter, tmp_path / "out", {"x": 2}, {"x": 3}, {"x": 5, "study": "cifar10"})
    table = batch.run(tasks, jobs=2, timeout=60, retries=1).set_index("x")
    assert dict(table["status"]) == {2: "done", 3: "failed", 5: "failed"}
    assert dict(table["attempts"]) == {2: 1, 3: 2, 5: 1}  # bad input is not tried again
    assert (
        table["reason"][3]
        == "attempt 1: ValueError: three is wrong; attempt 2: ValueError: three is wrong"
    )
    assert "InputError: x is 5; allowed: 2, 3" in table["reason"][5]
    assert outputs(tasks[0].output) == "3 digits\n" and not tasks[1].output.exists()
    with open(tmp_path / "out" / "summary.csv") as stored:
        assert [row["status"] for row in csv.DictReader(stored)] == ["done", "failed", "failed"]
    again = batch.run(tasks[:1], jobs=1, timeout=60, retries=0)
    assert list(again["status"]) == ["skipped"]


@pytest.mark.slow
def test_the_time_limit_kills_everything_a_chapter_started(chapter, tmp_path):
    (task,) = plan(chapter, tmp_path / "out", {"x": 4})
    row = batch.run_task(task, timeout=15, retries=0)
    assert row["status"] == "failed" and row["reason"] == "attempt 1: timed out after 15 s"
    child = int((task.output.parent / "child").read_text())
    until(lambda: processes.started(child) is None)
    assert not processes.descendants(os.getpid())


@pytest.mark.slow
def test_an_interrupt_ends_a_run_soon(chapter, tmp_path):
    (task,) = plan(chapter, tmp_path / "out", {"x": 4})
    begun = time.monotonic()
    row = batch.run_task(
        task, timeout=60, retries=2, stop=lambda: "enough" * (time.monotonic() > begun + 1)
    )
    assert time.monotonic() - begun < 30 and (row["status"], row["attempts"]) == ("failed", 1)
    assert not list(task.output.parent.glob("*.partial.ipynb"))


@pytest.mark.slow
def test_earlier_attempts_count(chapter, tmp_path):
    """A job that Slurm starts again goes on counting where it was."""
    (task,) = plan(chapter, tmp_path / "out", {"x": 3})
    row = batch.run_task(task, timeout=60, retries=1, earlier=("attempt 1: RuntimeError: before",))
    assert row["attempts"] == 2 and row["reason"] == (
        "attempt 1: RuntimeError: before; attempt 2: ValueError: three is wrong"
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_batch_is_alone_and_leaves_no_writer_when_it_is_killed(chapter, tmp_path):
    """What is killed with the batch: the worker, papermill, its kernel, and what that started."""
    out = tmp_path / "out"
    (task,) = plan(chapter, out, {"x": 4})
    child = task.output.parent / "child"
    parent = multiprocessing.get_context("fork").Process(target=batch.run, args=([task],))
    parent.start()
    try:
        until(lambda: child.exists() and child.read_text(), 300)
        with pytest.raises(InputError, match=f"another batch works on {out}: process {parent.pid}"):
            batch.run([task])
        known = processes.descendants(parent.pid)
        assert int(child.read_text()) in known and len(known) >= 4
    finally:
        parent.kill()
        parent.join()
    until(lambda: not [pid for pid in known if processes.started(pid)])
    # the next batch is not refused, and removes what this one left half written
    table = batch.run([task], timeout=0.5, retries=0)
    assert "timed out" in table["reason"][0] and not list(child.parent.glob("*.partial.ipynb"))


@pytest.mark.slow
def test_a_worker_that_is_killed_is_one_row(chapter, tmp_path):
    tasks = plan(chapter, tmp_path / "out", {"x": 4}, {"x": 2})
    child = tasks[0].output.parent / "child"

    def kill_the_worker():
        until(lambda: child.exists() and child.read_text(), 300)
        kernel = processes.descendants(os.getpid())
        lines = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in kernel}
        (worker,) = [pid for pid, line in lines.items() if "arlib.batch.worker" in line]
        os.kill(worker, 9)

    with ThreadPoolExecutor(1) as pool:
        killed = pool.submit(kill_the_worker)
        table = batch.run(tasks, jobs=1, timeout=300, retries=0).set_index("x")
        killed.result()
    assert dict(table["status"]) == {4: "failed", 2: "done"}
    assert "killed by SIGKILL (out of memory?)" in table["reason"][4]
    os.kill(int(child.read_text()), 9)  # started by the kernel, whose guard is dead
