"""What goes with what among networks of one strength, on records with known answers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from arlib import claims, figures, tables
from arlib.claims.association import PAIRS, SIDES, correlation, partial_correlation, two_sided
from arlib.errors import NotMeasured

BLOCKS, LAYERS = ("blocks.0", "blocks.1", "blocks.2"), ("blocks.0.conv1", "blocks.1.conv1")


def network(run: str, strength: float, sides: dict[str, float]) -> list[dict]:
    """The rows of one network whose medians over blocks and layers are these."""
    rows = [("error", "test", "", "", sides["error"]), ("error", "train", "", "", 0.1),
            ("ce", "train", "", "", sides["fit"]), ("share_largest_class", "test", "", "", 0.1),
            ("median_abs_margin", "test", "", "", sides["margin"])]  # fmt: skip
    rows += [("feature_change", "test", block, "random@4", sides["features"] * factor)
             for block, factor in zip(BLOCKS, (0.5, 1, 3), strict=True)]  # fmt: skip
    spectra = (("sv_std", "circular", "weights"),
               ("sv_std_over_mean", "circular+bn-natural", "operators"))  # fmt: skip
    for name, setting, side in spectra:
        rows += [(name, "", layer, setting, sides[side]) for layer in LAYERS]
    columns = ("statistic", "split", "layer", "setting", "value")
    about = {"run": run, "strength": strength, "seed": 0, "variant": "spread-1"}
    return [dict(zip(columns, row, strict=True)) | about | {"checkpoint": "last"} for row in rows]


def records(nets: int = 14, seed: int = 0, strengths=(0.0, 8.0)) -> pd.DataFrame:
    """Networks whose fit moves margin and error, and nothing else does: features follow the fit,
    spectra follow nothing.
    """
    draw, rows = np.random.default_rng(seed), []
    for strength in strengths:
        for number in range(nets):
            fit = draw.uniform(0.1, 1)
            sides = {"fit": fit, "margin": 3 - fit + 0.1 * draw.normal()}
            sides |= {"error": 0.2 + 0.2 * fit + 0.01 * draw.normal()}
            sides |= {"features": 0.3 - 0.2 * fit + 0.01 * draw.normal()}
            sides |= {"weights": draw.uniform(0.5, 0.6), "operators": draw.uniform(0.8, 0.9)}
            rows += network(f"net-{strength:g}-{number}", strength, sides)
    return pd.DataFrame(rows)


def test_what_only_the_fit_explains_is_gone_at_an_equal_fit():
    table = claims.association(records(60)).set_index(["strength", "first", "second"])
    assert len(table) == 2 * len(PAIRS) and set(table["nets"]) == {60}
    for strength in (0.0, 8.0):
        features = table.loc[strength, "features", "margin"]
        assert features["rho"] > 0.8 and abs(features["partial"]) < 0.4
        assert table.loc[strength, "margin", "error"]["rho"] < -0.8
        assert abs(table.loc[strength, "weights", "margin"]["rho"]) < 0.4


def test_spearman_is_scipy_s_and_medians_are_over_blocks():
    frame = records(14)
    spread = claims.spread_of(frame)
    assert list(spread) == ["strength", *SIDES] and len(spread) == 28
    middle = frame[(frame["layer"] == "blocks.1") & (frame["statistic"] == "feature_change")]
    assert sorted(spread["features"]) == pytest.approx(sorted(middle["value"]))
    one = spread[spread["strength"] == 8]
    rho, p = stats.spearmanr(one["features"], one["margin"])
    row = claims.association(frame).query("strength == 8 and first == 'features'").iloc[0]
    assert (row["rho"], row["p"]) == pytest.approx((rho, p))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(5, 40))
def test_a_partial_correlation_is_that_of_what_a_line_leaves(seed, n):
    draw = np.random.default_rng(seed)
    held = draw.permutation(n).astype(float)
    a, b = (stats.rankdata(draw.normal() * held + n * draw.normal(size=n)) for _ in range(2))
    design = np.stack([np.ones(n), held], axis=1)
    left = [side - design @ np.linalg.lstsq(design, side, rcond=None)[0] for side in (a, b)]
    if min(np.ptp(side) for side in left) > 1e-6:
        expected = np.corrcoef(*left)[0, 1]
        assert partial_correlation(a, b, held) == pytest.approx(expected, abs=1e-6)


def test_nothing_varies_or_nothing_is_left():
    a, same = np.arange(6.0), np.ones(6)
    assert np.isnan(correlation(a, same)) and np.isnan(two_sided(np.nan, 4))
    assert partial_correlation(a, a, same) == 1 and two_sided(1.0, 4) == 0
    for other in (a[::-1], same):
        assert np.isnan(partial_correlation(a, other, a))


def test_pure_noise_is_called_sure_at_the_nominal_rate():
    p = []
    for seed in range(60):
        table = claims.association(records(14, seed, strengths=(8.0,)))
        kept = table[table["first"].isin(("weights", "operators"))]
        p += [*kept["p"], *kept["partial_p"]]
    assert 0.01 < np.mean(np.array(p) < 0.05) < 0.1


def test_fewer_than_twelve_networks_are_no_association():
    frame = records(11)
    with pytest.raises(NotMeasured, match=r"needs 12 networks of one AR strength .* 11 are"):
        claims.association(frame)
    with pytest.raises(NotMeasured, match="no network of the spread is recorded"):
        claims.association(frame.iloc[:0])
    more = pd.concat([records(11, strengths=(0.0,)), records(12, strengths=(8.0,))])
    assert set(claims.association(more)["strength"]) == {8.0}


def test_a_collapsed_network_is_none():
    frame = records(13)
    first = frame["run"] == "net-0-0"
    frame.loc[first & (frame["statistic"] == "share_largest_class"), "value"] = 0.95
    assert dict(claims.association(frame).groupby("strength")["nets"].first()) == {0: 12, 8: 13}


def test_as_text_and_as_a_figure():
    frame = records(14)
    table = tables.associations(frame)
    assert table.index[0] == "feature change with median |m|" and len(table) == len(PAIRS)
    assert table.iloc[0]["ρ at AR strength 8"].startswith("+0.9")
    assert table.attrs["finding"].startswith("Networks: 14 at 0, 14 at 8. Of 14 correlations ")
    figure = figures.association(frame)
    assert "feature change with median |m| +0.9" in figures.alt(figure)
    with pytest.raises(NotMeasured):
        figures.association(records(4))
