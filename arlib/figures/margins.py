"""C3 and C4: margins and confidence over test images, distances to the boundary."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor

from arlib.claims import DIFFERENCE, FACTOR, SHARE, Statistic, moves, of_runs, t_interval
from arlib.errors import InputError, NotMeasured, one_of
from arlib.figures.shared import of_strengths, row_of_panels, together
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    against_strength,
    by_strength,
    colour,
    legend,
    marker,
    panels,
    picture,
    words,
)

_QUANTILES = np.linspace(0, 1, 101)
_DISTANCE = "instance_margin|test"
_SIGNS = ("#0F5FAF", "#DB7A1C")


@picture
def confidence(records: pd.DataFrame):
    """Mean max-softmax, signed over-confidence before and
    after temperature scaling, calibration error.
    """
    shown = {
        "max_softmax": ("Confidence", "mean max-softmax"),
        "overconfidence": ("Over-confidence", "max-softmax − accuracy"),
        "overconfidence_scaled": ("… after scaling", "max-softmax − accuracy"),
        "ece": ("Calibration error", "ECE"),
    }
    names = ("mean max-softmax", "over-confidence (max-softmax − accuracy)", "after scaling", "ECE")
    return row_of_panels(
        records,
        [
            (title, label, Statistic(told, name))
            for told, (name, (title, label)) in zip(names, shown.items(), strict=True)
        ],
    )


@picture
def margin_medians(records: pd.DataFrame):
    """Output margins, raw and scale-free, and instance margins:
    they may move in opposite directions.
    """
    shown = [
        (
            "Output margin",
            "median |m| (logits)",
            Statistic("median |m|", "median_abs_margin", log=True),
        ),
        (
            "… free of scale",
            "median |m|/R",
            Statistic("median |m|/R", "median_abs_margin_scalefree", log=True),
        ),
        (
            "Instance margin (≤)",
            "median (255·ε)",
            # no factor: a wrong image counts as 0
            Statistic("median distance (255·ε, wrong images as 0)", "instance_margin_median"),
            255,
        ),
    ]
    return row_of_panels(records, shown)


@picture
def margin_distribution(arrays: Mapping, *, strength: float):
    """Margins m of right and wrong test predictions at one AR strength,
    in the frame of all of them (for a slider).

    arrays: {(strength, seed) or strength: arrays of the run}; seeds are pooled; grey: AR strength
    0.
    """
    runs = of_strengths(arrays)
    one_of("strength", strength, list(runs))
    figure, (ax,) = panels(1, height=3.2)
    _histograms([ax], runs, [strength], bins=60)
    ax.set_ylabel("share of test images")
    ax.legend()
    return (
        figure,
        f"Distribution of margins at AR strength {strength:g}: {_medians(runs[strength])} "
        "predictions.",
    )


@picture
def margin_distributions(arrays: Mapping):
    """The same for all AR strengths at once:
    small multiples with common axes, for the page and for print.
    """
    runs = of_strengths(arrays)
    figure, axes = panels(len(runs), sharex=True, sharey=True, height=2.5)
    _histograms(axes, runs, list(runs), bins=40)
    axes[0].set_ylabel("share of test images")
    axes[0].legend()
    summary = "; ".join(f"{strength:g}: {_medians(group)}" for strength, group in runs.items())
    return (
        figure,
        f"Distributions of margins of right and wrong predictions by AR strength: {summary}.",
        _medians_move(arrays, {"right predictions": _right, "wrong ones": _wrong}),
    )


def _medians_move(arrays: Mapping, kinds: Mapping) -> str:
    """How the median |m| of each kind of predictions moves, and the share of right ones."""
    medians = {
        f"median |m| of {name}": (of_runs(of_kind), FACTOR)
        for name, chosen in kinds.items()
        if (of_kind := {
            key: float(np.median(np.abs(run["margin|test"].astype(float))[chosen(run)]))
            for key, run in arrays.items()
            if chosen(run).any()
        })
    }  # fmt: skip
    right = of_runs({key: float(run["correct|test"].mean()) for key, run in arrays.items()})
    return moves(medians | {"the share of right predictions": (right, SHARE)})


def _right(run: Mapping) -> np.ndarray:
    return run["correct|test"]


def _wrong(run: Mapping) -> np.ndarray:
    return ~run["correct|test"]


def _histograms(axes, runs: Mapping, strengths: list[float], *, bins: int) -> None:
    """One panel per strength, in the frame of all:
    filled right, hatched wrong, grey all at the smallest strength.
    """
    everything = np.concatenate(
        [together(group, "margin|test").astype(float) for group in runs.values()]
    )
    low, high = np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high, bins + 1)
    counts = {
        strength: [
            _share(_margins(group, right), len(together(group, "correct|test")), edges)
            for right in (True, False)
        ]
        for strength, group in runs.items()
    }
    top = max(part.max() for parts in counts.values() for part in parts)
    for ax, strength in zip(axes, strengths, strict=True):
        ax.stairs(
            counts[min(runs)][0] + counts[min(runs)][1],
            edges,
            color=GREY,
            label=f"all, at {min(runs):g}",
        )
        ax.stairs(
            counts[strength][0], edges, color=colour(strength), fill=True, alpha=0.75, label="right"
        )
        ax.stairs(
            counts[strength][1],
            edges,
            color=colour(strength),
            fill=False,
            hatch="///",
            label="wrong",
        )
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set(
            xlabel="margin m (logits)",
            xlim=(low, high),
            ylim=(0, 1.15 * top),
            title=f"AR strength {strength:g}",
        )


def _medians(group: list[dict]) -> str:
    right, wrong = (np.abs(_margins(group, kind)) for kind in (True, False))
    parts = {"right": right, "wrong": wrong}
    return ", ".join(
        f"median |m| {np.median(part):.3g} of {name}" for name, part in parts.items() if len(part)
    )


def _margins(runs: list[dict], right: bool) -> np.ndarray:
    # stored as float16, in which sums of thousands would round
    return together(runs, "margin|test").astype(float)[together(runs, "correct|test") == right]


def _share(values: np.ndarray, of: int, bins: np.ndarray) -> np.ndarray:
    """Histogram as shares of all images; values outside fall into the outer bins."""
    return np.histogram(values.clip(bins[0], bins[-1]), bins)[0] / of


@picture
def margin_quantiles(arrays: Mapping):
    """Quantiles of |m| by AR strength,
    right and wrong test predictions apart and on images all nets get right.
    """
    runs = of_strengths(arrays)
    shared = np.logical_and.reduce(
        [run["correct|test"] for group in runs.values() for run in group]
    )

    def common(_: Mapping) -> np.ndarray:
        return shared

    kinds = {"Right": _right, "Wrong": _wrong, f"All nets right (n = {shared.sum()})": common}
    figure, axes = panels(3, height=3.0)
    for ax, (title, chosen) in zip(axes, kinds.items(), strict=True):
        for strength, group in runs.items():
            rows = [np.abs(run["margin|test"].astype(float))[chosen(run)] for run in group]
            rows = [np.quantile(row, _QUANTILES) for row in rows if len(row)]
            if rows:
                by_strength(ax, _QUANTILES, {strength: np.stack(rows)}, every=20)
        ax.set(
            title=title,
            xlabel="share of these images",
            ylabel="|m| (logits)" if ax is axes[0] else "",
        )
    legend(figure, runs)
    medians = ", ".join(
        f"{s:g}: {np.median(np.abs(together(g, 'margin|test').astype(float))):.3g}"
        for s, g in runs.items()
    )
    return (
        figure,
        "Quantiles of |m|, right and wrong predictions apart; medians over all test images by AR "
        f"strength: {medians}.",
        _medians_move(
            arrays,
            {
                "right predictions": _right,
                "wrong ones": _wrong,
                "images that all get right": common,
            },
        ),
    )


@picture
def reliability(arrays: Mapping, *, bins: int = 15):
    """Accuracy against confidence in equal-mass bins, by AR strength:
    below the diagonal is over-confident.
    """
    runs = of_strengths(arrays)
    figure, (ax,) = panels(1, height=3.6)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    phrases = []
    for strength, group in runs.items():
        sure, right = (
            together(group, "max_softmax|test").astype(float),
            together(group, "correct|test"),
        )
        parts = np.array_split(np.argsort(sure, kind="stable"), bins)
        points = np.array([(sure[part].mean(), right[part].mean()) for part in parts])
        by_strength(ax, points[:, 0], {strength: points[:, 1]})
        phrases.append(f"{strength:g}: confidence {sure.mean():.3f}, accuracy {right.mean():.3f}")
    ax.set(
        xlabel="mean max-softmax in the bin", ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1)
    )
    legend(figure, runs)
    return (
        figure,
        f"Reliability by AR strength, {bins} bins of equal mass, seeds pooled. "
        f"{'; '.join(phrases)}.",
        _deserved(arrays),
    )


def _deserved(arrays: Mapping) -> str:
    """How confidence less accuracy moves, and on which side of 0 it stands at both ends."""
    over = of_runs(
        {
            key: float(run["max_softmax|test"].astype(float).mean() - run["correct|test"].mean())
            for key, run in arrays.items()
        }
    )
    sentence = moves({"mean confidence less accuracy": (over, DIFFERENCE)})
    sides = {1: "surer than right", -1: "less sure than right", 0: "not clearly either"}
    ends = [
        f"at {strength:g} {sides[t_interval(part.tolist()).sign]}"
        for strength, part in over.groupby("strength")
        if len(part) > 1 and strength in (0.0, over.index.get_level_values("strength").max())
    ]
    return f"{sentence} The networks are, on average, {', '.join(ends)}." if ends else sentence


@picture
def linear_margins(
    classifiers: Mapping[str, tuple[Tensor, float]], x: Tensor, y: Tensor, *, chosen: int = 0
):
    """Linear classifiers of images with two pixels: their boundary, and both margins of one image.

    classifiers: name -> (w (2,), b) with m(x) = ±(w·x + b), + for class 1; x: (n, 2) in [0, 1]; y:
    (n,) of 0 and 1. Around image `chosen` stands the largest ℓ∞ ball that does not cross the
    boundary; grey lines are levels of w·x + b one logit apart, so that close lines mean a steep
    function.
    """
    if x.ndim != 2 or x.shape[1] != 2 or y.shape != x.shape[:1]:
        raise InputError(
            f"linear_margins got x {tuple(x.shape)} and y {tuple(y.shape)}; needed: (n, 2) and "
            "(n,)."
        )
    figure, axes = panels(len(classifiers), height=3.1, sharex=True, sharey=True)
    places = torch.linspace(0, 1, 61)
    grid = torch.cartesian_prod(places, places)
    phrases = []
    for ax, (name, (w, b)) in zip(axes, classifiers.items(), strict=True):
        heights = (grid @ w + b).view(61, 61).T.numpy()
        levels = np.arange(np.floor(heights.min()), heights.max() + 1)
        ax.contour(
            places, places, heights, levels=levels, colors=GREY, linewidths=0.6, linestyles="solid"
        )
        ax.contour(places, places, heights, levels=[0], colors=NEUTRAL, linewidths=1.8)
        for label, paint in enumerate(_SIGNS):
            ax.scatter(*x[y == label].T.numpy(), color=paint, marker="os"[label], s=28, zorder=3)
        margin, distance = linear_distance(w, b, x[chosen], int(y[chosen]))
        corner = (x[chosen] - abs(distance)).tolist()
        ax.add_patch(_square(corner, 2 * abs(distance)))
        ax.set_title(f"{name}\nm = {margin:.1f} logits, v = {distance:.2f}")
        ax.set(xlabel="first pixel", ylabel="second pixel" if ax is axes[0] else "", aspect="equal")
        ax.set(xlim=(0, 1), ylim=(0, 1))
        phrases.append(f"{name}: output margin {margin:.2g} logits, distance {distance:.2g}")
    return (
        figure,
        "Linear classifiers of two-pixel images and both margins of one image. "
        f"{'; '.join(phrases)}.",
    )


def linear_distance(w: Tensor, b: float, x: Tensor, y: int) -> tuple[float, float]:
    """(m, v) of an image x (2,) of class y:
    output margin, and signed ℓ∞ distance m/‖w‖₁ to the line w·x + b = 0.
    """
    margin = float(x @ w + b) * (1 if y == 1 else -1)
    return margin, margin / float(w.abs().sum())


def _square(corner: list[float], side: float):
    from matplotlib.patches import Rectangle

    return Rectangle(
        corner, side, side, fill=False, edgecolor=NEUTRAL, linewidth=1.4, linestyle="--", zorder=4
    )


def shared_margins(arrays: Mapping) -> tuple[int, pd.DataFrame]:
    """Both margins on the same images:
    those with a measured instance margin that every network gets right.

    arrays: {(strength, seed): arrays of the run}. Returns their number and medians over them, a row
    a run (index seed, strength): output (m, logits), instance (255·ε), slope (the logits lost per
    unit of 255·ε on the way to the boundary, m over the instance margin, image by image).
    Raises `NotMeasured` if nothing is recorded or no image is right for all.
    """
    of_strengths(arrays, _DISTANCE)
    measured = {key: run for key, run in arrays.items() if _DISTANCE in run}
    n = min(len(run[_DISTANCE]) for run in measured.values())
    shared = np.logical_and.reduce([run[_DISTANCE][:n] > 0 for run in measured.values()])
    if not shared.any():
        raise NotMeasured(
            f"none of the {n} images with instance margins is right for every network."
        )
    rows = {}
    for (strength, seed), run in sorted(measured.items()):
        m = np.abs(run["margin|test"].astype(float))[:n][shared]
        v = 255 * run[_DISTANCE].astype(float)[:n][shared]
        rows[seed, strength] = {
            "output": np.median(m),
            "instance": np.median(v),
            "slope": np.median(m / v),
        }
    medians = pd.DataFrame.from_dict(rows, orient="index")
    medians.index = pd.MultiIndex.from_tuples(medians.index, names=["seed", "strength"])
    return int(shared.sum()), medians


@picture
def two_margins(arrays: Mapping):
    """Medians of output margin, instance margin and their ratio,
    on the images that every network gets right.
    """
    n, medians = shared_margins(arrays)
    figure, axes = panels(3)
    titles = {
        "output": ("Output margin", "median m (logits)"),
        "instance": ("Instance margin (≤)", "median v (255·ε)"),
        "slope": ("Slope between", "median m/v (logits per 255·ε)"),
    }
    phrases = []
    for ax, (name, (title, label)) in zip(axes, titles.items(), strict=True):
        against_strength(ax, medians[name], label=label)
        ax.set_title(title)
        ax.set_ylim(bottom=0)
        phrases.append(f"{title} ({words(medians[name].groupby('strength').mean())})")
    return (
        figure,
        f"On {n} images that every network gets right, means over seeds by AR strength: "
        f"{'; '.join(phrases)}.",
        f"{moves_of_shared(medians)} All on the same {n} images.",
    )


def moves_of_shared(medians: pd.DataFrame) -> str:
    """How the medians that `shared_margins` returns move, as factors."""
    names = {
        "output": "the lead of the right logit",
        "instance": "the distance to the boundary (255·ε)",
        "slope": "the logits lost per step of 1/255 between them",
    }
    return moves({told: (medians[name], FACTOR) for name, told in names.items()})


@picture
def margin_against_distance(arrays: Mapping):
    """Output margin against instance margin, a point per image that is right,
    a panel per strength (seeds together).
    """
    runs = of_strengths(arrays, _DISTANCE)
    figure, axes = panels(len(runs), sharex=True, sharey=True, height=2.8)
    slopes = []
    for ax, (strength, group) in zip(axes, runs.items(), strict=True):
        v = np.concatenate([255 * run[_DISTANCE].astype(float) for run in group])
        m = [run["margin|test"].astype(float)[: len(run[_DISTANCE])] for run in group]
        m, right = np.concatenate(m), v > 0
        style = {
            "marker": marker(strength),
            "color": colour(strength),
            "s": 10,
            "alpha": 0.5,
            "linewidths": 0,
        }
        ax.scatter(v[right], m[right], **style)
        ax.set(title=f"AR strength {strength:g}", xlabel="instance margin v (255·ε)")
        if right.any():
            slopes.append(f"{strength:g}: median slope {np.median(m[right] / v[right]):.3g}")
    axes[0].set_ylabel("output margin m (logits)")
    axes[0].set(xlim=(0, None), ylim=(0, None))
    return (
        figure,
        "Output margin against instance margin, in logits per 255·ε by AR strength: "
        f"{', '.join(slopes)}.",
        _scattered(arrays),
    )


def _scattered(arrays: Mapping) -> str:
    """How the slope moves, and whether the images with the larger lead are the farther ones."""
    slopes, ranks = {}, {}
    for key, run in arrays.items():
        v = 255 * run[_DISTANCE].astype(float) if _DISTANCE in run else np.zeros(0)
        right = v > 0
        if right.sum() > 2:
            m = run["margin|test"].astype(float)[: len(v)][right]
            slopes[key], ranks[key] = (
                np.median(m / v[right]),
                stats.spearmanr(m, v[right]).statistic,
            )
    told = {
        "the median slope over each network's right images": (of_runs(slopes), FACTOR),
        "the rank correlation of the two margins over images": (of_runs(ranks), DIFFERENCE),
    }
    return moves(told)
