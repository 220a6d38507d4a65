"""C8: shares, manipulation checks and verdicts on arms with planted answers."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims, figures, tables
from arlib.claims import mechanism
from arlib.errors import NotMeasured

CONFIG = claims.Config(protocol=2, seeds=(0, 1, 2))
# statistic rows: (name, split, setting): (S′, A′, on the log scale)
ENDS = {
    ("median_abs_margin", "test", ""): (6.0, 0.6, True),
    ("median_abs_margin_scalefree", "test", ""): (1.6, 0.8, True),
    ("error", "test", ""): (0.20, 0.42, False),
    ("error", "train", ""): (0.03, 0.30, False),
    ("ce", "train", ""): (0.1, 0.9, False),
    ("max_softmax", "test", ""): (0.9, 0.5, False),
    ("flip_rate", "test", "pgd@4"): (0.95, 0.3, False),
    ("robust_error", "test", "pgd-10@8"): (1.0, 0.7, False),
    ("share_largest_class", "train", ""): (0.11, 0.12, False),
}
LAYERS = synthetic.CONVOLUTIONS
SHARES = {"d": 0.0, "smooth": 0.0, "rescue": 0.0, "other": 0.0, "noise": 0.0}


def arms(world, *, seeds=(0, 1, 2), noise=0.01, rng=0, residual=0.01, match=1.0) -> pd.DataFrame:
    """Records of arms. world: {arm: share of the way}, or {arm: {statistic: share}}.

    Rescue's share is what it *loses*. noise: in units of A′ − S′. match: Smooth's value/target.
    """
    draw, rows = np.random.default_rng(rng), []
    for seed in seeds:
        level = 0.05 * draw.normal()
        for arm, share in ({"s": 0.0, "a": 1.0} | world).items():
            keys = {"variant": arm, "seed": seed, "strength": 8.0 if arm in "a rescue" else 0.0}
            keys |= {"checkpoint": "last", "layer": ""}
            for (name, split, setting), (low, high, log) in ENDS.items():
                part = share.get(name, 0.0) if isinstance(share, dict) else share
                part = 1 - part if arm == "rescue" else part
                part += (level + noise * draw.normal()) * (split == "test")
                value = low * (high / low) ** part if log else low + (high - low) * part
                about = {"statistic": name, "split": split, "setting": setting, "n": 100}
                rows.append(keys | about | {"value": value})
            own = {"split": "test", "statistic": "feature_change", "setting": "random@4", "n": 9}
            part = share if isinstance(share, float) else 0.0
            rows += [
                keys | own | {"layer": block, "value": 0.27 * 0.1**part}
                for block in synthetic.BLOCKS
            ]
            own = {"split": "", "setting": "", "n": 1}
            for layer in LAYERS:
                rows.append(keys | own | {"statistic": "counted", "layer": layer, "value": 1.0})
                if arm in ("d", "rescue", "other"):
                    about = {"statistic": "imposed_residual", "layer": layer, "value": residual}
                    rows.append(keys | own | about)
            if arm == "smooth":
                match_rows = {"matched_value": 0.03 * match, "matched_target": 0.03}
                match_rows |= {"penalty_weight": 500.0}
                rows += [keys | own | {"statistic": n, "value": v} for n, v in match_rows.items()]
    return pd.DataFrame(rows)


def verdicts(world, **options) -> pd.DataFrame:
    return claims.decide_arms(arms(SHARES | world, **options), CONFIG).set_index("claim")


def test_shares_are_those_that_were_planted():
    table = arms({"d": 0.3, "rescue": 0.7, "smooth": 0.6}, noise=0.0)
    planted = claims.shares(table, CONFIG).set_index(["arm", "statistic"])
    for arm, share in (("d", 0.3), ("rescue", 0.7), ("smooth", 0.6)):
        for name in ("margin", "error", "scale-free", "confidence", "flips", "robust"):
            assert planted.loc[(arm, name), "share"] == pytest.approx(share), (arm, name)
    assert planted.loc[("rescue", "error"), "kind"] == "lost"
    assert planted.loc[("d", "error"), "kind"] == "reproduced"
    assert planted.loc[("d", "features"), "share"] == pytest.approx(0.3)


def test_a_share_has_fiellers_interval_over_seeds():
    table = arms({"d": 0.4}, noise=0.05)
    wide = claims.arms_of(table, CONFIG)["error"].unstack("arm")
    expected = claims.fieller(wide["d"] - wide["s"], wide["a"] - wide["s"])
    row = claims.shares(table, CONFIG).query("arm == 'd' and statistic == 'error'").iloc[0]
    assert (row["share"], row["low"], row["high"]) == pytest.approx(tuple(expected))


@pytest.mark.parametrize(
    ("world", "weights", "features", "whole"),
    [
        ({}, "contradicted", "contradicted", "contradicted"),
        ({"d": -0.5, "rescue": -0.5, "smooth": -0.4}, "contradicted", "contradicted",
         "contradicted"),
        ({"d": 0.9, "rescue": 0.8, "smooth": 0.9}, "supported", "supported", "supported"),
        ({"smooth": 0.8}, "contradicted", "supported", "features only"),
        ({"d": 0.8, "rescue": 0.8}, "supported", "contradicted", "weights only"),
        ({"d": 0.8}, "undecided", "contradicted", "undecided"),  # nothing is lost by Rescue
        ({"d": 0.4, "rescue": 0.4, "smooth": 0.35}, "undecided", "undecided", "undecided"),
        ({"smooth": {"median_abs_margin": 0.9}}, "contradicted", "margins only", "undecided"),
        ({"smooth": {"error": 0.9}}, "contradicted", "undecided", "undecided"),
        # what moves as far by another seed's spectrum or at random is no effect of the spectrum
        ({"d": 0.9, "rescue": 0.8, "other": 0.6}, "undecided", "contradicted", "undecided"),
        ({"d": 0.9, "rescue": 0.8, "noise": 0.6}, "undecided", "contradicted", "undecided"),
    ],
)  # fmt: skip
def test_the_rule_on_planted_arms(world, weights, features, whole):
    rows = verdicts(world)
    assert rows.loc["C8a", "verdict"] == weights, rows.loc["C8a", "note"]
    assert rows.loc["C8b", "verdict"] == features, rows.loc["C8b", "note"]
    assert rows.loc["C8", "verdict"] == whole
    assert set(rows.drop(index=["C8", "C8a", "C8b"])["verdict"]) == {"not measured"}
    assert rows.loc["C8a", "seeds"] == 3 and rows.loc["C8a", "effect_text"]


def test_pure_noise_supports_nothing():
    for rng in range(40):
        rows = verdicts({}, noise=0.5, rng=rng)
        assert not {"supported", "margins only"} & {*rows["verdict"]}, rng


def test_one_seed_decides_nothing_and_its_shares_are_shown_without_interval():
    rows = verdicts({"d": 0.9, "rescue": 0.9, "smooth": 0.9}, seeds=(0,))
    assert set(rows["verdict"]) == {"not measured"}
    note = rows.loc["C8a", "note"]
    assert "is there for 1 of 3 seeds" in note and "[" not in note and "0.9" in note
    share = claims.shares(arms({"d": 0.5}, seeds=(0,)), CONFIG)
    assert set(share["seeds"]) == {1} and share["low"].isna().all()


def test_nothing_recorded_is_not_measured():
    rows = claims.decide_arms(arms({}).iloc[:0], CONFIG).set_index("claim")
    assert set(rows["verdict"]) == {"not measured"} and "0 of 3 seeds" in rows.loc["C8a", "note"]
    assert claims.shares(arms({}).iloc[:0], CONFIG).empty


def test_a_manipulation_that_did_not_take_measures_nothing():
    world = {"d": 0.9, "rescue": 0.9, "smooth": 0.9}
    rows = verdicts(world, residual=0.03)
    assert rows.loc["C8a", "verdict"] == "not measured"
    assert "did not take in arm d of seed 0" in rows.loc["C8a", "note"]
    assert rows.loc["C8b", "verdict"] == "supported", "spectra are nothing to it"
    rows = verdicts(world, match=1.2)
    assert rows.loc["C8b", "verdict"] == "not measured"
    assert "did not take in arm smooth of seed 0" in rows.loc["C8b", "note"]
    assert rows.loc["C8a", "verdict"] == "supported"
    table = arms(SHARES | world)
    one_less = table[~((table["layer"] == LAYERS[0]) & (table["statistic"] == "imposed_residual"))]
    assert claims.decide_arms(one_less, CONFIG).set_index("claim").loc["C8a", "verdict"] == (
        "not measured"
    )


def test_support_needs_the_shams_and_contradiction_does_not():
    world = {"d": 0.9, "rescue": 0.9, "smooth": 0.0}
    table = arms(SHARES | world)
    rows = claims.decide_arms(table[table["variant"] != "other"], CONFIG).set_index("claim")
    assert rows.loc["C8a", "verdict"] == "not measured"
    assert "Other is needed" in rows.loc["C8a", "note"]
    assert rows.loc["C8b", "verdict"] == "contradicted"


def test_collapsed_arms_are_out_and_named():
    table = arms(SHARES | {"d": 0.9, "rescue": 0.9})
    hit = (table["variant"] == "d") & (table["seed"] == 1) & (table["split"] == "train")
    table.loc[hit & (table["statistic"] == "error"), "value"] = 0.9
    rows = claims.decide_arms(table, CONFIG).set_index("claim")
    assert rows.loc["C8a", "verdict"] == "not measured"
    assert "d of seed 1 collapsed" in rows.loc["C8a", "note"]
    assert claims.arms_of(table, CONFIG).attrs["collapsed"][0][:2] == ("d", 1)


def test_an_unbounded_interval_is_undecided():
    table = arms(SHARES | {"d": 0.9, "rescue": 0.9}, noise=3.0, rng=1)
    assert not math.isfinite(claims.shares(table, CONFIG).query("arm == 'd'")["high"].iloc[0])
    rows = claims.decide_arms(table, CONFIG).set_index("claim")
    assert rows.loc["C8a", "verdict"] == "undecided"


def test_doses_have_the_slope_that_was_planted():
    world = {arm: 0.2 * dose for arm, dose in mechanism.DOSES.items() if arm != "s"}
    by_dose = claims.doses(arms(world, noise=0.0), CONFIG)
    assert sorted(by_dose["dose"].unique()) == [-1, -0.5, 0, 0.5, 1]
    slope = by_dose.attrs["slopes"]["error"]
    assert slope.mean == pytest.approx(0.2 * 0.22) and slope.sign == 1
    assert by_dose.attrs["slopes"]["margin"].mean == pytest.approx(0.2 * math.log(0.1))
    one = claims.doses(arms(world, seeds=(0,)), CONFIG).attrs["slopes"]["error"]
    assert math.isnan(one.low) and math.isfinite(one.mean)


# ---- tables and figures


def a_world() -> pd.DataFrame:
    doses = {arm: 0.2 * dose for arm, dose in mechanism.DOSES.items() if arm != "s"}
    return arms(SHARES | doses | {"smooth": 0.6, "temperature": 0.1})


def test_tables_say_what_was_planted():
    table = a_world()
    shares = tables.shares(table, CONFIG)
    assert shares.loc["Smooth: robust feature changes", "test error"].startswith("0.6")
    assert "[" in shares.loc["D: robust spectra", "median |m|"]
    checks = tables.manipulations(table)
    assert set(checks["holds"]) == {"yes"} and "D: robust spectra, seed 0" in checks.index
    levels = tables.arms(table, CONFIG)
    assert levels.index[0].startswith("S′") and levels.loc["S′: trained on", "seeds"] == "3"
    assert "points" in tables.slopes(table, CONFIG).loc["test error", "per dose"]


@pytest.mark.parametrize("seeds", [(0,), (0, 1, 2)])
def test_figures_of_any_number_of_seeds(seeds):
    table = a_world()
    table = table[table["seed"].isin(seeds)]
    for draw in (figures.dumbbells, figures.doses, figures.weights_and_features):
        figure = draw(table, CONFIG)
        assert len(figure.alt) > 40 and len(figure._repr_png_()) > 1000
    assert "Smooth" in figures.dumbbells(table, CONFIG).alt
    assert "broken" in figures.causal_graph({5: "broken"}).alt


def test_without_records_tables_and_figures_say_so():
    nothing = a_world().iloc[:0]
    for make in (tables.arms, tables.shares, tables.slopes, figures.dumbbells, figures.doses,
                 figures.weights_and_features):  # fmt: skip
        with pytest.raises(NotMeasured):
            make(nothing, CONFIG)
    with pytest.raises(NotMeasured):
        tables.manipulations(nothing)
    assert len(figures.causal_graph().alt) > 40
    card = figures.if_drawn(figures.dumbbells, nothing, CONFIG)
    assert card.finding == "Not measured: S′ and A′ of one seed are needed first; run the study."
    assert len(card._repr_png_()) > 1000


def test_arrows_are_what_their_tests_say():
    world = SHARES | {"d": 0.9, "rescue": 0.8, "smooth": {"median_abs_margin": 0.9}}
    source = pd.DataFrame({"claim": ["C5a", "C6b"], "verdict": ["supported", "contradicted"]})
    states = claims.arrows(arms(world | {"temperature": 0.0}), CONFIG, source)
    assert states == {
        1: "broken", 2: "stands", 3: "stands", 4: "stands", 5: "in part", 6: "broken",
    }  # fmt: skip
    states = claims.arrows(arms(SHARES), CONFIG)
    assert (states[3], states[4], states[5]) == ("broken", "broken", "broken")
    assert {states[1], states[2], states[6]} == {"not measured"}


@pytest.mark.parametrize("protocol", [1, 2])
def test_a_study_without_arms_says_nothing_of_any_arrow(protocol):
    config = dataclasses.replace(CONFIG, protocol=protocol)
    assert set(claims.arrows(synthetic.records(), config).values()) == {"not measured"}


@pytest.mark.parametrize("value, text", [(0.416, "0.42"), (-0.416, "−0.42"), (-0.004, "0.00"),
                                         (0.004, "0.00"), (1.0, "1.00")])  # fmt: skip
def test_what_rounds_to_nothing_has_no_sign(value, text):
    from arlib.claims.mechanism import share_text

    assert share_text((value, math.nan, math.nan)) == text
    assert share_text((value, value, value)) == f"{text} [{text}, {text}]"
