"""C10: its rule on made-up records, the curves of q and where they cross, gaps, proofs beside
attacks.
"""

import numpy as np
import pandas as pd
import pytest
import synthetic
from scipy import stats

from arlib import bounds, claims, figures, studies, tables
from arlib.claims.bound import EXACT, RADII
from arlib.errors import NotMeasured

DISTANCES = "instance_margin|train"
CONFIG = {"protocol": 2}


def run(*distances):
    """Arrays of a run whose training images have these distances, in 255·ε."""
    return {DISTANCES: np.array(distances, dtype=np.float32) / 255}


def verdict(**planted):
    records = synthetic.records(**planted)
    kept = records["statistic"].isin(["q", "error"]) & (records["checkpoint"] == "last")
    return claims.decide(records[kept], CONFIG).set_index("claim").loc["C10"]


# --- the rule


def test_the_rule_finds_what_is_planted_and_what_is_reversed():
    planted, reversed_ = verdict(), verdict(worlds={"q": -1.0})
    assert planted["verdict"] == "supported" and planted["effect"] == pytest.approx(-0.4, abs=0.05)
    assert planted["statistic"] == "q(4/255) on training images"
    assert reversed_["verdict"] == "contradicted"
    assert "q(4/255)" in planted["note"] and "Q(" not in planted["note"]


@pytest.mark.slow
def test_the_rule_finds_little_in_noise():
    verdicts = [verdict(worlds={"q": 0.0}, rng=rng)["verdict"] for rng in range(40)]
    assert verdicts.count("undecided") >= 36


def test_two_seeds_decide_nothing():
    row = verdict(seeds=(0, 1))
    assert row["verdict"] == "not measured" and "seeds" in row["note"]


# --- curves


def test_q_counts_what_is_nearer_and_what_is_wrong():
    distances = np.array([0.0, 0.5, 1.0, 2.0])
    assert claims.q_of(distances, np.array([0.1, 0.5, 0.6, 1.0, 3.0])).tolist() == [
        0.25,
        0.25,
        0.5,
        0.5,
        1.0,
    ]


def test_distances_are_grouped_and_runs_without_them_left_out():
    arrays = {(8.0, 1): run(1), (0.0, 0): run(2), (8.0, 0): run(3), (4.0, 0): {"margin|test": 1}}
    grouped = claims.training_distances(arrays)
    assert list(grouped) == [0.0, 8.0] and list(grouped[8.0]) == [0, 1]
    assert grouped[8.0][0].tolist() == pytest.approx([3])
    with pytest.raises(NotMeasured, match="bound_images"):
        claims.training_distances({(4.0, 0): {}})


def test_curves_cross_where_more_robust_images_are_left():
    # q of the robust network is ¼ from the start; the standard one's passes it after 2
    standard, robust = run(1, 2, 2, 9), run(0, 8, 8, 8)
    (row,) = claims.crossings({(0.0, 0): standard, (8.0, 0): robust}).itertuples()
    assert (row.strength, row.radius) == (8.0, pytest.approx(2))
    assert (row.wrong_at_zero, row.wrong, row.seeds, row.n) == (0, 0.25, 1, 4)
    after, before = np.array([2.01]), np.array([1.99])
    q = [[claims.q_of(255 * a[DISTANCES], r)[0] for a in (standard, robust)]
         for r in (before, after)]  # fmt: skip
    assert q[0][0] <= q[0][1] and q[1][0] > q[1][1]


def test_curves_that_do_not_cross_say_so():
    apart = {(0.0, 0): run(5, 6), (8.0, 0): run(1, 2), (4.0, 0): run(7, 8)}
    radii = claims.crossings(apart).set_index("strength")["radius"]
    assert np.isnan(radii[8.0]) and radii[4.0] == pytest.approx(5)
    better = claims.crossings({(0.0, 0): run(0, 1), (8.0, 0): run(9, 9)})
    assert better["radius"].tolist() == [0]
    assert tables.crossings(apart)["q smaller from v (255·ε)"].to_dict() == {
        "4": "5.00",
        "8": "nowhere",
    }


