"""Results of benchmarks: timed fairly, written whole, read back as they were, in nobody's way."""

import json
import math
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from arlib import places, studies
from arlib.errors import InputError, NotMeasured, RecordError
from arlib.tables import benchmarks, text
from benchmarks import report

ROOT = Path(__file__).resolve().parents[1]
TABLE = pd.DataFrame(
    {
        "method": ["a", "b", None],
        "seconds": [0.123456789, math.nan, math.inf],
        "n": np.array([1, 2, 3]),
        "holds": [True, False, True],
    }
)


def test_what_is_written_is_read_back(tmp_path, monkeypatch):
    path = report.write(
        "example", "cpu", {"one": TABLE, "two": TABLE[:0]}, folder=tmp_path, rounds=3, target=np.inf
    )
    assert path == tmp_path / "example-cpu.json"
    monkeypatch.setattr(benchmarks, "folders", lambda: [tmp_path / "nowhere", tmp_path])
    result = benchmarks.benchmark("example-cpu")
    assert result["notes"] == {"rounds": 3, "target": "inf"}
    assert result["machine"] == json.loads(json.dumps(report.machine()))
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", result["date"])
    one, two = result["tables"]["one"], benchmarks.table("example-cpu", "two")
    assert (
        one["seconds"][0] == 0.123457
        and math.isnan(one["seconds"][1])
        and one["seconds"][2] == math.inf
    )
    assert one["n"].dtype == np.int64 and one["holds"].dtype == bool
    assert one["method"].tolist()[:2] == ["a", "b"] and one["method"].isna().tolist() == [
        False,
        False,
        True,
    ]
    assert list(two) == list(TABLE) and two.empty
    with pytest.raises(InputError, match="Did you mean 'one'"):
        benchmarks.table("example-cpu", "on")


def test_nothing_measured_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "folders", lambda: [tmp_path])
    assert benchmarks.benchmark("spectra-cuda") is None
    assert benchmarks.text("spectra") == (
        "*`spectra` on a CPU: not measured.*\n\n*`spectra` on a GPU: not measured.*"
    )
    with pytest.raises(NotMeasured, match="spectra-cuda"):
        benchmarks.table("spectra-cuda", "any")
    with pytest.raises(InputError, match="spectra-cpu"):
        benchmarks.benchmark("../README")


def test_tables_are_printed_with_machine_and_date(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "folders", lambda: [tmp_path])
    monkeypatch.setattr(report, "LOAD_AT_START", 1.5)
    report.write("example", "cpu", {"one table": TABLE}, folder=tmp_path)
    shown = benchmarks.text("example", "cpu")
    machine = report.machine()
    assert shown.startswith(
        f"{machine['gpu'] + ' with ' if machine['gpu'] else ''}{machine['processor']}, "
    )
    assert f", {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}, torch" in shown
    assert "(load 1.5 before it began)" in shown and "Command: `python" in shown
    assert shown.splitlines()[2:] == [
        "<details><summary>One table</summary>", "",
        "| method | seconds | n | holds |", "| --- | ---: | ---: | ---: |",
        "| a | 0.123 | 1 | yes |", "| b | – | 2 | no |", "| – | inf | 3 | yes |", "", "</details>",
    ]  # fmt: skip
    assert "|" not in benchmarks.text("example", "cpu", without=("one table",))
    many = pd.DataFrame({"a|b_c": [1234.5, 3e-13, 45000.0]})
    assert text.markdown_of_numbers(many).split("\n") == [
        "| a\\|b\\_c |", "| ---: |", "| 1,234 |", "| 3e-13 |", "| 45,000 |"
    ]  # fmt: skip


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"tables": {"a": {"columns": ["x"], "rows": [[1, 2]]}}}']
)
def test_a_damaged_result_is_named(tmp_path, text):
    path = tmp_path / "broken-cpu.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=re.escape("broken-cpu.json")):
        benchmarks.read(path)


def test_results_are_found_by_their_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "folders", lambda: [tmp_path / "mine", tmp_path / "shipped"])
    for folder, device in (("mine", "cpu"), ("shipped", "cpu"), ("shipped", "cuda")):
        report.write("pace_b", device, {}, folder=tmp_path / folder)
    report.write("pace_a", "cpu", {}, folder=tmp_path / "shipped")
    report.write("other", "cpu", {}, folder=tmp_path / "mine")
    assert benchmarks.names("pace", "cpu") == ["pace_a-cpu", "pace_b-cpu"]
    assert benchmarks.names("pace", "mps") == []


