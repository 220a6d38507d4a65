"""The tables of chapters, on made-up records whose numbers are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims, figures, studies, tables
from arlib.attacks import wilson
from arlib.errors import InputError, NotMeasured
from arlib.training import Recipe

RECORDS = synthetic.records()


def value(records, strength, seed, statistic, split, setting, checkpoint="last"):
    rows = records[
        (records["strength"] == strength)
        & (records["seed"] == seed)
        & (records["checkpoint"] == checkpoint)
    ]
    rows = rows[
        (rows["statistic"] == statistic) & (rows["split"] == split) & (rows["setting"] == setting)
    ]
    return rows["value"].item()


def test_training_time_is_images_over_speed():
    recipes = [Recipe(dataset="cifar10", eps=eps, epochs=60) for eps in (0, 8 / 255, 4 / 255)]
    rates = pd.DataFrame({"loop": ["slow", "fast", "faster"], "images/s": [10.0, 500.0, 2000.0]})
    table = tables.training_time(SimpleNamespace(recipes=recipes), rates)
    # 5.4 million images
    assert list(table["2 trainings"]) == ["6.2 days", "3.0 hours", "45 minutes"]
    assert list(table.index) == ["slow", "fast", "faster"]


def test_interval_is_wilsons():
    low, high = wilson(811, 1000)
    assert tables.interval(0.811, 1000) == f"81.1 % [{100 * low:.1f}, {100 * high:.1f}]"


def test_accuracies_are_of_the_last_weights_and_keep_each_attack_with_its_n():
    changed = RECORDS.copy()
    strong = changed["setting"] == "apgd-ce+t@8"
    changed.loc[strong, "n"] = 300
    table = tables.accuracies(changed).set_index(["strength", "seed", "attack"])
    assert len(table) == 3 * 3 * 3
    row = table.loc[8.0, 1, "apgd-ce+t"]
    assert row["n"] == 300 and row["setting"] == "apgd-ce+t@8"
    assert row["accuracy"] == pytest.approx(
        1 - value(RECORDS, 8, 1, "robust_error", "test", "apgd-ce+t@8")
    )
    assert row["low"] < row["accuracy"] < row["high"]
    assert list(table.loc[0.0, 0].index) == ["natural", "pgd-10", "apgd-ce+t"]


def test_attacks_at_other_radii_are_no_second_row_of_a_network():
    """Protocol 2 runs the strong attack at smaller radii too, to check margins."""
    row = RECORDS[RECORDS["setting"] == "apgd-ce+t@8"]
    smaller = [row.assign(setting=f"apgd-ce+t@{radius}", value=0.1, n=100) for radius in (1, 4)]
    records = pd.concat([RECORDS, *smaller], ignore_index=True)
    pd.testing.assert_frame_equal(tables.accuracies(records), tables.accuracies(RECORDS))
    # without PGD-10 the radius is the largest
    rest = records[~records["setting"].str.startswith("pgd-10@")]
    kept = tables.accuracies(rest)
    assert set(kept["setting"]) == {"", "apgd-ce+t@8"}
    assert figures.accuracies(records).alt == figures.accuracies(RECORDS).alt


def crossed(strong: float, others: float, together: float) -> pd.DataFrame:
    """One network, (8, seed 0), attacked by other means too."""
    row = RECORDS[
        (RECORDS["setting"] == "apgd-ce+t@8") & (RECORDS["strength"] == 8) & (RECORDS["seed"] == 0)
    ]
    values = {"pgd-50x10": others, "square": others, "apgd-ce+t+pgd-50x10+square": together}
    more = [row.assign(setting=f"{kind}@8", value=value, n=300) for kind, value in values.items()]
    rest = RECORDS.drop(row.index)
    return pd.concat([rest, row.assign(value=strong, n=300), *more], ignore_index=True)


def test_attacks_that_check_the_strong_one_have_a_table_of_their_own():
    records = crossed(0.70, 0.65, 0.71)
    table = tables.cross_checks(records)
    assert list(table.index) == [("8", "0")] and table.attrs["added"] == pytest.approx(1.0)
    assert list(table.iloc[0]) == [tables.interval(a, 300) for a in (0.30, 0.35, 0.35, 0.29)]
    assert table.columns[0] == "apgd-ce+t@8 (n = 300)" and "together" not in table.columns
    assert set(tables.accuracies(records)["attack"]) == {"natural", "pgd-10", "apgd-ce+t"}
    with pytest.raises(NotMeasured, match="cross_images"):
        tables.cross_checks(RECORDS)


def test_under_attack_says_n_and_what_is_missing():
    holes = RECORDS[~((RECORDS["setting"] == "apgd-ce+t@8") & (RECORDS["strength"] == 4))]
    table = tables.under_attack(holes)
    assert list(table.columns) == [
        "natural (n = 1,000)",
        "pgd-10@8 (n = 1,000)",
        "apgd-ce+t@8 (n = 1,000)",
    ]
    assert table.loc[("4", "0"), "apgd-ce+t@8 (n = 1,000)"] == claims.NOT_MEASURED
    accuracy = 1 - value(RECORDS, 4, 2, "error", "test", "")
    assert table.loc[("4", "2"), "natural (n = 1,000)"] == tables.interval(accuracy, 1000)


def test_the_attack_at_the_trained_radius_is_not_mixed_in():
    trained = RECORDS[RECORDS["setting"] == "pgd-10@8"].assign(setting="pgd-10@trained", value=0.0)
    both = pd.concat([RECORDS, trained], ignore_index=True)
    pd.testing.assert_frame_equal(tables.under_attack(both), tables.under_attack(RECORDS))
    pd.testing.assert_frame_equal(tables.robust_gap(both), tables.robust_gap(RECORDS))


def test_variants_are_left_out():
    extra = pd.concat([RECORDS, RECORDS[RECORDS["seed"] == 0].assign(variant="step2", value=0.5)])
    pd.testing.assert_frame_equal(tables.under_attack(extra), tables.under_attack(RECORDS))


def test_robust_gap_is_test_minus_train_over_seeds():
    table = tables.robust_gap(RECORDS)
    assert list(table.index) == [(s, w) for s in ("0", "4", "8") for w in ("last", "best")]
    both = [
        [value(RECORDS, 8, s, "robust_error", split, "pgd-10@8") for s in range(3)]
        for split in ("test", "train")
    ]
    gaps = [100 * (test - train) for test, train in zip(*both, strict=True)]
    cell = table.loc[("8", "last"), "pgd-10@8: gap"]
    assert cell == f"{sum(gaps) / 3:.1f} ({min(gaps):.1f} to {max(gaps):.1f})"


def test_robust_gap_without_best_weights():
    table = tables.robust_gap(RECORDS[RECORDS["checkpoint"] == "last"])
    assert (table.xs("best", level="weights") == claims.NOT_MEASURED).all(axis=None)


def test_cost_adds_up_the_epochs():
    histories = synthetic.histories().assign(seconds=30.0, images_per_second=1500.0)
    histories = pd.concat([histories, histories.assign(variant="x", seconds=1e6)])
    table = tables.cost(histories)
    assert table.loc["8"].tolist() == [3, "6", "3.0", "1,500"]


def test_by_seed_shows_every_network_of_the_grid():
    table = tables.by_seed(RECORDS, "C1")
    assert table.loc["seed 2", "4"] == f"{100 * value(RECORDS, 4, 2, 'error', 'test', ''):.1f} %"
    gap = value(RECORDS, 8, 0, "error", "test", "") - value(RECORDS, 8, 0, "error", "train", "")
    assert tables.by_seed(RECORDS, "C2").loc["seed 0", "8"] == f"{100 * gap:.1f} %".replace(
        "-", "−"
    )
    assert (
        tables.by_seed(RECORDS, "C4", twin=True).attrs["statistic"] == "median |m|/R on test images"
    )
    holes = RECORDS[(RECORDS["seed"] != 1) | (RECORDS["strength"] != 4)]
    assert tables.by_seed(holes, "C3").loc["seed 1", "4"] == claims.NOT_MEASURED
    with pytest.raises(InputError, match="claim is 'C6'"):
        tables.by_seed(RECORDS, "C6")


def test_sensitivity_in_text_names_settings_where_they_differ():
    table = tables.sensitivity(synthetic.study(RECORDS), "C2")
    assert table.index[0] == "test − train error" and table["role"].tolist()[:2] == [
        "primary",
        "twin",
    ]
    spread = tables.sensitivity(synthetic.study(RECORDS), "C7")
    assert "flip rate, uniform@16" in spread.index and spread.index.is_unique
    assert spread.loc["flip rate, uniform@16", "effect [95 % interval]"].startswith("−")


def test_matched_in_text_has_the_reading():
    records = synthetic.records(epochs=(1, 2, 3, 4))
    table = tables.matched(synthetic.study(records), "C4")
    rows = claims.matched_fit(records).set_index(["claim", "strength"])
    assert table.loc["8", "reading"] == rows.loc[("C4", 8.0), "reading"]
    assert table.loc["8", "effect"] == f"× {np.exp(rows.loc[('C4', 8.0), 'effect']):.3g}"
    assert table.loc["8", "seeds that reach it"] == "3"
    with pytest.raises(NotMeasured, match="no measurements along training"):
        tables.matched(synthetic.study(RECORDS), "C4")


def test_gaps_are_test_minus_train():
    raw = [
        value(RECORDS, 8, s, "ce", "test", "") - value(RECORDS, 8, s, "ce", "train", "")
        for s in range(3)
    ]
    cell = f"{sum(raw) / 3:.3f} ({min(raw):.3f} to {max(raw):.3f})"
    assert tables.gaps(RECORDS).loc["8", "CE gap, raw"] == cell.replace("-", "−")


def test_instance_margins_say_where_they_were_accepted():
    changed = RECORDS.copy()
    one = (
        (changed["statistic"] == "instance_margin_accepted")
        & (changed["strength"] == 4)
        & (changed["seed"] == 1)
    )
    changed.loc[one, "value"] = 0
    table = tables.instance_margins(changed)
    assert table["accepted"].tolist()[1] == "2 of 3 seeds"
    medians = [255 * value(RECORDS, 0, s, "instance_margin_median", "test", "") for s in range(3)]
    assert table.loc["0", "median (255·ε)"].startswith(f"{sum(medians) / 3:.2f}")


def test_margin_factors_are_relative_to_strength_0():
    index = pd.MultiIndex.from_product([(0, 1), (0.0, 8.0)], names=["seed", "strength"])
    medians = pd.DataFrame(
        {"output": [4.0, 2, 8, 4], "instance": [1.0, 3, 2, 6], "slope": [4.0, 1, 4, 0.5]},
        index=index,
    )
    table = tables.margin_factors(medians)
    assert table.loc["8", "output margin m"] == "× 0.5 [0.5, 0.5]" and table.loc[
        "8", "instance margin v"
    ].startswith("× 3 ")
    with pytest.raises(NotMeasured, match="two seeds"):
        tables.margin_factors(medians.loc[[0]])


def test_nothing_recorded_is_said():
    nothing = RECORDS.iloc[:0]
    for make in (
        tables.accuracies,
        tables.under_attack,
        tables.robust_gap,
        tables.gaps,
        tables.instance_margins,
    ):
        with pytest.raises(NotMeasured, match="run the study first"):
            make(nothing)
    with pytest.raises(NotMeasured, match="run the study first"):
        tables.by_seed(nothing, "C1")
    assert tables.sensitivity(synthetic.study(nothing), "C1").empty
    with pytest.raises(InputError, match="run the study first"):
        tables.cost(synthetic.histories().iloc[:0])


ALONG = synthetic.records(epochs=(1, 2, 4))
STUDY = synthetic.study(ALONG)
OF_RECORDS = {
    "under_attack": lambda: tables.under_attack(RECORDS),
    "robust_gap": lambda: tables.robust_gap(RECORDS),
    "by_seed": lambda: tables.by_seed(RECORDS, "C1"),
    "gaps": lambda: tables.gaps(RECORDS),
    "instance_margins": lambda: tables.instance_margins(RECORDS),
    "sensitivity": lambda: tables.sensitivity(STUDY, "C1"),
    "matched": lambda: tables.matched(STUDY, "C4"),
    "readings": lambda: tables.readings(claims.matched_fit(ALONG)),
    "layer_rule": lambda: tables.layer_rule(STUDY, "C5"),
    "operators": lambda: tables.operators(RECORDS, strength=8.0),
    "scale_and_shape": lambda: tables.scale_and_shape(RECORDS),
    "unevenness": lambda: tables.unevenness(STUDY),
    "verdicts": lambda: claims.table(claims.decide(RECORDS).assign(toy=False)),
}


@pytest.mark.parametrize("name", OF_RECORDS)
def test_a_table_of_records_says_in_a_sentence_what_it_shows(name):
    table = OF_RECORDS[name]()
    finding = table.attrs["finding"]
    assert finding.endswith(".") and "nan" not in finding
    assert tables.with_finding(table).endswith(f"\n\n*Finding:* {finding}")


def test_the_sentence_of_a_statistic_has_the_verdicts_numbers():
    row = claims.decide(RECORDS).set_index("claim").loc["C1"]
    change = (
        f"{100 * row['effect']:+.1f} points [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
    )
    assert change in tables.by_seed(RECORDS, "C1").attrs["finding"]


def test_a_part_of_the_statistics_counts_only_itself():
    whole, part = tables.sensitivity(STUDY, "C2"), tables.sensitivity(STUDY, "C2", ["test error"])
    assert len(part) == 1 < len(whole) and part.attrs["finding"].startswith("Of 1 statistics")


def test_readings_have_a_row_per_claim_and_a_column_per_strength():
    table = tables.readings(claims.matched_fit(ALONG))
    assert list(table.columns) == ["at 4", "at 8"] and len(table) == 6
    with pytest.raises(NotMeasured, match="no control"):
        tables.readings(claims.matched_fit(RECORDS))


def test_minutes_of_measuring_are_medians_over_the_runs_that_have_them():
    def study(**seconds):
        entries = [
            SimpleNamespace(run=run, variant=variant, recipe=SimpleNamespace(strength=strength))
            for run, strength, variant in (("a", 0.0, ""), ("b", 0.0, ""), ("c", 8.0, ""),
                                           ("control", 0.0, "control-1"), ("missing", 8.0, ""))
        ]  # fmt: skip
        records = {
            run: SimpleNamespace(provenance={"part_seconds": seconds[run]} if seconds[run] else {})
            for run in ("a", "b", "c", "control")
        }
        return SimpleNamespace(
            entries=entries, finished=lambda: records, record=lambda run: records[run]
        )

    table = tables.measuring(
        study(
            a={"flips@1": 60.0, "flips@2": 60.0, "instance": 600.0},
            b={"flips@1": 240.0, "instance": 1200.0, "start": 0.1},
            c={"flips@1": 60.0, "instance": 60.0},
            control={"instance": 6000.0},
        )
    )
    assert table.index.tolist() == ["distances to the boundary", "flip rates"]
    assert table.columns.tolist() == ["minutes at 0 (n = 2)", "minutes at 8 (n = 1)"]
    assert table.to_numpy().tolist() == [["15.0", "1.0"], ["3.0", "1.0"]]
    assert table.attrs["finding"] == (
        "Measuring one of these networks took 2 to 24 minutes, most of it: distances to the "
        "boundary 82 %, flip rates 18 %, start 0 %."
    )
    with pytest.raises(NotMeasured, match="no record says"):
        tables.measuring(study(a=None, b=None, c=None, control={"instance": 1.0}))


def test_every_part_of_measuring_that_is_recorded_has_words():
    recorded = studies.load("cifar10-resnet20")
    table = tables.measuring(recorded)
    assert {"spectra", *tables.runs._PARTS.values()} >= set(table.index)


def test_an_unbounded_share_has_no_infinite_ends():
    text = tables.matched(studies.load("cifar10-resnet20"), "C6").to_string()
    assert "[unbounded]" in text and "inf" not in text and "nan" not in text
