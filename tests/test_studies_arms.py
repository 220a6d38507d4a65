"""Studies of arms: what their files may say, sources, interruptions, and what each arm does."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import arlib

from arlib import data, engine, files, margins, models, records, smoothness, studies, training
from arlib.errors import InputError, RecordError
from arlib.studies import run as runs
from arlib.training import arms
from arlib.training.arm import KINDS
from arlib.training.imposed import spectra_of

CPU = engine.Machine(torch.device("cpu"))
SOURCE = """\
title: source
purpose: a test
cost: seconds
toy: true
protocol: 2
recipe:
  dataset: digits
  model: resnet8
  width: 4
  steps: 2
  epochs: 3
  batch_size: 64
  monitor_images: 64
grid:
  strength: [0, 32]
  seed: [0, 1]
weights: {strength: [0, 32], seed: [0]}
measure: &m
  radius_scale: 4
  feature_images: 60
  adversarial_images: 40
  jacobian_images: 2
  flip_images_main: 40
  flip_images: 10
  robust_images: 40
  strong_images: 10
  instance_images: 10
  instance_steps: 2
claims: {effect: 32, feature: 16, flip_pgd: 16, flip_sign: 32}
""".replace(" &m", "")
ARMS = """\
title: arms
purpose: a test
cost: seconds
toy: true
protocol: 2
arms:
  of: source
  seed: [0, 1]
  kinds: [s, d, other]
  epochs: 2
measure:
  radius_scale: 4
  feature_images: 60
  adversarial_images: 40
  flip_images_main: 40
  robust_images: 40
"""


def written(folder, text=ARMS, source=SOURCE):
    (folder / "source.yml").write_text(source)
    (folder / "arms.yml").write_text(text)
    return studies.load(folder / "arms.yml", folder / "store")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A store with the finished networks of the source's first seed (measured by a stand-in)."""
    folder = tmp_path_factory.mktemp("source")
    (folder / "source.yml").write_text(SOURCE)
    study = studies.load(folder / "source.yml", folder / "store")
    for entry in study.entries:
        if entry.recipe.seed == 0:
            place = study.folder / entry.run
            run = training.train_on(CPU, entry.recipe, folder=place, progress=False)
            rows = [("last", "test", "error", "", "", 360, 0.25)]
            records.write(
                place, run=entry.run, recipe=entry.recipe.to_dict(), variant="",
                provenance=run.provenance, settings=study.settings.to_dict(), history=run.history,
                rows=pd.DataFrame(rows, columns=list(records.COLUMNS)), arrays={},
            )  # fmt: skip
    return folder


@pytest.fixture
def study(trained, tmp_path, monkeypatch):
    """A study of arms beside its source, of which seed 0 is there."""
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    shutil.copytree(trained / "store", tmp_path / "store")
    return written(tmp_path)


@pytest.fixture(scope="module")
def networks(trained):
    """(standard, robust) of seed 0."""
    source = studies.load(trained / "source.yml", trained / "store")
    nets = {e.recipe.eps > 0: source.model(e.run) for e in source.entries if not e.recipe.seed}
    return nets[False], nets[True]


def the_arm(study, name, seed=0):
    (entry,) = [e for e in study.entries if e.variant == name and e.recipe.seed == seed]
    return entry


def an_arm(networks, name, folder=None, **options):
    """One arm of the networks of seed 0, computed."""
    recipe = {"dataset": "digits", "model": "resnet8", "width": 4, "steps": 2, "batch_size": 64}
    start, robust = (training.Recipe(**recipe, eps=eps) for eps in (0.0, 32 / 255))
    kind = KINDS[name]
    pick = {"standard": (start, networks[0]), "robust": (robust, networks[1])}
    (one, net), other = pick[kind.start], pick.get(kind.tied)
    fields = {"arm": name, "start": one, "tied": other and other[0]} | options.pop("fields", {})
    arm = training.Arm(**fields)
    tied = other and other[1]
    return training.train_arm(CPU, arm, net, tied, folder=folder, progress=False, **options)


# ---- study files


def test_the_study_of_the_deciding_networks_is_what_the_claim_asks_for():
    study = studies.load("mechanism")
    assert study.source.name == "cifar10-resnet20" and study.protocol == 2 and not study.toy
    assert study.claims == study.source.claims
    each = {e.variant for e in study.entries}
    assert each == KINDS.keys() and len(study.entries) == 3 * len(each)
    for entry in study.entries:
        arm = entry.recipe
        assert entry.arm and entry.slim and {s.seed for s in arm.sources} <= {0, 1, 2}
        assert arm.start.strength == (8 if entry.variant in ("a", "rescue") else 0)
        grid = {e.run for e in study.source.entries if not e.variant}
        assert {s.id for s in arm.sources} <= grid
        if arm.kind.trains:
            assert arm.epochs >= 2 and arm.lr == 0.01 and arm.every == 40
    other = the_arm(study, "other", 2).recipe
    assert (other.start.seed, other.tied.seed, other.tied.strength) == (2, 0, 0)


