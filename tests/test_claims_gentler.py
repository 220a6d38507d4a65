"""C9: heights above a front by hand, and its rule on made-up fronts."""

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from arlib import claims
from arlib.claims import gentler
from arlib.errors import InputError, NotMeasured
from arlib.measure import Settings
from arlib.studies import Entry
from arlib.studies.fronts import Point
from arlib.training import Recipe

STANDARD = "cifar10-resnet8-ar0-s0-00000000"
GRID = (0.0, 2.0, 4.0, 8.0, 12.0)
KNOBS = {"trades": (1.0, 2.0, 4.0), "hat": (0.25, 0.5, 1.0)}
SETTINGS = Settings(knob_images=100)


def line(natural):
    """The front that worlds are made of: natural .7 … .4, robust 0 … .3, bent once."""
    return np.interp(natural, [0.4, 0.5, 0.7], [0.3, 0.25, 0.0])


def entry(method, value, seed, budget="epochs"):
    fields = {"dataset": "cifar10", "model": "resnet8", "seed": seed}
    if method == "pgd-at":
        fields |= {"eps": value / 255}
    elif method == "trades":
        fields |= {"eps": 8 / 255, "objective": "trades", "beta": value}
    else:
        helper = STANDARD.replace("s0", f"s{seed}")
        fields |= {"eps": 8 / 255, "objective": "hat", "gamma": value, "helper": helper}
    if budget == "passes":
        fields |= {"epochs": 30}
    point = Point(method, value, budget)
    return Entry(Recipe(**fields), point.variant, point)


def world(planted, *, seeds=3, noise=0.002, natural=None, budgets=("epochs",), rng=0):
    """A study of fronts whose methods lie so far above PGD-AT's front, with noise of each network.

    natural: {method: (lowest, highest)}, else .45 to .6; the first value of a knob is the most
    accurate, the last the most robust.
    """
    draw, entries, rows = np.random.default_rng(rng), [], []
    for seed in range(seeds):
        level = 0.02 * draw.standard_normal()  # the front of a seed as a whole
        for strength, accuracy in zip(GRID, (0.7, 0.6, 0.55, 0.5, 0.4), strict=True):
            one = entry("pgd-at", strength, seed)
            entries.append(one)
            rows += told(one, accuracy, line(accuracy) + level, 0, draw)
        for method, above in planted.items():
            high, low = (natural or {}).get(method, (0.6, 0.45))
            for budget in budgets:
                for value, accuracy in zip(KNOBS[method], np.linspace(high, low, 3), strict=True):
                    one = entry(method, value, seed, budget)
                    entries.append(one)
                    robust = line(accuracy) + level + above
                    rows += told(one, accuracy, robust, noise, draw)
    return study(entries, pd.DataFrame(rows))


def told(one, natural, robust, noise, draw):
    """The rows of one network."""
    robust = robust + noise * draw.standard_normal()
    numbers = {
        ("error", "test", ""): 1 - natural,
        ("error", "val", ""): 1 - natural,
        ("error", "train", ""): 1 - natural,
        ("share_largest_class", "test", ""): 0.12,
        ("robust_error", "test", "apgd-ce+t@8"): 1 - robust,
        ("robust_error", "val", "pgd-20@8"): 1 - robust - 0.02,
        ("distance_right", "test", ""): 0.01,
        ("slope_right", "test", ""): 2.0,
    }
    about = {"run": one.run, "strength": one.recipe.strength, "seed": one.recipe.seed}
    about |= {"variant": one.variant, "checkpoint": "last", "layer": "", "n": 1000}
    return [
        about | {"statistic": name, "split": split, "setting": setting, "value": value}
        for (name, split, setting), value in numbers.items()
    ]


def study(entries, records, **changed):
    whole = synthetic.study(records, protocol=2, name="fronts", dataset="cifar10")
    whole.entries, whole.recipes = tuple(entries), [one.recipe for one in entries]
    whole.has_fronts = True
    whole.settings = SETTINGS
    return SimpleNamespace(**(vars(whole) | changed))


def outcomes(made, budget="epochs"):
    return {one.method: one for one in claims.above_the_front(claims.front_points(made), budget)}


def c9(made):
    return claims.verdicts(made).set_index("claim").loc["C9"]


