"""Protocol 2: claims in parts, the rule for layers, Holm, no gap, shares left;
and protocol 1 as it was.
"""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from arlib import claims, figures, studies, tables
from arlib.claims import controls
from arlib.claims.declared import Config, Statistic
from arlib.errors import InputError, NotMeasured

LAYERED = Statistic("a number", "x", log=True, layers="blocks")
SECOND = {"protocol": 2}
DECIDED = ["C1", "C2", "C3", "C4", "C5", "C5a", "C5b", "C6", "C6a", "C6b", "C6c", "C7", "C10"]
CONTROLS = (1, 2, 3, 4, 6, 8)


def big_gap(records: pd.DataFrame) -> pd.DataFrame:
    """The made-up nets, all with test errors 20 points higher,
    so that there is a gap to regularise.
    """
    hit = (records["statistic"] == "error") & (records["split"] == "test")
    return records.assign(value=records["value"].where(~hit, records["value"] + 0.2))


def decided(**planted) -> pd.DataFrame:
    return claims.decide(big_gap(synthetic.records(**planted)), SECOND).set_index("claim")


def layered(values, strengths=(0.0, 4.0, 8.0), **config):
    """Evidence of a layer statistic from its logarithms (seeds, strengths, layers)."""
    values = np.exp(np.asarray(values, dtype=float))
    index = pd.MultiIndex.from_product([range(len(values)), strengths], names=["seed", "strength"])
    frame = pd.DataFrame(values.reshape(len(index), -1), index=index)
    return claims.gather(frame, LAYERED, Config(protocol=2, **config))


# --- protocol 1 stays


def same(mine, value) -> bool:
    if isinstance(mine, list):
        return len(mine) == len(value) and all(map(same, mine, value))
    if isinstance(mine, float):
        return (mine != mine and value != value) or math.isclose(mine, value, rel_tol=1e-13)
    return mine == value


@pytest.mark.parametrize("name", ["digits", "cifar10-resnet20-small"])
def test_verdicts_of_protocol_1_stay_as_they_were(name, tmp_path):
    """The file was written by the code of before there was a second protocol.

    Words are the same letter for letter, numbers to 13 digits: numpy's logarithm differs in the
    last bit between processors with and without AVX-512.
    """
    before = json.loads((Path(__file__).parent / "data" / "protocol1.json").read_text())[name]
    study = studies.load(name, tmp_path)
    assert study.protocol == 1
    verdicts = claims.verdicts(study).to_dict("records")
    assert len(verdicts) == len(before)
    for row, expected in zip(verdicts, before, strict=True):
        for column, value in expected.items():
            mine = list(row[column]) if isinstance(row[column], tuple) else row[column]
            assert same(mine, value), (row["claim"], column, mine, value)
        assert row["after_the_fact"]


@pytest.mark.slow
def test_after_the_fact_says_what_the_audit_found(tmp_path):
    study = studies.load("cifar10-resnet20-small", tmp_path)
    later = claims.after_the_fact(study).set_index("claim")["verdict"]
    assert later["C2"] == "no gap to regularise" and later["C5"] == "features only"
    assert later["C6"] == "raw weights only" and later["C6c"] == "not measured"
    assert claims.verdicts(study).set_index("claim")["after_the_fact"]["C6"] == "raw weights only"


# --- planted answers


@pytest.mark.slow
def test_planted_reversed_and_no_effects():
    assert set(decided().loc[DECIDED, "verdict"]) == {"supported"}
    reversed_ones = decided(world=-1).loc[DECIDED, "verdict"]
    assert set(reversed_ones) == {"contradicted"}
    nothing = decided(world=0, rng=1)
    assert set(nothing.loc[DECIDED, "verdict"]) <= {"undecided", "mixed"}


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_pure_noise_is_decided_at_most_at_the_nominal_rate(seeds):
    """Layers of a network move together, as those of the records do."""
    draw, result = np.random.default_rng(seeds), []
    for _ in range(400):
        values = draw.normal(size=(seeds, 4, 9)) * 0.3 + draw.normal(size=(seeds, 4, 1))
        result.append(claims.judge(layered(values, (0.0, 2.0, 4.0, 8.0)), -1, 2))
    assert sum(verdict != "undecided" for verdict in result) <= 0.05 * 400


