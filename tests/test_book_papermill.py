"""Chapters as programs: papermill with its parameters, good and bad."""

import json
import subprocess
import sys

import pytest
from bookfiles import CHAPTERS, ROOT, environment, papermill, read, source, tagged

pytestmark = pytest.mark.timeout(900)


def chapter(name):
    return ROOT / "book" / f"{name}.ipynb"


@pytest.mark.slow
@pytest.mark.parametrize("name", CHAPTERS)
def test_chapter_runs_on_digits(name, tmp_path):
    out = tmp_path / "out.ipynb"
    ran = papermill(
        chapter(name), out, "-p", "study", "digits", env=environment(tmp_path / "store")
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    cells = json.loads(out.read_text())["cells"]
    assert not [
        c["id"] for c in cells if any(o["output_type"] == "error" for o in c.get("outputs", []))
    ]
    assert {path.name for path in tmp_path.iterdir()} <= {"out.ipynb", "store"}, (
        "nothing is left in the caller's folder"
    )


BAD = [
    (["-p", "studdy", "digits"], "parameter is 'studdy'; allowed: "),
    (["-p", "study", "digit"], "Did you mean 'digits'?"),
    (["-p", "device", "cuda:99"], "device is 'cuda:99', but torch sees"),
    (["-p", "run_missing", "perhaps"], "run_missing is 'perhaps'; it must be true or false"),
]


@pytest.mark.slow
@pytest.mark.parametrize("options, message", BAD)
def test_bad_parameters_stop_with_one_message(options, message, tmp_path):
    """One chapter for all: that each refuses them is in test_book_files.py, without a kernel."""
    name = next(name for name in CHAPTERS if "run_missing" in source(parameters_cell(name)))
    stops_in_the_check(name, options, message, tmp_path)


def parameters_cell(name):
    content = read(name)
    return content["cells"][tagged(content, "parameters")[0]]


def stops_in_the_check(name, options, message, tmp_path):
    out = tmp_path / "out.ipynb"
    ran = papermill(chapter(name), out, *options, env=environment(tmp_path / "store"))
    assert ran.returncode != 0
    cells = json.loads(out.read_text())["cells"]
    errors = [(c, o) for c in cells for o in c.get("outputs", []) if o["output_type"] == "error"]
    # papermill adds a cell that says where it stopped; the error itself is in the check
    ((cell, error),) = errors
    assert source(cell).startswith("notebook.check(globals()")
    assert error["ename"] == "ChapterStopped" and message in error["evalue"]
    assert len(error["traceback"]) == 1 and "\n" not in error["traceback"][0]
    assert ran.stderr.count(message) == 1, "one message"


@pytest.mark.parametrize("name", CHAPTERS)
def test_help_shows_type_and_meaning(name):
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(chapter(name))]
    shown = subprocess.run(command, capture_output=True, text=True).stdout
    for line in source(parameters_cell(name)).splitlines():
        if ":" in line and not line.startswith("#"):
            left, meaning = line.split("  # ")
            parameter, kind = left.split(" = ")[0].split(": ")
            assert f"{parameter}: {kind} (default" in shown
            assert meaning in shown