# --- heights by hand


def test_a_height_is_the_distance_to_the_line_through_the_fronts_own_points():
    front = pd.DataFrame({"natural": [0.6, 0.4, 0.5], "robust": [0.1, 0.3, 0.25]})
    assert gentler.height(0.55, 0.2, front) == pytest.approx(0.2 - 0.175)
    assert gentler.height(0.45, 0.2, front) == pytest.approx(0.2 - 0.275)
    for natural, robust in zip(front["natural"], front["robust"], strict=True):
        assert gentler.height(natural, robust, front) == pytest.approx(0)
    for beyond in (0.39, 0.61):
        assert math.isnan(gentler.height(beyond, 0.9, front))
    with pytest.raises(InputError, match="two points"):
        gentler.height(0.5, 0.5, front[:1])


def test_heights_of_networks_on_the_front_are_zero_and_above_it_what_was_planted():
    made = world({"trades": 0.0, "hat": 0.04}, noise=0)
    outcome = claims.heights(claims.front_points(made)).groupby("method")["height"]
    assert outcome.max()["trades"] == pytest.approx(0, abs=1e-9)
    assert [outcome.min()["hat"], outcome.max()["hat"]] == pytest.approx([0.04, 0.04])


# --- the rule


def test_the_rule_finds_a_planted_height_and_a_reversed_one():
    made = world({"trades": 0.05, "hat": -0.05})
    outcome = outcomes(made)
    assert outcome["trades"].verdict == gentler.GENTLER
    assert outcome["hat"].verdict == gentler.HARSHER
    assert outcome["trades"].interval.mean == pytest.approx(0.05, abs=0.005)
    # the most robust value of the knob on validation images
    assert outcome["trades"].value == 4 and outcome["hat"].value == 1
    row = c9(made)
    assert row["verdict"] == row["primary_verdict"] == "supported" and row["seeds"] == 3
    assert "TRADES at 4: gentler, +" in row["note"] and "HAT at 1: less gentle" in row["note"]
    assert "smaller ones are not seen" in row["note"]


def test_all_methods_below_the_front_contradict_and_one_of_them_alone_does_not():
    assert c9(world({"trades": -0.05, "hat": -0.05}))["verdict"] == "contradicted"
    assert c9(world({"trades": -0.05, "hat": 0.0}))["verdict"] == "undecided"


def test_only_c9_is_decided():
    frame = claims.verdicts(world({"trades": 0.05, "hat": 0.05})).set_index("claim")
    assert (frame["verdict"].drop("C9") == "not measured").all()
    assert claims.tested(frame.reset_index(names="claim")) == 1
    assert "C9 Gentler" in claims.table(frame.reset_index(names="claim")).index


@pytest.mark.slow
def test_the_rule_finds_little_in_noise():
    verdicts = [
        c9(world({"trades": 0.0, "hat": 0.0}, noise=0.01, rng=rng))["verdict"] for rng in range(60)
    ]
    assert verdicts.count("undecided") >= 54


def test_p_values_are_adjusted_for_the_number_of_methods():
    outcome = outcomes(world({"trades": 0.05, "hat": 0.0}))
    for one in outcome.values():
        values = list(one.heights.values())
        assert one.p == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
    assert outcome["trades"].holm_p == pytest.approx(2 * outcome["trades"].p)
    one = outcomes(world({"trades": 0.05}))["trades"]
    assert one.holm_p == one.p


def test_what_is_beyond_the_front_is_not_extrapolated():
    made = world({"trades": 0.05, "hat": 0.05}, natural={"hat": (0.39, 0.3)})
    outcome = outcomes(made)
    assert outcome["hat"].verdict == gentler.BEYOND and math.isnan(outcome["hat"].p)
    assert outcome["trades"].holm_p == outcome["trades"].p  # one test only
    row = c9(made)
    assert row["verdict"] == "supported" and "HAT: beyond the front" in row["note"]
    alone = c9(world({"hat": 0.05}, natural={"hat": (0.39, 0.3)}))
    assert alone["verdict"] == "undecided"


