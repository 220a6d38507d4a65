"""Models side by side: the numbers are those of the functions they come from, resumable,
and the page is safe.
"""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

import arlib
from arlib import attacks, confidence, margins, models, spectra
from arlib.errors import InputError
from arlib.report.parts import PARTS, QUANTITIES

FEW = {
    "eps": [0.02, 0.1],
    "robust_images": 12,
    "instance_images": 12,
    "jacobian_images": 4,
    "progress": False,
}


def net(width, seed=0):
    torch.manual_seed(seed)
    return models.resnet(8, width=width, in_channels=1).eval()


@pytest.fixture(scope="module")
def images():
    x = torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return x, net(4)(x).argmax(1)


@pytest.fixture(scope="module")
def comparison(images):
    return arlib.compare({"narrow": net(4), "<b>wide</b>": net(6, 1)}, *images, band=None, **FEW)


def value(comparison, model, quantity, setting="", layer=""):
    rows = comparison.rows
    chosen = rows[
        (rows["model"] == model) & (rows["quantity"] == quantity) & (rows["setting"] == setting)
    ]
    return chosen[chosen["layer"] == layer].iloc[0]


@pytest.mark.slow
def test_numbers_are_those_of_the_functions_that_measure_them(comparison, images):
    x, y = images
    with torch.no_grad():
        z = net(6, 1)(x)
    wide = "<b>wide</b>"
    assert value(comparison, wide, "error")["value"] == pytest.approx(
        float((z.argmax(1) != y).double().mean())
    )
    assert value(comparison, wide, "max_softmax")["value"] == pytest.approx(
        float(confidence.max_softmax(z).mean()), rel=1e-5
    )
    assert value(comparison, wide, "median_abs_margin")["value"] == pytest.approx(
        float(margins.output(z, y).abs().double().quantile(0.5)), rel=1e-4
    )
    frame = spectra.of(net(6, 1), (1, 8, 8))
    expected = frame[frame["counted"]]["std"].median()
    assert value(comparison, wide, "sv_std")["value"] == pytest.approx(expected)
    robust = attacks.evaluate(net(4), x[:12], y[:12], eps=[0.02, 0.1]).table
    worst = robust[robust["attack"] == "worst case"]
    row = value(comparison, "narrow", "robust_accuracy", "25.5/255")
    assert (row["value"], row["low"], row["n"]) == (
        worst["accuracy"].iloc[1],
        worst["low"].iloc[1],
        12,
    )


@pytest.mark.slow
def test_instance_margins_are_compared_on_images_that_all_get_right(comparison, images):
    x, y = images
    with torch.no_grad():
        shared = [(net(4)(x[:12]).argmax(1) == y[:12]) & (net(6, 1)(x[:12]).argmax(1) == y[:12])]
    row = value(comparison, "narrow", "instance_margin")
    assert row["n"] == int(shared[0].sum())
    values = margins.instance(net(4), x[:12], y[:12], generator=torch.Generator().manual_seed(0))
    assert row["value"] == pytest.approx(255 * float(values[shared[0]].double().median()), rel=0.2)


@pytest.mark.slow
def test_every_quantity_has_its_line_with_n_and_what_the_paper_expects(comparison):
    table = comparison.table
    assert set(comparison.rows["quantity"]) == set(QUANTITIES)
    assert {"claim", "expected", "n", "narrow", "<b>wide</b>"} == set(table.columns)
    assert re.fullmatch(r"\d+\.\d % \[\d+\.\d %, \d+\.\d %\]", table.loc["natural error", "narrow"])
    assert len(comparison.figure().alt) > 200


@pytest.mark.slow
def test_the_page_is_one_file_and_nothing_of_a_name_is_markup(comparison, tmp_path):
    text = comparison.save(tmp_path / "report.html").read_text()
    assert "<b>wide" not in text and "&lt;b&gt;wide&lt;/b&gt;" in text
    assert not re.search(r"(src|href)=\"(?!data:image/png;base64,)", text) and "<script" not in text
    assert 'alt="' in text and "prefers-color-scheme: dark" in text
    rows = comparison.save(tmp_path / "rows.csv").read_text().splitlines()
    assert len(rows) == len(comparison.rows) + 1
    content = json.loads(comparison.save(tmp_path / "all.json").read_text())
    assert content["models"] == ["narrow", "<b>wide</b>"] and len(content["rows"]) == len(
        comparison.rows
    )
    with pytest.raises(InputError, match=r"allowed endings: .html, .csv, .json"):
        comparison.save(tmp_path / "report.pdf")


