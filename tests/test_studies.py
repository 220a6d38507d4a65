import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from waiting import until

from arlib import data, engine, files, margins, places, records, spectra, studies, training
from arlib.errors import InputError, RecordError, TrainingStopped
from arlib.studies import alive, launch, lease
from arlib.studies import run as runs
from arlib.training.arm import KINDS

ROOT = Path(__file__).resolve().parents[1]
CPU = engine.Machine(torch.device("cpu"))
TINY = """\
title: tiny
purpose: a test
cost: seconds
toy: true
recipe:
  dataset: digits
  model: resnet8
  width: 4
  steps: 2
  epochs: 3
  batch_size: 128
  monitor_images: 64
grid:
  strength: [0, 32]
  seed: [0, 1]
"""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A study of four runs, alone in a store of its own."""
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    return a_study(tmp_path)


def a_study(folder: Path, text: str = TINY) -> studies.Study:
    folder.mkdir(exist_ok=True)
    (folder / "tiny.yml").write_text(text)
    return studies.load(folder / "tiny.yml", folder / "store")


def fake(study, entry, folder, *, machine, progress, time_left, pause=0.0, log=None):
    """What `studies.run.compute` does, without the computing; `log` gets a line when it begins."""
    if log is not None:
        with open(log, "a") as log_file:
            log_file.write(f"{entry.run} {os.getpid()}\n")
    time.sleep(pause)
    rows = pd.DataFrame(
        [("last", "test", "error", "", "", 360, 0.25)], columns=list(records.COLUMNS)
    )
    files.write_tensors(folder / "last.safetensors", {"weight": torch.zeros(2)})
    records.write(
        folder,
        run=entry.run,
        recipe=entry.recipe.to_dict(),
        variant=entry.variant,
        provenance=training.store.provenance(machine),
        settings=study.settings.to_dict(),
        history=pd.DataFrame({"epoch": [1], "seconds": [7.0]}),
        rows=rows,
        arrays={"margin|test": np.zeros(4)},
    )
    return True


def run(study, compute=fake, **options):
    with mock.patch.object(runs, "compute", compute):
        return study.run(device="cpu", progress=False, **options)


# ---- study files ------------------------------------------------------------------------------


def test_shipped_studies_are_what_the_book_says():
    assert set(studies.names()) >= {"digits", "cifar10-resnet20-small", "cifar10-resnet56"}
    digits, small, main = (
        studies.load(n) for n in ("digits", "cifar10-resnet20-small", "cifar10-resnet56")
    )

    def pairs(study):
        return {(e.recipe.strength, e.recipe.seed) for e in study.entries if not e.variant}

    assert pairs(digits) == {(s, seed) for s in (0, 16, 32, 64) for seed in range(3)} and digits.toy
    assert pairs(small) == {(s, seed) for s in (0, 2, 4, 8) for seed in range(5)} and not small.toy
    assert (
        pairs(main) == {(s, seed) for s in (0, 2, 4, 8, 16) for seed in range(3)} and not main.toy
    )
    extra = [
        (e.recipe.strength, e.recipe.seed, e.variant, e.recipe.step_size)
        for e in main.entries
        if e.variant
    ]
    assert extra == [(4, 0, "step2", 2 / 255), (16, 0, "step2", 2 / 255)]
    assert {e.recipe.attack_step / e.recipe.eps for e in small.entries if e.recipe.eps} == {0.5}
    assert {e.recipe.train_images for e in small.entries} == {10_000}
    assert main.keep_epochs == (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)
    assert main.claims == small.claims == {"effect": 8, "feature": 4, "flip_pgd": 4, "flip_sign": 8}
    assert digits.claims == {"effect": 32, "feature": 16, "flip_pgd": 16, "flip_sign": 32}


@pytest.mark.parametrize("level, quiet", [(logging.INFO, False), (logging.WARNING, True)])
def test_workers_say_as_much_as_who_started_them(tmp_path, caplog, level, quiet):
    caplog.set_level(level, logger="arlib")
    how = runs.Work(engine.settle("cpu"), wait=False)
    command = launch.command_of(a_study(tmp_path), how)
    assert ("--quiet" in command) is quiet and "--no-wait" in command


def test_run_ids_of_the_printed_studies_never_change():
    """A record lies in a folder of this name:
    a new field of the recipe or key of the file must rename none.
    """
    named = {
        name: [entry.run for entry in studies.load(name).entries]
        for name in ("digits", "cifar10-resnet20-small")
    }
    assert named["digits"][:2] == [
        "digits-resnet8-ar0-s0-627bced0",
        "digits-resnet8-ar16-s0-f6b202db",
    ]
    assert named["cifar10-resnet20-small"][:4] == [
        "cifar10-resnet20-ar0-s0-55529422",
        "cifar10-resnet20-ar2-s0-c2ca8ea5",
        "cifar10-resnet20-ar4-s0-6716bd15",
        "cifar10-resnet20-ar8-s0-4d3cb56a",
    ]
    assert studies.load("cifar10-resnet56").entries[-1].run == "cifar10-resnet56-ar16-s0-51e16f77"


def test_whole_seeds_come_first_and_extras_last(tmp_path):
    extra = "extra: [{strength: 32, seed: 0, variant: step8, step: 8}]\n"
    listed = [
        (e.recipe.seed, e.recipe.strength, e.variant)
        for e in a_study(tmp_path, TINY + extra).entries
    ]
    assert listed == [(0, 0, ""), (0, 32, ""), (1, 0, ""), (1, 32, ""), (0, 32, "step8")]


def test_controls_are_shorter_standard_trainings_of_the_same_seeds(tmp_path):
    study = a_study(tmp_path, TINY + "protocol: 2\ncontrols: [2, 1]\nkeep_epochs: [1]\n")
    assert study.protocol == 2
    listed = [(e.recipe.seed, e.recipe.strength, e.recipe.epochs, e.variant) for e in study.entries]

    def of(seed):
        return [
            (seed, 0, 3, ""),
            (seed, 32, 3, ""),
            (seed, 0, 1, "control-1"),
            (seed, 0, 2, "control-2"),
        ]

    assert listed == of(0) + of(1)
    one = a_study(tmp_path, TINY + "protocol: 2\ncontrols: {epochs: [1], seed: [1]}\n")
    assert [(e.recipe.seed, e.variant) for e in one.entries if e.control] == [(1, "control-1")]


def test_weights_are_published_of_the_runs_a_study_names(tmp_path):
    text = TINY + "protocol: 2\ncontrols: [1]\n"
    some = a_study(tmp_path, text + "weights: {strength: [32], seed: [0, 1]}\n")
    run(some)
    assert len(some.publish(tmp_path / "records")) == 6
    kept = {path.parent.name for path in (tmp_path / "records").glob("tiny/*/weights.safetensors")}
    assert kept == {entry.run for entry in some.entries if entry.recipe.strength == 32}
    assert {
        e.run
        for e in a_study(tmp_path, text).entries
        if e.run in a_study(tmp_path, text).file.weights
    } == {e.run for e in some.entries if e.recipe.seed == 0 and not e.control}


@pytest.mark.slow
def test_a_study_with_controls_runs_and_shows_resumes_and_records_them(tmp_path):
    few = (
        "measure: {radius_scale: 4, feature_images: 40, adversarial_images: 4, jacobian_images: "
        "2, flip_radii: [4], "
    )
    few += "flip_images_main: 20, robust_images: 20, strong_images: 4, "
    few += "instance_images: 4, bn_images: 50}\n"
    text = TINY.replace("seed: [0, 1]", "seed: [0]") + "protocol: 2\ncontrols: [1]\n" + few
    study = a_study(tmp_path, text)
    table = study.run(device="cpu", progress=False)
    assert list(table["state"]) == ["finished"] * 3 and list(table["variant"]) == [
        "",
        "",
        "control-1",
    ]
    (control,) = [entry for entry in study.entries if entry.control]
    record = study.record(control.run)
    assert len(record.history) == 1 and set(record.rows["checkpoint"]) == {"last"}
    assert "outputs" in record.provenance["part_seconds"]
    total = sum(record.provenance["part_seconds"].values())
    assert record.provenance["measure_seconds"] == pytest.approx(total, abs=0.1)
    assert records.size(study.finished()[control.run]) <= 30_000
    assert set(study.records()["variant"]) == {"", "control-1"}


MISTAKES = [
    ("titel: x\n", "titel", "line 17", "Did you mean 'title'"),
    ("grid:\n  strength: [0, 32]\n  seed: [0, 1]", "grid", "line 13", "mapping", "grid: 3"),
    ("  epochs: 3", "recipe.epoch", "line 10", "Did you mean 'epochs'", "  epoch: 3"),
    ("  epochs: 3", "recipe.epochs", "line 10", "it must be a whole number", "  epochs: three"),
    ("  epochs: 3", "recipe.epochs", "line 10", "at least 1", "  epochs: 0"),
    ("  model: resnet8", "recipe.model", "line 7", "Did you mean 'resnet8'", "  model: resent8"),
    ("[0, 32]", "grid.strength[1]", "line 14", "at least 0 and below 255", "[0, -4]"),
    ("[0, 32]", "grid.strength[1]", "line 14", "at least 0 and below 255", "[0, 256]"),
    ("[0, 32]", "grid.strength[1]", "line 14", "'8/255'", "[0, 8/255]"),
    ("[0, 32]", "grid.strength[1]", "line 14", "second time", "[32, 32]"),
    ("[0, 32]", "grid.strength", "line 14", "empty", "[]"),
    ("[0, 1]", "grid.seed[0]", "line 15", "whole number", "[0.5, 1]"),
    ("[0, 1]", "grid.seed[1]", "line 15", "True", "[0, true]"),
    ("toy: true", "toy", "line 4", "true or false", "toy: maybe"),
    ("title: tiny", "title", "line 1", "must be a text", "title: 3"),
    ("  width: 4", "recipe.width", "line 9", "twice", "  width: 4\n  width: 5"),
    ("cost: seconds\n", "study file", "line 1", "lacks the key 'cost'", ""),
    ("", "keep_epochs[0]", "line 17", "below 3", "keep_epochs: [7]\n"),
    (
        "",
        "claims.effect",
        "line 17",
        "grid (32)",
        "claims: {effect: 8, feature: 4, flip_pgd: 4, flip_sign: 8}\n",
    ),
    ("", "claims", "line 17", "lacks the key 'feature'", "claims: {effect: 32}\n"),
    ("", "extra[0]", "line 17", "twice", "extra: [{strength: 32, seed: 0, variant: again}]\n"),
    (
        "",
        "extra[0].variant",
        "line 17",
        "small letters",
        "extra: [{strength: 32, seed: 3, variant: A b}]\n",
    ),
    ("", "measure", "line 17", "unknown key", "measure: {imagez: 3}\n"),
    ("", "protocol", "line 17", "1 or 2", "protocol: 3\n"),
    ("", "protocol", "line 17", "for the whole study", "protocol: [1, 2]\n"),
    ("", "controls", "line 17", "do not mix", "controls: [1]\n"),
    ("", "controls[1]", "line 18", "below 3", "protocol: 2\ncontrols: [1, 3]\n"),
    (
        "",
        "controls.seed",
        "line 18",
        "the grid lacks",
        "protocol: 2\ncontrols: {epochs: [1], seed: [0, 7]}\n",
    ),
    ("", "weights.strength[1]", "line 17", "the grid lacks", "weights: {strength: [0, 8]}\n"),
    (
        "",
        "extra[0].variant",
        "line 17",
        "controls:",
        "extra: [{strength: 0, seed: 3, variant: control-1}]\n",
    ),
    ("title: tiny", "cannot be read as YAML", "line 2", "", "title: [tiny"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda m: m[1])
def test_a_mistake_in_a_study_file_is_one_message_with_file_line_key_and_what_is_allowed(
    tmp_path, mistake
):
    old, key, line, words, *new = mistake
    text = TINY + "\n" + (old if not new else "")
    text = text.replace(old, new[0], 1) if new and old else text + "".join(new)
    with pytest.raises(InputError) as caught:
        a_study(tmp_path, text)
    message = str(caught.value)
    assert str(tmp_path / "tiny.yml") in message and "\n" not in message
    assert key in message and line in message and words in message


HOSTILE = [
    ("title: tiny", "title: &a tiny\npurpose2: *a", "line 2", "alias *a"),
    ("title: tiny", "title: [&a [x, x], &b [*a, *a], &c [*b, *b]]", "line 1", "alias *a"),
    ("title: tiny", "title: " + "[" * 5000 + "]" * 5000, "line 1", "more than 8 lists"),
    ("title: tiny", "title: " + "{a: " * 5000 + "}" * 5000, "line 1", "more than 8 lists"),
    ("title: tiny", "title: tiny" + " " * 100_000, "", "more than 100000 bytes"),
    ("toy: true", "".join(f"k{i}: 1\n" for i in range(3000)), "line", "more than 5000 keys"),
    ("[0, 1]", str([*range(4990)]), "line", "more than 5000 keys"),
    ("title: tiny", "title: !!python/object/apply:os.system [ls]", "line 1", "tag"),
    ("title: tiny", "title: !!binary aa", "line 1", "tag"),
    ("epochs: 3", "epochs: !!int abc", "line 10", "tag"),
    ("epochs: 3", "epochs: 010", "line 10", "recipe.epochs is 010, which YAML reads as another"),
    ("epochs: 3", "epochs: 1:30", "line 10", "is 1:30"),
    ("epochs: 3", "epochs: 0x10", "line 10", "is 0x10"),
    ("epochs: 3", "epochs: 0b11", "line 10", "is 0b11"),
    ("epochs: 3", "epochs: 1_0", "line 10", "is 1_0"),
    ("epochs: 3", "lr: 1:30.5", "line 10", "is 1:30.5"),
    ("epochs: 3", "lr: 1_0.5", "line 10", "is 1_0.5"),
    ("[0, 32]", "[0, 032]", "line 14", "grid.strength[1] is 032"),
    ("epochs: 3", "epochs: " + "9" * 5000, "line 10", "5000 digits"),
    ("epochs: 3", "epochs: 1000000000000", "line 10", "years on one GPU; allowed: up to 100000"),
    ("width: 4", "width: 1000000000", "line 8", "parameters, 1e12 GB; allowed: up to"),
    ("epochs: 3", "epochs: '" + "x" * 50_000 + "'", "line 10", "whole number"),
    ("  epochs: 3", "  " + "e" * 900 + ": 3", "line 10", "unknown key"),
    ("toy: true", "? [a]\n: 1", "line 4", "keys are words"),
    ("toy: true", "? {a: 1}\n: 1", "line 4", "keys are words"),
    ("toy: true", "<<: {a: 1}", "line 4", "keys are words"),
    ("toy: true", '"a\\nb": 1', "line 4", "unknown key"),
    ("toy: true", "---\na: 1", "line 4", "single document"),
    ("toy: true", "toy: \0", "", "unacceptable character"),
    ("toy: true", "\ttoy: true", "line 4", "cannot be read as YAML"),
    ("title: tiny", "title: *", "line 1", "cannot be read as YAML"),
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda one: f"{one[1][:20]!a} {one[3][:10]}")
def test_a_hostile_study_file_is_soon_one_message(tmp_path, hostile):
    old, new, line, words = hostile
    begun = time.process_time()
    with pytest.raises(InputError) as caught:
        a_study(tmp_path, TINY.replace(old, new, 1))
    assert time.process_time() - begun < 5
    message = str(caught.value)
    assert str(tmp_path / "tiny.yml") in message and line in message and words in message
    assert "\n" not in message and len(message) < 1000


@pytest.mark.slow
def test_a_grid_has_a_limit_and_its_checks_take_no_square_of_its_length(tmp_path):
    many = TINY.replace("[0, 1]", str([*range(2400)]))
    begun = time.process_time()
    study = a_study(tmp_path, many + f"weights: {{strength: [0], seed: {[*range(2400)]}}}\n")
    assert len(study.entries) == 4800 and time.process_time() - begun < 30
    with pytest.raises(InputError, match=r"line 13: grid has 120,000 runs; allowed: 10,000"):
        a_study(tmp_path, many.replace("[0, 32]", str([*range(50)])))


def test_a_date_is_the_text_it_looks_like(tmp_path):
    assert a_study(tmp_path, TINY.replace("title: tiny", "title: 2020-13-45")).title == "2020-13-45"


@pytest.mark.parametrize("name", ["...", "..", ".", ".hidden", "a b", "a.", "-a", "a" * 101, "é"])
def test_a_study_has_the_name_of_a_folder_that_lies_where_it_should(tmp_path, name):
    (tmp_path / f"{name}.yml").write_text(TINY)
    with pytest.raises(InputError, match="would name its study") as refused:
        studies.load(tmp_path / f"{name}.yml", tmp_path / "store")
    assert "\n" not in str(refused.value)
    assert not {name, name.rstrip(".")} & set(studies.names(tmp_path))
    (tmp_path / "My_study.v2.yml").write_text(TINY)
    assert studies.load("My_study.v2", tmp_path).folder == tmp_path / "My_study.v2"


def test_numbers_with_exponents_are_numbers(tmp_path):
    study = a_study(tmp_path, TINY.replace("width: 4", "weight_decay: 5e-3"))
    assert study.entries[0].recipe.weight_decay == 0.005


def test_an_unknown_study_is_named_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"'digitz'; allowed: .*Did you mean 'digits'"):
        studies.load("digitz")
    with pytest.raises(InputError, match="no such file"):
        studies.load(tmp_path / "nothing.yml")


def test_a_store_may_hold_studies_of_its_own(tmp_path):
    (tmp_path / "mine.yml").write_text(TINY)
    assert "mine" in studies.names(tmp_path)
    assert studies.load("mine", tmp_path).folder == tmp_path / "mine"


# ---- running and reading ----------------------------------------------------------------------


def test_a_study_runs_what_is_missing_and_reads_as_tables(tiny):
    assert tiny.records().empty and list(tiny.records()) == [*studies.KEYS, *records.COLUMNS]
    assert len(tiny.missing()) == 4 and set(tiny.status()["state"]) == {"missing"}
    table = run(tiny)
    assert list(table["state"]) == ["finished"] * 4 and not tiny.missing()
    frame = tiny.records()
    assert list(frame) == [*studies.KEYS, *records.COLUMNS]
    assert list(zip(frame["seed"], frame["strength"], strict=True)) == [
        (0, 0),
        (0, 32),
        (1, 0),
        (1, 32),
    ]
    assert list(tiny.histories()["seconds"]) == [7.0] * 4
    assert set(tiny.arrays(tiny.entries[0].run)) == {"margin|test"}
    assert not list(tiny.work_folder.iterdir()) and not list(tiny.leases_folder.glob("*.json"))


def test_what_parts_took_is_summed_over_checkpoints_and_the_longest_comes_first():
    seconds = {"last/robust": 2.0, "last/outputs": 0.5, "epoch-1/along": 4.0, "best/robust": 3.0}
    expected = [("robust", 5.0), ("along", 4.0), ("outputs", 0.5)]
    assert list(runs.by_part(seconds).items()) == expected


def test_a_finished_run_is_not_computed_again(tiny, tmp_path):
    run(tiny)
    log = tmp_path / "log"
    run(tiny, compute=lambda *a, **k: fake(*a, **k, log=log))
    assert not log.exists()


def test_each_run_is_readable_as_soon_as_it_is_finished(tiny):
    seen = []

    def work(study, *args, **options):
        seen.append(len(studies.load(study.path, study.places.store).records()))
        return fake(study, *args, **options)

    run(tiny, compute=work)
    assert seen == [0, 1, 2, 3]


def test_an_interrupted_study_goes_on_where_it_was(tiny, caplog):
    def interrupted(study, entry, folder, **options):
        if entry.recipe.seed == 1:
            (folder / "half").write_text("done")
            raise KeyboardInterrupt
        return fake(study, entry, folder, **options)

    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, compute=interrupted)
    assert "goes on from here" in caplog.text
    assert len(tiny.missing()) == 2 and not list(tiny.leases_folder.glob("*.json"))
    seen = []

    def goes_on(study, entry, folder, **options):
        seen.append((folder / "half").exists())
        return fake(study, entry, folder, **options)

    run(tiny, compute=goes_on)
    assert seen == [True, False] and not tiny.missing()


def test_of_kept_work_is_spoken_only_where_some_was_done(tiny, caplog):
    def at_once(*args, **options):
        raise KeyboardInterrupt

    caplog.set_level(logging.INFO)
    with pytest.raises(KeyboardInterrupt):
        run(tiny, compute=at_once)
    assert "no epoch was finished" in caplog.text and "kept" not in caplog.text


def test_a_training_that_stops_by_itself_does_not_stop_the_others(tiny):
    def sometimes(study, entry, folder, **options):
        if entry.recipe.seed == 0 and entry.recipe.eps:
            raise TrainingStopped("the loss became nan")
        return fake(study, entry, folder, **options)

    with pytest.raises(TrainingStopped, match=r"1 trainings stopped.*became nan"):
        run(tiny, compute=sometimes)
    assert [entry.run for entry in tiny.missing()] == [tiny.entries[1].run]


def test_a_damaged_record_is_named_and_refused_by_everything_that_reads(tiny):
    run(tiny)
    path = tiny.folder / tiny.entries[2].run / "arrays.npz"
    path.write_bytes(path.read_bytes()[:-5])
    again = studies.load(tiny.path, tiny.places.store)
    for use in (
        again.records,
        again.missing,
        again.publish,
        lambda: run(again),
        lambda: again.arrays(again.entries[2].run),
    ):
        with pytest.raises(RecordError, match=str(path)):
            use()
    table = again.status()
    assert (
        list(table["state"]) == ["finished", "finished", "damaged", "finished"]
        and str(path) in table["note"][2]
    )


def test_a_record_of_another_recipe_is_refused(tiny):
    run(tiny)
    first, second = (tiny.folder / entry.run for entry in tiny.entries[:2])
    os.rename(first, tiny.folder / "away")
    os.rename(second, first)
    with pytest.raises(RecordError, match="another recipe"):
        studies.load(tiny.path, tiny.places.store).records()


def test_a_run_measured_with_other_settings_counts_as_missing_and_keeps_its_training(tiny):
    run(tiny)
    folder = tiny.folder / tiny.entries[0].run
    (folder / "trained").write_text("hours")
    content = json.loads((folder / "record.json").read_text())
    content["settings"] |= {"of_old": 3}
    (folder / "record.json").write_text(
        records._text({k: v for k, v in content.items() if k != "checksum"})
    )
    again = studies.load(tiny.path, tiny.places.store)
    assert [e.run for e in again.missing()] == [tiny.entries[0].run] and len(again.records()) == 3
    seen = []

    def work(study, entry, folder, **options):
        seen.append((folder / "trained").read_text())
        return fake(study, entry, folder, **options)

    run(again, compute=work)
    assert seen == ["hours"] and len(again.records()) == 4


def test_devices_are_not_mixed_silently(tiny):
    run(tiny)
    folder = tiny.folder / tiny.entries[0].run
    content = json.loads((folder / "record.json").read_text())
    content["provenance"]["precision"] = "bfloat16"
    (folder / "record.json").write_text(
        records._text({k: v for k, v in content.items() if k != "checksum"})
    )
    again = studies.load(tiny.path, tiny.places.store)
    with pytest.raises(InputError, match=r"precision 'bfloat16', this would be 'float32'.*--mix"):
        run(again)
    run(again, mix=True)
    with pytest.raises(InputError, match="mixture"):
        again.publish()


def test_published_records_count_unless_asked_afresh_and_the_store_comes_first(tiny, tmp_path):
    run(tiny)
    assert len(tiny.publish(tmp_path / "records")) == 4 and tiny.publish(tmp_path / "records") == []
    elsewhere = places.Places(tmp_path / "empty", (tmp_path / "records",), ())
    published = studies.Study(tiny.file, elsewhere)
    assert not published.missing() and len(published.missing(afresh=True)) == 4
    assert set(published.status()["state"]) == {"recorded"}
    pd.testing.assert_frame_equal(published.records(), tiny.records())
    weights = [
        (tmp_path / "records" / "tiny" / e.run / "weights.safetensors").exists()
        for e in tiny.entries
    ]
    assert weights == [True, True, False, False]
    both = studies.Study(tiny.file, places.Places(tiny.places.store, (tmp_path / "records",), ()))
    assert {folder.parent for folder in both.finished().values()} == {tiny.folder}


def test_a_budget_too_small_for_an_epoch_is_refused_once_the_speed_is_known(tiny):
    run(
        tiny,
        compute=lambda study, entry, *a, **k: (
            entry.recipe.seed == 0 and fake(study, entry, *a, **k)
        ),
    )
    assert len(tiny.missing()) == 2  # seed 1; its siblings took 7 s an epoch
    with pytest.raises(
        InputError, match=r"time budget of 5 s is too small for one epoch, which takes about 7 s"
    ):
        run(tiny, time_budget=5)
    run(tiny, time_budget=20)
    assert not tiny.missing()


@pytest.mark.slow
def test_a_time_budget_ends_a_computation_that_does_not_look_at_the_clock(tiny, caplog):
    caplog.set_level(logging.INFO)
    begun = time.monotonic()
    run(tiny, time_budget=2.5, compute=lambda *a, **k: fake(*a, **k, pause=60))
    assert time.monotonic() - begun < 2.5
    assert "time budget was over" in caplog.text and not list(tiny.leases_folder.glob("*.json"))


def test_impossible_options_are_refused(tiny):
    with pytest.raises(InputError, match="above 0"):
        run(tiny, jobs=0)
    with pytest.raises(InputError, match="above 0"):
        run(tiny, time_budget=-1)
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="GPU"):
            tiny.run(device="cuda")


# ---- the records of the repository ------------------------------------------------------------

PUBLISHED = sorted(path.parent for path in (ROOT / "records").glob("*/*/record.json"))


@pytest.mark.parametrize("folder", PUBLISHED, ids=lambda folder: folder.name)
def test_a_published_record_is_whole_small_and_named_by_its_recipe(folder):
    record = records.read(folder)
    assert training.described(record.recipe).id == record.run == folder.name
    assert records.size(folder) <= records.LIMIT
    assert len(record.rows) and record.provenance["precision"] == "float32"
    # some arms impose something and are not trained on
    arm = record.recipe.get("arm")
    assert bool(len(record.history)) == (arm is None or KINDS[arm].trains)
    published = studies.load(folder.parent.name).file.weights
    assert (folder / "weights.safetensors").exists() == (folder.name in published)


@pytest.mark.parametrize("name", sorted({folder.parent.name for folder in PUBLISHED}))
def test_published_records_are_of_one_device_and_fit_their_study_file(name):
    study = studies.Study(
        studies.load(name).file, places.Places(ROOT / "nowhere", (ROOT / "records",), ())
    )
    assert set(study.finished().values()) == {
        folder for folder in PUBLISHED if folder.parent.name == name
    }
    assert study.status()["device"][lambda column: column != ""].nunique() == 1


@pytest.mark.slow
def test_shipped_weights_give_the_recorded_numbers():
    """Half precision of the convolutions moves errors by at most a point and margins
    and spectra by 1 %.
    """
    folders = [
        f for f in PUBLISHED if f.parent.name == "digits" and (f / "weights.safetensors").exists()
    ]
    split = data.load("digits", device="cpu").test
    for folder in folders:
        record = records.read(folder)
        model = training.model_from(training.Recipe.from_dict(record.recipe), record.weights())
        rows = (
            record.rows[record.rows["checkpoint"] == "last"]
            .set_index(["statistic", "split", "setting", "layer"])
            .sort_index()["value"]
        )
        with torch.no_grad():
            logits = model(split.x)
        error = (logits.argmax(1) != split.y).float().mean().item()
        assert error == pytest.approx(rows["error", "test", "", ""], abs=0.01)
        margin = margins.output(logits, split.y).abs().quantile(0.5).item()
        assert margin == pytest.approx(rows["median_abs_margin", "test", "", ""], rel=0.01)
        layers = spectra.of(model, data.load("digits", device="cpu").shape).set_index("layer")
        recorded = rows["sv_std", "", "circular"]
        assert list(layers.loc[recorded.index, "std"]) == pytest.approx(list(recorded), rel=0.01)
    assert len(folders) == 4 or not folders


# ---- claims: who works on what ----------------------------------------------------------------


def a_claim(folder: Path, **changes) -> Path:
    """The file of somebody else's claim."""
    (folder / "r.json").unlink(missing_ok=True)
    with lease.take(folder, "r") as claim:
        content = lease.read(claim.path)
    files.write_json(folder / "r.json", content | changes)
    return folder / "r.json"