def test_crossings_are_of_seeds_that_both_strengths_have():
    arrays = {(0.0, 0): run(1, 2), (8.0, 0): run(3, 4), (8.0, 1): run(0, 0)}
    (row,) = claims.crossings(arrays).itertuples()
    assert row.seeds == 1 and row.wrong == 0
    with pytest.raises(NotMeasured, match="strength 0"):
        claims.crossings({(8.0, 0): run(1)})
    with pytest.raises(NotMeasured, match="strength 0"):
        claims.crossings({(0.0, 1): run(1), (8.0, 0): run(1)})


# --- guesses of C and k


def test_the_lowest_bound_is_the_smallest_of_all_sums_and_moves_with_the_constants():
    arrays = {(0.0, 0): run(*np.linspace(0.5, 1.5, 50)), (8.0, 0): run(*[0] * 15, *[20] * 35)}
    setting = {"samples": 10**5, "classes": 10}
    pairs = [(0.001, 1), (2.0, 1), (0.5, 20)]
    lowest = claims.lowest_bounds(arrays, pairs, **setting)
    assert lowest["strength"].tolist()[:2] == [0.0, 8.0]  # which is ahead is up to C
    assert lowest["says"].tolist() == [True, True, False]
    for (c, k), row in zip(pairs, lowest.itertuples(), strict=True):
        sums = {
            (s, r): bounds.generalization(
                claims.q_of(255 * arrays[s, 0][DISTANCES], np.array([r]))[0],
                r / 255, c=c, k=k, **setting,
            )
            for s in (0.0, 8.0) for r in RADII
        }  # fmt: skip
        assert sums[row.strength, row.radius] == min(sums.values())
        assert row.says == (min(sums.values()) < 1)
    table = tables.lowest_bounds(arrays, [2.0], [1, 20], **setting)
    assert table.loc["20", "C = 2"] == "vacuous"
    assert table.loc["1", "C = 2"].startswith("strength 8, v = ")


def test_so_many_images_bring_the_covering_term_to_one_half():
    table = tables.images_needed(4 / 255, [1, 2, 10], c=0.5, classes=10)
    for k, images in table["images"].items():
        raised = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
        power = int(images.removeprefix("about 10").translate(raised))
        terms = {"classes": 10, "c": 0.5, "k": float(k)}
        above, below = (
            bounds.covering_term(4 / 255, samples=10**exact, **terms)
            for exact in (power - 0.5, power + 0.5)
        )
        assert below <= 0.5 <= above
    with pytest.raises(ValueError, match=r"v is 1.5; a radius between 0 and 1"):
        tables.images_needed(1.5, [1], c=0.5, classes=10)


# --- gaps


def nets(q, natural, robust=None, *, seeds=3):
    """A record table of networks with these q (per strength, as all that follows) and gaps."""
    rows = []
    for seed in range(seeds):
        for strength, values in enumerate(zip(q, natural, robust or natural, strict=True)):
            for name, setting, value in zip(
                ("q", "error", "robust_error"), ("linf@4", "", "pgd-10@8"), values, strict=True
            ):
                level = 0.0 if name == "q" else 0.3
                rows.append(("train", name, setting, level + (name == "q") * value, strength, seed))
                if name != "q":
                    rows.append(("test", name, setting, level + value, strength, seed))
    columns = ["split", "statistic", "setting", "value", "strength", "seed"]
    frame = pd.DataFrame(rows, columns=columns)
    return frame.assign(checkpoint="last", layer="", variant="", n=1000)


