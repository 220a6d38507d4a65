"""C10: balls and coverings on two-pixel images, q(v) of training images, what is proved beside what
is found.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from torch import Tensor

from arlib import bounds
from arlib.bounds import square
from arlib.claims import (
    FACTOR,
    RADII,
    SHARE,
    Config,
    Proved,
    Statistic,
    moves,
    of_runs,
    q_of,
    training_distances,
)
from arlib.claims.values import clean
from arlib.errors import InputError, NotMeasured
from arlib.figures.shared import values_of
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    against_strength,
    colour,
    key,
    legend,
    marker,
    panels,
    picture,
    strengths_of,
    words,
)

_SIGNS = ("#0F5FAF", "#DB7A1C")
_TINTS = ("#D3E3F3", "#F9E3CC")
_TOP = 30  # of the axis of bounds, which say nothing from 1 on
_TICKS = [2.0**power for power in range(-4, 7)]


@picture
def two_points(w: Tensor, b: float, x: Tensor, new: Tensor, *, v: tuple[float, ...]):
    """A training image of two pixels, a new one near it, and the ℓ∞ ball of each radius in `v`.

    w (2,), b: the boundary w·x + b = 0, on whose upper side x must lie. A panel for each radius;
    the part of the ball that gets another answer is filled.
    """
    if x.shape != (2,) or new.shape != (2,) or float(x @ w + b) <= 0:
        raise InputError("two_points needs x and new of two pixels, and x with w·x + b > 0.")
    figure, axes = panels(len(v), height=3.2, sharex=True, sharey=True)
    margin = float(x @ w + b) / float(w.abs().sum())
    places = torch.linspace(0, 1, 201)
    grid = torch.cartesian_prod(places, places)
    other = (grid @ w + b < 0).view(201, 201).T.numpy()
    phrases = []
    for ax, radius in zip(axes, v, strict=True):
        inside = ((grid - x).abs().amax(1) <= radius).view(201, 201).T.numpy()
        ax.contourf(places, places, other & inside, levels=[0.5, 1.5], colors=[_SIGNS[1]])
        ax.contour(
            places,
            places,
            (grid @ w + b).view(201, 201).T.numpy(),
            levels=[0],
            colors=NEUTRAL,
            linewidths=1.8,
        )
        ball = Rectangle(
            (x - radius).tolist(), 2 * radius, 2 * radius, fill=False, edgecolor=NEUTRAL
        )
        ax.add_patch(ball)
        ax.plot(*x.tolist(), "o", color=_SIGNS[0], markersize=8, zorder=4)
        ax.plot(
            *new.tolist(), "o", markerfacecolor="white", color=_SIGNS[0], markersize=8, zorder=4
        )
        ax.annotate("training", x.tolist(), (0, 7), textcoords="offset points", ha="center")
        ax.annotate("new", new.tolist(), (0, -17), textcoords="offset points", ha="center")
        near = float((new - x).abs().max()) < radius
        says = "nothing is proved" if radius > margin or not near else "both get one answer"
        ax.set_title(f"v = {radius:g}: {says}")
        ax.set(xlabel="first pixel", ylabel="second pixel" if ax is axes[0] else "")
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        phrases.append(f"at v = {radius:g} {says}")
    return (
        figure,
        f"A training image with margin {margin:.3g} and a new image near it: {'; '.join(phrases)}.",
    )


@picture
def covering(sets: Mapping[str, tuple[Tensor, Tensor, square.Learnt]], *, v: float):
    """Two-pixel images in the squares of side v that cover them, a panel for each training set.

    sets: name -> (x (n, 2), y (n,), what was learnt). A square is tinted in the colour of a class
    if it keeps a training image that is right with margin v or more; images that are not are drawn
    hollow, wrong ones crossed; the black line is the learnt boundary.
    """
    n = square.sides(v)
    figure, axes = panels(len(sets), height=3.3, sharex=True, sharey=True)
    places = (torch.arange(160, dtype=torch.float64) + 0.5) / 160
    grid = torch.cartesian_prod(places, places)
    phrases = []
    for ax, (name, (x, y, learnt)) in zip(axes, sets.items(), strict=True):
        held = square.kept(x, y, learnt.margins, v).view(n, n, 2)
        for row, column, label in held.nonzero().tolist():
            corner = (row / n, column / n)
            ax.add_patch(Rectangle(corner, 1 / n, 1 / n, color=_TINTS[label], linewidth=0))
        answers = learnt.answer(grid).view(160, 160).T.numpy()
        ax.contour(places, places, answers, levels=[0.5], colors=NEUTRAL, linewidths=1.2)
        safe, wrong = learnt.margins >= v, learnt.answer(x) != y
        for label, paint in enumerate(_SIGNS):
            of = y == label
            style = {"marker": "os"[label], "s": 13, "zorder": 3, "linewidths": 0.8}
            ax.scatter(*x[of & safe].T.numpy(), color=paint, **style)
            near = of & ~safe & ~wrong
            ax.scatter(*x[near].T.numpy(), facecolors="white", edgecolors=paint, **style)
            ax.scatter(*x[of & wrong].T.numpy(), color=paint, **(style | {"marker": "x"}))
        ticks = [i / n for i in range(n + 1)]
        ax.set_xticks(ticks, ["0", *[""] * (n - 1), "1"])
        ax.set_yticks(ticks, ["0", *[""] * (n - 1), "1"])
        lost = int((~safe).sum())
        ax.set_title(f"{name}\nq(v) = {lost}/{len(x)} = {lost / len(x):.2f}")
        ax.set(xlabel="first pixel", ylabel="second pixel" if ax is axes[0] else "")
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        phrases.append(f"{name}: {int(held.any(-1).sum())} squares kept, q {lost / len(x):.2f}")
    return figure, f"Coverings by squares of side {1 / n:.3g}. {'; '.join(phrases)}."


@picture
def bound_terms(shares: Mapping[str, tuple[int, Mapping[float, float]]], *, samples: int):
    """The terms of the bound against v where C and k are known, a panel for each learner.

    shares: name -> (k, {v: q(v)}); samples: m. The highest line is their sum; above 1, where the
    panel is grey, it says nothing.
    """
    figure, axes = panels(len(shares), height=3.0, sharex=True, sharey=True)
    phrases = []
    for ax, (name, (k, by_radius)) in zip(axes, shares.items(), strict=True):
        radii = np.array(sorted(by_radius))
        q = np.array([by_radius[v] for v in radii])
        terms = {"samples": samples, "classes": 2, "c": square.C, "k": k}
        cost = np.array([bounds.covering_term(float(v), **terms) for v in radii])
        whole = q + cost + bounds.confidence_term(samples)
        ax.axhspan(1, 2, color="#EEF0F3", zorder=0)
        ax.plot(radii, q, "s-", color=_SIGNS[0], markersize=4, label="q(v)")
        ax.plot(radii, cost, "D-", color=_SIGNS[1], markersize=4, label="covering")
        ax.plot(radii, whole, "o-", color=NEUTRAL, markersize=4, label="sum of all three")
        ax.set_xscale("log", base=2)
        ax.set(title=name, xlabel="v", ylim=(0, 1.6), ylabel="term" if ax is axes[0] else "")
        ax.xaxis.set_major_locator(FixedLocator(radii))
        ax.xaxis.set_major_formatter(FuncFormatter(_fraction))
        ax.xaxis.set_minor_locator(NullLocator())
        phrases.append(f"{name}: smallest sum {whole.min():.2f} at v = {radii[whole.argmin()]:.3g}")
    key(figure, axes[0].get_legend_handles_labels()[0])
    return figure, f"Terms of the bound by v. {'; '.join(phrases)}."


def _fraction(value: float, _: object = None) -> str:
    return f"{value:g}" if value >= 1 else f"1/{round(1 / value)}"


@picture
def q_curves(arrays: Mapping):
    """q(v) of training images by AR strength: all images, and only those that are right.

    arrays: {(strength, seed): arrays of the run}. A line is the mean over seeds, a band reaches
    from the smallest to the largest. On the left the dotted levels are the wrong images alone.
    """
    distances = training_distances(arrays)
    figure, axes = panels(2, height=3.3, sharey=True)
    phrases = []
    for strength, seeds in distances.items():
        wrong = [float((d == 0).mean()) for d in seeds.values()]
        curves = np.stack([q_of(d) for d in seeds.values()])
        right = np.stack([q_of(d[d > 0]) for d in seeds.values() if (d > 0).any()])
        for ax, rows in zip(axes, (curves, right), strict=True):
            _band(ax, rows, strength)
        axes[0].axhline(np.mean(wrong), color=colour(strength), linestyle=":", linewidth=1.2)
        phrases.append(
            f"{strength:g}: {100 * np.mean(wrong):.1f} % wrong, half are nearer than "
            f"{np.mean([np.median(d) for d in seeds.values()]):.2g}"
        )
    for ax, title in zip(axes, ("All training images", "Only those that are right"), strict=True):
        _radius_axis(ax)
        ax.set_title(title)
    axes[0].set(ylabel="q(v): share nearer than v", ylim=(0, 1.02))
    legend(figure, distances)
    return (
        figure,
        f"q(v) by AR strength, v in 255·ε. {'; '.join(phrases)}.",
        _nearness(distances),
    )


def _nearness(distances: Mapping) -> str:
    """How the share of wrong training images moves, and the median distance of the right ones."""
    runs = {(s, seed): d for s, group in distances.items() for seed, d in group.items()}
    wrong = of_runs({key: float((d == 0).mean()) for key, d in runs.items()})
    middle = of_runs({key: float(np.median(d[d > 0])) for key, d in runs.items() if (d > 0).any()})
    return moves(
        {
            "the share of wrong training images": (wrong, SHARE),
            "the median distance of the right ones (255·ε)": (middle, FACTOR),
        }
    )


def _band(ax, rows: np.ndarray, strength: float) -> None:
    style = {"color": colour(strength), "marker": marker(strength), "markersize": 5}
    if len(rows) > 1:
        low, high = rows.min(0), rows.max(0)
        ax.fill_between(RADII, low, high, color=colour(strength), alpha=0.25, linewidth=0)
    ax.plot(RADII, rows.mean(0), markevery=24, **style)


def _radius_axis(ax) -> None:
    ax.set_xscale("log", base=2)
    ax.set(xlim=(RADII[0], RADII[-1]), xlabel="v (255·ε)")
    ax.xaxis.set_major_locator(FixedLocator(_TICKS))
    ax.xaxis.set_major_formatter(FuncFormatter(_fraction))
    ax.xaxis.set_minor_locator(NullLocator())


@picture
def q_by_strength(records: pd.DataFrame, config: Config | None = None):
    """The share of wrong training images, q at the smallest recorded radius and at the deciding
    one, against AR strength.
    """
    table, config = clean(records), config or Config()
    rows = table[(table["statistic"] == "q") & (table["split"] == "train")]
    radii = sorted(float(setting.partition("@")[2]) for setting in rows["setting"].unique())
    if not radii:
        raise NotMeasured("no q(v) is recorded.")
    told = {}
    shown = [("Wrong", Statistic("", "q_wrong", split="train"))]
    shown += [
        (f"q({radius:g}/255)", Statistic("", "q", split="train", setting=f"linf@{radius:g}"))
        for radius in sorted({radii[0], config.bound} & set(radii))
    ]
    figure, axes = panels(len(shown), sharey=True)
    phrases = []
    for ax, (title, statistic) in zip(axes, shown, strict=True):
        numbers = 100 * values_of(table, statistic)
        against_strength(ax, numbers, label="% of training images" if ax is axes[0] else "")
        ax.set(title=title, ylim=(0, 105))
        phrases.append(f"{title} ({words(numbers.groupby('strength').mean(), ' %')})")
        told["the share of wrong ones" if title == "Wrong" else title] = numbers / 100, SHARE
    return figure, f"Means over seeds by AR strength: {'; '.join(phrases)}.", moves(told)


@picture
def bound_curves(
    arrays: Mapping, constants: list[tuple[float, float]], *, samples: int, classes: int
):
    """What the bound would be at each v if C and k were these, a panel for each pair (C, k).

    arrays: {(strength, seed): arrays of the run}; samples: m, the training images. Means over
    seeds. In grey where it exceeds 1 and says nothing; dashed is the covering term alone, which is
    the same for all strengths. The frame is the same whatever the constants are (for a slider).
    """
    if not constants:
        raise InputError("bound_curves needs one pair (C, k) or more.")
    distances = training_distances(arrays)
    curves = {
        s: np.mean([q_of(d) for d in group.values()], axis=0) for s, group in distances.items()
    }
    height = 3.3 if len(constants) == 1 else 2.6
    figure, axes = panels(len(constants), height=height, sharex=True, sharey=True)
    phrases = []
    for ax, (c, k) in zip(axes, constants, strict=True):
        terms = {"samples": samples, "classes": classes, "c": c, "k": k}
        cost = np.array([bounds.covering_term(float(v) / 255, **terms) for v in RADII])
        ax.axhspan(1, _TOP, color="#EEF0F3", zorder=0)
        ax.plot(RADII, cost, "--", color=GREY, linewidth=1.3)
        for strength, q in curves.items():
            whole = q + cost + bounds.confidence_term(samples)
            style = {"color": colour(strength), "marker": marker(strength), "markersize": 5}
            ax.plot(RADII, whole, markevery=24, **style)
        ax.set_yscale("log")
        _radius_axis(ax)
        # in small panels every other radius is named
        ax.xaxis.set_major_locator(FixedLocator(_TICKS if len(constants) == 1 else _TICKS[::2]))
        ax.set(title=f"C = {c:g}, k = {k:g}", ylim=(0.2, _TOP), xlabel="v (255·ε)")
        lowest = min((q + cost + bounds.confidence_term(samples)).min() for q in curves.values())
        if lowest > _TOP:
            power = math.floor(math.log10(lowest)) if lowest < math.inf else 308
            ax.annotate(
                f"all above $10^{{{power}}}$",
                (0.5, 0.8),
                xycoords="axes fraction",
                ha="center",
            )
        says = lowest < 1
        phrases.append(f"C {c:g}, k {k:g}: {'below 1 somewhere' if says else 'above 1 everywhere'}")
    for ax in axes:
        ax.yaxis.set_major_locator(FixedLocator([0.2, 0.5, 1, 2, 5, 10, 20]))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.set_ylabel("bound" if ax is axes[0] else "")
    legend(figure, curves)
    alt = f"The bound by v for guessed constants. {'; '.join(phrases)}."
    below = [f"C = {c:g}, k = {k:g}" for (c, k), text in zip(constants, phrases, strict=True)
             if "below" in text]  # fmt: skip
    which = f" ({'; '.join(below)})" if below else ""
    finding = (
        f"Of {len(constants)} guesses of C and k, {len(below)} bring the bound of some network "
        f"below 100 % error{which}."
    )
    return figure, alt, finding


@picture
def proved_by_layer(networks: Mapping[float, Proved]):
    """How steep a network can be from the image to each block: by the chain of norms, and measured.

    networks: {strength: `claims.Proved`}. One panel per strength, logarithmic axis; the distance
    between the lines is what the chain gives away.
    """
    strengths_of(pd.DataFrame({"strength": list(networks)}))
    figure, axes = panels(len(networks), height=2.9, sharey=True)
    phrases = []
    for ax, (strength, network) in zip(axes, networks.items(), strict=True):
        blocks = network.blocks
        places = np.arange(1, len(blocks) + 1)
        style = {"color": colour(strength), "marker": marker(strength), "markersize": 5}
        ax.fill_between(places, blocks["measured"], blocks["proved"], color="#EEF0F3")
        ax.plot(places, blocks["proved"], "--", label="proved (≤)", **style)
        ax.plot(places, blocks["measured"], label="measured", **style)
        ax.set_title(f"AR strength {strength:g}")
        ax.set(xlabel="residual block", ylabel="steepest slope" if ax is axes[0] else "")
        ax.set_xticks(places)
        ax.legend(loc="upper left")
        first, last = (blocks["proved"] / blocks["measured"]).iloc[[0, -1]]
        phrases.append(
            f"{strength:g}: the chain is {first:.2g} times too large at the first block, "
            f"{last:.2g} times at the last"
        )
    for ax in axes:
        ax.set_yscale("log")
    told = f"By AR strength: {'; '.join(phrases)}."
    return figure, "Steepest slope from the image to each block.", told


@picture
def proved_distances(networks: Mapping[float, Proved]):
    """Distances to the boundary of right test images: certified by the chain of norms, and found by
    attack.

    networks: {strength: `claims.Proved`}. Bars reach from the 5th to the 95th percentile, markers
    are medians; the true distance of every image lies between its two values.
    """
    strengths_of(pd.DataFrame({"strength": list(networks)}))
    figure, (ax,) = panels(1, alone=7.6, height=1.5 + 0.45 * len(networks))
    phrases = []
    for place, (strength, network) in enumerate(networks.items()):
        for values, name in ((network.lower, "certified"), (network.upper, "attack")):
            low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
            filled = colour(strength) if name == "attack" else "white"
            ax.plot([low, high], [place, place], color=colour(strength), linewidth=5, alpha=0.35)
            ax.plot(
                middle,
                place,
                marker(strength),
                color=colour(strength),
                markerfacecolor=filled,
                markersize=8,
            )
            ax.annotate(
                name, (middle, place), (0, 9), textcoords="offset points", ha="center", fontsize=9
            )
        certified, attacked = np.median(network.lower), np.median(network.upper)
        phrases.append(f"{strength:g}: certified {certified:.1e}, found {attacked:.2g}")
    ax.set_xscale("log")
    ax.set_yticks(range(len(networks)), [f"{strength:g}" for strength in networks])
    ax.set(ylim=(len(networks) - 0.4, -0.7), ylabel="AR strength", xlabel="distance (255·ε)")
    low = min(network.lower.min() for network in networks.values())
    ax.set_xlim(10 ** math.floor(math.log10(low)), 255)
    factors = ", ".join(f"{strength:g}: {net.factor:.1e}" for strength, net in networks.items())
    finding = (
        f"The attack finds the boundary this many times as far away as is certified: {factors}."
    )
    return figure, f"Medians of distances to the boundary in 255·ε. {'; '.join(phrases)}.", finding