def test_a_claim_is_exclusive_and_let_go(tmp_path):
    with lease.take(tmp_path, "r") as claim:
        assert claim.holds() and lease.take(tmp_path, "r") is None
        assert lease.take(tmp_path, "other") is not None
    assert lease.take(tmp_path, "r") is not None


def test_a_claim_is_void_at_once_when_its_process_is_dead_here(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    begun = alive.processes.started(dead.pid)
    dead.stdin.close()
    # It ends, but nobody has waited for it: still in the process table.
    until(lambda: alive.processes.started(dead.pid) is None)
    assert alive.judge(a_claim(tmp_path, pid=dead.pid, started=begun)).void
    dead.wait()
    gone = alive.judge(a_claim(tmp_path, pid=dead.pid, started=begun))
    assert gone.void and gone.reason == f"process {dead.pid} is dead"
    # our process number, used again
    assert alive.judge(a_claim(tmp_path, started="1")).void
    assert not alive.judge(a_claim(tmp_path)).reason
    assert not alive.judge(a_claim(tmp_path, host="elsewhere", pid=dead.pid, started=begun)).reason
    assert lease.take(tmp_path, "r") is None


def test_a_lease_of_an_arlib_of_before_is_understood(tmp_path):
    """It has no boot id; its dead process counts at once, its live one keeps the run."""
    old = a_claim(tmp_path)
    files.write_json(old, {k: v for k, v in lease.read(old).items() if k != "boot"})
    assert not alive.judge(old).reason and lease.take(tmp_path, "r") is None
    files.write_json(old, lease.read(old) | {"started": "1"})
    assert alive.judge(old).void and lease.take(tmp_path, "r") is not None
    # and whoever knows no boot id finds in ours what he looks for
    assert {"host", "pid", "started", "token"} < lease.read(a_claim(tmp_path)).keys()


def stale_in_a_second(monkeypatch):
    monkeypatch.setattr(alive, "HEARTBEAT", 0.1)
    monkeypatch.setattr(alive, "STALE", 1.0)


@pytest.fixture
def fast(monkeypatch):
    """Leases that go stale in a second."""
    stale_in_a_second(monkeypatch)


def test_an_old_date_is_only_a_suspicion_until_it_was_watched(tmp_path, fast):
    """After a clock jumped forward, or a laptop woke, all leases look old until their next beat."""
    elsewhere = a_claim(tmp_path, host="elsewhere")
    late = time.time() - 3600
    os.utime(elsewhere, (late, late))
    judgement = alive.judge(elsewhere)
    assert judgement.in_doubt and "no sign of life for 60 minutes" in judgement.reason
    assert lease.take(tmp_path, "r") is None
    os.utime(elsewhere)  # it lives: its heart beats by the new clock
    assert not alive.judge(elsewhere).reason and lease.take(tmp_path, "r") is None
    os.utime(elsewhere, (late, late))
    until(lambda: alive.judge(elsewhere).void)
    assert lease.take(tmp_path, "r") is not None


def test_a_date_in_the_future_is_named_and_does_not_keep_a_run_for_ever(tmp_path, fast, tiny):
    run_id = tiny.entries[0].run
    a_claim(tiny.leases_folder, host="elsewhere 1", pid=7)
    ahead = tiny.leases_folder / "r.json"
    os.rename(ahead, ahead := tiny.leases_folder / f"{run_id}.json")
    os.utime(ahead, (time.time() + 3600,) * 2)
    row = tiny.status().set_index("run").loc[run_id]
    assert row["state"] == "running"
    assert row["note"].startswith("process 7 on elsewhere; its last sign of life is dated 60 min")
    until(lambda: alive.judge(ahead).void)
    assert "minutes of watching" in alive.judge(ahead).reason
    assert lease.take(tiny.leases_folder, run_id) is not None


def test_another_start_of_the_machine_is_watched_before_it_counts(tmp_path, fast):
    """Process numbers begin anew; but it may also be another machine of the same name."""
    before = a_claim(tmp_path, boot="another", pid=1, started="1")
    judgement = alive.judge(before)
    assert judgement.in_doubt and judgement.reason == "the machine was started anew since"
    until(lambda: os.utime(before) or alive.judge(before).in_doubt)  # its heart beats
    until(lambda: alive.judge(before).void)


@pytest.mark.parametrize(
    "content",
    [
        '{"host": "HOST"}',
        '{"host": "HOST", "pid": "1", "started": "1"}',
        '{"host": "HOST", "pid": true, "started": 1}',
        '{"host": 7, "pid": -1, "started": null, "token": []}',
        "[]",
        "",
        "[" * 100_000,
    ],
    ids=lambda content: content[:20],
)
def test_a_lease_that_names_no_process_is_judged_by_its_heartbeat_and_named(
    tiny, monkeypatch, content
):
    run_id = tiny.entries[0].run
    path = tiny.leases_folder / f"{run_id}.json"
    files.write_text(path, content.replace("HOST", alive.host()))
    row = tiny.status().set_index("run").loc[run_id]
    assert row["state"] == "running" and f"{path} names no process" in row["note"]
    assert lease.take(tiny.leases_folder, run_id) is None
    stale_in_a_second(monkeypatch)  # not before: a busy machine takes a second over the lines above
    os.utime(path, (1e9, 1e9))
    until(lambda: alive.judge(path).void)
    assert lease.take(tiny.leases_folder, run_id) is not None


def test_the_heart_beats_and_a_lost_claim_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(alive, "HEARTBEAT", 0.05)
    with pytest.raises(lease.Lost), lease.take(tmp_path, "r") as claim:
        os.utime(claim.path, (0, 0))
        until(lambda: claim.path.stat().st_mtime > 1e9)
        assert not claim.lost
        files.write_json(claim.path, lease.read(claim.path) | {"token": "another"})
        until(lambda: False)
    assert claim.lost and claim.path.exists()  # the other's claim stays


@pytest.fixture(params=["at a terminal", "in the background"])
def started(request):
    """A shell starts background jobs with Ctrl-C's signal ignored."""
    former = signal.getsignal(signal.SIGINT)
    if request.param == "in the background":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, former)