def test_what_the_verdict_needs_comes_first():
    from arlib.claims.mechanism import RESCUE, ROBUST, SHAMS, STANDARD, TESTED

    needed = {STANDARD, ROBUST, RESCUE, *SHAMS, *TESTED.values()}
    study = studies.load("mechanism")
    first = study.entries[: 3 * len(needed)]
    assert {(e.variant, e.recipe.seed) for e in first} == {(n, s) for n in needed for s in range(3)}
    for part in (first, study.entries[len(first) :]):
        assert [e.recipe.seed for e in part] == sorted(e.recipe.seed for e in part)


def test_beside_a_study_are_those_that_decide_what_it_cannot():
    assert [s.name for s in studies.beside("cifar10-resnet20")] == ["mechanism", "fronts"]
    assert [s.name for s in studies.beside("mechanism")] == ["fronts"]
    assert [s.name for s in studies.beside("digits")] == []


def test_an_arms_id_is_for_good():
    study = studies.load("mechanism")
    assert the_arm(study, "d").run == "cifar10-resnet20-d-s0-d2f6b294"
    arm = the_arm(study, "smooth").recipe
    assert training.described(json.loads(json.dumps(arm.to_dict()))) == arm
    assert len({e.run for e in study.entries}) == len(study.entries)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("of: source", "of: sorce", r"arms.of is 'sorce', a study that is not there; .*source"),
        ("of: source", "of: ../source", "arms.of is '../source'"),
        ("seed: [0, 1]", "seed: [0, 7]", r"arms.seed\[1\] is 7, and the source has no run"),
        ("[s, d, other]", "[s, e]", r"arms.kinds\[1\] is 'e'; allowed: s, a, d"),
        ("[s, d, other]", "[s, s]", r"arms.kinds\[1\] is s for the second time"),
        ("epochs: 2", "epochs: 1", "arms.epochs is 1; allowed: at least 2"),
        ("epochs: 2", "lr: 0", "arms.lr cannot be: lr is 0; allowed: above 0"),
        ("protocol: 2", "protocol: 1", "arms are of protocol 2"),
        ("title: arms", "grid: {}", "grid"),
        ("seed: [0, 1]\n  kinds: [s, d, other]", "seed: [0]\n  kinds: [other]", "a second seed"),
    ],
)
def test_a_mistake_in_a_file_of_arms_is_named(tmp_path, old, new, message):
    assert old in ARMS
    with pytest.raises(InputError, match=message):
        written(tmp_path, ARMS.replace(old, new))


def test_arms_of_arms_are_refused(tmp_path):
    written(tmp_path)
    (tmp_path / "third.yml").write_text(ARMS.replace("of: source", "of: arms"))
    with pytest.raises(InputError, match="itself a study of arms"):
        studies.load(tmp_path / "third.yml", tmp_path / "store")


# ---- sources


def test_arms_without_their_networks_wait_and_say_for_what(tmp_path, monkeypatch):
    monkeypatch.delenv("ARLIB_STORE", raising=False)
    study = written(tmp_path)
    states = {row["run"]: row for row in study.states()}
    row = states[the_arm(study, "d").run]
    assert row["state"] == "waiting"
    for part in ("ar0-s0", "ar32-s0", "`arlib study run source`"):
        assert part in row["note"]
    with pytest.raises(InputError, match=r"nothing can be computed.*arlib study run source"):
        study.run(device="cpu", progress=False)
    assert not study.folder.exists(), "no work was begun"


def test_those_whose_networks_are_there_run_and_the_others_wait(study, caplog):
    caplog.set_level(logging.INFO, logger="arlib")
    study.run(device="cpu", progress=False)
    done = {row["variant"]: row["state"] for row in study.states() if row["seed"] == 0}
    assert done == {"s": "finished", "d": "finished", "other": "waiting"}
    waits = "waits for the weights of digits-resnet8-ar0-s1"
    assert f"{the_arm(study, 'other').run} {waits}" in caplog.text
    assert {row["state"] for row in study.states() if row["seed"] == 1} == {"waiting"}
    table = study.records()
    assert set(table["variant"]) == {"s", "d"}
    d = table[table["variant"] == "d"]
    needed = {
        ("error", "test"), ("median_abs_margin", "test"), ("median_abs_margin_scalefree", "test"),
        ("max_softmax", "test"), ("feature_change", "test"), ("flip_rate", "test"),
        ("robust_error", "test"), ("ce", "train"), ("error", "train"), ("imposed_residual", ""),
    }  # fmt: skip
    assert needed <= set(zip(d["statistic"], d["split"], strict=True))
    folder = study.place_of(the_arm(study, "d"))
    assert records.size(folder) <= 30_000
    assert "sources" in study.read(folder).provenance
    net = study.model(the_arm(study, "d").run)
    assert not any(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules())
    split = data.load("digits", device="cpu").test
    with torch.no_grad():
        error = float((net(split.x).argmax(1) != split.y).double().mean())
    recorded = d.query("statistic == 'error' and split == 'test'")["value"].item()
    assert error == pytest.approx(recorded, abs=1e-6)


