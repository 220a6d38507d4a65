"""Every figure draws from tidy tables, without warnings, labelled,
in the book's colours, with alt text.
"""

import io
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from matplotlib.colors import to_rgb
from PIL import Image
from test_claims_mechanism import a_world

from arlib import boundary, bounds, claims, figures
from arlib.bounds import square
from arlib.errors import InputError, NotMeasured
from arlib.figures import layers, style
from arlib.figures.margins import linear_distance
from arlib.report import Comparison

STRENGTHS = (0.0, 4.0, 8.0)
RECORDS = synthetic.records(epochs=(1, 2, 4))
Q_RECORDS = pd.concat(
    [RECORDS, RECORDS[RECORDS["statistic"] == "q"].assign(statistic="q_wrong", setting="")]
)
POINTS = claims.trajectories(RECORDS)
COMPARISON = Comparison(
    pd.DataFrame(
        [
            (model, claim, quantity, "", "", 100, value, value - spread, value + spread)
            for claim, quantity, spread in (
                ("C1", "error", 0.05),
                ("C4", "median_abs_margin", np.nan),
            )
            for model, value in (("standard", 0.1), ("robust", 0.2))
        ],
        columns=["model", "claim", "quantity", "setting", "layer", "n", "value", "low", "high"],
    ),
    ("standard", "robust"),
    {},
)
ARRAYS = {
    (strength, seed): synthetic.arrays(strength, seed) for strength in STRENGTHS for seed in (0, 1)
}
LADDER = pd.DataFrame(
    {
        "attack": ["fgsm", "pgd-10", "apgd-t"],
        "accuracy": [0.6, 0.5, 0.45],
        "low": [0.57, 0.47, 0.42],
        "high": [0.63, 0.53, 0.48],
        "n": 1000,
    }
)
LINEAR = {"steep": (torch.tensor([9.0, 1.0]), -5.0), "gentle": (torch.tensor([2.0, 2.0]), -2.0)}
ESTIMATES = pd.DataFrame(
    {
        "zeros": [0.5, 0.6],
        "zeros low": [0.4, 0.55],
        "zeros high": [0.7, 0.6],
        "circular": [0.55, 0.7],
    },
    index=["stem", "blocks.0.conv1"],
)
CHANGES = pd.DataFrame(
    [(s, kind, r, f"blocks.{b}", r / (8 + s))
     for s in (0, 8) for kind in ("random", "adversarial") for r in (4, 8) for b in (0, 1)],
    columns=["strength", "direction", "radius", "layer", "change"],
)  # fmt: skip
GROWTH = pd.DataFrame(
    [(c, n, m, s * c * n, s * c * n) for c, n in ((8, 32), (16, 32), (64, 32), (64, 8), (64, 64))
     for m, s in (("fft + numpy", 3e-5), ("ours, circular", 1e-5))],
    columns=["channels", "map", "method", "wall s", "MiB"],
)  # fmt: skip
SPEEDS = pd.DataFrame(
    {"network": ["resnet8", "resnet8", "resnet18"], "loop": ["plain", "ours auto", "ours auto"],
     "images/s": [90.0, 200, 20], "low": [80.0, 190, 19], "high": [95.0, 210, 25]}
)  # fmt: skip
DRAWN = square.draw(60, generator=torch.Generator().manual_seed(0))
PROVED = {
    strength: claims.Proved(
        "a run",
        0,
        pd.DataFrame({"layer": ["a", "b"], "proved": [9e1, 9e3], "measured": [20, 30]}),
        np.linspace(1e-4, 1e-3, 20) * (1 + strength),
        np.linspace(1, 2, 20) * (1 + strength),
    )
    for strength in STRENGTHS
}  # fmt: skip
SECOND = claims.Config(protocol=2)
SHARES = pd.DataFrame(
    [("C2", "Regularization", 8.0, 0.4, 0.1, 0.7, 0.5, 0.2, 0.8, "partly"),
     ("C4", "Margins", 8.0, 0.9, -np.inf, np.inf, np.nan, np.nan, np.nan, "cannot be told")],
    columns=["claim", "title", "strength", "ce_left", "ce_low", "ce_high", "error_left",
             "error_low", "error_high", "reading"],
)  # fmt: skip
BOUND = {"samples": 7000, "classes": 10}
ALL = {
    "two_points": lambda: figures.two_points(
        torch.tensor([-2.0, -1.0]),
        1.65,
        torch.tensor([0.35, 0.45]),
        torch.tensor([0.43, 0.37]),
        v=(0.1, 0.2),
    ),
    "covering": lambda: figures.covering({"a line": (*DRAWN, square.line(*DRAWN))}, v=0.25),
    "bound_terms": lambda: figures.bound_terms(
        {"a": (2, {0.25: 0.5, 0.5: 0.9}), "b": (1, {0.25: 0.2, 0.5: 0.3})}, samples=1000
    ),
    "q_curves": lambda: figures.q_curves(ARRAYS),
    "q_by_strength": lambda: figures.q_by_strength(Q_RECORDS),
    "bound_curves": lambda: figures.bound_curves(ARRAYS, [(0.1, 1), (0.5, 2), (0.5, 90)], **BOUND),
    "bound_curves, one": lambda: figures.bound_curves(ARRAYS, [(0.1, 1)], **BOUND),
    "proved_by_layer": lambda: figures.proved_by_layer(PROVED),
    "proved_distances": lambda: figures.proved_distances(PROVED),
    "four_effects": lambda: figures.four_effects(RECORDS),
    "forest": lambda: figures.forest(claims.decide(RECORDS)),
    "walks": lambda: figures.walks(boundary.read()),
    "dumbbells": lambda: figures.dumbbells(a_world(), SECOND),
    "doses": lambda: figures.doses(a_world(), SECOND),
    "weights_and_features": lambda: figures.weights_and_features(a_world(), SECOND),
    "three_distances": lambda: figures.three_distances(ARRAYS),
    "errors": lambda: figures.errors(RECORDS, checkpoint="best"),
    "cross_entropy": lambda: figures.cross_entropy(RECORDS),
    "confidence": lambda: figures.confidence(RECORDS),
    "margin_medians": lambda: figures.margin_medians(RECORDS),
    "robust_errors": lambda: figures.robust_errors(RECORDS),
    "training_curves": lambda: figures.training_curves(synthetic.histories()),
    "flip_rates": lambda: figures.flip_rates(RECORDS),
    "matched_fit": lambda: figures.matched_fit(POINTS),
    "matched_fit, one": lambda: figures.matched_fit(POINTS, "C4"),
    "attack_ladder": lambda: figures.attack_ladder(LADDER),
    "compared": lambda: figures.compared(COMPARISON),
    "residuals": lambda: figures.residuals(claims.decide(RECORDS), claims.matched_fit(RECORDS)),
    "residuals, shares": lambda: figures.residuals(claims.decide(RECORDS), SHARES),
    "sensitivities": lambda: figures.sensitivities(RECORDS),
    "accuracies": lambda: figures.accuracies(RECORDS),
    "spectra_ratios": lambda: figures.spectra_ratios(
        ARRAYS, start={"blocks.0.conv1": np.linspace(0.1, 2, 201)}
    ),
    "pictures": lambda: figures.pictures(boundary.read()),
    "pictures, one": lambda: figures.pictures(boundary.read(), strengths=[2.0]),
    "verdict_strip": lambda: figures.verdict_strip(claims.decide(RECORDS)),
    "feature_change": lambda: figures.feature_change(RECORDS),
    "jacobian": lambda: figures.jacobian(RECORDS),
    "feature_change, one": lambda: figures.feature_change(RECORDS, strength=4.0),
    "feature_gain": lambda: figures.feature_gain(RECORDS),
    "change_per_block": lambda: figures.change_per_block(RECORDS),
    "jacobian, with signs": lambda: figures.jacobian(RECORDS, radius=4),
    "symbol": lambda: figures.symbol(torch.tensor([[2.0, 7, -1], [1, 3, -8], [5, -3, 1]]), 20),
    "readings": lambda: figures.readings(
        {"stem": {"circular": torch.rand(9), "reshaped": torch.rand(3)}}
    ),
    "estimates": lambda: figures.estimates(ESTIMATES),
    "growth": lambda: figures.growth(GROWTH),
    "speeds": lambda: figures.speeds({"tables": {"ceilings": GROWTH, "speeds": SPEEDS}}),
    "change_by_radius": lambda: figures.change_by_radius(CHANGES),
    "ratio_by_band": lambda: figures.ratio_by_band(
        {"blocks.0": {8.0: [0.5, 0.6]}}, ["low", "high"]
    ),
    "concentration": lambda: figures.concentration(RECORDS),
    "spread_per_layer": lambda: figures.spread_per_layer(RECORDS),
    "operators": lambda: figures.operators(RECORDS),
    "spectra": lambda: figures.spectra(ARRAYS),
    "spectra, one": lambda: figures.spectra(
        ARRAYS, layers=["stem"], operator="reshaped", strength=8.0
    ),
    "gap_curves": lambda: figures.gap_curves(synthetic.histories()),
    "gap_curves, one": lambda: figures.gap_curves(synthetic.histories(), strength=8.0),
    "gap_by_scale": lambda: figures.gap_by_scale(
        [0.1, 1, 10], {0.0: [0.0, 0.1, 1], 8.0: [0, 0.05, 0.5]}, marked={0.0: 0.8}
    ),
    "linear_margins": lambda: figures.linear_margins(
        LINEAR, torch.tensor([[0.2, 0.3], [0.8, 0.9]]), torch.arange(2)
    ),
    "two_margins": lambda: figures.two_margins(ARRAYS),
    "margin_against_distance": lambda: figures.margin_against_distance(ARRAYS),
    "margin_distributions": lambda: figures.margin_distributions(ARRAYS),
    "margin_distribution": lambda: figures.margin_distribution(ARRAYS, strength=4.0),
    "margin_quantiles": lambda: figures.margin_quantiles(ARRAYS),
    "survival": lambda: figures.survival(ARRAYS),
    "reliability": lambda: figures.reliability(ARRAYS),
    "image_grid": lambda: figures.image_grid(
        [figures.ImageRow("x", torch.rand(6, 1, 8, 8), list("123456"))] * 2, columns="abcdef"
    ),
    "ascent_paths": lambda: figures.ascent_paths(
        lambda z: z.sum(1) - 1, torch.rand(2), 0.2, {"p": torch.rand(5, 2)}
    ),
}