def test_gaps_that_go_with_q_correlate_and_those_that_go_against_it_do_the_reverse():
    q = [0.9, 0.7, 0.5, 0.4]
    correlations = claims.gap_correlations(
        nets(q, [0.2, 0.15, 0.1, 0.02], [0.0, 0.1, 0.2, 0.3]), CONFIG
    )
    assert correlations["gap"].tolist() == ["natural", "robust"]
    assert correlations["rho"].tolist() == pytest.approx([1, -1])
    assert correlations["nets"].tolist() == [12, 12] and correlations["strengths"].tolist() == [
        4,
        4,
    ]
    # of (4!)³ orders the one that is drawn and its reverse
    assert correlations["p"].tolist() == pytest.approx([2 / 24**3] * 2)


def test_the_correlation_is_spearmans_and_variants_do_not_count():
    draw = np.random.default_rng(0)
    q, gap = draw.random(5).tolist(), draw.random(5).tolist()
    table = nets(q, gap, seeds=1)
    table = pd.concat([table, table.assign(variant="control-3", value=0.5)])
    (row, _) = claims.gap_correlations(table, CONFIG).itertuples()
    assert row.rho == pytest.approx(stats.spearmanr(q, gap).statistic) and row.nets == 5
    exact = stats.permutation_test(
        (q,), lambda a: stats.spearmanr(a, gap).statistic, permutation_type="pairings",
        n_resamples=np.inf,
    )  # fmt: skip
    assert row.p == pytest.approx(
        np.mean(np.abs(exact.null_distribution) >= abs(row.rho) - 1e-9), abs=1e-9
    )


def test_too_many_orders_are_drawn_and_the_draw_repeats():
    noise = np.random.default_rng(1)
    table = nets([0.5] * 4, [0.1] * 4, seeds=5)
    table["value"] += noise.normal(0, 0.01, len(table))
    one, two = (claims.gap_correlations(table, CONFIG) for _ in range(2))
    assert one.equals(two) and (one["p"] >= 1 / (EXACT + 1)).all() and one["p"].min() > 0.01


def test_no_correlation_of_too_little():
    for table in (nets([0.9, 0.5], [0.2, 0.1], seeds=1), nets([1.0] * 4, [0.1, 0.2, 0.3, 0.4])):
        with pytest.raises(NotMeasured, match="fewer than 3"):
            claims.gap_correlations(table, CONFIG)
    table = nets([0.9, 0.7, 0.5], [0.3, 0.2, 0.1])
    with pytest.raises(NotMeasured, match="fewer than 3"):
        claims.gap_correlations(table[table["statistic"] != "q"], CONFIG)
    # a collapsed run takes its strength with it
    gone = (table["split"] == "train") & (table["statistic"] == "error") & (table["strength"] == 2)
    table.loc[gone & (table["seed"] == 0), "value"] = 0.95
    assert set(claims.gap_correlations(table, CONFIG)["nets"]) == {6}


# --- proofs


@pytest.mark.slow
def test_what_is_proved_of_recorded_networks_is_beyond_what_was_measured(tmp_path):
    study = studies.load("digits", tmp_path)
    arrays = figures.collect(study)
    networks = claims.chains(study, arrays)
    assert list(networks) == [0.0, 16.0, 32.0, 64.0]
    for strength, network in networks.items():
        assert (network.blocks["proved"] > network.blocks["measured"]).all()
        assert (network.lower > 0).all() and (network.lower <= network.upper).all()
        right = arrays[strength, network.seed]["instance_margin|test"] > 0
        assert len(network.upper) == right.sum() and network.factor > 1
        chain = bounds.chain(study.model(network.run), (1, 8, 8))
        assert network.blocks["proved"].iloc[-1] <= chain.table["slope"].max()
    table = tables.proved(networks)
    assert table.loc["0", "images"] == str(len(networks[0.0].upper))
    ratio = float(table.loc["0", "found / certified"])
    assert ratio == pytest.approx(networks[0.0].factor, rel=0.1)


def test_nothing_is_proved_without_weights(tmp_path):
    study = studies.load("cifar10-resnet56", tmp_path)
    with pytest.raises(NotMeasured, match="published weights"):
        claims.chains(study, {})
