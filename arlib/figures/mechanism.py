"""C8: the causal graph, every arm beside both of its ends, doses, weights beside features."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from arlib import claims
from arlib.claims.mechanism import SHORT, STATISTICS, in_order, title, two_digits
from arlib.errors import NotMeasured, one_of
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    Picture,
    colour,
    is_narrow,
    key,
    log_axis,
    panels,
    picture,
    row_label,
)

# name: (x, y, text)
_NODES = {
    "training": (0.09, 0.5, "adversarial\ntraining"),
    "weights": (0.36, 0.82, "even spectra\nof the weights"),
    "features": (0.36, 0.2, "features\nmove less"),
    "margins": (0.65, 0.5, "small\nmargins"),
    "accuracy": (0.91, 0.5, "lost\naccuracy"),
}
# number: (from, to, what could break it)
ARROWS: dict[int, tuple[str, str, str]] = {
    1: ("training", "weights", "C6"),
    2: ("training", "features", "C5"),
    3: ("weights", "features", "D"),
    4: ("weights", "margins", "D, Rescue"),
    5: ("features", "margins", "Smooth"),
    6: ("margins", "accuracy", "Temperature"),
}
"""The arrows of the paper's story: where each leads, and the test that could break it."""
STATES = {
    "stands": ("#2B7BBA", "solid"),
    "broken": ("#DB7A1C", (0, (1, 1.5))),
    "in part": ("#2B7BBA", (0, (5, 2))),
    "undecided": (GREY, (0, (5, 2))),
    "not measured": (GREY, "solid"),
}
_DOT = 5.5


@picture
def causal_graph(states: Mapping[int, str] | None = None):
    """The paper's story as a graph. states: number of an arrow -> one of `STATES`; without them
    each arrow has the test that could break it.
    """
    for state in (states or {}).values():
        one_of("state", state, STATES)
    figure = Picture(figsize=(4.0, 5.6) if is_narrow() else (7.6, 3.2))
    ax = figure.subplots()
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    # a phone reads the story downwards
    nodes = {n: (1 - y, 1 - x, text) if is_narrow() else (x, y, text)
             for n, (x, y, text) in _NODES.items()}  # fmt: skip
    half = (0.15, 0.055) if is_narrow() else (0.075, 0.1)
    for x, y, text in nodes.values():
        box = FancyBboxPatch(
            (x - half[0], y - half[1]), 2 * half[0], 2 * half[1], boxstyle="round,pad=0.01",
            facecolor="#F4F6F8", edgecolor=NEUTRAL, linewidth=1,
        )  # fmt: skip
        ax.add_patch(box)
        ax.text(x, y, text, ha="center", va="center", fontsize=9.5)
    phrases = []
    for number, (start, end, test) in ARROWS.items():
        state = None if states is None else states.get(number, "not measured")
        paint, style = (NEUTRAL, "solid") if state is None else STATES[state]
        draw = _downwards if is_narrow() else _arrow
        draw(ax, nodes[start][:2], nodes[end][:2], paint, style, f"{number}  {state or test}")
        place = f"{number} from {start} to {end}"
        phrases.append(f"{place}, {f'tested by {test}' if state is None else state}")
    about = f"The story as a graph; its arrows: {'; '.join(phrases)}."
    if states is None:
        return figure, about
    counts = {state: list(states.values()).count(state) for state in STATES}
    listed = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    return figure, about, f"Of the {len(ARROWS)} arrows: {listed}."


