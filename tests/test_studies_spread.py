"""Studies with a spread: what their files may say, and what is recorded of their runs."""

import pytest
from test_studies import TINY, a_study

from arlib import claims, records, studies
from arlib.claims.association import FEWEST
from arlib.errors import InputError

SPREAD = "protocol: 2\nspread:\n  weight_decay: [0.0001, 0.01]\n  epochs: [1, 2]\n"


def test_every_combination_is_trained_at_every_strength_and_seed(tmp_path):
    study = a_study(tmp_path, TINY + SPREAD)
    assert len(study.entries) == 2 * 2 * (4 + 1) == len({entry.run for entry in study.entries})
    assert all(entry.slim and entry.spread for entry in study.entries)
    first = [entry for entry in study.entries if entry.recipe.seed == 0]
    assert study.entries[: len(first)] == tuple(first)
    named = [entry.variant for entry in first]
    assert named == ["", "", *(f"spread-{n}" for n in (1, 2, 3, 4) for _ in range(2))]
    varied = {(e.recipe.weight_decay, e.recipe.epochs, e.recipe.strength) for e in first[2:]}
    assert varied == {(w, n, s) for w in (0.0001, 0.01) for n in (1, 2) for s in (0.0, 32.0)}
    assert not study.file.weights, "no weights are published"


MISTAKES = [
    ("[1, 2]", "[1]", "spread.epochs has one value; a spread needs two or more"),
    ("  epochs", "  epoch", r"spread.epoch is an unknown key: .* Did you mean 'epochs'"),
    ("  epochs", "  strength", "spread.strength is an unknown key"),
    ("[1, 2]", "[1, 1]", r"spread.epochs\[1\] is 1 for the second time"),
    ("[1, 2]", "[1, 1.5]", r"spread.epochs\[1\] is 1.5"),
    ("[1, 2]", "[1, 0]", "spread.epochs cannot be: epochs is 0"),
    ("[1, 2]", "[1, 3]", None),
    ("[0.0001, 0.01]", "[0.0005, 0.01]", None),
    ("epochs: [1, 2]", "epochs: [1, 3]\n  lr: [0.1, 0.2]", None),
    ("protocol: 2\n", "protocol: 1\n", "spread are of protocol 2|spread .* protocol 2"),
    ("protocol: 2\n", "protocol: 2\ncontrols: [1]\n", "spread and controls are both given"),
    ("epochs: [1, 2]", f"train_images: {list(range(200, 1400))}", "has 2,400 combinations"),
]


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda one: f"{one[1][:30]}")
def test_a_mistake_in_a_spread_is_one_message_with_its_place(tmp_path, mistake):
    old, new, message = mistake
    text = TINY + SPREAD.replace(old, new, 1)
    if message is None:
        assert a_study(tmp_path, text).entries
        return
    with pytest.raises(InputError, match=message) as error:
        a_study(tmp_path, text)
    assert "tiny.yml, line " in str(error.value) and "\n" not in str(error.value)


def test_a_combination_that_is_the_grid_s_own_is_said(tmp_path):
    same = SPREAD.replace("0.0001", "0.0005").replace("[1, 2]", "[2, 3]")
    with pytest.raises(InputError, match=r"lists the run .* twice, here and as grid"):
        a_study(tmp_path, TINY + same)
    extra = "extra: [{strength: 32, seed: 0, variant: spread-1, epochs: 1}]\n"
    with pytest.raises(InputError, match="names with 'spread-' are for those of `spread:`"):
        a_study(tmp_path, TINY + extra)


def test_the_shipped_spread_has_the_networks_that_the_protocol_asks_for():
    study = studies.load("association")
    for strength in (0, 8):
        networks = [entry for entry in study.entries if entry.recipe.strength == strength]
        assert len(networks) >= FEWEST


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*collapsed and was stopped")
def test_a_spread_runs_and_its_records_are_slim_and_enough(tmp_path):
    text = (TINY + SPREAD.replace("[1, 2]", "[6, 8]")).replace("seed: [0, 1]", "seed: [0]")
    text += "measure: {radius_scale: 4, adversarial_images: 8, jacobian_images: 2}\n"
    study = a_study(tmp_path, text)
    study.run(device="cpu", progress=False)
    for run, folder in study.finished().items():
        assert records.size(folder) <= 30_000 and not study.arrays(run)
    # digits' radii are four times those of photographs
    config = {"feature": 16.0}
    spread = claims.spread_of(study.records(), config)
    assert len(spread) == len(study.entries) and not spread.isna().any().any()