def test_a_worker_that_lost_its_run_leaves_it_to_the_other(tiny, monkeypatch, started):
    monkeypatch.setattr(alive, "HEARTBEAT", 0.05)
    handler = signal.getsignal(lease.LOST)
    first = tiny.entries[0].run

    def slept(study, entry, folder, **options):
        if entry.run != first:
            return fake(study, entry, folder, **options)
        claim = study.leases_folder / f"{first}.json"
        files.write_json(claim, lease.read(claim) | {"token": "another", "host": "elsewhere"})
        time.sleep(10)
        raise AssertionError("it was not interrupted")

    run(tiny, compute=slept, wait=False)
    assert [entry.run for entry in tiny.missing()] == [first]
    assert signal.getsignal(lease.LOST) is handler


def test_what_another_worker_took_over_can_be_neither_published_nor_written_nor_taken_back(tiny):
    """In a thread, say, where no signal interrupts: the lease is looked at whenever it matters."""
    entry = tiny.entries[0]

    def finish(folder):
        return fake(tiny, entry, folder, machine=CPU, progress=False, time_left=None)

    mine = lease.take(tiny.leases_folder, entry.run)
    folder = runs._adopt(tiny, entry.run, mine)
    finish(folder)
    mine.path.unlink()
    theirs = lease.take(tiny.leases_folder, entry.run)
    with pytest.raises(lease.Lost):  # before the other has moved the folder
        runs._publish(tiny, entry.run, folder, mine)
    taken = runs._adopt(tiny, entry.run, theirs)
    assert (taken / "last.safetensors").exists() and not folder.exists()
    with pytest.raises(lease.Lost):
        runs._adopt(tiny, entry.run, mine)
    for path in (folder / "checkpoint.json", folder / "parts" / "last" / "outputs.json"):
        with files.not_made_anew(folder), pytest.raises(FileNotFoundError, match=path.name):
            files.write_json(path, {})
    assert not folder.exists() and taken.exists()
    with files.not_made_anew(taken):
        files.write_json(taken / "parts" / "last" / "outputs.json", {})
    finish(taken)
    runs._publish(tiny, entry.run, taken, theirs)
    assert tiny.is_finished(entry) and not list(tiny.work_folder.iterdir())