def test_every_figure_is_drawn_here():
    helpers = {"ImageRow", "Picture", "alt", "collect", "colour", "distances", "marker"}
    helpers |= {"Chips", "shared_margins", "walked"}
    helpers |= {"live", "dark_png", "darkened"}
    # have no axes; drawn in test_claims_mechanism
    helpers |= {"causal_graph", "if_drawn"}
    # of a study of fronts; drawn in test_figures_gentler
    helpers |= {"front_heights", "fronts", "pairs_and_front", "slope_plane"}
    # of a study with a spread; drawn in test_claims_association
    helpers |= {"association"}
    assert {name.split(",")[0] for name in ALL} == set(figures.__all__) - helpers


@pytest.mark.parametrize("name", ALL)
def test_a_figure_draws_labelled_with_alt_text(name):
    figure = ALL[name]()
    image = Image.open(io.BytesIO(figure._repr_png_()))
    assert image.width > 400 and np.asarray(image.convert("L")).std() > 5
    # a white card on any page
    assert tuple(image.convert("RGB").getpixel((1, 1))) == (255, 255, 255)
    assert (
        len(figures.alt(figure)) > 30
        and figures.alt(figure).endswith(".")
        and "nan" not in figures.alt(figure)
    )
    shown = [ax for ax in figure.axes if ax.get_visible()]
    # rows of photographs have their names at the left, and what stands below some of them
    assert name.startswith("pictures") or all(ax.get_xlabel() for ax in shown)
    assert shown[0].get_ylabel()
    assert name in ("image_grid", "pictures", "pictures, one", "symbol") or all(
        ax.get_ylabel() or ax.get_title() for ax in shown
    )
    texts = [
        text
        for ax in shown
        for text in (*ax.get_xticklabels(), *ax.get_yticklabels(), ax.title, ax.xaxis.label)
    ]
    assert min(text.get_fontsize() for text in texts) >= 9
    assert not plt.get_fignums()  # pyplot does not know it


