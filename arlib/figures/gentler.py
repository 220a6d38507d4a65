"""C9: pairs of accuracies and the front they hide, the fronts of a study, heights above one of
them, and what the methods do to distance and slope.
"""

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arlib import claims
from arlib.claims.gentler import (
    BEYOND,
    NAMES,
    NOT_MEASURED,
    Outcome,
    chosen,
    in_words,
    so_far,
    usable,
)
from arlib.errors import InputError
from arlib.figures.style import GREY, NEUTRAL, key, panels, picture
from arlib.studies.fronts import EPOCHS, GRID, KNOBS, PASSES

# (colour, marker) of a method; strengths have colours of their own, which these are not
_LOOKS = {
    GRID: (NEUTRAL, "o"),
    "trades": ("#0072B2", "s"),
    "mixed": ("#D55E00", "D"),
    "n-fgsm": ("#007A5A", "^"),
    "hat": ("#AA4499", "P"),
}
_SYMBOLS = {"strength": "ε", "beta": "β", "mix": "share", "gamma": "γ"}
_BUDGETS = {EPOCHS: "equal epochs", PASSES: "equal passes"}
_PAIRS = ("#0072B2", "#D55E00", "#AA4499", "#007A5A")


@picture
def pairs_and_front(front: pd.DataFrame, pairs: Mapping[str, tuple[float, float]]):
    """What one pair of accuracies shows, and what the same pairs show beside a front.

    front: columns natural, robust (shares), a row per value of the baseline's knob, the last of
    which is the baseline. pairs: name → (natural, robust). On the left only the changes against the
    baseline, on the right the front and each pair's height above it.
    """
    if len(pairs) > len(_PAIRS):
        raise InputError(f"{len(pairs)} pairs; at most {len(_PAIRS)} can be told apart.")
    figure, axes = panels(2, height=3.3, sharex=True, sharey=True)
    base = front.iloc[-1]
    line = 100 * front.sort_values("natural")[["natural", "robust"]]
    axes[1].plot(line["natural"], line["robust"], "o-", color=NEUTRAL, label="the baseline's front")
    phrases = []
    for (name, (natural, robust)), paint in zip(pairs.items(), _PAIRS, strict=False):
        height = claims.height(natural, robust, front)
        above = "beyond the front" if math.isnan(height) else f"height {100 * height:+.1f}"
        above = f"{name}: {above}".replace("-", "−")
        for ax in axes:
            ax.plot(
                100 * natural, 100 * robust, "D", color=paint, markersize=8, zorder=4, label=above
            )
        axes[0].annotate(
            "",
            (100 * natural, 100 * robust),
            (100 * base["natural"], 100 * base["robust"]),
            arrowprops={"arrowstyle": "->", "color": paint},
        )
        axes[0].annotate(
            name, (100 * natural, 100 * robust), (8, 0), textcoords="offset points", va="center"
        )
        if not math.isnan(height):
            axes[1].plot(
                [100 * natural] * 2,
                [100 * (robust - height), 100 * robust],
                color=paint,
                linewidth=3,
            )
        phrases.append(above)
    for ax, title in zip(axes, ("One pair against another", "Beside the front"), strict=True):
        ax.plot(100 * base["natural"], 100 * base["robust"], "o", color=NEUTRAL, markersize=9)
        ax.set(title=title, xlabel="natural accuracy (%)")
        ax.margins(x=0.3)
    axes[0].set_ylabel("robust accuracy (%)")
    axes[1].legend(loc="lower left")
    return figure, f"Pairs of accuracies beside a front: {'; '.join(phrases)}."


@picture
def fronts(study):
    """Robust against natural accuracy of every method of a study of fronts: at equal epochs, and at
    equal passes.

    Lines are means over the recorded seeds, dots single networks; the value of the knob that
    validation images choose has a ring. PGD-AT's front is in both panels. Collapsed values are left
    out. Raises `NotMeasured` for a study without fronts.
    """
    planned = claims.front_points(study)
    points = usable(planned)
    figure, axes = panels(2, height=3.5, sharex=True, sharey=True)
    phrases = []
    for ax, (budget, title) in zip(axes, _BUDGETS.items(), strict=True):
        shown = points[(points["budget"] == budget) | (points["method"] == GRID)]
        counted = _lines(ax, shown, "natural", "robust", 100)
        ax.set(title=f"At {title}", xlabel="natural test accuracy (%)")
        phrases.append(f"at {title} {counted} networks")
    radius = study.settings.robust_radius * study.settings.radius_scale
    axes[0].set_ylabel(f"robust test accuracy at {radius:g}/255 (%)")
    _legend(figure, points["method"].unique())
    alt = f"Fronts of {len(points['method'].unique())} methods: {'; '.join(phrases)}."
    return figure, alt, so_far(planned)


