"""Studies of fronts: what their files may say, how their runs differ, and what is recorded."""

import shutil

import pytest
from test_studies import TINY, a_study, fake, run

from arlib import places, records, studies, training
from arlib.errors import InputError, TrainingStopped
from arlib.training import passes

FRONTS = """\
protocol: 2
fronts:
  trades: {strength: 32, beta: [1, 2, 4], equal_passes: [1, 2, 4]}
  mixed: {strength: 32, mix: [0.2, 0.5, 0.8]}
  n-fgsm: {strength: [8, 16, 32], equal_passes: [8, 16, 32]}
  hat: {strength: 32, beta: 2.5, gamma: [0.25, 0.5, 1]}
"""
MEASURE = "measure: {radius_scale: 4, knob_images: 20, strong_images: 8, instance_images: 8}\n"
GRID = TINY.replace("[0, 32]", "[0, 16, 32, 64]")


WHOLE = GRID + FRONTS + MEASURE


def test_each_method_is_a_front_over_its_knob_and_all_else_is_the_grids(tmp_path):
    study = a_study(tmp_path, WHOLE)
    one = [entry for entry in study.entries if entry.recipe.seed == 0]
    assert study.entries == (*one, *(e for e in study.entries if e.recipe.seed == 1))
    assert [entry.variant for entry in one] == [
        *[""] * 4,
        "front-trades-1", "front-trades-2", "front-trades-4",
        "front-mixed-0.2", "front-mixed-0.5", "front-mixed-0.8",
        "front-n-fgsm-8", "front-n-fgsm-16", "front-n-fgsm-32",
        "front-hat-0.25", "front-hat-0.5", "front-hat-1",
        "front-trades-1-passes", "front-trades-2-passes", "front-trades-4-passes",
        "front-n-fgsm-8-passes", "front-n-fgsm-16-passes", "front-n-fgsm-32-passes",
    ]  # fmt: skip
    by = {entry.variant: entry for entry in one[4:]}
    grid = {"dataset": "digits", "model": "resnet8", "width": 4, "batch_size": 128}
    grid |= {"epochs": 3, "monitor_images": 64}
    strong = {"eps": 32 / 255, "steps": 2}
    assert by["front-trades-2"].recipe == training.Recipe(
        **grid, **strong, objective="trades", beta=2.0
    )
    assert by["front-mixed-0.2"].recipe == training.Recipe(
        **grid, **strong, objective="mixed", mix=0.2
    )
    assert by["front-n-fgsm-8"].recipe == training.Recipe(**grid, eps=8 / 255, attack="n-fgsm")
    assert by["front-hat-1"].recipe == training.Recipe(
        **grid, **strong, objective="hat", beta=2.5, gamma=1.0, helper=one[0].run
    )
    assert {e.front.method for e in one[:4]} == {"pgd-at"} and all(e.slim for e in one)
    assert {entry.recipe.helper for entry in study.entries if entry.recipe.helper} == {
        one[0].run,
        next(e.run for e in study.entries if e.recipe.seed == 1),
    }
    pgd = passes.of_training(one[2].recipe)
    for entry in one:
        if entry.front.budget == "passes":
            assert abs(passes.of_training(entry.recipe) / pgd - 1) < 0.25, entry.variant