def test_drawing_leaves_the_readers_settings_alone():
    before = dict(plt.rcParams)
    figures.errors(RECORDS)._repr_png_()
    assert dict(plt.rcParams) == before


def test_figures_are_the_same_bytes_every_time():
    assert ALL["errors"]()._repr_png_() == ALL["errors"]()._repr_png_()


def test_colours_are_constant_distinct_and_dark_enough():
    strengths = (0, 2, 4, 8, 16, 32, 64)
    colours = [figures.colour(s) for s in strengths]
    assert len(set(colours)) == 7 == len({figures.marker(s) for s in strengths})
    assert figures.colour(8) == "#db7a1c" and figures.colour(0) == style.NEUTRAL
    assert figures.colour(100) == figures.colour(64) and figures.colour(1) == figures.colour(2)
    assert figures.colour(12) not in colours
    for name in colours:
        linear = np.array(
            [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(name)]
        )
        # WCAG: graphics against white
        assert 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05) >= 2.95


@pytest.mark.parametrize("strength", [-1, float("nan"), float("inf")])
def test_colour_refuses_what_is_no_strength(strength):
    with pytest.raises(InputError, match="strength is"):
        figures.colour(strength)


@pytest.mark.parametrize(
    "name", ["errors", "flip_rates", "feature_change", "spectra", "survival", "training_curves"]
)
def test_a_strength_has_its_colour_in_every_figure(name):
    lines = [line for ax in ALL[name]().axes for line in ax.get_lines()]
    drawn = {to_rgb(line.get_color()) for line in lines}
    assert {to_rgb(figures.colour(s)) for s in STRENGTHS} <= drawn
    assert drawn <= {
        to_rgb(c) for c in (*map(figures.colour, STRENGTHS), style.GREY, style.NEUTRAL)
    }


def test_seeds_are_shown_beside_their_mean():
    ax = figures.errors(RECORDS).axes[1]
    error = RECORDS[
        (RECORDS["statistic"] == "error")
        & (RECORDS["split"] == "test")
        & (RECORDS["checkpoint"] == "last")
    ]
    wide = error.pivot(index="seed", columns="strength", values="value")
    lines = [line.get_ydata().tolist() for line in ax.get_lines()]
    assert lines[:3] == wide.to_numpy().tolist() and lines[3] == pytest.approx(wide.mean().tolist())
    assert [label.get_text() for label in ax.get_xticklabels()] == ["0", "4", "8"]


