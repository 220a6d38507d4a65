"""Figures and tables of the chapter on gentler training: all, some, or none of it recorded."""

import io

import pandas as pd
import pytest
import synthetic
from PIL import Image
from test_claims_gentler import study, world

from arlib import claims, figures, tables
from arlib.errors import InputError, NotMeasured

MADE = world({"trades": 0.05, "hat": -0.05}, budgets=("epochs", "passes"))
WHOLE = MADE.records()
STATES = {
    "all": WHOLE,
    "one seed": WHOLE[WHOLE["seed"] == 0],
    "one network": WHOLE[(WHOLE["seed"] == 0) & (WHOLE["strength"] == 0)],
    "nothing": WHOLE[:0],
}
each_state = pytest.mark.parametrize("records", STATES.values(), ids=STATES.keys())


def outcomes(made):
    points = claims.front_points(made)
    return {budget: claims.above_the_front(points, budget) for budget in ("epochs", "passes")}


def drawn(figure) -> str:
    Image.open(io.BytesIO(figure._repr_png_())).verify()
    return figures.alt(figure)


@each_state
def test_figures_are_drawn_of_whatever_is_recorded(records):
    made = study(MADE.entries, records)
    count = records["run"].nunique() if len(records) else 0
    own = [e for e in made.entries if e.front.budget == "epochs"]
    epochs = sum(entry.run in set(records["run"]) for entry in own) if count else 0
    assert f"of {epochs} networks" in drawn(figures.slope_plane(made))
    assert f"at equal epochs {epochs} networks" in drawn(figures.fronts(made))
    heights = drawn(figures.front_heights(outcomes(made)))
    if count == len(made.entries):
        assert "TRADES +" in heights and "HAT −" in heights
    else:
        assert heights.count("not measured") == 4


@each_state
def test_tables_say_what_is_recorded_and_of_how_many_seeds(records):
    made = study(MADE.entries, records)
    table = tables.fronts(made)
    points = claims.front_points(made)
    assert len(table) == len(points) / 3
    assert table["seeds"].str.fullmatch(r"\d of 3").all()
    recorded = table["seeds"].str[0].astype(int).sum()
    assert recorded == points["robust"].notna().sum()
    of_methods = tables.heights(outcomes(made)["epochs"])
    assert list(of_methods.index) == ["TRADES", "HAT"]
    if recorded == len(points):
        assert of_methods["verdict"].tolist() == ["gentler", "less gentle"]
        assert of_methods.loc["TRADES", "knob, by validation"] == "β 4"
        assert (table.loc["TRADES", "height"].str.startswith("+")).all()
    else:
        assert of_methods["verdict"].str.startswith("not measured: ").all()


def test_networks_beyond_the_front_and_collapsed_ones_are_said_to_be_so():
    made = world({"hat": 0.05}, natural={"hat": (0.45, 0.3)})
    records = made.records()
    lost = (records["variant"] == "front-hat-0.5") & (records["seed"] == 1)
    records.loc[lost & (records["statistic"] == "share_largest_class"), "value"] = 0.95
    table = tables.fronts(study(made.entries, records)).loc["HAT"].set_index("knob")
    assert table.loc["γ 1", "height"] == "– (3 beyond)"
    assert table.loc["γ 0.5", "note"] == "1 collapsed" and table.loc["γ 0.5", "natural"] == "–"
    assert "HAT beyond the front" in drawn(figures.front_heights(outcomes(made)))


def test_a_pair_on_the_front_has_no_height_and_beyond_it_none_is_given():
    front = pd.DataFrame({"natural": [0.9, 0.8], "robust": [0.5, 0.7]})
    pairs = {"A": (0.85, 0.6), "B": (0.85, 0.65), "C": (0.95, 0.5)}
    described = drawn(figures.pairs_and_front(front, pairs))
    assert "A: height" in described and "0.0" in described and "B: height +5.0" in described
    assert "C: beyond the front" in described
    with pytest.raises(InputError, match="at most 4"):
        figures.pairs_and_front(front, {str(i): (0.8, 0.7) for i in range(5)})


def test_a_study_without_fronts_has_no_such_figures_and_tables():
    none = synthetic.study(pd.DataFrame())
    for make in (figures.fronts, figures.slope_plane, tables.fronts):
        with pytest.raises(NotMeasured, match="has no fronts"):
            make(none)
