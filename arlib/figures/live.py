"""Figures of what a chapter attacks itself: rows of small images, and paths of attacks on two pixels."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from arlib.errors import InputError
from arlib.figures.style import GREY, NEUTRAL, Picture, picture

WRONG = "#A3123A"
_PATHS = ("#0F5FAF", "#DB7A1C", "#1E8C6E", "#B97CE0", "#4A98CC")


@dataclass(frozen=True)
class ImageRow:
    """One row of `image_grid`.

    label: what the row is; images: (n, c, h, w) in [0, 1], or perturbations if `scale` is given: then grey
    is 0 and ±scale are the ends of the colours; words: under each image; wrong: which words are in red.
    """

    label: str
    images: Tensor
    words: Sequence[str] = ()
    wrong: Sequence[bool] = ()
    scale: float | None = None


@picture
def image_grid(rows: Sequence[ImageRow], *, columns: Sequence[str] = (), about: str = ""):
    """Rows of small images, all of one length; columns: a title for each; about: what the alt text begins with."""
    counts = {len(row.images) for row in rows} | ({len(columns)} if columns else set())
    if len(counts) != 1:
        raise InputError(f"image_grid got rows and titles of {sorted(counts)} images; one length is needed.")
    figure = Picture(figsize=(7.6, 0.35 + 1.02 * len(rows)))
    axes = figure.subplots(len(rows), counts.pop(), squeeze=False)
    for row, line in zip(rows, axes, strict=True):
        for column, (image, ax) in enumerate(zip(row.images, line, strict=True)):
            _show(ax, image, row.scale)
            wrong = column < len(row.wrong) and bool(row.wrong[column])
            if column < len(row.words):
                ax.set_xlabel(row.words[column], fontsize=9, color=WRONG if wrong else NEUTRAL, labelpad=2)
        line[0].set_ylabel(row.label, fontsize=9)
    for title, ax in zip(columns, axes[0], strict=False):
        ax.set_title(title, fontsize=9.5)
    said = [f"{row.label.replace(chr(10), ' ')}: {', '.join(row.words)}" for row in rows if row.words]
    return figure, f"{about or 'Rows of images'}. {'; '.join(said)}".rstrip(". ") + "."


def _show(ax, image: Tensor, scale: float | None) -> None:
    pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()  # (h, w, c)
    if scale is not None:
        pixels = _two_colours(pixels.mean(axis=2) / max(scale, 1e-12))
    elif pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    ax.imshow(pixels.clip(0, 1), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def _two_colours(values: np.ndarray) -> np.ndarray:
    """(h, w) in [−1, 1] -> (h, w, 3): blue below 0, white at 0, orange above."""
    ends = np.where(values[..., None] < 0, to_rgb("#0F5FAF"), to_rgb("#DB7A1C"))
    return 1 - np.abs(values[..., None]).clip(0, 1) * (1 - ends)


@picture
def ascent_paths(
    loss: Callable[[Tensor], Tensor], centre: Tensor, eps: float, paths: Mapping[str, Tensor], *, boundary: float = 0.0
):
    """Paths of attacks on an image of two pixels, over the loss they climb.

    loss: (n, 2) -> (n,); centre: (2,), the image; eps: its ball; paths: name -> points (steps + 1, 2) in
    order, drawn with a square at the end; boundary: the level of the loss above which the answer is wrong.
    """
    places = torch.linspace(0, 1, 121)
    grid = torch.cartesian_prod(places, places)
    with torch.no_grad():
        heights = loss(grid).view(len(places), len(places)).T.numpy()
    figure = Picture(figsize=(6.6, 4.4))
    ax = figure.subplots()
    ax.contour(places, places, heights, levels=12, colors=GREY, linewidths=0.6)
    ax.contourf(places, places, heights, levels=[boundary, heights.max() + 1], colors=[WRONG], alpha=0.15)
    x, y = centre.tolist()
    left, right, low, high = max(x - eps, 0), min(x + eps, 1), max(y - eps, 0), min(y + eps, 1)
    ax.plot([left, right, right, left, left], [low, low, high, high, low], color=NEUTRAL, linewidth=1.4)
    ax.plot(x, y, "o", color=NEUTRAL, markersize=7)
    for (name, path), paint in zip(paths.items(), _PATHS * len(paths), strict=False):
        points = path.detach().numpy()
        ax.plot(*points.T, color=paint, linewidth=1.4, marker=".", markersize=5, label=name)
        ax.plot(*points[-1], "s", color=paint, markersize=8)
    ax.set(xlabel="first pixel", ylabel="second pixel", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    figure.legend(loc="outside right upper")
    with torch.no_grad():
        ends = {name: float(loss(path[-1:])[0]) > boundary for name, path in paths.items()}
    said = "; ".join(f"{name} ends {'beyond' if beyond else 'short of'} the boundary" for name, beyond in ends.items())
    return figure, f"Paths of attacks inside the square around an image of two pixels: {said}."