def test_fast_ways_to_train_are_summed_up(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "folders", lambda: [tmp_path])
    assert benchmarks.equivalences("cpu").empty
    columns = ("strength", "quantity", "unit", "low", "high", "verdict")
    rows = [(0.0, "std", "log ratio", -0.01, 0.01, "equivalent")]
    compared = pd.DataFrame(
        [*rows, (8.0, "strong error", "points", -1.234, 0.5, "not shown")], columns=columns
    )
    notes = {
        "recipe": {"dataset": "digits", "model": "resnet8"},
        "pairs": 8,
        "fast": "folded-bfloat16",
    }
    report.write(
        "equivalence_a",
        "cpu",
        {"plain against folded-bfloat16": compared},
        folder=tmp_path,
        **notes,
    )
    report.write(
        "equivalence_b", "cpu", {"time to equal accuracy": compared}, folder=tmp_path, **notes
    )
    (row,) = benchmarks.equivalences("cpu").to_dict("records")
    assert (
        row["fast way"] == "folded-bfloat16" and row["equivalent"] == "1 of 2" and row["pairs"] == 8
    )
    assert row["data"] == "digits"
    assert row["otherwise"] == "strong error at strength 8: -1.2 to +0.5 points, not shown"
    # what is at its default is left out
    notes["recipe"] = {"dataset": "cifar10", "train_images": 10_000}
    report.write(
        "equivalence_a",
        "cpu",
        {"plain against folded-bfloat16": compared},
        folder=tmp_path,
        **notes,
    )
    (row,) = benchmarks.equivalences("cpu").to_dict("records")
    assert (row["data"], row["network"]) == ("cifar10, 10,000 images", "resnet20")


def test_every_stored_result_can_be_read():
    stored = sorted((ROOT / "records" / benchmarks.FOLDER).glob("*"))
    assert [
        path.name for path in stored if not re.fullmatch(r"[a-z0-9_]+-(cpu|cuda)\.json", path.name)
    ] == []
    for path in stored:
        result = benchmarks.read(path)
        assert result["tables"] and result["command"].startswith("python -m benchmarks."), path
        assert "/" not in result["command"], "paths of a machine do not belong in a record"


def test_results_disturb_no_study_and_are_shipped(tmp_path):
    assert benchmarks.FOLDER not in studies.names()
    assert all(folder.parent in places.places().records for folder in benchmarks.folders())
    shipped = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"][
        "targets"
    ]["wheel"]
    assert shipped["force-include"]["records"] == "arlib/_shipped/records"


def test_times_are_of_the_wall_and_of_this_process():
    def work(seconds):
        end = time.process_time() + seconds
        while time.process_time() < end:
            pass

    naps = iter([0.2, 0.0, 0.01, 0.03])  # the first warms up
    times = report.timed(lambda: (work(0.01), time.sleep(next(naps))), 3, "cpu")
    assert 0.01 <= times.low <= times.median <= times.high
    assert times.high < 0.19, "the warm-up does not count"
    assert 0.01 <= times.cpu < times.high + 1e-3
    assert set(times.row()) == {"wall s", "least", "most", "cpu s"}


def test_rounds_take_turns():
    order = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    assert set(report.interleaved(calls, 2, torch.device("cpu"), warm_up=0)) == set("abc")
    assert order == list("abcabc")
    with pytest.raises(InputError):
        report.interleaved({}, 1, "cpu")


def test_the_command_is_kept_without_paths_of_the_machine(monkeypatch):
    monkeypatch.setattr(
        "sys.argv", ["/somewhere/benchmark.py", "--folder", "/tmp/x y", "--rounds", "3"]
    )
    assert report._command().split()[-4:] == ["--folder", "PATH", "--rounds", "3"]
    assert "/" not in report._command()


def test_machine_names_what_numbers_depend_on():
    result = report.machine()
    assert result["torch"] == torch.__version__ and result["processor"] and result["cores"] >= 1
    assert (result["gpu"] is None) == (not torch.cuda.is_available())


@pytest.mark.slow
@pytest.mark.parametrize("module", ["attacks", "equivalence", "training"])
def test_a_mistaken_argument_ends_a_benchmark_with_one_line(module):
    command = [sys.executable, "-m", f"benchmarks.{module}", "--device", "abacus"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 1 and ran.stderr.strip().startswith("device is 'abacus'")
    assert len(ran.stderr.strip().splitlines()) == 1
