import csv
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from waiting import until

from arlib import batch, chapters, files, processes
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
    found = batch.parameter_sets(
        ["eps=0.5", "fast=true", "lr=1e-3"], ["study=digits,cifar10", "x=1,2"]
    )
    assert len(found) == 4 and {(p["study"], p["x"]) for p in found} == {
        (s, x) for s in ("digits", "cifar10") for x in (1, 2)
    }
    assert all((p["eps"], p["fast"], p["lr"]) == (0.5, True, 0.001) for p in found)
    assert batch.parameter_sets([], []) == [{}]
    assert batch.parameter_sets(["eps=8/255", "note=a: b: c"], []) == [
        {"eps": "8/255", "note": "a: b: c"}
    ]
    with pytest.raises(InputError, match="name=value"):
        batch.parameter_sets(["eps"], [])
    with pytest.raises(InputError, match="'x' is given twice"):
        batch.parameter_sets(["x=1"], ["x=2,3"])


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


def test_submitit_is_asked_for_by_name_when_it_is_missing(chapter, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(InputError, match="pip install submitit"):
        batch.run(plan(chapter, tmp_path, {}), executor="submitit")


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
def test_an_interrupt_ends_a_batch_soon(chapter, tmp_path):
    (task,) = plan(chapter, tmp_path / "out", {"x": 4})
    stop = threading.Event()
    threading.Timer(1.0, stop.set).start()
    begun = time.monotonic()
    row = batch.run_task(task, timeout=60, retries=2, stop=stop)
    assert time.monotonic() - begun < 10 and (row["status"], row["attempts"]) == ("failed", 1)


@pytest.mark.slow
def test_submitit_runs_the_same_tasks(chapter, tmp_path):
    pytest.importorskip("submitit")
    tasks = plan(chapter, tmp_path / "out", {"x": 2}, {"x": 3})
    table = batch.run(tasks, jobs=2, timeout=60, retries=0, executor="submitit").set_index("x")
    assert (
        dict(table["status"]) == {2: "done", 3: "failed"}
        and outputs(tasks[0].output) == "3 digits\n"
    )