def test_a_run_without_its_weights_is_not_published(tiny):
    def careless(study, entry, folder, **options):
        fake(study, entry, folder, **options)
        (folder / "last.safetensors").unlink()
        content = json.loads((folder / "record.json").read_text())
        del content["files"]["last.safetensors"], content["checksum"]
        (folder / "record.json").write_text(records._text(content))
        return True

    with pytest.raises(RecordError, match="not finished without"):
        run(tiny, compute=careless)
    assert len(tiny.missing()) == 4


def test_links_in_the_place_of_work_folders_are_not_followed(tiny, tmp_path):
    """What they lead to is somebody else's: neither filled, nor moved, nor deleted."""
    precious = tmp_path / "precious"
    fake(tiny, tiny.entries[0], precious, machine=CPU, progress=False, time_left=None)
    before = {path: path.read_bytes() for path in precious.iterdir()}
    tiny.work_folder.mkdir(parents=True)
    link = tiny.work_folder / f"{tiny.entries[0].run}@abc"
    link.symlink_to(precious)
    run(tiny)
    assert not tiny.missing() and link.is_symlink()
    assert {path: path.read_bytes() for path in precious.iterdir()} == before
    shutil.rmtree(tiny.folder / tiny.entries[0].run)
    (tiny.folder / tiny.entries[0].run).symlink_to(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"{tiny.entries[0].run} is a link"):
        run(tiny)


