"""Attacks: the images and gradients themselves, how steps climb, how strong the attack is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.colors import to_rgb
from torch import Tensor

from arlib.claims import DIFFERENCE, SHARE, moves, of_runs
from arlib.errors import InputError
from arlib.figures.shared import of_strengths, together
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    by_strength,
    colour,
    is_narrow,
    key,
    legend,
    marker,
    panels,
    picture,
    strengths_of,
    tiles,
)

WRONG = "#A3123A"
_PATHS = ("#0F5FAF", "#DB7A1C", "#1E8C6E", "#B97CE0", "#4A98CC")


@dataclass(frozen=True)
class ImageRow:
    """One row of `image_grid`.

    label: what the row is; images: (n, c, h, w) in [0, 1], or perturbations if `scale` is given:
    then grey is 0 and ±scale are the ends of the colours; words: under each image; wrong: which
    words are in red.
    """

    label: str
    images: Tensor
    words: Sequence[str] = ()
    wrong: Sequence[bool] = ()
    scale: float | None = None


@picture
def image_grid(rows: Sequence[ImageRow], *, columns: Sequence[str] = (), about: str = ""):
    """Rows of small images, all of one length; columns: a title for each; about:
    what the alt text begins with.
    """
    counts = {len(row.images) for row in rows} | ({len(columns)} if columns else set())
    if len(counts) != 1:
        raise InputError(
            f"image_grid got rows and titles of {sorted(counts)} images; one length is needed."
        )
    figure, axes, begins = tiles(len(rows), counts.pop(), tile=1.02)
    for row, line in zip(rows, axes, strict=True):
        for column, (image, ax) in enumerate(zip(row.images, line, strict=True)):
            _show(ax, image, row.scale)
            wrong = column < len(row.wrong) and bool(row.wrong[column])
            if column < len(row.words):
                ax.set_xlabel(
                    row.words[column], fontsize=9, color=WRONG if wrong else NEUTRAL, labelpad=2
                )
        for column in begins:
            line[column].set_ylabel(row.label, fontsize=9)
    for title, ax in zip(columns, axes[0], strict=False):
        ax.set_title(title, fontsize=9.5)
    phrases = [
        f"{row.label.replace(chr(10), ' ')}: {', '.join(row.words)}" for row in rows if row.words
    ]
    return figure, f"{about or 'Rows of images'}. {'; '.join(phrases)}".rstrip(". ") + "."


def _show(ax, image: Tensor, scale: float | None) -> None:
    pixels = image.detach().cpu().float().permute(1, 2, 0).numpy()  # (h, w, c)
    if scale is not None:
        pixels = two_colours(pixels.mean(axis=2) / max(scale, 1e-12))
    elif pixels.shape[2] == 1:
        pixels = pixels.repeat(3, axis=2)
    ax.imshow(pixels.clip(0, 1), interpolation="nearest")
    ax.set_xticks([])
    ax.set_yticks([])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


def two_colours(values: np.ndarray) -> np.ndarray:
    """(h, w) in [−1, 1] -> (h, w, 3): blue below 0, white at 0, orange above."""
    ends = np.where(values[..., None] < 0, to_rgb("#0F5FAF"), to_rgb("#DB7A1C"))
    return 1 - np.abs(values[..., None]).clip(0, 1) * (1 - ends)


@picture
def ascent_paths(
    loss: Callable[[Tensor], Tensor],
    centre: Tensor,
    eps: float,
    paths: Mapping[str, Tensor],
    *,
    boundary: float = 0.0,
):
    """Paths of attacks on an image of two pixels, over the loss they climb.

    loss: (n, 2) -> (n,); centre: (2,), the image; eps: its ball; paths: name -> points (steps + 1,
    2) in order, drawn with a square at the end; boundary: the level of the loss above which the
    answer is wrong.
    """
    places = torch.linspace(0, 1, 121)
    grid = torch.cartesian_prod(places, places)
    with torch.no_grad():
        heights = loss(grid).view(len(places), len(places)).T.numpy()
    figure, (ax,) = panels(1, alone=6.6, height=5.4 if is_narrow() else 4.4)
    ax.contour(places, places, heights, levels=12, colors=GREY, linewidths=0.6)
    ax.contourf(
        places, places, heights, levels=[boundary, heights.max() + 1], colors=[WRONG], alpha=0.15
    )
    x, y = centre.tolist()
    left, right, low, high = max(x - eps, 0), min(x + eps, 1), max(y - eps, 0), min(y + eps, 1)
    ax.plot(
        [left, right, right, left, left], [low, low, high, high, low], color=NEUTRAL, linewidth=1.4
    )
    ax.plot(x, y, "o", color=NEUTRAL, markersize=7)
    for (name, path), paint in zip(paths.items(), _PATHS * len(paths), strict=False):
        points = path.detach().numpy()
        ax.plot(*points.T, color=paint, linewidth=1.4, marker=".", markersize=5, label=name)
        ax.plot(*points[-1], "s", color=paint, markersize=8)
    ax.set(xlabel="first pixel", ylabel="second pixel", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if is_narrow():
        key(figure, ax.get_legend_handles_labels()[0])
    else:
        figure.legend(loc="outside right upper")
    with torch.no_grad():
        ends = {name: float(loss(path[-1:])[0]) > boundary for name, path in paths.items()}
    summary = "; ".join(
        f"{name} ends {'beyond' if beyond else 'short of'} the boundary"
        for name, beyond in ends.items()
    )
    return figure, f"Paths of attacks inside the square around an image of two pixels: {summary}."


@picture
def attack_ladder(table: pd.DataFrame):
    """Accuracy under attacks of growing strength with 95 % intervals.

    table: rows of `attacks.evaluate(...).table` at one ε (attack, accuracy, low, high, n), weakest
    first; a column strength gives one set of points for each network.
    """
    table = table if "strength" in table else table.assign(strength=0.0)
    if table.duplicated(["attack", "strength"]).any():
        raise InputError(
            "attack_ladder needs one row for each attack and strength: select one eps first."
        )
    strengths, attacks = strengths_of(table), list(dict.fromkeys(table["attack"]))
    figure, (ax,) = panels(1, height=1.2 + 0.35 * len(attacks))
    for shift, strength in zip(np.linspace(-0.15, 0.15, len(strengths)), strengths, strict=True):
        part = table[table["strength"] == strength].set_index("attack").reindex(attacks)
        spread = np.abs(part[["low", "high"]].to_numpy().T - part["accuracy"].to_numpy())
        style = {"color": colour(strength), "fmt": marker(strength), "capsize": 3}
        ax.errorbar(part["accuracy"], np.arange(len(attacks)) + shift, xerr=spread, **style)
    ax.set_yticks(range(len(attacks)), attacks)
    ax.invert_yaxis()
    counts = sorted(set(table["n"])) if "n" in table else []
    ax.set(
        xlabel="accuracy" + (f" (n = {', '.join(map(str, counts))} images)" if counts else ""),
        ylabel="attack",
    )
    if len(strengths) > 1:
        legend(figure, strengths)
    summary = "; ".join(
        f"{row.attack} at AR strength {row.strength:g}: {row.accuracy:.3f}"
        for row in table.itertuples()
    )
    return figure, f"Accuracy under each attack: {summary}."


@picture
def survival(arrays: Mapping, *, largest: float | None = None):
    """Share of test images whose instance margin (an upper bound) exceeds a radius, by AR strength.

    largest: end of the axis in 255·ε; by default where one image in a hundred is left.
    """
    runs = of_strengths(arrays, "instance_margin|test")
    everything = np.concatenate(
        [together(group, "instance_margin|test") for group in runs.values()]
    )
    end = largest or max(255 * float(np.quantile(everything, 0.99)), 1.0)
    radii = np.linspace(0, end, 200)
    figure, (ax,) = panels(1, height=3.4)
    medians = []
    for strength, group in runs.items():
        margins = [255 * run["instance_margin|test"].astype(float) for run in group]
        by_strength(
            ax,
            radii,
            {strength: np.stack([(m[:, None] > radii).mean(axis=0) for m in margins])},
            every=40,
        )
        medians.append(f"{strength:g}: {np.median(np.concatenate(margins)):.3g}")
    counts = sorted({len(run["instance_margin|test"]) for group in runs.values() for run in group})
    ax.set(
        xlabel="radius r (255·ε)",
        ylabel=f"share with margin > r (n = {', '.join(map(str, counts))})",
        ylim=(0, 1),
        xlim=(0, end),
    )
    legend(figure, runs)
    return (
        figure,
        "Survival curves of instance margins; medians (255·ε) by AR strength: "
        f"{', '.join(medians)}.",
        _survived(arrays),
    )


def _survived(arrays: Mapping) -> str:
    """How the share of right images moves, and the median distance over all (a wrong one has 0)."""
    margins = {
        key: 255 * run["instance_margin|test"].astype(float)
        for key, run in arrays.items()
        if "instance_margin|test" in run
    }
    right = of_runs({key: float((v > 0).mean()) for key, v in margins.items()})
    middle = of_runs({key: float(np.median(v)) for key, v in margins.items()})
    return moves(
        {
            "the share of right images": (right, SHARE),
            "the median distance over all images (255·ε, wrong ones 0)": (middle, DIFFERENCE),
        }
    )
