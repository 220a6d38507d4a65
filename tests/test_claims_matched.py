"""The matched-fit control: AT nets against the standard trajectory at equal train cross-entropy."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims
from arlib.claims import matched

EPOCHS = (1, 2, 3, 4, 6, 8)
CONTROLLED = ["C2", "C3", "C4", "C5", "C6", "C7"]


def readings(**planted) -> pd.Series:
    frame = claims.matched_fit(synthetic.records(epochs=EPOCHS, **planted))
    return frame.set_index(["claim", "strength"])["reading"]


@pytest.mark.slow
def test_at_nets_on_the_trajectory_are_explained_by_less_fitting():
    result = pd.concat([readings(rng=rng) for rng in range(6)])
    assert result.index.get_level_values("claim").unique().tolist() == CONTROLLED
    assert (result == matched.EXPLAINED).mean() > 0.8
    assert (result == matched.BEYOND).mean() < 0.1  # one interval in 40 misses on the effect's side


def test_at_nets_off_the_trajectory_are_more():
    assert set(readings(along=0.0)) == {matched.BEYOND}
    # the standard net at equal fit moves even further
    assert set(readings(along=2.0)) == {matched.EXPLAINED}


def test_no_effect_needs_no_explanation():
    assert (readings(world=0.0, along=0.0) == matched.NO_EFFECT).mean() > 0.8


def test_differences_have_the_planted_size():
    table = claims.matched_fit(synthetic.records(epochs=EPOCHS, along=0.5, noise=1e-6)).set_index(
        ["claim", "strength"]
    )
    row = table.loc[("C4", 8.0)]
    assert row["effect"] == pytest.approx(-1, abs=1e-3) and row["difference"] == pytest.approx(
        -0.5, abs=1e-3
    )
    assert row["train_ce"] == pytest.approx(0.9, abs=1e-3) and row["seeds"] == 3
    assert table.loc[("C6", 4.0), "difference"] == pytest.approx(-0.1, abs=1e-3)
    assert claims.t_interval(row["differences"]) == tuple(row[["difference", "low", "high"]])


def test_no_matched_point_where_the_trajectory_never_gets():
    table = synthetic.records(epochs=EPOCHS)
    hit = (table["statistic"] == "ce") & (table["split"] == "train") & (table["strength"] == 8)
    far = claims.matched_fit(table.assign(value=table["value"].where(~hit, 50.0))).set_index(
        ["claim", "strength"]
    )
    assert set(far.xs(8.0, level="strength")["reading"]) == {matched.NO_POINT}
    assert far.xs(8.0, level="strength")["seeds"].eq(0).all()
    assert matched.NO_POINT not in set(far.xs(4.0, level="strength")["reading"])


def test_a_wide_interval_is_not_called_an_explanation():
    interval = claims.Interval
    assert matched._reading(interval(-1, -1.2, -0.8), interval(-0.5, -3, 2)) == matched.CANNOT_TELL
    assert (
        matched._reading(interval(-1, -1.2, -0.8), interval(-0.1, -0.4, 0.2)) == matched.EXPLAINED
    )
    assert matched._reading(interval(-1, -1.2, -0.8), interval(0.5, 0.2, 0.8)) == matched.EXPLAINED
    assert matched._reading(interval(-1, -1.2, -0.8), interval(-0.5, -0.7, -0.3)) == matched.BEYOND


def test_interpolation_is_linear_in_train_cross_entropy():
    path = pd.DataFrame({"a": [3.0, 1, 0], "b": [0.0, 1, 4], "fit": [2.0, 1, 0.5]})
    assert matched.interpolated(path, 0.75, ["a", "b"]).tolist() == [0.5, 2.5]
    assert matched.interpolated(path, 2.1, ["a"]) is None
    assert matched.interpolated(path[:0], 1.0, ["a"]) is None


def test_without_checkpoints_along_training_there_is_nothing_to_compare():
    table = synthetic.records()
    assert (
        claims.matched_fit(table).empty
        and claims.matched_fit(table).attrs["definition"] == matched.DEFINITION
    )
    assert set(claims.decide(table)["matched"]) == {""}
    assert claims.trajectories(table.iloc[:0]).empty


def test_the_reading_stands_beside_the_verdict():
    rows = claims.decide(synthetic.records(epochs=EPOCHS, along=0.0)).set_index("claim")
    assert (
        set(rows.loc[CONTROLLED, "matched"]) == {matched.BEYOND} and rows.loc["C1", "matched"] == ""
    )
    assert all(matched.BEYOND in note for note in rows.loc[CONTROLLED, "note"])
    assert set(rows.loc[CONTROLLED, "verdict"]) == {"supported"}


def test_trajectories_hold_every_point_in_order():
    points = claims.trajectories(synthetic.records(epochs=EPOCHS, noise=1e-6))
    margin = points[(points["claim"] == "C4") & (points["seed"] == 0)]
    standard, at = margin[margin["kind"] == "standard"], margin[margin["kind"] == "AT"]
    assert len(standard) == len(EPOCHS) + 1 and at["strength"].tolist() == [4.0, 8.0]
    assert (np.diff(standard["train_ce"]) < 0).all() and standard["value"].iloc[
        -1
    ] == pytest.approx(6, rel=1e-3)
    std = points[(points["claim"] == "C6") & (points["strength"] == 8)]
    assert std["value"].tolist() == pytest.approx([np.exp(-0.4)] * 3, rel=1e-3)