def test_a_work_folder_may_be_a_link_to_another_disk_but_not_to_nowhere(tiny, tmp_path, caplog):
    elsewhere = Path("/dev/shm")
    if not elsewhere.is_dir() or elsewhere.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no second file system")
    tiny.folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=elsewhere) as scratch:
        tiny.work_folder.symlink_to(scratch)
        run(tiny)
        assert not tiny.missing() and not os.listdir(scratch)
        assert {path.name for path in tiny.folder.iterdir()} == {
            ".leases",
            ".work",
            *(entry.run for entry in tiny.entries),
        }
    shutil.rmtree(tiny.folder / tiny.entries[0].run)
    with pytest.raises(InputError, match=r"\.work is a link that leads to no folder"):
        run(tiny)


WORKER = """
import sys, time
sys.path.insert(0, sys.argv[1])
import test_studies as t
from arlib import studies
study = studies.load(sys.argv[2], sys.argv[3])
t.run(study, compute=lambda *a, **k: t.fake(*a, **k, pause=float(sys.argv[5]), log=sys.argv[4]))
"""


def worker(study, log, pause, program=WORKER, **options):
    given = [ROOT / "tests", study.path, study.places.store, log, pause]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    }
    command = [sys.executable, "-c", program, *map(str, given)]
    return subprocess.Popen(command, env=environment, **options)