@pytest.mark.parametrize(
    "moved, verdict", [(9, "supported"), (5, "supported"), (4, "undecided"), (0, "undecided")]
)
def test_an_effect_in_so_many_of_nine_layers(moved, verdict):
    draw = np.random.default_rng(0)
    values = draw.normal(size=(3, 4, 9)) * 0.02
    values[:, :, :moved] -= np.array([0, 0.5, 1, 2])[:, None]
    assert claims.judge(layered(values, (0.0, 2.0, 4.0, 8.0)), -1, 2) == verdict


def test_layers_that_move_together_are_decided_now_and_never_were():
    """C5 of the small study: × 0.13 in every layer of every seed, undecided by protocol 1."""
    draw = np.random.default_rng(1)
    values = (
        draw.normal(size=(3, 3, 1)) * 0.1
        + draw.normal(size=(3, 3, 9)) * 0.001
        - np.array([0, 1, 2])[:, None]
    )
    decision = layered(values)
    assert decision.floor == 1.0 and claims.judge(decision, -1, 1) == "undecided"
    assert claims.judge(decision, -1, 2) == "supported"


def test_an_effect_inside_the_noise_between_seeds_is_undecided():
    values = (
        np.zeros((3, 3, 9))
        + np.array([-0.3, 0, 0.3])[:, None, None]
        - np.array([0, 0.1, 0.2])[:, None]
    )
    values += np.random.default_rng(0).normal(size=values.shape) * 1e-3
    decision = layered(values)
    assert decision.effect.sign == -1 and decision.noise > 0.2
    assert claims.judge(decision, -1, 2) == "undecided"


def test_the_noise_is_the_95th_percentile_over_pairs_of_one_strength():
    values = np.random.default_rng(3).normal(size=(4, 3, 5))
    pairs = [
        abs(np.median(values[a, s] - values[b, s]))
        for s in range(3)
        for a in range(4)
        for b in range(a)
    ]
    assert layered(values).noise == pytest.approx(np.quantile(pairs, 0.95))


# --- claims with parts


@pytest.mark.slow
def test_c5_and_c6_follow_from_their_parts():
    gain = {
        ("feature_gain", "test", "random@4"): 0.0,
        ("feature_gain", "test", "adversarial@4"): 0.0,
    }
    rows = decided(worlds=gain)
    assert rows.loc["C5a", "verdict"] == "supported" and rows.loc["C5b", "verdict"] != "supported"
    assert rows.loc["C5", "verdict"] == "features only"
    applied = {
        ("sv_std_over_mean", "", "circular+bn-natural"): -1.0,
        ("effective_rank", "", "circular+bn-natural"): -1,
    }
    rows = decided(worlds=applied)
    assert (
        rows.loc["C6b", "verdict"] == "contradicted"
        and rows.loc["C6", "verdict"] == "raw weights only"
    )
    scale = decided(worlds={("sv_std_over_mean", "", "circular"): 0.0})
    assert scale.loc["C6a", "verdict"] == scale.loc["C6", "verdict"] == "supported, scale only"
    assert decided(worlds={"sv_std": -1.0}).loc["C6", "verdict"] in ("contradicted", "mixed")


def test_without_the_operator_as_applied_c6_is_not_measured():
    table = synthetic.records()
    rows = claims.decide(table[table["setting"] != "circular+bn-natural"], SECOND).set_index(
        "claim"
    )
    assert rows.loc["C6a", "verdict"] == "supported"
    assert rows.loc["C6b", "verdict"] == rows.loc["C6", "verdict"] == "not measured"


def test_a_twin_that_should_move_the_other_way_is_no_contradiction():
    """Effective rank rises where concentration falls; if it falls too, that is mixed."""
    rows = decided()
    assert rows.loc["C6b", "twin_effect"] > 0 and rows.loc["C6b", "twin_verdict"] == "supported"
    wrong = {("effective_rank", "", "circular+bn-natural"): -1.0}
    assert decided(worlds=wrong).loc["C6b", "verdict"] == "mixed"


def test_parts_are_not_counted_as_claims():
    rows = decided().reset_index()
    assert claims.tested(rows) == 8
    assert claims.combine({"a": rows}).attrs["tested"] == 8
    assert claims.combine({"a": rows}).loc["C6b", "combined"] == "supported"
    old = claims.decide(synthetic.records())
    both = claims.combine({"a": rows, "b": old})
    assert (
        both.loc["C6b", "b"] == "–"
        and both.loc["C6b", "studies"] == 1
        and both.loc["C6", "studies"] == 2
    )


# --- other rules