MISTAKES = [
    ("[1, 2, 4]", "[1, 2]", "fronts.trades.beta has 2 values; a front needs 3 points or more"),
    ("  trades", "  trade", r"fronts.trade is an unknown key: .* Did you mean 'trades'"),
    ("beta: [1", "gamma: [1", "fronts.trades.gamma is an unknown key"),
    ("mix: [0.2", "mix: [1.2", "fronts.mixed.mix cannot be: mix is 1.2; allowed: 0 to 1"),
    ("beta: [1, 2, 4]", "beta: [1, 2, x]", r"fronts.trades.beta\[2\] is 'x'"),
    ("beta: [1, 2, 4]", "beta: [1, 2, 2]", r"fronts.trades.beta\[2\] is 2 for the second"),
    ("equal_passes: [1, 2, 4]", "equal_passes: [1, 2, 3]", r"equal_passes\[2\] is 3, no value of"),
    ("equal_passes: [1, 2, 4]", "equal_passes: [1]", "equal_passes has 1 values; a front needs 3"),
    ("  mixed: {strength: 32,", "  mixed: {", "fronts.mixed lacks the key 'strength'"),
    ("{strength: 32, mix", "{strength: 32, epochs: 9, mix", "fronts.mixed.epochs is an unknown"),
    ("[0, 16, 32, 64]", "[0, 16, 32]", "grid.strength has fewer than 3 strengths above 0"),
    ("[0, 16, 32, 64]", "[8, 16, 32, 64]", "fronts.hat takes labels .* put the strength 0"),
    ("protocol: 2", "protocol: 1", "fronts are of protocol 2"),
    ("radius_scale: 4, knob_images: 20", "radius_scale: 4", "measure lacks knob_images"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: one[2][:40])
def test_a_mistake_in_fronts_is_one_message_with_its_place(tmp_path, mistake):
    old, new, message = mistake
    assert old in WHOLE
    with pytest.raises(InputError, match=message) as error:
        a_study(tmp_path, WHOLE.replace(old, new, 1))
    assert "tiny.yml, line " in str(error.value) and "\n" not in str(error.value)


def test_a_variant_may_not_pass_for_a_front_and_a_helper_is_of_the_same_study(tmp_path):
    extra = "extra: [{strength: 32, seed: 0, variant: front-x, epochs: 1}]\n"
    with pytest.raises(InputError, match=r"names with 'front-' are for those of `fronts:`"):
        a_study(tmp_path, TINY + extra)
    hat = "extra: [{strength: 32, seed: 0, variant: h, objective: hat, helper: HELPER}]\n"
    with pytest.raises(InputError, match=r"extra\[0\] has the helper .*, no run of strength 0 of"):
        a_study(tmp_path, TINY + hat.replace("HELPER", "digits-resnet8-ar0-s0-00000000"))
    standard = a_study(tmp_path, TINY).entries[0].run
    assert a_study(tmp_path, TINY + hat.replace("HELPER", standard)).entries[-1].recipe.helper


def test_who_needs_labels_waits_for_the_run_that_gives_them(tmp_path):
    study, order = a_study(tmp_path, WHOLE), []
    standard = study.entries[0].run

    def compute(study, entry, folder, **options):
        order.append(entry.variant or entry.run)
        if entry.run == standard:
            raise TrainingStopped("the loss became nan")
        if entry.recipe.helper:
            assert (study.helper_of(entry) / "last.safetensors").is_file()
        return fake(study, entry, folder, **options)

    with pytest.raises(TrainingStopped, match="1 trainings stopped"):
        run(study, compute)
    waiting = [entry for entry in study.missing() if entry.run != standard]
    assert {entry.recipe.helper for entry in waiting} == {standard} and len(waiting) == 3
    assert sum(name.startswith("front-hat") for name in order) == 3  # of the other seed


def test_labels_of_a_run_that_is_recorded_without_weights_are_refused_before_work(tmp_path):
    study = a_study(tmp_path, WHOLE + "weights: {strength: [32]}\n")
    published = tmp_path / "records"
    run(study)
    study.publish(published)
    hat = next(entry for entry in study.entries if entry.recipe.helper)
    shutil.rmtree(published / "tiny" / hat.run)
    where = places.Places(tmp_path / "new", (published,), study.places.studies)
    with pytest.raises(InputError, match=r"recorded without its weights. Compute all anew"):
        run(studies.Study(study.file, where))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*collapsed and was stopped")
def test_a_study_of_fronts_runs_and_its_records_are_slim(tmp_path):
    hat = "protocol: 2\nfronts:\n  hat: {strength: 32, beta: 2.5, gamma: [0.25, 0.5, 1]}\n"
    text = GRID.replace("seed: [0, 1]", "seed: [0]") + hat + MEASURE
    text = text.replace("epochs: 3", "epochs: 1\n  train_images: 256")
    study = a_study(tmp_path, text)
    table = study.run(device="cpu", progress=False)
    assert set(table["state"]) == {"finished"}
    for run_id, folder in study.finished().items():
        rows = study.record(run_id).rows
        assert records.size(folder) <= 30_000 and not study.arrays(run_id)
        assert set(rows["checkpoint"]) == {"last"}
        measured = set(zip(rows["statistic"], rows["split"], rows["setting"], strict=True))
        assert {
            ("error", "test", ""), ("error", "val", ""), ("robust_error", "val", "pgd-20@32"),
            ("robust_error", "test", "apgd-ce+t@32"), ("distance_right", "test", ""),
            ("slope_right", "test", ""),
        } <= measured  # fmt: skip
    hat = next(entry for entry in study.entries if entry.recipe.helper)
    assert study.record(hat.run).provenance["helper_sha256"]
    assert len(study.publish(tmp_path / "records")) == len(study.entries)
    kept = [path.parent.name for path in (tmp_path / "records").glob("*/*/weights.safetensors")]
    assert sorted(kept) == sorted(e.run for e in study.entries if not e.variant)
