"""Tables of layers, on made-up records whose numbers are known."""

import numpy as np
import pytest
import synthetic

from arlib import claims, tables
from arlib.errors import InputError, NotMeasured

RECORDS = synthetic.records()


def test_layer_rule_shows_the_conditions_of_the_verdict():
    decided = claims.decide(RECORDS).set_index("claim")
    for claim in ("C5", "C6"):
        primary, twin = tables.layer_rule(synthetic.study(RECORDS), claim).T.to_dict("records")
        assert primary["share of layers that go down, by seed"] == "100 %, 100 %, 100 %"
        assert (
            primary["share between two seeds of one strength"]
            == f"up to {100 * decided.loc[claim, 'floor']:.0f} %"
        )
        assert (
            primary["verdict of this statistic alone"]
            == decided.loc[claim, "primary_verdict"]
            == "supported"
        )
        assert twin["verdict of this statistic alone"] == decided.loc[claim, "twin_verdict"]
        assert primary["stands out"] == "yes"


def test_layer_rule_of_protocol_2_has_a_column_for_each_statistic_of_each_part():
    study = synthetic.study(RECORDS, protocol=2)
    decided = claims.verdicts(study).set_index("claim")
    for claim, parts in (("C5", ("C5a", "C5b")), ("C6", ("C6a", "C6b", "C6c"))):
        table = tables.layer_rule(study, claim)
        heads = [name for part in parts for name in 2 * (part,)]
        assert [name.partition(":")[0] for name in table.columns] == heads
        alone = table.loc["verdict of this statistic alone"]
        for part, primary, twin in zip(parts, alone[::2], alone[1::2], strict=True):
            assert primary == decided.loc[part, "primary_verdict"]
            assert twin == decided.loc[part, "twin_verdict"]


def test_layer_rule_of_what_rises_or_cannot_stand_out():
    reversed_ = synthetic.records(world=-1.0)
    rises = tables.layer_rule(synthetic.study(reversed_), "C6").iloc[:, 0]
    assert rises["share of layers that go up, by seed"] == "100 %, 100 %, 100 %"
    assert rises["verdict of this statistic alone"] == "contradicted"
    one_block = RECORDS[
        (RECORDS["statistic"] != "feature_change") | (RECORDS["layer"] == "blocks.0")
    ]
    assert (
        tables.layer_rule(synthetic.study(one_block), "C5").iloc[:, 0]["stands out"]
        == "cannot: the floor is 100 %"
    )
    with pytest.raises(NotMeasured, match="C5 is not measured on s: At least 3 seeds"):
        tables.layer_rule(synthetic.study(RECORDS[RECORDS["seed"] < 2]), "C5")
    with pytest.raises(InputError, match="claim is 'C1'"):
        tables.layer_rule(synthetic.study(RECORDS), "C1")


def test_operators_compares_with_the_circular_one():
    changed = RECORDS.copy()
    other = (changed["statistic"] == "sv_std") & (changed["setting"] == "reshaped")
    circular = (changed["statistic"] == "sv_std") & (changed["setting"] == "circular")
    seeds = changed.loc[circular, "seed"].to_numpy()
    changed.loc[other, "value"] = (0.4 + 0.2 * (seeds == 0)) * changed.loc[
        circular, "value"
    ].to_numpy()
    table = tables.operators(changed, strength=8)
    folded = ["circular, BN folded", "… with natural BN statistics"]
    assert list(table.index) == ["circular", *folded, "reshaped kernel"]  # what is recorded
    # all seeds count alike: (0.6 + 0.4 + 0.4) / 3
    assert table.loc["reshaped kernel", "std / circular"] == "0.47"
    rows = changed[circular & (changed["strength"] == 8) & (changed["checkpoint"] == "last")]
    rows = rows[rows["layer"].isin(synthetic.CONVOLUTIONS)]
    assert set(table["std goes"]) == {"down"} == set(table["std/mean goes"])
    one = circular & (changed["strength"] == 8) & (changed["seed"] == 1)
    mixed = tables.operators(changed.assign(value=changed["value"].where(~one, 10.0)), strength=8)
    assert mixed.loc["circular", "std goes"] == "both ways"
    # as the verdicts take a level: over layers, then over seeds
    by_seed = rows.groupby("seed")["value"].median()
    assert table.loc["circular", "std at 8"] == f"{by_seed.mean():.3g}"
    with pytest.raises(NotMeasured, match="AR strengths 0 and 16"):
        tables.operators(RECORDS, strength=16)


def test_scale_and_shape_split_the_std():
    changed = RECORDS.copy()
    std, mean = (
        (changed["statistic"] == name) & (changed["setting"] == "circular")
        for name in ("sv_std", "sv_mean")
    )
    # all values doubled
    changed.loc[std, "value"] = np.where(changed.loc[std, "strength"] == 8, 2 * 3.0, 3.0)
    changed.loc[mean, "value"] = np.where(changed.loc[mean, "strength"] == 8, 2 * 4.0, 4.0)
    # only the shape changes: 3² + 4² = 4² + 3²
    changed.loc[std & (changed["strength"] == 4), "value"] = 4.0
    changed.loc[mean & (changed["strength"] == 4), "value"] = 3.0
    table = tables.scale_and_shape(changed)
    assert [text.split(" [")[0] for text in table.loc["8"]] == ["× 2", "× 2", "× 1"]
    assert [text.split(" [")[0] for text in table.loc["4"]] == ["× 1.33", "× 1", "× 1.33"]
    with pytest.raises(NotMeasured, match="two seeds"):
        tables.scale_and_shape(RECORDS[RECORDS["seed"] == 0])


def test_unevenness_is_adversarial_over_random():
    table = tables.unevenness(synthetic.study(RECORDS))
    rows = RECORDS[(RECORDS["statistic"] == "feature_change") & (RECORDS["checkpoint"] == "last")]
    wide = rows.pivot_table("value", ["strength", "seed", "layer"], "setting")
    ratio = (wide["adversarial@4"] / wide["random@4"]).groupby(["strength", "seed"]).median()
    assert table.iloc[0]["at 8"] == f"{ratio[8.0].mean():.3g}"
    assert table.loc["σ_max / (‖J‖_F/√rank)", "goes"] == "down"  # planted: × exp(−0.2)
    assert table.loc["σ_max / (‖J‖_F/√rank)", "factor [95 % interval]"].startswith("× 0.8")
    with pytest.raises(NotMeasured, match="AR strengths 0 and 8"):
        tables.unevenness(synthetic.study(RECORDS[RECORDS["strength"] > 0]))


def test_nothing_recorded_is_said():
    with pytest.raises(NotMeasured, match="run the study first"):
        tables.operators(RECORDS.iloc[:0], strength=8)
