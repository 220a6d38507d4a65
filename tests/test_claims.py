"""Verdicts on synthetic records with known answers."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims, tables
from arlib.claims.declared import CLAIMS, Config, Statistic
from arlib.errors import InputError

MEASURED = [f"C{i}" for i in range(1, 8)]
PLAIN = Statistic("a number", "x")
LAYERED = Statistic("a number", "x", log=True, layers="blocks")


def decided(**planted) -> pd.DataFrame:
    config = planted.pop("config", None)
    return claims.decide(synthetic.records(**planted), config).set_index("claim")


def grid(values, strengths=(0.0, 4.0, 8.0), layers=("",)) -> pd.DataFrame:
    """values (seeds, strengths[, layers]) → the frame that `gather` takes."""
    values = np.asarray(values, dtype=float).reshape(len(values), len(strengths), -1)
    index = pd.MultiIndex.from_product([range(len(values)), strengths], names=["seed", "strength"])
    names = layers if values.shape[2] == len(layers) else [f"l{i}" for i in range(values.shape[2])]
    return pd.DataFrame(values.reshape(len(index), -1), index=index, columns=names)


def evidence(values, statistic=PLAIN, **kwargs):
    strengths = kwargs.pop("strengths", (0.0, 4.0, 8.0))
    return claims.gather(grid(values, strengths), statistic, Config(**kwargs))


# --- planted answers


def test_a_planted_effect_is_supported_and_a_reversed_one_contradicted():
    assert set(decided().loc[MEASURED, "verdict"]) == {"supported"}
    assert set(decided(world=-1).loc[MEASURED, "verdict"]) == {"contradicted"}


def test_noise_is_undecided():
    assert set(decided(world=0, rng=1).loc[MEASURED, "verdict"]) <= {"undecided", "mixed"}


def test_effects_are_the_planted_ones():
    rows = decided(noise=1e-6)
    assert rows.loc["C1", "effect"] == pytest.approx(0.14, abs=1e-4)
    assert rows.loc["C2", "effect"] == pytest.approx(0.14 - 0.20, abs=1e-4)
    assert rows.loc["C4", "effect"] == pytest.approx(-1.0, abs=1e-4)  # a log ratio
    assert rows.loc["C4", "twin_effect"] == pytest.approx(-0.4, abs=1e-4)
    assert rows.loc["C6", "effect"] == pytest.approx(-0.4, abs=1e-4)
    assert rows.loc["C4", ["at_zero", "at_effect"]].tolist() == pytest.approx(
        [6, 6 / np.e], rel=1e-4
    )
    assert rows.loc["C1", "differences"] == pytest.approx([0.14] * 3, abs=1e-4)
    assert rows.loc["C1", "strengths"] == (0, 4, 8) and rows.loc["C1", "trend_p"] == pytest.approx(
        2 / 216
    )


def test_the_interval_is_student_t_over_seeds():
    row = decided().loc["C3"]
    assert claims.t_interval(row["differences"]) == (row["effect"], row["low"], row["high"])


@pytest.mark.slow
@pytest.mark.parametrize("layers", [0, 12])
def test_noise_gives_verdicts_at_most_at_the_nominal_rate(layers):
    draw, statistic = np.random.default_rng(2), LAYERED if layers else PLAIN
    decided = []
    for _ in range(200):
        values = draw.normal(size=(3, 3, max(layers, 1))) + draw.normal(size=(3, 1, 1))
        decided.append(
            claims.gather(grid(np.exp(values) if layers else values), statistic, Config())
        )
    outside = sum(e.effect.sign != 0 for e in decided)
    verdicts = [claims.judge(e, -1) for e in decided]
    assert 3 <= outside <= 19  # 95 % coverage: 10 expected
    assert sum(v != "undecided" for v in verdicts) <= min(outside, 10)
    assert sum(claims.verdict(e, None, -1) == "mixed" for e in decided) <= 6


def test_many_seeds_decide_a_small_effect_that_three_do_not():
    draw = np.random.default_rng(0)
    values = draw.normal(size=(12, 3)) - np.array([0, 0.7, 1.5])
    assert claims.judge(evidence(values[:3]), -1) == "undecided"
    assert claims.judge(evidence(values), -1) == "supported"


# --- the rules one by one


def test_an_interval_without_a_trend_is_undecided():
    decision = evidence([[1, 3, 2], [1, 3.1, 2.1], [1, 3, 2.05]])
    assert decision.effect.sign == 1 and decision.trend_p > 0.05
    assert claims.judge(decision, 1) == "undecided"


def test_a_trend_without_an_interval_is_undecided():
    decision = evidence([[0, 1, 2], [0, 1, 9], [0, 0.1, 0.2]])
    assert decision.effect.sign == 0 and decision.trend_p < 0.05
    assert claims.judge(decision, 1) == "undecided"


def test_trend_and_effect_must_point_the_same_way():
    values = [[0.0, 0.5, -1, -2, -3]] * 3 + np.random.default_rng(0).normal(size=(3, 5)) * 0.01
    decision = evidence(values, strengths=(0.0, 4.0, 8.0, 16.0, 32.0), effect=4)
    assert decision.effect.sign == 1 and decision.trend == -1 and decision.trend_p < 0.05
    assert claims.judge(decision, 1) == claims.judge(decision, -1) == "undecided"


def test_two_strengths_can_never_decide():
    rows = decided(strengths=(0.0, 8.0))
    assert set(rows.loc[MEASURED, "verdict"]) == {"undecided"}
    assert "cannot fall below .05" in rows.loc["C1", "note"]


def test_onset_against_dose_is_mixed():
    decision = evidence([[0, -2, -1], [0, -2.1, -1], [0, -2, -1.1]])
    assert (decision.onset.sign, decision.dose.sign) == (-1, 1)
    assert claims.verdict(decision, None, -1) == "mixed"


def test_primary_against_twin_is_mixed():
    rows = decided(worlds={("median_abs_margin_scalefree", "test", ""): -1.0})
    assert rows.loc["C4", "verdict"] == "mixed" and rows.loc["C4", "primary_verdict"] == "supported"
    assert "other way" in rows.loc["C4", "note"]
    assert rows.loc["C3", "verdict"] == "supported"


def test_a_twin_that_does_nothing_changes_nothing_but_c6():
    rows = decided(worlds={"overconfidence": 0.0, "sv_std_over_mean": 0.0}, rng=3)
    assert (
        rows.loc["C3", "verdict"] == "supported" and rows.loc["C3", "twin_verdict"] == "undecided"
    )
    assert rows.loc["C6", "verdict"] == "supported, scale only"


def test_scale_only_is_only_for_a_falling_std():
    assert decided(worlds={"sv_std_over_mean": -1.0}).loc["C6", "verdict"] == "mixed"
    assert (
        decided(worlds={"sv_std": 0.0, "sv_std_over_mean": 0.0}, rng=3).loc["C6", "verdict"]
        == "undecided"
    )


def test_log_and_plain_scales():
    assert [c.primary.log for c in CLAIMS.values() if c.primary] == [
        False,
        False,
        False,
        True,
        True,
        True,
        False,
    ]
    assert [c.twin.log for c in CLAIMS.values() if c.twin] == [
        False,
        False,
        True,
        True,
        True,
        False,
    ]


# --- most layers


def layered(shift, *, noise=0.001, common=0.0):
    """log values (3 seeds, 3 strengths, layers) moving by `shift` (a layer each) at strength 8."""
    draw = np.random.default_rng(0)
    dose = np.array([0, 0.5, 1])[None, :, None]
    values = dose * np.asarray(shift) + noise * draw.normal(size=(3, 3, len(shift)))
    return np.exp(values + common * np.arange(3)[:, None, None])


def test_most_layers_smaller_is_supported():
    decision = evidence(layered([-0.2] * 18 + [0.2] * 2), LAYERED)
    assert decision.shares == (0.9,) * 3 and decision.effect.mean == pytest.approx(-0.2, abs=0.01)
    assert decision.floor < 0.9 and claims.judge(decision, -1) == "supported"


def test_most_layers_larger_is_contradicted():
    assert claims.judge(evidence(layered([0.2] * 18 + [-0.2] * 2), LAYERED), -1) == "contradicted"


def test_half_of_the_layers_is_not_most():
    decision = evidence(layered([-0.2] * 10 + [0.1] * 10), LAYERED)
    assert decision.shares == (0.5,) * 3 and claims.judge(decision, -1) == "undecided"


def test_the_noise_floor_holds_a_verdict_back():
    still, drifting = (
        evidence(layered([-0.2] * 18 + [0.2] * 2, common=c), LAYERED) for c in (0, 0.5)
    )
    assert drifting.effect == pytest.approx(still.effect) and drifting.trend_p == still.trend_p
    assert drifting.floor == 1 and claims.judge(drifting, -1) == "undecided"


def test_noise_floor_counts_pairs_of_seeds_at_one_strength_in_both_orders():
    frame = pd.DataFrame([[1, 1, 1, 1], [2, 2, 2, 0], [1, 2, 1, 1]], index=[0, 1, 2])
    # seed 0 against 1; the largest of .75, .25, 0, .25, .5, .25
    assert claims.noise_floor([frame]) == 0.75
    assert claims.noise_floor([frame.iloc[[1, 0, 2]]]) == 0.75


def test_one_seed_below_half_is_enough_to_doubt():
    values = layered([-0.2] * 18 + [0.2] * 2)
    values[2, 2, :12] = 1.5 * values[2, 0, :12]
    assert claims.judge(evidence(values, LAYERED), -1) == "undecided"


def test_c6_counts_only_convolutions_of_residual_branches():
    table = synthetic.records()
    outside = table["layer"].isin(synthetic.OTHERS)
    changed = table.assign(
        value=table["value"].where(~outside, table["value"] * 100 ** (table["strength"] / 8))
    )
    pd.testing.assert_frame_equal(claims.decide(changed), claims.decide(table))


def test_rows_named_counted_say_which_layers_count():
    table = synthetic.records()
    names = [*synthetic.CONVOLUTIONS[:6], *synthetic.OTHERS]
    rows = pd.DataFrame({"layer": names, "value": [1.0] * 6 + [0.0] * 2}).assign(
        checkpoint="last",
        split="",
        statistic="counted",
        setting="",
        strength=0.0,
        seed=0,
        variant="",
    )
    few = table[table["layer"].isin(["", *synthetic.BLOCKS, *names[:6]])]
    marked, alone = claims.decide(pd.concat([table, rows])), claims.decide(few)
    pd.testing.assert_frame_equal(marked, alone)


# --- collapsed runs, missing seeds, variants


def collapse(table, strength, seed, statistic="error", value=0.9):
    hit = (
        (table["strength"] == strength)
        & (table["seed"] == seed)
        & (table["statistic"] == statistic)
    )
    hit &= (table["split"] == "train") & (table["checkpoint"] == "last")
    return table.assign(value=table["value"].where(~hit, value))


@pytest.mark.parametrize("statistic", ["error", "share_largest_class"])
def test_a_collapsed_seed_takes_its_strength_out_for_all(statistic):
    table = collapse(synthetic.records(strengths=(0.0, 4.0, 8.0, 16.0)), 16.0, 1, statistic, 0.95)
    gone = claims.collapsed(table)
    assert gone[["strength", "seed"]].to_numpy().tolist() == [[16.0, 1]]
    rows = claims.decide(table).set_index("claim")
    assert rows.loc["C1", "strengths"] == (0, 4, 8) and "seed 1 collapsed" in rows.loc["C1", "note"]
    assert rows.loc["C1", "verdict"] == "supported"


def test_a_collapse_at_the_effect_strength_leaves_nothing_measured():
    rows = claims.decide(collapse(synthetic.records(), 8.0, 0)).set_index("claim")
    assert set(rows["verdict"]) == {"not measured"} and "collapsed" in rows.loc["C5", "note"]


def test_collapse_threshold_is_two_over_classes():
    table = collapse(synthetic.records(), 8.0, 0, value=0.7)
    assert claims.collapsed(table).empty  # accuracy .3 of 10 classes
    assert len(claims.collapsed(table, {"classes": 5})) == 1


def test_fewer_than_three_seeds_is_not_measured_and_says_which():
    table = synthetic.records()
    table = table[~((table["seed"] == 2) & (table["strength"] == 8))]
    row = claims.decide(table).set_index("claim").loc["C1"]
    assert row["verdict"] == "not measured" and "seed 2 missing at AR strength 8" in row["note"]
    assert np.isnan(row["effect"]) and row["seeds"] == 2


def test_planned_seeds_are_named():
    note = decided(seeds=(0,), config={"seeds": (0, 1, 2)}).loc["C1", "note"]
    assert "seeds 1, 2 missing at AR strength 0" in note


def test_a_strength_with_missing_seeds_leaves_the_trend():
    table = synthetic.records(strengths=(0.0, 4.0, 8.0, 16.0))
    table = table[~((table["seed"] > 0) & (table["strength"] == 16))]
    row = claims.decide(table).set_index("claim").loc["C1"]
    assert (
        row["strengths"] == (0, 4, 8)
        and "AR strength 16 is left out: seeds 1, 2 missing" in row["note"]
    )


def test_an_empty_table_measures_nothing():
    rows = claims.decide(synthetic.records().iloc[:0])
    assert set(rows["verdict"]) == {"not measured"} and rows["claim"].tolist() == list(CLAIMS)
    assert claims.tested(rows) == 0


def test_variants_and_other_checkpoints_do_not_decide():
    table = synthetic.records()
    extra = synthetic.records(world=-1, rng=9)
    extra = extra[extra["checkpoint"] == "last"]
    extra = pd.concat([extra.assign(variant="fixed-step"), extra.assign(checkpoint="epoch-3")])
    decided, alone = claims.decide(pd.concat([table, extra])), claims.decide(table)
    beside = ["matched", "note"]
    pd.testing.assert_frame_equal(decided.drop(columns=beside), alone.drop(columns=beside))


def test_undefined_values_are_missing():
    table = synthetic.records()
    hit = (table["statistic"] == "max_softmax") & (table["seed"] == 1) & (table["split"] == "test")
    row = claims.decide(table.assign(value=table["value"].mask(hit))).set_index("claim").loc["C3"]
    assert row["verdict"] == "not measured" and "seed 1 missing" in row["note"]


def test_a_study_with_its_own_radii():
    table = synthetic.records(strengths=(0.0, 16.0, 32.0, 64.0), effect=32.0)
    settings = {
        "random@4": "random@16",
        "adversarial@4": "adversarial@16",
        "pgd@4": "pgd@16",
        "sign@8": "sign@32",
        "pgd@16": "pgd@64",
        "sign@16": "sign@64",
    }
    table = table.assign(setting=table["setting"].replace(settings))
    config = {"effect": 32, "feature": 16, "flip_pgd": 16, "flip_sign": 32, "toy": True}
    rows = claims.decide(table, config)
    assert set(rows.set_index("claim").loc[MEASURED, "verdict"]) == {"supported"}
    assert rows["toy"].all() and (rows["strength"] == 32).all()
    assert claims.table(rows).loc["C5 Smoothing", "Verdict"] == "supported (toy)"
    assert "±16/255" in rows.set_index("claim").loc["C5", "statistic"]


def test_bad_input():
    table = synthetic.records()
    with pytest.raises(InputError, match="lacks split"):
        claims.decide(table.drop(columns="split"))
    with pytest.raises(InputError, match="Did you mean 'effect'"):
        claims.decide(table, {"efect": 8})
    with pytest.raises(InputError, match="effect is -8"):
        claims.decide(table, {"effect": -8})
    with pytest.raises(InputError, match="stands twice"):
        claims.decide(pd.concat([table, table]))
    with pytest.raises(InputError, match="Did you mean 'C1'"):
        claims.sensitivity(table, "C11")


# --- what people see


def test_declared_claims_are_complete():
    assert list(CLAIMS) == [f"C{i}" for i in range(1, 11)]
    assert [c.arrow for c in CLAIMS.values()][:7] == ["↑", *"↓↓↓↓↓↓"]
    for claim in CLAIMS.values():
        assert claim.title and claim.statement.endswith(".") and claim.source
        assert (claim.primary is None) == bool(claim.needs)


def test_untested_claims_say_what_would_measure_them():
    rows = decided()
    for claim in ("C8", "C9", "C10"):
        assert (
            rows.loc[claim, "verdict"] == "not measured"
            and CLAIMS[claim].needs in rows.loc[claim, "note"]
        )


def test_table_and_markdown():
    rows = claims.decide(synthetic.records(noise=1e-9))
    table = claims.table(rows)
    assert table.loc["C1 Degradation", "Effect [95 % interval]"] == "+14.0 points [+14.0, +14.0]"
    assert table.loc["C4 Margin shrinkage", "Effect [95 % interval]"] == "× 0.368 [0.368, 0.368]"
    assert table.loc["C3 Less confident", "Twin"] == "−0.100 [−0.100, −0.100]"
    assert table.loc["C8 Mechanism", "Verdict"] == "not measured"
    text = tables.markdown(table)
    assert text.count("\n") == 11 and r"median \|m\| on test images" in text and "nan" not in text


def test_notes_are_whole_sentences():
    for world in (1, 0, -1):
        for note in decided(world=world)["note"]:
            assert note.endswith(".") and "nan" not in note and "{" not in note and "  " not in note


def test_combine_leaves_toys_out_and_makes_disagreement_mixed():
    yes, no, none = (claims.decide(synthetic.records(world=w, rng=1)) for w in (1, -1, 0))
    assert claims.combine({"a": yes, "b": none}).loc["C1", "combined"] == "supported"
    both = claims.combine({"a": yes, "b": no})
    assert (
        both.loc["C1", "combined"] == "mixed"
        and both.attrs["tested"] == 14
        and both.loc["C1", "studies"] == 2
    )
    toy = claims.combine({"a": yes, "digits": no.assign(toy=True)})
    assert (
        toy.loc["C1", ["combined", "studies"]].tolist() == ["supported", 1]
        and "digits (toy)" in toy.columns
    )
    assert claims.combine({"b": none}).loc["C1", "combined"] == "undecided"
    assert set(claims.combine({})["combined"]) == {"not measured"}


def test_verdicts_of_a_study():
    study = synthetic.study(synthetic.records(), name="made-up", toy=True, claims={"effect": 8})
    rows = claims.verdicts(study)
    assert set(rows["study"]) == {"made-up"} and rows["toy"].all()
    assert claims.config_of(study) == Config(toy=True, seeds=(0, 1, 2))
    assert claims.config_of(synthetic.study(None, dataset="cifar100")).classes == 100


def test_sensitivity_lists_everything_and_decides_nothing():
    table = synthetic.records(noise=1e-6)
    listed = claims.sensitivity(table, "C7").set_index(["setting", "checkpoint"])
    assert (
        listed.loc[("pgd@4", "last"), "role"] == "primary"
        and listed.loc[("sign@8", "last"), "role"] == "twin"
    )
    assert set(listed.index.get_level_values("setting")) == {
        f"{k}@{r}" for k in ("pgd", "uniform", "sign") for r in synthetic.RADII
    }
    assert not listed.index.duplicated().any()
    assert listed.loc[("uniform@16", "last"), "effect"] == pytest.approx(-0.14, abs=1e-4)
    gap = claims.sensitivity(table, "C2").set_index("statistic")
    assert gap.loc["test − train cross-entropy, raw", "effect"] == pytest.approx(-0.3, abs=1e-4)
    assert claims.sensitivity(table, "C8").empty
    reversed_best = claims.decide(
        table.assign(value=table["value"].where(table["checkpoint"] == "last", 1.0))
    )
    assert set(reversed_best.set_index("claim").loc[MEASURED, "verdict"]) == {"supported"}


def test_a_study_s_verdicts_are_completed_by_studies_of_arms_and_fronts(monkeypatch):
    from arlib.claims import report

    own = claims.decide(synthetic.records(), {"protocol": 2})
    own.insert(0, "study", "trained")
    other = own.assign(study="arms", effect_text="", verdict=claims.NOT_MEASURED)
    rows = other["claim"].isin(["C1", "C8", "C8a"])
    other.loc[rows, ["verdict", "effect_text", "seeds"]] = "contradicted", "0.14 [0.06, 0.23]", 3
    monkeypatch.setattr(report, "verdicts", lambda study: study)
    whole = claims.completed(own, [other]).set_index("claim")
    before = own.set_index("claim")
    assert whole.loc["C1", "verdict"] == before.loc["C1", "verdict"] == "supported"
    assert whole.loc["C1", "study"] == "trained"
    assert tuple(whole.loc["C8a", ["study", "verdict", "seeds"]]) == ("arms", "contradicted", 3)
    assert whole.loc["C8b", "verdict"] == claims.NOT_MEASURED
    assert claims.tested(whole.reset_index()) == claims.tested(own) + 1
    text = claims.table(whole.reset_index())["Effect [95 % interval]"]
    assert text[[name.startswith("C8a") for name in text.index]].tolist() == ["0.14 [0.06, 0.23]"]
    same = claims.completed(own, [other.assign(verdict=claims.NOT_MEASURED)])
    pd.testing.assert_frame_equal(same, own)
    toys = claims.completed(own, [other.assign(toy=True)])
    pd.testing.assert_frame_equal(toys, own)
