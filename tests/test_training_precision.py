"""One training, one study: one precision; and which one is measured on the machine."""

import json
import logging

import pytest

from arlib import data, engine, files, studies, training
from arlib.errors import InputError
from arlib.training import fastest

RECIPE = training.Recipe(
    dataset="digits", model="resnet8", width=4, eps=8 / 255, steps=1, epochs=2, train_images=128
)
STUDY = """\
title: tiny
purpose: a test
cost: seconds
recipe: {dataset: digits, model: resnet8, width: 4, steps: 1, epochs: 2, train_images: 512}
grid: {strength: [0, 32], seed: [0]}
"""


def test_a_training_begun_in_one_precision_does_not_go_on_in_another(tmp_path):
    options = {"folder": tmp_path, "device": "cpu", "progress": False}
    assert not training.train(
        RECIPE, precision="bfloat16", time_budget=1e-6, **options
    ).history.size
    begun = training.train(RECIPE, precision="bfloat16-attack", keep_epochs=(1,), **options)
    assert begun.provenance["precision"] == "bfloat16-attack"
    with pytest.raises(
        InputError, match="2 epochs so far were trained in bfloat16-attack, this would go on in fl"
    ):
        training.train(RECIPE, **options)
    assert (
        training.train(RECIPE, precision="auto", **options).provenance["precision"]
        == "bfloat16-attack"
    )


def test_a_checkpoint_of_before_precision_was_kept_goes_on(tmp_path):
    options = {"folder": tmp_path, "device": "cpu", "progress": False}
    training.train(RECIPE, **options)
    path = tmp_path / "checkpoint.safetensors"
    about = json.loads(files.read_metadata(path)["arlib"])
    assert about.pop("precision") == "float32"
    files.write_tensors(path, files.read_tensors(path), {"arlib": json.dumps(about)})
    assert training.train(RECIPE, precision="bfloat16", **options).finished


@pytest.mark.parametrize(
    "seconds, chosen",
    [((1.0, 0.5), "bfloat16-attack"), ((1.0, 1.4), "float32"), ((1.0, 0.98), "float32")],
)
def test_the_fastest_precision_is_taken_if_it_is_worth_it(monkeypatch, caplog, seconds, chosen):
    taken = dict(zip(("float32", "bfloat16-attack"), seconds, strict=True))
    monkeypatch.setattr(
        fastest,
        "_seconds_per_step",
        lambda recipe, dataset, machine: taken[machine.precision],
    )
    dataset = data.load("digits", device="cpu")
    with caplog.at_level(logging.INFO):
        assert training.fastest_precision(RECIPE, dataset, engine.settle("cpu", "folded")) == chosen
    assert f"{chosen} is used" in caplog.text and "images/s" in caplog.text


def test_a_step_is_really_timed(monkeypatch):
    monkeypatch.setattr(fastest, "SECONDS", 0.01)
    dataset = data.load("digits", device="cpu")
    assert 0 < fastest._seconds_per_step(RECIPE, dataset, engine.settle("cpu", "folded")) < 60


def test_a_study_stays_in_the_precision_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "fastest_precision", lambda *_: "bfloat16")
    (tmp_path / "tiny.yml").write_text(STUDY)
    study = studies.load(tmp_path / "tiny.yml", tmp_path / "store")
    machine = engine.settle("cpu")
    assert study._precision(machine, afresh=False) == "bfloat16"
    folder = study.work_folder / f"{study.entries[0].run}@1234"
    training.train(
        study.entries[0].recipe,
        folder=folder,
        device="cpu",
        progress=False,
        precision="bfloat16-attack",
    )
    assert study._precision(machine, afresh=False) == "bfloat16-attack"


def test_auto_is_refused_where_several_processes_work_together(monkeypatch):
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="times one process; 2 work together"):
        training.train(RECIPE, precision="auto", device="cpu", progress=False)