def test_published_arms_are_read_back_and_publish_no_weights(study, tmp_path):
    study.run(device="cpu", progress=False)
    new = study.publish(tmp_path / "records")
    assert {the_arm(study, name).run for name in ("s", "d")} == set(new)
    for run in new:
        folder = tmp_path / "records" / "arms" / run
        assert {p.name for p in folder.iterdir()} == {"record.json", "arrays.npz"}
        assert records.read(folder).variant in ("s", "d")


def test_weights_that_are_not_those_of_their_record_stop_before_any_work(study):
    run = the_arm(study, "s").recipe.start.id
    path = study.source.folder / run / "last.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(RecordError, match="is damaged: SHA-256"):
        study.run(device="cpu", progress=False)
    assert not study.folder.exists()


def test_weights_of_another_shape_are_refused_by_name(study):
    entry = the_arm(study, "s")
    folder = study.source.folder / entry.recipe.start.id
    shutil.copytree(folder, folder.with_name("kept"))
    record = records.read(folder)
    other = models.build("resnet8", "digits", 8)
    training.store.write_weights(folder, "last", entry.recipe.start, other.state_dict())
    records.write(
        folder, run=record.run, recipe=record.recipe, variant="", provenance=record.provenance,
        settings=record.settings, history=record.history, rows=record.rows, arrays={},
    )  # fmt: skip
    with pytest.raises(RecordError, match="does not hold the weights of digits-resnet8-ar0-s0"):
        runs.sources_of(written(folder.parents[2]), entry)


def test_arms_are_the_same_from_a_store_and_from_the_records(study, tmp_path):
    entry = the_arm(study, "s")
    (from_store,), _ = runs.sources_of(study, entry)
    source = studies.load(tmp_path / "source.yml", tmp_path / "store")
    source.publish(tmp_path / "published")
    published = tmp_path / "published" / "source" / entry.recipe.start.id
    state = records.read(published).weights()
    for name, value in from_store.state_dict().items():
        assert torch.equal(value, state[name].to(value.dtype)), name


def test_precision_and_shapes_that_cannot_be_are_refused(study, networks):
    with pytest.raises(InputError, match="arms are computed in float32"):
        study.run(device="cpu", progress=False, precision="bfloat16")
    wide = models.build("resnet8", "digits", 8).eval()
    with pytest.raises(InputError, match=r"differ in shape \(blocks.0.bn1.bias: \(4,\) and \(8,\)"):
        an_arm((networks[0], wide), "d")
    recipe = the_arm(study, "d").recipe
    with pytest.raises(InputError, match="needs a network that it is tied to"):
        training.Arm(arm="d", start=recipe.start)
    with pytest.raises(InputError, match="a robust network is needed"):
        training.Arm(arm="a", start=recipe.start)


# ---- interruptions


@pytest.mark.parametrize("name", ["d", "a", "smooth"])
def test_an_interrupted_arm_ends_with_the_same_bits(networks, tmp_path, name, monkeypatch):
    monkeypatch.setattr(arms, "TRIALS", 2)
    options = {"fields": {"radius": 32 / 255, "images": 30}} if name == "smooth" else {}
    whole = an_arm(networks, name, tmp_path / "whole", **json.loads(json.dumps(options)))
    pieces = 0
    while True:
        pieces += 1
        assert pieces < 20
        run = an_arm(
            networks, name, tmp_path / "pieces", time_budget=_OneRound(),
            **json.loads(json.dumps(options)),
        )  # fmt: skip
        if run.finished:
            break
    assert pieces > 1
    for key, value in whole.model.state_dict().items():
        assert torch.equal(value, run.model.state_dict()[key]), key
    assert whole.imposed == run.imposed


class _OneRound(float):
    """A time budget that is over after the first round of the images, whatever the clock says."""

    def __new__(cls):
        return super().__new__(cls, 0.0)

    def __radd__(self, now):
        return _Deadline(now)