# A worker that trains and measures for real; its leases go stale in seconds.
SLEEPER = """
import logging, sys
logging.basicConfig(level=logging.INFO, format="%(message)s")
from arlib import studies
from arlib.studies import alive
alive.HEARTBEAT, alive.STALE = 0.2, 2.0
studies.load(sys.argv[2], sys.argv[3]).run(device="cpu", progress=False)
"""
# Three runs of seconds.
SMALL = TINY.replace("width: 4", "width: 2\n  train_images: 256").replace("epochs: 3", "epochs: 8")
SMALL = SMALL.replace("[0, 32]", "[8, 16, 32]").replace("seed: [0, 1]", "seed: [0]")
SMALL += """\
measure: {feature_images: 8, adversarial_images: 2, jacobian_images: 1, flip_radii: [4],
  flip_images_main: 4, flip_images: 4, flip_draws: 1, robust_images: 4, strong_images: 1,
  instance_images: 1, instance_steps: 1, bn_images: 8}
"""


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["while it trains", "while it measures"])
def test_a_worker_that_slept_publishes_nothing_says_so_and_goes_on(tmp_path, monkeypatch, stage):
    """Two processes; the first is stopped in the middle of its run, for longer than a lease
    lasts, until the other has taken the run over, and then wakes.
    """
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    study = a_study(tmp_path, SMALL)
    first = study.entries[0].run
    path = study.leases_folder / f"{first}.json"
    begun = "checkpoint.safetensors" if stage == "while it trains" else "parts/last/*.json"
    started = []
    try:
        sleeper = worker(study, "", 0, SLEEPER, stderr=subprocess.PIPE, text=True)
        started.append(sleeper)
        until(lambda: list(study.work_folder.glob(f"{first}@*/{begun}")), 120)
        sleeper.send_signal(signal.SIGSTOP)
        (folder,) = study.work_folder.glob(f"{first}@*")
        token = lease.read(path)["token"]
        other = worker(study, "", 0, SLEEPER, stderr=subprocess.PIPE, text=True)
        started.append(other)
        # it takes another run first, looks at this one's lease meanwhile, and then takes it over
        until(lambda: (lease.read(path) or {"token": token})["token"] != token, 300)
        until(lambda: not folder.exists(), 60)
        sleeper.send_signal(signal.SIGCONT)
        logs = {process: process.communicate(timeout=300)[1] for process in started}
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [process.returncode for process in started] == [0, 0], logs
    assert f"{first}: another worker took this run" in logs[sleeper], logs[sleeper]
    assert f"{first}: taken over from process {sleeper.pid}" in logs[other], logs[other]
    assert "Traceback" not in logs[sleeper] + logs[other]
    assert set(study.status()["state"]) == {"finished"}
    for entry in study.entries:
        assert study.record(entry.run).weights() and len(study.record(entry.run).history) == 8
    assert not list(study.work_folder.iterdir()) and not list(study.leases_folder.glob("*.json"))
    done = logs[sleeper].splitlines()  # and it went on with another run
    assert any(f"{e.run}: trained; measuring" in done for e in study.entries if e.run != first)