def _arrow(ax, start, end, paint, style, text: str) -> None:
    (x0, y0), (x1, y1) = start, end
    vertical = x0 == x1
    tail = (x0, y0 - 0.12) if vertical else (x0 + 0.088, y0)
    head = (x1, y1 + 0.12) if vertical else (x1 - 0.088, y1)
    line = {"color": paint, "linestyle": style, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=13, **line))
    middle = ((tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2)
    align = {"ha": "left", "va": "center"} if vertical else {"ha": "center", "va": "bottom"}
    back = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    # above the boxes where there is little room between them
    offset = (0.012, 0) if vertical else (0, 0.13 if y0 == y1 else 0.03)
    ax.text(middle[0] + offset[0], middle[1] + offset[1], text, fontsize=9, bbox=back, **align)


def _downwards(ax, start, end, paint, style, text: str) -> None:
    """An arrow of the story as a phone shows it, its words on it."""
    (x0, y0), (x1, y1) = start, end
    beside = y0 == y1
    tail = (x0 + 0.17, y0) if beside else (x0, y0 - 0.07)
    head = (x1 - 0.17, y1) if beside else (x1, y1 + 0.07)
    line = {"color": paint, "linestyle": style, "linewidth": 1.8, "shrinkA": 0, "shrinkB": 0}
    ax.add_patch(FancyArrowPatch(tail, head, arrowstyle="-|>", mutation_scale=13, **line))
    back = {"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85}
    x, y = (tail[0] + head[0]) / 2, (tail[1] + head[1]) / 2 + (0.04 if beside else 0)
    ax.text(x, y, text, fontsize=9, bbox=back, ha="center", va="center")


@picture
def dumbbells(records: pd.DataFrame, config=None):
    """Every arm: first whether what was imposed is there, then from where it started to where it
    came, in median |m| and in test error.

    A thin dot is a seed, a thick one the mean; hollow where the manipulation did not take. The
    lines are S′ and A′, the standard and the robust network trained on with nothing imposed. Raises
    `NotMeasured` unless S′ and A′ of a seed are there.
    """
    table = claims.arms_of(records, config)
    there = set(table.index.get_level_values("arm"))
    if not {"s", "a"} <= there:
        raise NotMeasured("S′ and A′ of one seed are needed first; run the study.")
    checks = claims.manipulations(records)
    arms = in_order(there)
    widths = {} if is_narrow() else {"width_ratios": (1, 1.5, 1.5)}
    figure, axes = panels(3, height=0.9 + 0.34 * len(arms), sharey=True, **widths)
    places = {arm: place for place, arm in enumerate(arms)}
    failed = set(checks.loc[~checks["holds"].astype(bool), "arm"])
    _check_panel(axes[0], checks, places)
    phrases = []
    for ax, name, factor in ((axes[1], "margin", 1), (axes[2], "error", 100)):
        numbers = factor * table[name].astype(float)
        means = numbers.groupby("arm").mean()
        for end, strength in (("s", 0), ("a", 8)):
            ax.axvline(means[end], color=colour(strength), linewidth=1, linestyle=(0, (4, 2)))
        for arm, place in places.items():
            begin = means["a" if arm == "rescue" else "s"]
            ax.plot([begin, means[arm]], [place, place], color=GREY, linewidth=2, zorder=2)
            ax.plot(numbers[arm], [place] * len(numbers[arm]), ".", color=GREY, markersize=4)
            paint = colour(8 if arm in ("a", "rescue") else 0)
            fill = "white" if arm in failed else paint
            ax.plot(means[arm], place, "o", markersize=_DOT, color=paint, markerfacecolor=fill,
                    zorder=4)  # fmt: skip
        if name == "margin":
            log_axis(ax, "x")
        phrases.append(f"{SHORT[name]}: " + ", ".join(f"{title(a)} {means[a]:.3g}" for a in arms))
    axes[1].set(xlabel="median |m| (log scale)", title="output margin")
    axes[2].set(xlabel="test error (%)", title="lost accuracy")
    axes[0].set(ylabel="arm", title="manipulation")
    axes[0].set_yticks(range(len(arms)), [row_label(title(arm)) for arm in arms])
    axes[0].set_ylim(len(arms) - 0.4, -0.6)
    return figure, f"Means over seeds. {'; '.join(phrases)}.", _ways(table, checks)


def _ways(table: pd.DataFrame, checks: pd.DataFrame) -> str:
    """What the dumbbells show, in a sentence."""
    means = table[["margin", "error"]].astype(float).groupby("arm").mean()
    seeds = table.index.get_level_values("seed").nunique()
    off = sorted(title(arm) for arm in set(checks.loc[~checks["holds"].astype(bool), "arm"]))
    ends = (
        f"From S′ to A′ median |m| goes from {means['margin']['s']:.3g} to "
        f"{means['margin']['a']:.3g} and test error from {100 * means['error']['s']:.1f} to "
        f"{100 * means['error']['a']:.1f} %"
    )
    taken = f"; what was to be imposed is not there in {', '.join(off)}" if off else ""
    return f"{ends}, over {seeds} seed{'s' * (seeds > 1)}; {len(means)} arms{taken}."


def _check_panel(ax, checks: pd.DataFrame, places: Mapping[str, int]) -> None:
    """How far off what was imposed is, in units of what is allowed."""
    ax.axvline(1, color=NEUTRAL, linewidth=1)
    allowed = checks["kind"].map({"spectra": 0.02, "features": 0.1})
    for arm, worst, holds in zip(
        checks["arm"], checks["worst"] / allowed, checks["holds"], strict=True
    ):
        shown = min(worst, 3.0)
        if arm in places:
            ax.plot(shown, places[arm], "D", markersize=4.5, color=NEUTRAL,
                    markerfacecolor=NEUTRAL if holds else "white")  # fmt: skip
    ax.set_xlim(-0.15, 3.15)
    ax.set(xlabel="off / allowed")


@picture
def doses(records: pd.DataFrame, config=None):
    """Median |m| and test error against the dose of the robust network's spectra; a line per seed.

    0 is S′, 1 is D. Raises `NotMeasured` where no seed has all five doses.
    """
    table = claims.doses(records, config)
    if table.empty:
        raise NotMeasured("no seed has all five doses; run the study first.")
    figure, axes = panels(2, columns=2, height=2.8)
    phrases = []
    for ax, (name, factor, label) in zip(
        axes, (("margin", 1, "median |m|"), ("error", 100, "test error (%)")), strict=True
    ):
        part = table[table["statistic"] == name]
        for _, line in part.groupby("seed"):
            ax.plot(line["dose"], factor * line["value"], color=colour(0), marker="o",
                    markersize=4, linewidth=1.2)  # fmt: skip
        ax.set(xlabel="dose of the robust spectra (log scale)", ylabel=label)
        ends = part.groupby("dose")["value"].mean()
        phrases.append(f"{label} from {factor * ends.iloc[0]:.3g} to {factor * ends.iloc[-1]:.3g}")
        if name == "margin":
            log_axis(ax)
    seeds = table["seed"].nunique()
    return (
        figure,
        "Two panels against the dose.",
        (f"From dose −1 to 1 {' and '.join(phrases)}, over {seeds} seed{'s' * (seeds > 1)}."),
    )


@picture
def weights_and_features(records: pd.DataFrame, config=None):
    """Reproduced shares of D (weights) and Smooth (features) side by side, for every statistic.

    Intervals where three seeds have them. Raises `NotMeasured` where neither is there.
    """
    table = claims.shares(records, config)
    table = table[table["arm"].isin(("d", "smooth"))]
    if table.empty:
        raise NotMeasured("neither D nor Smooth is recorded beside S′ and A′; run the study.")
    figure, (ax,) = panels(1, alone=7.6, height=3.3)
    names, phrases = list(STATISTICS), []
    for arm, paint, shape, shift in (
        ("d", colour(0), "s", -0.14),
        ("smooth", colour(4), "o", 0.14),
    ):
        part = table[table["arm"] == arm].set_index("statistic").reindex(names)
        y = np.arange(len(names)) + shift
        low, high = (part[end].astype(float).clip(-3, 3) for end in ("low", "high"))
        ax.hlines(y, low, high, color=paint, linewidth=2)
        ax.plot(part["share"].astype(float), y, shape, color=paint, markersize=6, label=title(arm))
        known = part["share"].dropna()
        phrases.append(
            f"{title(arm)}: " + ", ".join(f"{SHORT[n]} {two_digits(v)}" for n, v in known.items())
        )
    for share, style in ((0, "solid"), (0.25, (0, (1, 2))), (0.5, (0, (1, 2))), (1, "solid")):
        ax.axvline(share, color=NEUTRAL, linewidth=0.8, linestyle=style)
    ax.set_yticks(range(len(names)), [row_label(SHORT[name]) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set(xlabel="share of the way, S′ (0) to A′ (1)", ylabel="statistic")
    key(figure, ax.get_legend_handles_labels()[0])
    return figure, "Shares of D and Smooth.", f"Shares of the way: {'; '.join(phrases)}."