class _Deadline(float):
    looks = 0

    def __lt__(self, other):
        self.looks += 1
        return self.looks > 1

    __gt__ = None


# ---- what each arm does


def spectra(net):
    return spectra_of(net, (1, 8, 8))


def test_temperature_moves_margins_and_no_answer(networks):
    run = an_arm(networks, "temperature")
    split = data.load("digits", device="cpu").test
    with torch.no_grad():
        before, after, robust = (net(split.x) for net in (networks[0], run.model, networks[1]))
    assert torch.equal(before.argmax(1), after.argmax(1))
    medians = [margins.output(z, split.y).abs().double().quantile(0.5) for z in (after, robust)]
    assert float(medians[0] / medians[1]) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("name", ["d", "dose-half", "d-scale", "d-spread", "rescue", "d-at-once"])
def test_a_spectral_arm_has_the_spectra_it_is_to_have(networks, name):
    run = an_arm(networks, name)
    images = data.load("digits", device="cpu").test.x[:8]
    standard, robust = (spectra(arms.plain(net, images)) for net in networks)
    if name == "rescue":
        standard, robust = robust, standard
    got = spectra(run.model)
    imposed = [row["layer"] for row in run.imposed if row["statistic"] == "imposed_residual"]
    assert len(imposed) >= 3
    for layer in imposed:
        ends = [s[layer].double() for s in (standard, robust)]
        if name == "d-scale":
            assert got[layer].norm() == pytest.approx(float(ends[1].norm()), rel=1e-4)
            continue
        if name == "d-spread":

            def ratio(v):
                return float(v.std(correction=0) / v.mean())

            assert ratio(got[layer]) == pytest.approx(ratio(ends[1]), rel=0.1)
            continue
        wanted = (ends[0] * ends[1]).sqrt() if name == "dose-half" else ends[1]
        now, before = (float((v - wanted).norm() / wanted.norm()) for v in (got[layer], ends[0]))
        assert now < 0.12 and now < before


def test_noise_moves_kernels_as_far_as_the_projection_and_elsewhere(networks, monkeypatch):
    monkeypatch.setattr(arms, "tune", lambda *_, **__: [0.0] * 1000)
    net = arms.plain(networks[0], data.load("digits", device="cpu").test.x[:8])
    moved = an_arm(networks, "noise")
    for row in moved.imposed:
        layer = row["layer"]
        kernel, before = (n.get_submodule(layer).weight.detach() for n in (moved.model, net))
        share = float((kernel - before).norm() / before.norm())
        assert share == pytest.approx(row["value"], rel=1e-3) and share > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smooth", "smooth-adv"])
def test_smooth_arms_move_features_as_little_as_the_robust_network(networks, name):
    run = an_arm(networks, name, fields={"radius": 32 / 255, "images": 100, "epochs": 6})
    rows = {row["statistic"]: row["value"] for row in run.imposed}
    assert abs(np.log(rows["matched_value"] / rows["matched_target"])) <= 0.1
    x = data.load("digits", device="cpu").test.x[:100]
    direction = "adversarial" if name == "smooth-adv" else "random"
    now, target = (
        smoothness.feature_change(net, x, radius=32 / 255, direction=direction)["change"].median()
        for net in (run.model, networks[1])
    )
    assert abs(np.log(now / target)) < 0.25


def test_where_no_weight_matches_the_nearest_is_kept_and_said(networks, monkeypatch):
    monkeypatch.setattr(arms, "TRIALS", 1)
    monkeypatch.setattr(arms, "FIRST_WEIGHTS", (1e-6, 1e-5))
    run = an_arm(networks, "smooth", fields={"radius": 32 / 255, "images": 30})
    rows = {row["statistic"]: row["value"] for row in run.imposed}
    assert rows["trials"] == 1 and rows["penalty_weight"] == pytest.approx(10**-5.5)
    assert abs(np.log(rows["matched_value"] / rows["matched_target"])) > 0.1


# ---- the command line


def test_the_command_line_shows_and_runs_arms(study, tmp_path, monkeypatch, capsys):
    def call(*words):
        return arlib(monkeypatch, capsys, "study", *words)

    path, store = str(tmp_path / "arms.yml"), str(tmp_path / "store")
    _, shown, _ = call("show", path, "--store", store)
    assert "arms of: source" in shown and "digits-resnet8-d-s0" in shown
    assert call("run", path, "--store", store, "--no-progress")[0] == 0
    _, status, _ = call("status", path, "--store", store)
    assert "waiting" in status and "2 of 6 runs of arms are done." in status
    code, missing, _ = call("missing", path, "--store", store)
    assert code == 1 and len(missing.split()) == 4
    assert files.read_json(study.folder / the_arm(study, "s").run / "record.json")