def test_survival_curve_counts_images():
    margins = np.array([0, 0.5, 1, 1.5], dtype=np.float32) / 255
    figure = figures.survival({8.0: {"instance_margin|test": margins}}, largest=2)
    line = figure.axes[0].get_lines()[-1]
    assert line.get_ydata()[0] == 0.75 and line.get_ydata()[-1] == 0
    assert line.get_ydata()[np.searchsorted(line.get_xdata(), 1.2)] == 0.25


def test_margin_shares_add_up_to_accuracy_and_error():
    figure = figures.margin_distribution({8.0: ARRAYS[8.0, 0]}, strength=8.0)
    _, right, wrong = [patch.get_data().values.sum() for patch in figure.axes[0].patches]
    accuracy = ARRAYS[8.0, 0]["correct|test"].mean()
    assert (right, wrong) == pytest.approx((accuracy, 1 - accuracy))


def test_small_multiples_show_the_same_shares():
    one = [figures.margin_distribution(ARRAYS, strength=s).axes[0] for s in STRENGTHS]
    many = figures.margin_distributions(ARRAYS).axes
    for a, b in zip(one, many, strict=True):
        for small, large in zip(a.patches, b.patches, strict=True):
            assert small.get_data().values.sum() == pytest.approx(large.get_data().values.sum())


def test_growth_has_a_line_a_method_in_each_direction():
    axes = figures.growth(GROWTH).axes
    assert [line.get_xdata().tolist() for line in axes[0].get_lines()] == [[8, 16, 64]] * 2
    assert [line.get_xdata().tolist() for line in axes[1].get_lines()] == [[8, 32, 64]] * 2
    assert axes[3].get_lines()[1].get_ydata() == pytest.approx([64 * n * 1e-5 for n in (8, 32, 64)])