def test_the_knob_is_chosen_on_validation_images_alone():
    made = world({"trades": 0.0}, noise=0)
    table = made.records()
    beta = table["variant"] == "front-trades-2"
    on_val = (table["split"] == "val") & (table["statistic"] == "robust_error")
    table.loc[beta & on_val, "value"] = 0.1
    on_test = (table["split"] == "test") & (table["statistic"] == "robust_error")
    table.loc[(table["variant"] == "front-trades-1") & on_test, "value"] = 0.1
    assert outcomes(study(made.entries, table))["trades"].value == 2


# --- what is not there, or collapsed


def test_nothing_is_decided_with_two_seeds_or_with_runs_missing():
    assert c9(world({"trades": 0.05}, seeds=2))["verdict"] == "not measured"
    made = world({"trades": 0.05, "hat": 0.05})
    table = made.records()
    gone = (table["variant"] == "front-hat-0.5") & (table["seed"] == 1)
    outcome = outcomes(part := study(made.entries, table[~gone]))
    assert outcome["hat"].verdict == "not measured" and "2 of the 3 seeds" in outcome["hat"].why
    assert "1 network of its front and PGD-AT's is missing" in outcome["hat"].why
    assert outcome["trades"].verdict == gentler.GENTLER
    assert c9(part)["verdict"] == "not measured"
    empty = study(made.entries, table[:0])
    row = c9(empty)
    assert row["verdict"] == "not measured" and row["seeds"] == 0
    assert row["note"].endswith("So far: TRADES 0, HAT 0.")
    assert claims.heights(claims.front_points(empty)).empty
    # without one network of a seed's front, that seed has no heights at all
    gone = (table["variant"] == "") & (table["seed"] == 0) & (table["strength"] == 4)
    left = claims.heights(claims.front_points(study(made.entries, table[~gone])))
    assert set(left["seed"]) == {1, 2}


def test_a_collapsed_training_takes_its_value_with_it_for_all_seeds():
    made = world({"trades": 0.05}, noise=0)
    table = made.records()
    gone = (table["strength"] == 12) & (table["seed"] == 0) & (table["split"] == "train")
    table.loc[gone, "value"] = 0.9
    lost = (table["variant"] == "front-trades-4") & (table["seed"] == 2)
    table.loc[lost & (table["statistic"] == "share_largest_class"), "value"] = 0.95
    points = claims.front_points(study(made.entries, table))
    assert points["collapsed"].sum() == 2
    left = gentler.usable(points)
    assert 12 not in set(left["value"]) and 4 not in set(left[left["method"] == "trades"]["value"])
    (one,) = claims.above_the_front(points)
    assert one.value == 2  # of those that are left


def test_equal_passes_have_outcomes_of_their_own():
    made = world({"trades": 0.05}, budgets=("epochs", "passes"))
    points = claims.front_points(made)
    for budget in ("epochs", "passes"):
        (one,) = claims.above_the_front(points, budget)
        assert one.budget == budget and one.verdict == gentler.GENTLER
    more = points[points["budget"] == "passes"]["passes"].min()
    assert (more < points[points["budget"] == "epochs"]["passes"].max()) and more > 0
    assert claims.above_the_front(points[points["budget"] == "epochs"], "passes") == []


def test_a_study_without_fronts_has_none():
    with pytest.raises(NotMeasured, match="has no fronts"):
        claims.front_points(synthetic.study(pd.DataFrame()))


# --- power


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_visible_height_is_found_four_times_in_five(seeds):
    effect = gentler.visible_in_spreads(seeds)
    draws = np.random.default_rng(0).normal(effect, 1, (40_000, seeds))
    outcome = stats.ttest_1samp(draws, 0, axis=1)
    share = ((outcome.pvalue < 0.05) & (outcome.statistic > 0)).mean()
    assert share == pytest.approx(0.8, abs=0.01)


def test_the_visible_height_comes_from_the_spread_of_the_records():
    made = world({"trades": 0.0, "hat": 0.0}, noise=0.01)
    outcome = list(outcomes(made).values())
    size, seeds = claims.visible(outcome)
    spread = np.sqrt(np.mean([np.var(list(one.heights.values()), ddof=1) for one in outcome]))
    assert seeds == 3 and size == pytest.approx(spread * gentler.visible_in_spreads(3))
    with pytest.raises(NotMeasured, match="no method has a height"):
        claims.visible([gentler.Outcome("hat", "epochs")])