@pytest.mark.slow
def test_a_small_gap_is_no_gap_to_regularise():
    table = synthetic.records()
    hit = (table["statistic"] == "error") & (table["split"] == "test")

    def at(gap):
        return (
            claims.decide(
                table.assign(value=table["value"].where(~hit, table["value"] + gap - 0.09)), SECOND
            )
            .set_index("claim")
            .loc["C2"]
        )

    assert (
        at(0.03)["verdict"] == "no gap to regularise" and at(0.03)["primary_verdict"] == "supported"
    )
    assert "too small to be closed" in at(0.03)["note"]
    assert at(0.06)["verdict"] == "supported"


def test_holm_is_the_textbook_one():
    assert claims.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert claims.holm([0.9, 0.8]) == pytest.approx([1.0, 1.0]) and claims.holm([]) == []


def test_holm_counts_every_statistic_that_decides_and_takes_its_weaker_test():
    rows = decided()
    told = rows.drop(index=["C5", "C6", "C8", "C8a", "C8b", "C9"])
    assert told["holm_p"].notna().all() and rows.loc[["C5", "C6", "C8"], "holm_p"].isna().all()
    worst = told[["p", "trend_p"]].max(axis=1)
    assert told["holm_p"].min() == pytest.approx(worst.min() * len(told))
    for claim in ("C1", "C4"):
        expected = stats.ttest_1samp(rows.loc[claim, "differences"], 0).pvalue
        assert rows.loc[claim, "p"] == pytest.approx(expected)


# --- shares left


def test_fieller_covers_at_its_level():
    draw, hits = np.random.default_rng(0), 0
    for _ in range(2000):
        below = draw.normal(2.0, 0.3, size=4)
        above = 0.4 * below + draw.normal(0, 0.1, size=4)
        interval = claims.fieller(above, below)
        hits += interval.low <= 0.4 <= interval.high
    assert 0.935 <= hits / 2000 <= 0.965


def test_fieller_is_unbounded_where_the_denominator_may_be_0():
    assert not claims.fieller([1.0, 2, 3], [-1.0, 0.1, 1.2]).bounded
    interval = claims.fieller([0.5, 0.52, 0.48], [1.0, 1.02, 0.98])
    assert interval.bounded and interval.low < 0.5 < interval.high
    with pytest.raises(InputError, match="pairs"):
        claims.fieller([1.0, 2], [1.0])


def readings(**planted) -> pd.DataFrame:
    table = big_gap(synthetic.records(controls=CONTROLS, **planted))
    rows = claims.shares_left(table, SECOND)
    return rows[rows["strength"] == 8].set_index("claim")


@pytest.mark.slow
def test_nets_that_sit_where_short_trainings_do_are_explained():
    result = readings(noise=0.005)
    assert set(result.index) == {
        "C1",
        "C2",
        "C3",
        "C4",
        "C5a",
        "C5b",
        "C6a",
        "C6b",
        "C6c",
        "C7",
        "C10",
    }
    assert set(result["reading"]) == {controls.EXPLAINED}
    assert result["ce_left"].abs().max() < 0.15


@pytest.mark.slow
def test_nets_that_move_where_short_trainings_do_not_are_more():
    result = readings(along=0.0, noise=0.01).drop(index="C2")  # its gap moves with the fit itself
    assert set(result["reading"]) == {controls.BEYOND}
    assert result["error_left"].to_numpy() == pytest.approx(1.0, abs=0.1)


@pytest.mark.slow
def test_a_third_left_is_partly():
    result = readings(along=0.65, noise=0.003).drop(index="C2")
    assert set(result["reading"]) == {controls.PARTLY}
    assert result["ce_left"].to_numpy() == pytest.approx(0.35, abs=0.06)


@pytest.mark.slow
def test_no_effect_has_no_share():
    result = readings(world=0.0, along=0.0, noise=0.3, rng=5)
    assert (result["reading"] == controls.CANNOT_TELL).mean() > 0.7


@pytest.mark.slow
def test_axes_that_disagree_and_axes_that_do_not_reach():
    table = big_gap(synthetic.records(controls=CONTROLS, along=0.0, noise=0.01))
    far = (table["statistic"] == "error") & (table["split"] == "train") & (table["strength"] == 8)
    rows = claims.shares_left(table.assign(value=table["value"].where(~far, 0.7)), SECOND)
    row = rows[(rows["strength"] == 8) & (rows["claim"] == "C4")].iloc[0]
    assert row["error_reading"] == controls.CANNOT_TELL and row["error_seeds"] == 0
    assert row["reading"] == controls.BEYOND
    assert controls.reading_of(row).endswith("cannot be told at equal train error)")
    assert controls._together([controls.BEYOND, controls.PARTLY]) == controls.DEPENDS
    assert controls._together([controls.CANNOT_TELL] * 2) == controls.CANNOT_TELL