def test_speeds_are_those_of_the_first_table_of_rates():
    figure = figures.speeds({"tables": {"none": GROWTH, "speeds": SPEEDS}})
    assert [ax.get_title() for ax in figure.axes] == ["resnet8", "resnet18"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == [
        "ours auto",
        "plain",
    ]
    assert "fastest: ours auto, 200" in figures.alt(figure)
    for nothing in (None, {"tables": {}}, {"tables": {"none": GROWTH, "empty": SPEEDS[:0]}}):
        with pytest.raises(NotMeasured):
            figures.speeds(nothing)


def test_gap_is_validation_minus_training():
    histories = pd.DataFrame(
        {"epoch": [1, 2], "train_error": [0.5, 0.1], "val_error": [0.6, 0.4], "strength": 4.0}
    )
    histories = histories.assign(train_robust_error=[0.8, 0.5], val_robust_error=[0.9, 0.8], seed=0)
    assert "4: 0.300" in figures.alt(figures.gap_curves(histories))
    frame = figures.gap_curves(histories, strength=4.0)
    assert [line.get_ydata().tolist() for line in frame.axes[1].get_lines()] == [
        [0.8, 0.5],
        [0.9, 0.8],
    ]
    with pytest.raises(InputError, match="strength is 8"):
        figures.gap_curves(histories, strength=8.0)


def test_linear_distance_reaches_the_line_and_no_further():
    w, x = torch.tensor([3.0, -1.0]), torch.tensor([0.2, 0.9])
    margin, distance = linear_distance(w, -1.0, x, 0)
    assert margin == pytest.approx(1.3) and distance == pytest.approx(1.3 / 4)
    worst = x + distance * w.sign()  # towards the line
    assert float(worst @ w - 1.0) == pytest.approx(0, abs=1e-6)
    assert linear_distance(5 * w, -5.0, x, 0)[1] == pytest.approx(distance)
    with pytest.raises(InputError, match="needed"):
        figures.linear_margins({"a": (w, 0.0)}, torch.rand(3, 4), torch.zeros(3))


def test_distances_are_factors_to_strength_0_of_the_same_seed():
    def net(lead, distance):
        return {"margin|test": np.array([lead, lead]), "instance_margin|test": np.full(2, distance)}

    runs = {(0.0, 0): net(8.0, 0.01), (8.0, 0): net(2.0, 0.04)}  # lead / 4, distance × 4
    runs |= {(0.0, 1): net(4.0, 0.01), (8.0, 1): net(2.0, 0.02)}  # lead / 2, distance × 2
    images, factors = figures.distances(runs)
    assert images == 2
    assert factors.loc[(0, 8.0)].tolist() == pytest.approx([1 / 4, 4, 1 / 16])
    assert factors.loc[(1, 8.0)].tolist() == pytest.approx([1 / 2, 2, 1 / 4])
    assert (factors.xs(0.0, level="strength") == 1).all().all()
    # over the seeds the geometric mean, which is told
    drawn = figures.three_distances(runs)
    assert "the distance to the boundary (255·ε) does not clearly move" in drawn.alt
    assert "(× 2.83 [" in drawn.finding and drawn.finding.endswith("on the same 2 images.")
    for some in ([(0.0, 0), (8.0, 1)], [(8.0, 0)], [(0.0, 0)]):
        with pytest.raises(NotMeasured, match="strength 0"):
            figures.distances({key: runs[key] for key in some})


def test_shared_margins_are_of_images_that_all_get_right():
    margin, distance = np.array([2.0, -1, 4, 6]), np.array([1.0, 0, 2, 1]) / 255
    first = {"margin|test": margin, "instance_margin|test": distance}
    second = {"margin|test": margin / 2, "instance_margin|test": np.array([3.0, 1, 0, 2]) / 255}
    n, result = figures.shared_margins({(0.0, 0): first, (8.0, 0): second})
    assert n == 2  # the first and the last
    assert result.loc[(0, 0.0)].tolist() == pytest.approx([4, 1, 4])
    assert result.loc[(0, 8.0)].tolist() == pytest.approx([2, 2.5, (1 / 3 + 1.5) / 2])
    none = {"margin|test": -margin, "instance_margin|test": 0 * distance}
    with pytest.raises(NotMeasured, match="none of the 4 images"):
        figures.shared_margins({(0.0, 0): first, (8.0, 0): none})
    with pytest.raises(NotMeasured, match="no instance_margin"):
        figures.shared_margins({(0.0, 0): {"margin|test": margin}})


def test_a_curve_of_q_starts_at_the_wrong_and_ends_at_all():
    arrays = {(s, seed): {"instance_margin|train": np.array([0, 1, 2, wrong * 30]) / 255}
              for s, wrong in ((0.0, 1), (8.0, 0)) for seed in (0, 1)}  # fmt: skip
    first, right = figures.q_curves(arrays).axes[:2]
    curves = [line for line in first.get_lines() if line.get_linestyle() == "-"]
    assert [line.get_ydata()[0] for line in curves] == [0.25, 0.5]
    assert [line.get_ydata()[-1] for line in curves] == [1, 1]
    radii = curves[0].get_xdata()
    assert curves[0].get_ydata()[np.searchsorted(radii, 1.5)] == 0.5
    assert len(first.collections) == 2  # a band for each strength, where there are seeds
    assert right.get_lines()[0].get_ydata()[0] == 0
    wrong = [line.get_ydata()[0] for line in first.get_lines() if line.get_linestyle() == ":"]
    assert wrong == [0.25, 0.5]
    with pytest.raises(NotMeasured, match="no q"):
        figures.q_curves({(0.0, 0): {}})


def test_bounds_are_those_of_the_theory_in_one_frame():
    figure = figures.bound_curves(ARRAYS, [(0.1, 1), (0.5, 2)], **BOUND)
    for ax, (c, k) in zip(figure.axes, [(0.1, 1), (0.5, 2)], strict=True):
        cost, first = (line.get_ydata() for line in ax.get_lines()[:2])
        radius = float(claims.RADII[100])
        q = np.mean([claims.q_of(255 * ARRAYS[0.0, s]["instance_margin|train"].astype(float))[100]
                     for s in (0, 1)])  # fmt: skip
        assert cost[100] == pytest.approx(bounds.covering_term(radius / 255, c=c, k=k, **BOUND))
        assert first[100] == pytest.approx(
            bounds.generalization(q, radius / 255, c=c, k=k, **BOUND)
        )
    frames = [figures.bound_curves(ARRAYS, [(0.1, k)], **BOUND).axes[0] for k in (1, 2, 50)]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in frames}) == 1
    with pytest.raises(InputError, match="one pair"):
        figures.bound_curves(ARRAYS, [], **BOUND)


def test_two_points_says_what_the_ball_proves():
    w, x, new = torch.tensor([1.0, 1.0]), torch.tensor([0.7, 0.7]), torch.tensor([0.75, 0.7])
    figure = figures.two_points(w, -1.0, x, new, v=(0.03, 0.1, 0.3))  # the margin is 0.2
    says = [ax.get_title().partition(": ")[2] for ax in figure.axes]
    assert says == ["nothing is proved", "both get one answer", "nothing is proved"]
    with pytest.raises(InputError, match="two pixels"):
        figures.two_points(w, -2.0, x, new, v=(0.1,))


def test_runs_without_instance_margins_are_left_out():
    without = {
        name: value for name, value in ARRAYS[4.0, 0].items() if name != "instance_margin|test"
    }
    some = {(0.0, 0): ARRAYS[0.0, 0], (4.0, 0): without}
    assert "4:" not in figures.alt(figures.survival(some))
    assert len([ax for ax in figures.margin_against_distance(some).axes if ax.get_visible()]) == 1
    with pytest.raises(NotMeasured, match="no instance_margin"):
        figures.survival({(4.0, 0): without})


