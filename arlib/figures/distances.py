"""Two distances to one boundary: in the output (margin of the logits) and in the image (instance margin)."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from arlib.errors import InputError, NotMeasured
from arlib.figures.images import of_strengths
from arlib.figures.style import GREY, NEUTRAL, against_strength, colour, marker, panels, picture, words

_DISTANCE = "instance_margin|test"
_SIGNS = ("#0F5FAF", "#DB7A1C")


@picture
def linear_margins(classifiers: Mapping[str, tuple[Tensor, float]], x: Tensor, y: Tensor, *, chosen: int = 0):
    """Linear classifiers of images with two pixels: their boundary, and both margins of one image.

    classifiers: name -> (w (2,), b) with m(x) = ±(w·x + b), + for class 1; x: (n, 2) in [0, 1]; y: (n,) of 0
    and 1. Around image `chosen` stands the largest ℓ∞ ball that does not cross the boundary; grey lines are
    levels of w·x + b one logit apart, so that close lines mean a steep function.
    """
    if x.ndim != 2 or x.shape[1] != 2 or y.shape != x.shape[:1]:
        raise InputError(f"linear_margins got x {tuple(x.shape)} and y {tuple(y.shape)}; needed: (n, 2) and (n,).")
    figure, axes = panels(len(classifiers), height=3.1, sharex=True, sharey=True)
    places = torch.linspace(0, 1, 61)
    grid = torch.cartesian_prod(places, places)
    said = []
    for ax, (name, (w, b)) in zip(axes, classifiers.items(), strict=True):
        heights = (grid @ w + b).view(61, 61).T.numpy()
        levels = np.arange(np.floor(heights.min()), heights.max() + 1)
        ax.contour(places, places, heights, levels=levels, colors=GREY, linewidths=0.6, linestyles="solid")
        ax.contour(places, places, heights, levels=[0], colors=NEUTRAL, linewidths=1.8)
        for label, paint in enumerate(_SIGNS):
            ax.scatter(*x[y == label].T.numpy(), color=paint, marker="os"[label], s=28, zorder=3)
        margin, distance = linear_distance(w, b, x[chosen], int(y[chosen]))
        corner = (x[chosen] - abs(distance)).tolist()
        ax.add_patch(_square(corner, 2 * abs(distance)))
        ax.set_title(f"{name}\nm = {margin:.1f} logits, v = {distance:.2f}")
        ax.set(xlabel="first pixel", ylabel="second pixel" if ax is axes[0] else "", aspect="equal")
        ax.set(xlim=(0, 1), ylim=(0, 1))
        said.append(f"{name}: output margin {margin:.2g} logits, distance {distance:.2g}")
    return figure, f"Linear classifiers of two-pixel images and both margins of one image. {'; '.join(said)}."


def linear_distance(w: Tensor, b: float, x: Tensor, y: int) -> tuple[float, float]:
    """(m, v) of an image x (2,) of class y: output margin, and signed ℓ∞ distance m/‖w‖₁ to the line w·x + b = 0."""
    margin = float(x @ w + b) * (1 if y == 1 else -1)
    return margin, margin / float(w.abs().sum())


def _square(corner: list[float], side: float):
    from matplotlib.patches import Rectangle

    return Rectangle(corner, side, side, fill=False, edgecolor=NEUTRAL, linewidth=1.4, linestyle="--", zorder=4)


def shared_margins(arrays: Mapping) -> tuple[int, pd.DataFrame]:
    """Both margins on the same images: those with a measured instance margin that every network gets right.

    arrays: {(strength, seed): arrays of the run}. Returns their number and medians over them, a row a run
    (index seed, strength): output (m, logits), instance (255·ε), slope (the logits lost per unit of 255·ε on
    the way to the boundary, m over the instance margin, image by image).
    Raises `NotMeasured` if nothing is recorded or no image is right for all.
    """
    of_strengths(arrays, _DISTANCE)
    measured = {key: run for key, run in arrays.items() if _DISTANCE in run}
    n = min(len(run[_DISTANCE]) for run in measured.values())
    shared = np.logical_and.reduce([run[_DISTANCE][:n] > 0 for run in measured.values()])
    if not shared.any():
        raise NotMeasured(f"none of the {n} images with instance margins is right for every network.")
    rows = {}
    for (strength, seed), run in sorted(measured.items()):
        m = np.abs(run["margin|test"].astype(float))[:n][shared]
        v = 255 * run[_DISTANCE].astype(float)[:n][shared]
        rows[seed, strength] = {"output": np.median(m), "instance": np.median(v), "slope": np.median(m / v)}
    found = pd.DataFrame.from_dict(rows, orient="index")
    found.index = pd.MultiIndex.from_tuples(found.index, names=["seed", "strength"])
    return int(shared.sum()), found


@picture
def two_margins(arrays: Mapping):
    """Medians of output margin, instance margin and their ratio, on the images that every network gets right."""
    n, found = shared_margins(arrays)
    figure, axes = panels(3)
    titles = {
        "output": ("Output margin", "median m (logits)"),
        "instance": ("Instance margin (≤)", "median v (255·ε)"),
        "slope": ("Slope between", "median m/v (logits per 255·ε)"),
    }
    said = []
    for ax, (name, (title, label)) in zip(axes, titles.items(), strict=True):
        against_strength(ax, found[name], label=label)
        ax.set_title(title)
        ax.set_ylim(bottom=0)
        said.append(f"{title} ({words(found[name].groupby('strength').mean())})")
    return figure, f"On {n} images that every network gets right, means over seeds by AR strength: {'; '.join(said)}."


@picture
def margin_against_distance(arrays: Mapping):
    """Output margin against instance margin, a point an image that is right, a panel a strength (seeds together)."""
    runs = of_strengths(arrays, _DISTANCE)
    figure, axes = panels(len(runs), sharex=True, sharey=True, height=2.8)
    said = []
    for ax, (strength, group) in zip(axes, runs.items(), strict=True):
        v = np.concatenate([255 * run[_DISTANCE].astype(float) for run in group])
        m = [run["margin|test"].astype(float)[: len(run[_DISTANCE])] for run in group]
        m, right = np.concatenate(m), v > 0
        style = {"marker": marker(strength), "color": colour(strength), "s": 10, "alpha": 0.5, "linewidths": 0}
        ax.scatter(v[right], m[right], **style)
        ax.set(title=f"AR strength {strength:g}", xlabel="instance margin v (255·ε)")
        if right.any():
            said.append(f"{strength:g}: median slope {np.median(m[right] / v[right]):.3g}")
    axes[0].set_ylabel("output margin m (logits)")
    axes[0].set(xlim=(0, None), ylim=(0, None))
    return figure, f"Output margin against instance margin, in logits per 255·ε by AR strength: {', '.join(said)}."