@pytest.mark.slow
def test_finished_parts_are_not_measured_again_and_those_of_another_model_are(
    images, tmp_path, monkeypatch
):
    calls, options = [], FEW | {"resume": tmp_path / "parts.json"}
    counted = {
        name: lambda s, logits, part=part, name=name: (
            calls.append((s.name, name)),
            part(s, logits),
        )
        for name, part in PARTS.items()
    }
    monkeypatch.setattr("arlib.report.comparison.PARTS", counted)

    def interrupted(subject, logits):
        raise KeyboardInterrupt

    monkeypatch.setitem(counted, "robustness", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arlib.compare({"a": net(4)}, *images, **options)
    before = list(calls)
    monkeypatch.setitem(
        counted,
        "robustness",
        lambda s, logits: (calls.append((s.name, "robustness")), PARTS["robustness"](s, logits)),
    )
    first = arlib.compare({"a": net(4)}, *images, **options)
    assert calls[len(before) :] == [("a", "robustness"), ("a", "distances")]
    done = len(calls)
    again = arlib.compare({"a": net(4)}, *images, **options)
    assert len(calls) == done
    assert again.rows.drop(columns="claim").equals(first.rows.drop(columns="claim"))
    arlib.compare({"a": net(4, 7)}, *images, **options)
    assert len(calls) == done + len(PARTS)


@pytest.mark.slow
def test_a_part_that_cannot_be_measured_is_named_and_the_others_go_on(images):
    x, y = images
    plain = net(4)
    comparison = arlib.compare({"function": lambda z: plain(z)}, x, y, **FEW)
    assert any(
        "spectra of function: the model is a function" in text for text in comparison.left_out
    )
    assert value(comparison, "function", "error")["value"] == 0
    assert "not measured" not in comparison.table.loc["natural error", "function"]


def test_a_time_budget_leaves_out_and_says_so(images):
    comparison = arlib.compare({"a": net(4)}, *images, **FEW | {"time_budget": 1e-9})
    assert (
        len(comparison.left_out) == len(PARTS)
        and "time budget" in comparison.left_out[0]
        and comparison.rows.empty
    )
    assert comparison.table.empty


def test_doubts_are_collected_by_model_and_part(images):
    x, y = images
    comparison = arlib.compare(
        {"random": nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout(0.5)).train()},
        x,
        y,
        **FEW,
    )
    assert any(doubt.startswith("random, robustness: evaluate:") for doubt in comparison.doubts)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"models": {}}, "models is empty"),
        ({"x": 255 * torch.rand(4, 1, 8, 8)}, "scale 0 to 255"),
        ({"y": torch.full((60,), 10)}, "labels go from 10 to 10"),
        ({"eps": [2.0]}, "eps is 2"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(images, change, message):
    x, y = images
    given = {"models": {"a": net(4)}, "x": x, "y": y} | FEW | change
    if "x" in change:
        given["y"] = y[:4]
    with pytest.raises(InputError, match=message):
        arlib.compare(given.pop("models"), given.pop("x"), given.pop("y"), **given)


def test_a_file_that_is_no_comparison_is_refused(images, tmp_path):
    (tmp_path / "other.json").write_text("[1]")
    with pytest.raises(InputError, match="no file of finished parts"):
        arlib.compare({"a": net(4)}, *images, **FEW | {"resume": tmp_path / "other.json"})


@pytest.mark.slow
def test_the_command_line_compares_models_of_files(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom arlib import models\ntorch.manual_seed(0)\n"
        "small = models.resnet(8, width=2, in_channels=1)\n"
        "def large():\n    return models.resnet(8, width=4, in_channels=1)\n"
    )
    x = np.random.default_rng(0).random((16, 1, 8, 8), dtype=np.float32)
    np.savez(tmp_path / "some.npz", x=x, y=np.arange(16) % 10)
    command = [
        sys.executable,
        "-m",
        "arlib",
        "compare",
        f"a={tmp_path}/mine.py:small",
        f"{tmp_path}/mine.py:large",
    ]
    command += ["--data", str(tmp_path / "some.npz"), "--images", "12", "--strength", "4"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "r.html")], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert (
        "natural error" in done.stdout
        and "mine:large" in done.stdout
        and (tmp_path / "r.html").stat().st_size > 10_000
    )
    wrong = subprocess.run(
        [*command[:4], "nowhere.py:x", "--data", "digits"], capture_output=True, text=True
    )
    assert (
        wrong.returncode == 2
        and "there is no such file" in wrong.stderr
        and "Traceback" not in wrong.stderr
    )