@pytest.mark.slow
def test_slider_frames_share_their_axes():
    frames = [figures.gap_curves(synthetic.histories(), strength=s).axes[1] for s in STRENGTHS]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in frames}) == 1
    frames = [figures.margin_distribution(ARRAYS, strength=s).axes[0] for s in STRENGTHS]
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in frames}) == 1
    for which in (0, 1):
        frames = [figures.feature_change(RECORDS, strength=s).axes[which] for s in STRENGTHS]
        assert len({(ax.get_xlim(), ax.get_ylim()) for ax in frames}) == 1
        assert frames[0].get_ylim() == figures.feature_change(RECORDS).axes[which].get_ylim()
    frames = [figures.spectra(ARRAYS, strength=s).axes[0] for s in STRENGTHS]
    assert len({ax.get_ylim() for ax in frames}) == 1


def test_a_share_beyond_the_axis_is_marked_with_its_number():
    rows = pd.DataFrame(
        [["C2", "Regularization", 8.0, 0.3, -4.24, "explained by less fitting"],
         ["C4", "Margin shrinkage", 8.0, 0.4, 0.5, "partly"]],
        columns=["claim", "title", "strength", "ce_left", "error_left", "reading"],
    )  # fmt: skip
    ends = {f"{axis}_{end}": rows[f"{axis}_left"] + shift for axis in ("ce", "error")
            for end, shift in (("low", -0.1), ("high", 0.1))}  # fmt: skip
    verdicts = pd.DataFrame({"claim": ["C2"], "strength": [8.0]})
    figure = figures.residuals(verdicts, rows.assign(**ends))
    (ax,) = [ax for ax in figure.axes if ax.get_visible()]
    assert [text.get_text() for text in ax.texts] == ["−4.2"]
    (arrow,) = [line for line in ax.lines if line.get_marker() == "<"]
    assert ax.get_xlim()[0] < arrow.get_xdata()[0] < 0
    assert figure.finding.endswith("Beyond the ends of the axis: C2 (0.3, −4.24).")
    near = figures.residuals(verdicts, rows.assign(**ends)[1:])
    assert not near.axes[0].texts and "Beyond" not in near.finding


def test_the_forest_has_the_parts_of_a_claim_in_its_place():
    study = synthetic.study(RECORDS, protocol=2)
    figure = figures.forest(claims.verdicts(study))
    labels = [text.get_text() for ax in figure.axes for text in ax.get_yticklabels()]
    names = [label.partition(" ")[0] for label in labels]
    assert {"C5a", "C5b", "C6a", "C6b", "C6c"} <= set(names) and not {"C5", "C6"} & set(names)
    assert len(names) == len(set(names))
    first = figures.forest(claims.verdicts(synthetic.study(RECORDS)))
    names = [t.get_text().partition(" ")[0] for ax in first.axes for t in ax.get_yticklabels()]
    assert {"C5", "C6"} <= set(names)


def test_the_parts_of_concentration_stand_beside_where_training_began():
    start = RECORDS[(RECORDS["checkpoint"] == "last") & (RECORDS["statistic"] == "sv_std")]
    start = start.assign(checkpoint="initial", value=0.123)
    figure = figures.concentration(pd.concat([RECORDS, start], ignore_index=True))
    drawn = [ax for ax in figure.axes if ax.get_visible()]
    dashed = [
        [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == "--"] for ax in drawn
    ]
    assert dashed == [[pytest.approx(0.123)], [], [], []]
    assert figure.finding.endswith("Before training: std of singular values 0.123.")
    levels = [
        ax.lines[-1 - len(there)].get_ydata()[0] for ax, there in zip(drawn, dashed, strict=True)
    ]
    for (name, setting), level in zip(
        [("sv_std", "circular"), ("sv_std_over_mean", "circular"),
         ("sv_std_over_mean", "circular+bn-natural"), ("jacobian_uniformity_median", "image")],
        levels, strict=True,
    ):  # fmt: skip
        rows = RECORDS[(RECORDS["statistic"] == name) & (RECORDS["setting"] == setting)]
        rows = rows[(rows["checkpoint"] == "last") & (rows["strength"] == 8.0)]
        rows = rows[rows["layer"].str.startswith("blocks")]
        assert level == pytest.approx(rows.groupby("seed")["value"].median().mean())
    without = RECORDS[RECORDS["statistic"] != "jacobian_uniformity_median"]
    assert "at the data" not in figures.concentration(without).alt
    with pytest.raises(NotMeasured, match="no spectra are recorded"):
        figures.concentration(without[without["layer"] == ""])


def test_ratio_band_is_the_largest_difference_between_seeds():
    figure = figures.spread_per_layer(RECORDS)
    band = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    std = RECORDS[
        (RECORDS["statistic"] == "sv_std")
        & (RECORDS["setting"] == "circular")
        & (RECORDS["checkpoint"] == "last")
    ]
    std = std[std["layer"].isin(synthetic.CONVOLUTIONS)]
    ratios = std.groupby(["layer", "strength"])["value"].agg(
        lambda values: values.max() / values.min()
    )
    assert band.max() == pytest.approx(ratios.max()) and band.min() == pytest.approx(
        1 / ratios.max()
    )