@pytest.mark.slow
def test_processes_share_a_study_and_one_takes_over_from_the_killed_other(tmp_path, monkeypatch):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    study = a_study(tmp_path, TINY.replace("seed: [0, 1]", "seed: [0, 1, 2, 3]"))
    log = tmp_path / "log"

    def begun_by(pid):
        return (
            [name for name, by in map(str.split, log.read_text().splitlines()) if by == str(pid)]
            if log.exists()
            else []
        )

    slow = worker(study, log, 600)
    started = [slow]
    try:
        until = time.monotonic() + 300
        while not begun_by(slow.pid) and time.monotonic() < until:
            time.sleep(0.05)
        begun = begun_by(slow.pid)
        assert begun == [study.entries[0].run]
        assert study.status().set_index("run")["state"][begun[0]] == "running"
        started += [worker(study, log, 0.2), worker(study, log, 0.2)]
        while len(study.missing()) > 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert [entry.run for entry in study.missing()] == begun  # they finish the others, and wait
        slow.send_signal(signal.SIGKILL)
        assert [process.wait(60) for process in started] == [-signal.SIGKILL, 0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    done = [line.split()[0] for line in log.read_text().splitlines()]
    # the killed one's twice, no other
    assert sorted(done) == sorted([entry.run for entry in study.entries] + begun)
    assert set(study.status()["state"]) == {"finished"} and len(study.records()) == 8
    assert not list(study.work_folder.iterdir()) and not list(study.leases_folder.glob("*.json"))