def test_interpolation_between_controls_is_linear_and_never_beyond_them():
    curve = pd.DataFrame({"a": [0.0, 1, 3], "b": [4.0, 1, 0], "fit": [0.5, 1, 2]})
    assert controls.interpolated(curve, 0.75, ["a", "b"]).tolist() == [0.5, 2.5]
    assert (
        controls.interpolated(curve, 2.1, ["a"]) is None
        and controls.interpolated(curve, 0.4, ["a"]) is None
    )


@pytest.mark.slow
def test_controls_enter_nothing_else():
    """No verdict, effect or collapsed run comes from a control."""
    table = big_gap(synthetic.records(noise=0.03))
    more = big_gap(synthetic.records(noise=0.03, controls=CONTROLS))
    kept = more[more["variant"] == ""]
    columns = ["claim", "verdict", "effect", "low", "high", "holm_p"]
    pd.testing.assert_frame_equal(
        claims.decide(more, SECOND)[columns], claims.decide(kept, SECOND)[columns]
    )
    assert claims.shares_left(table, SECOND).empty
    assert set(claims.decide(table, SECOND)["matched"]) == {""}


@pytest.mark.slow
def test_no_label_without_its_share():
    rows = claims.decide(
        big_gap(synthetic.records(controls=CONTROLS, along=0.0)), SECOND
    ).set_index("claim")
    reading = rows.loc["C4", "matched"]
    assert (
        reading.startswith("more than less fitting (left: ")
        and reading.count(" at equal train ") == 2
    )
    printed = claims.table(rows.reset_index())
    assert printed.loc["C4 Margin shrinkage", "Left at equal fit"] == reading
    assert reading in rows.loc["C4", "note"]
    # a claim with parts has the reading of each: they may differ
    told = [f"{part} {rows.loc[part, 'share_reading']}" for part in claims.PARTS["C6"]]
    assert rows.loc["C6", "matched"] == "; ".join(told)


def test_sensitivity_knows_the_parts():
    frame = claims.sensitivity(synthetic.records(), "C6b", SECOND)
    assert frame["role"].tolist()[:2] == ["primary", "twin"]
    with pytest.raises(InputError, match="C6b"):
        claims.sensitivity(synthetic.records(), "C6b")
    with pytest.raises(InputError, match="protocol"):
        claims.decide(synthetic.records(), {"protocol": 3})


# --- what the chapters print of a study of protocol 2


@pytest.mark.slow
def test_chapters_show_the_rule_and_the_control_of_protocol_2():
    made = synthetic.study(
        big_gap(synthetic.records(controls=CONTROLS, along=0.0, noise=0.01)), protocol=2
    )
    rows = claims.verdicts(made).set_index("claim")
    for claim in ("C5", "C6", "C6b"):
        primary, twin = tables.layer_rule(made, claim).iloc[:, :2].T.to_dict("records")
        assert (
            primary["verdict of this statistic alone"]
            == rows.loc[claim, "primary_verdict"]
            == "supported"
        )
        assert twin["verdict of this statistic alone"] == rows.loc[claim, "twin_verdict"]
        assert primary["ratio between two seeds of one strength, 95th percentile"].startswith("× 1")
        assert primary["stands out"] == "yes"
    left = tables.matched(made, "C6")
    assert [name.split(",")[0] for name in left.index] == ["C6a"] * 2 + ["C6b"] * 2 + ["C6c"] * 2
    assert tables.matched(made, "C1").loc["8", "reading"] == controls.BEYOND
    points = claims.trajectories(made.records(), claims.config_of(made))
    standard = points[
        (points["claim"] == "C4") & (points["kind"] == "standard") & (points["seed"] == 0)
    ]
    assert len(standard) == len(CONTROLS) + 1 and standard["train_ce"].is_monotonic_decreasing
    assert "standard nets of shorter trainings" in figures.matched_fit(points, "C4").alt
    assert set(figures.matched_fit(points, "C6").alt.split(": ")[0].split(", ")) == {
        "C6a",
        "C6b",
        "C6c",
    }
    assert len(
        figures.verdict_strip(
            {"new": rows.reset_index(), "old": claims.decide(synthetic.records())}
        ).alt
    )
    with pytest.raises(NotMeasured, match="no controls"):
        tables.matched(synthetic.study(synthetic.records(), protocol=2), "C4")