def change_of(kind, strength):
    """(seeds, blocks) of made-up feature changes in the order of the network."""
    rows = RECORDS[(RECORDS["statistic"] == "feature_change") & (RECORDS["setting"] == f"{kind}@4")]
    rows = rows[(rows["strength"] == strength) & (rows["checkpoint"] == "last")]
    return rows.pivot(index="seed", columns="layer", values="value").to_numpy()


def test_gain_is_the_change_over_that_of_the_block_before():
    change = change_of("adversarial", 8)
    lines = figures.feature_gain(RECORDS).axes[1].get_lines()
    drawn = [line for line in lines if to_rgb(line.get_color()) == to_rgb(figures.colour(8))][-1]
    assert drawn.get_xdata().tolist() == list(range(2, 10))
    assert drawn.get_ydata() == pytest.approx((change[:, 1:] / change[:, :-1]).mean(axis=0))


def test_unevenness_is_adversarial_over_random_change():
    lines = figures.jacobian(RECORDS, radius=4).axes[2].get_lines()
    drawn = [line for line in lines if to_rgb(line.get_color()) == to_rgb(figures.colour(4))][-1]
    assert drawn.get_ydata() == pytest.approx(
        (change_of("adversarial", 4) / change_of("random", 4)).mean(axis=0)
    )


def test_a_frame_draws_one_strength_and_0():
    lines = figures.feature_change(RECORDS, strength=4.0).axes[0].get_lines()
    assert {to_rgb(line.get_color()) for line in lines} == {
        to_rgb(figures.colour(s)) for s in (0, 4)
    }


def test_symbol_shows_the_known_gains():
    picture = figures.symbol(torch.tensor([[2.0, 7, -1], [1, 3, -8], [5, -3, 1]]), 20)
    colours, ordered = (
        picture.axes[0].images[0].get_array(),
        picture.axes[1].get_lines()[0].get_ydata(),
    )
    assert ordered[0] == pytest.approx(22.9122134817) and ordered[-1] == pytest.approx(0.1548414175)
    assert (np.asarray(colours) ** 2).sum() == pytest.approx(65200)
    # the gain of the constant image is the sum of the taps, in the middle
    assert colours[9, 9] == pytest.approx(7)
    with pytest.raises(InputError, match="needed"):
        figures.symbol(torch.ones(3, 3), 2)


def test_estimates_have_their_own_ends():
    bars = figures.estimates(ESTIMATES).axes[0].containers
    assert [bar.has_xerr for bar in bars] == [True, True]
    ends = np.array([segment[:, 0] for segment in bars[0].lines[2][0].get_segments()])
    assert ends == pytest.approx(ESTIMATES[["zeros low", "zeros high"]].to_numpy())


def test_layers_stand_in_the_order_of_the_network():
    names = ["blocks.10.conv1", "blocks.2.conv2", "blocks.2.conv1", "stem"]
    assert layers.depth(names) == ["stem", "blocks.2.conv1", "blocks.2.conv2", "blocks.10.conv1"]


def test_collect_takes_the_grid_and_leaves_variants():
    records = pd.concat([RECORDS, RECORDS.iloc[:3].assign(variant="x", run="other")])
    study = SimpleNamespace(records=lambda: records, arrays=lambda run: {"run": run})
    result = figures.collect(study)
    assert len(result) == 9 and result[8.0, 1] == {"run": "r8-s1"}


def test_what_cannot_be_drawn_says_so():
    with pytest.raises(InputError, match="nothing is recorded"):
        figures.errors(RECORDS.iloc[:0])
    with pytest.raises(InputError, match="nothing is recorded"):
        figures.survival({})
    with pytest.raises(InputError, match="strength is 5"):
        figures.margin_distribution(ARRAYS, strength=5.0)
    with pytest.raises(InputError, match="Did you mean 'stem'"):
        figures.spectra(ARRAYS, layers=["steam"])
    with pytest.raises(NotMeasured, match="no spectra of operator 'zeros'"):
        figures.spectra(ARRAYS, operator="zeros")
    for draw in (figures.operators, figures.spread_per_layer, figures.change_per_block):
        for part in (
            RECORDS[RECORDS["strength"] > 0],
            RECORDS[(RECORDS["strength"] > 0) == (RECORDS["seed"] == 0)],
        ):
            with pytest.raises(NotMeasured, match="no seed is recorded both"):
                draw(part)
    with pytest.raises(NotMeasured):
        figures.feature_change(RECORDS, radius=3)
    with pytest.raises(InputError, match="select one eps"):
        figures.attack_ladder(pd.concat([LADDER, LADDER]))


