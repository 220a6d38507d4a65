"""The sentences of the first page say what the records say, and nothing where nothing is."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims, studies, tables

NOTHING = "Not measured in this study."


def medians(lead: float, distance: float, seeds: int = 3) -> pd.DataFrame:
    """Of networks at strengths 0 and 8; the factors of all seeds lie around these."""
    rows = {}
    for seed in range(seeds):
        noise = 1 + 0.01 * seed
        rows[seed, 0.0] = [8.0, 2.0, 4.0]
        rows[seed, 8.0] = [8 * lead * noise, 2 * distance * noise, 4 * lead / distance]
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=["output", "instance", "slope"])
    frame.index = pd.MultiIndex.from_tuples(frame.index, names=["seed", "strength"])
    return frame


@pytest.fixture(scope="module")
def digits():
    return studies.load("digits")


def findings_of(study, verdicts, margins):
    return tables.first_page(study, verdicts, margins)


@pytest.mark.parametrize("lead, distance, head", [
    (0.25, 4.0, "Nearer in logits, farther in pixels"),
    (0.25, 0.5, "Two margins, the same images"),
    (2.0, 4.0, "Two margins, the same images"),
])  # fmt: skip
def test_the_first_sentence_has_the_factors_and_draws_no_conclusion_they_do_not(
    digits, lead, distance, head
):
    verdicts = claims.decide(synthetic.records())
    sentence = findings_of(digits, verdicts, (45, medians(lead, distance)))["nearer"]
    assert sentence.startswith(f"{head}: at AR strength 8, on the 45 test images ")
    factors = [float(word) for word in pd.Series(sentence).str.findall(r"× ([\d.]+)").iloc[0]]
    middle = np.exp(np.log([1, 1.01, 1.02]).mean())
    assert factors == pytest.approx([lead * middle, distance * middle, lead / distance], rel=5e-3)


@pytest.mark.parametrize("margins", [None, (45, medians(0.5, 2.0, seeds=1))])
def test_nothing_is_said_of_what_nobody_measured(digits, margins):
    none = claims.decide(synthetic.records().iloc[:0])
    sentences = findings_of(digits, none, margins)
    assert sentences["nearer"] == sentences["gap"] == NOTHING
    assert "not measured" in sentences["smoother"] and "×" not in sentences["smoother"]


def test_by_protocol_2_the_parts_of_a_claim_are_told_with_their_effects(digits):
    small = studies.load("cifar10-resnet20-small")
    verdicts = claims.after_the_fact(small)
    rows = verdicts.set_index("claim")
    told = findings_of(digits, verdicts, None)["smoother"]
    assert told.startswith(f"Smoother layers: {rows.loc['C5', 'verdict']} (feature change")
    effects = claims.table(verdicts)["Effect [95 % interval]"]
    for claim in ("C5a", "C5b", "C6a", "C6b"):
        (effect,) = effects[[name.startswith(claim) for name in effects.index]]
        assert f"{rows.loc[claim, 'statistic']} {effect}" in told
    assert rows.loc["C6c", "statistic"] not in told  # this study did not measure it


def test_effects_and_readings_are_those_of_the_verdicts(digits, tmp_path):
    verdicts = claims.verdicts(digits)
    rows = claims.table(verdicts)["Effect [95 % interval]"]
    sentences = findings_of(digits, verdicts, None)
    for claim, name in (("C1", "gap"), ("C2", "gap"), ("C5", "smoother"), ("C6", "smoother")):
        (effect,) = [text for title, text in rows.items() if title.startswith(f"{claim} ")]
        assert effect in sentences[name]
    assert "12 networks of one design" in sentences["why"] and "It is a toy" in sentences["why"]
    begun = studies.load("cifar10-resnet56", tmp_path)
    assert findings_of(begun, claims.verdicts(begun), None)["why"].startswith("0 of 17 networks ")