@picture
def slope_plane(study):
    """Median slope against median distance to the boundary, on right test images, by method.

    The product of the two is about the output margin: nearer to the lower right, images are far
    from the boundary though the network is hardly less sure. Lines as in `fronts`, equal epochs.
    """
    points = usable(claims.front_points(study))
    points = points[points["budget"] == EPOCHS]
    figure, (ax,) = panels(1, height=3.6)
    counted = _lines(ax, points, "distance", "slope", 1)
    ax.set(xlabel="distance to the boundary (255·ε)", ylabel="slope (logits per 255·ε)")
    if counted:
        ax.set_xscale("log")
        ax.set_yscale("log")
    _legend(figure, points["method"].unique())
    alt = f"Slope against distance to the boundary of {counted} networks, by method."
    known = points[points["slope"].notna()]
    finding = "No network with a slope is recorded."
    if len(known):
        finding = (
            f"Of {len(known)} networks the median distance is {_span(known['distance'])} (255·ε) "
            f"and the median slope {_span(known['slope'])}."
        )
    return figure, alt, finding


def _span(values: pd.Series) -> str:
    low, high = f"{values.min():.2g}", f"{values.max():.2g}"
    return low if low == high else f"{low} to {high}"


def _lines(ax, points: pd.DataFrame, x: str, y: str, scale: float) -> int:
    """A line per method through its values' means, dots for networks; returns their number."""
    measured = points[points[x].notna() & points[y].notna()]
    for method, own in measured.groupby("method", sort=False):
        paint, shape = _LOOKS[method]
        ax.plot(scale * own[x], scale * own[y], shape, color=paint, markersize=3, alpha=0.45)
        means = own.groupby("value")[[x, y]].mean().sort_index()
        style = {"color": paint, "marker": shape, "markersize": 6}
        ax.plot(scale * means[x], scale * means[y], zorder=3, **style)
        whole = points[points["method"] == method]
        if method != GRID and whole["val_robust"].notna().all():
            at = means.loc[chosen(own)]
            ring = {"markersize": 13, "markerfacecolor": "none", "markeredgewidth": 1.5}
            ax.plot(scale * at[x], scale * at[y], "o", color=paint, zorder=4, **ring)
    if not len(measured):
        ax.annotate("nothing recorded yet", (0.5, 0.5), xycoords="axes fraction", ha="center")
    return len(measured)


def _legend(figure, methods) -> None:
    handles = [
        Line2D([], [], color=_LOOKS[m][0], marker=_LOOKS[m][1],
               label=f"{NAMES[m]} ({_SYMBOLS[KNOBS[m]]})")
        for m in methods
    ]  # fmt: skip
    key(figure, handles)


@picture
def front_heights(outcomes: Mapping[str, list[Outcome]]):
    """Heights above PGD-AT's front: a dot per seed, mean and 95 % interval, a panel per budget.

    outcomes: {budget: `claims.above_the_front`}. A method without a height has the reason in words.
    """
    methods = list(dict.fromkeys(one.method for listed in outcomes.values() for one in listed))
    figure, axes = panels(len(outcomes), height=1.4 + 0.45 * len(methods), sharey=True, sharex=True)
    phrases = []
    for ax, (budget, listed) in zip(axes, outcomes.items(), strict=True):
        ax.axvline(0, color=NEUTRAL, linewidth=1)
        for one in listed:
            place = methods.index(one.method)
            paint, shape = _LOOKS[one.method]
            if one.verdict in (NOT_MEASURED, BEYOND):
                ax.annotate(
                    one.verdict,
                    (0.5, place),
                    xycoords=("axes fraction", "data"),
                    ha="center",
                    va="center",
                    color=GREY,
                    bbox={"facecolor": "white", "edgecolor": "none"},
                )
                phrases.append(f"{NAMES[one.method]} {one.verdict}")
                continue
            mean, low, high = (100 * value for value in one.interval)
            heights = 100 * np.array(list(one.heights.values()))
            ax.plot([low, high], [place, place], color=paint, linewidth=2)
            ax.plot(heights, [place] * len(heights), ".", color=paint, alpha=0.6)
            ax.plot(mean, place, shape, color=paint, markersize=8)
            interval = f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]".replace("-", "−")
            phrases.append(f"{NAMES[one.method]} {interval}")
        ax.set(title=f"At {_BUDGETS[budget]}", xlabel="height above PGD-AT's front (points)")
    if all(math.isnan(one.p) for listed in outcomes.values() for one in listed):
        axes[0].set_xlim(-5, 5)  # nothing is drawn that says how far it should reach
    axes[0].set_yticks(range(len(methods)), [NAMES[method] for method in methods])
    axes[0].set_ylim(len(methods) - 0.5, -0.5)
    alt = f"Heights above PGD-AT's front: {'; '.join(phrases)}."
    findings = [f"At {_BUDGETS[b]}: {in_words(listed)}" for b, listed in outcomes.items()]
    return figure, alt, " ".join(findings)