def test_chips_say_every_claims_verdict_and_nothing_in_them_is_markup():
    frame = claims.decide(synthetic.records(world=1, rng=1))
    frame.loc[0, "title"] = "<script>"
    chips = figures.Chips(frame)
    assert repr(chips).splitlines()[1:] == [
        f"{row.claim} {row.title}: {row.verdict}" for row in frame[1:].itertuples()
    ]
    assert "<script" not in chips._repr_html_() and "&lt;script&gt;" in chips._repr_html_()
    second = figures.Chips(claims.decide(synthetic.records(), {"protocol": 2}))
    assert len(second.verdicts) == 10  # C5a and the like are parts


# What explains, or draws what a chapter computes live, has nothing recorded to state.
EXPLAINS = {
    "two_points", "covering", "bound_terms", "gap_by_scale", "linear_margins", "ascent_paths",
    "image_grid", "attack_ladder", "symbol", "readings", "estimates", "change_by_radius",
    "ratio_by_band", "compared", "walks",
}  # fmt: skip
FRAMES = {"gap_curves, one", "margin_distribution"}  # of sliders; their figure beside has it


@pytest.mark.parametrize("name", [n for n in ALL if n.split(",")[0] not in EXPLAINS])
def test_a_figure_of_records_says_what_it_shows_and_so_does_its_alt_text(name):
    figure = ALL[name]()
    if name in FRAMES:
        assert figure.finding == ""
        return
    assert figure.finding.endswith(".") and "nan" not in figure.finding
    assert figure.alt.endswith(figure.finding) and figure.alt != figure.finding


def test_a_live_figure_says_nothing_that_could_differ_elsewhere():
    figure = figures.live(figures.errors(RECORDS))
    assert figure.finding == "" and "From AR strength 0 to 8" in figure.alt


def test_a_notebook_shows_the_finding_below_the_figure_and_the_alt_text_with_it(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda *a, **k: shown.append((a, k)))
    figure = figures.errors(RECORDS)
    figure._ipython_display_()
    (image, about), (sentence, _) = shown
    assert about["metadata"]["image/png"]["alt"] == figure.alt and "image/png" in image[0]
    assert sentence[0].data == f"*Finding:* {figure.finding}"
    shown.clear()
    figures.live(figure)._ipython_display_()
    assert len(shown) == 1


def test_a_finding_has_the_numbers_of_the_verdict():
    row = claims.decide(RECORDS).set_index("claim").loc["C1"]
    change = f"{100 * row['effect']:+.1f} points [{100 * row['low']:+.1f}"
    assert change in figures.errors(RECORDS).finding


def test_one_seed_and_one_strength_are_told_as_that():
    one = RECORDS[RECORDS["seed"] == 0]
    assert "one seed: train error goes from" in figures.errors(one).finding
    alone = figures.errors(RECORDS[RECORDS["strength"] == 8.0]).finding
    assert alone.startswith("No seed is recorded both")


def test_panels_of_one_unit_have_one_scale():
    for figure in (figures.errors(RECORDS), figures.cross_entropy(RECORDS)):
        train, test = figure.axes[:2]
        assert train.get_ylim() == test.get_ylim()
    random, adversarial = figures.feature_change(RECORDS).axes[:2]
    assert random.get_ylim() == adversarial.get_ylim()


def test_ratios_of_spectra_are_to_the_same_seed():
    figure = figures.spectra_ratios(ARRAYS, layers=["stem"])
    lines = [line for line in figure.axes[0].get_lines() if len(line.get_xdata()) == 191]
    key = "quantiles|circular|stem"
    below = ARRAYS[0.0, 1][key][::-1][:191]
    ratio = ARRAYS[4.0, 1][key][::-1][:191] / np.where(below > 0, below, np.nan)
    assert any(np.allclose(line.get_ydata(), ratio, equal_nan=True) for line in lines)
    with pytest.raises(NotMeasured, match="no seed"):
        figures.spectra_ratios({(8.0, 0): ARRAYS[8.0, 0]})


def test_a_dot_is_as_far_out_as_its_interval_is_from_no_change():
    figure = figures.sensitivities(RECORDS)
    rows = claims.sensitivity(RECORDS, "C4")
    decides = rows[rows["role"] == "primary"].iloc[0]
    expected = decides["effect"] / ((decides["high"] - decides["low"]) / 2)
    place = [t.get_text() for t in figure.axes[0].get_yticklabels()].index("C4 Margin shrinkage")
    diamonds = [line for line in figure.axes[0].get_lines() if line.get_marker() == "D"]
    assert diamonds[place].get_xdata() == pytest.approx([expected])
    assert (abs(expected) > 1) == (decides["low"] * decides["high"] > 0)
    down = sum(rows["high"] < 0)
    assert f"C4 {down} down, {sum(rows['low'] > 0)} up, of {len(rows)}" in figure.finding
    with pytest.raises(NotMeasured, match="three seeds"):
        figures.sensitivities(RECORDS[RECORDS["seed"] == 0])
