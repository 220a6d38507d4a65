"""C1 and C2: errors, losses and generalization gaps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from arlib.claims import SHARE, Statistic, moves
from arlib.errors import one_of
from arlib.figures.shared import row_of_panels
from arlib.figures.style import (
    NEUTRAL,
    colour,
    key,
    legend,
    log_axis,
    marker,
    panels,
    picture,
    strengths_of,
    words,
)

_KINDS = {
    "natural": ("train_error", "val_error"),
    "attacked": ("train_robust_error", "val_robust_error"),
}
_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"


@picture
def errors(records: pd.DataFrame, *, checkpoint: str = "last"):
    """Natural error on train and test images, and the gap between them, against AR strength."""
    at = {"checkpoint": checkpoint}
    train, test = (
        Statistic(f"{split} error", "error", split=split, percent=True, **at)
        for split in ("train", "test")
    )
    gap = Statistic("test − train error", "error", minus="train", percent=True, **at)
    return row_of_panels(
        records,
        [
            ("Train", _ERROR, train),
            ("Test", _ERROR, test),
            ("Test − train", "difference in error", gap),
        ],
    )


@picture
def cross_entropy(records: pd.DataFrame):
    """Cross-entropy on train and test images,
    and its gap before and after one temperature per network.
    """
    gap = Statistic("their gap", "ce", minus="train")
    scaled = Statistic("the gap at one temperature per network", "ce_scaled", minus="train")
    train, test = (
        Statistic(f"{split} cross-entropy", "ce", split=split) for split in ("train", "test")
    )
    apart = "difference in nats"
    shown = [("Train", _CE, train), ("Test", _CE, test), ("Test − train", apart, gap)]
    return row_of_panels(records, [*shown, ("Test − train, one temperature", apart, scaled)])


@picture
def gap_curves(histories: pd.DataFrame, *, strength: float | None = None):
    """Error by epoch on training (dashed) and validation images (solid),
    the gap between them shaded.

    histories: `Study.histories()`, or the history of a live run with columns strength and seed.
    Without strength: natural error, a panel for each AR strength. With it (a frame of a slider):
    natural error beside the error under the attack of that training; all frames have the same axes.
    Lines are means over seeds.
    """
    if "variant" in histories:
        histories = histories[histories["variant"] == ""]
    strengths = strengths_of(histories)
    if strength is None:
        figure, axes = panels(len(strengths), sharey=True, height=2.7)
        shown = [(s, "natural", f"AR strength {s:g}") for s in strengths]
    else:
        one_of("strength", strength, strengths)
        figure, axes = panels(2, sharey=True, height=3.0)
        shown = [
            (strength, "natural", "natural images"),
            (strength, "attacked", f"attacked at {strength:g}"),
        ]
    drawn = [name for kind in {kind for _, kind, _ in shown} for name in _KINDS[kind]]
    top = 1.05 * float(histories.groupby(["strength", "epoch"])[drawn].mean().max(axis=None))
    ends = {}
    for ax, (s, kind, title) in zip(axes, shown, strict=True):
        ends[title] = _gap(ax, histories[histories["strength"] == s], kind, colour(s))
        ax.set(title=title, xlabel="epoch", ylim=(0, top))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes[0].set_ylabel("error (share of images)")
    styles = {"training images": "--", "validation images": "-"}
    handles = [
        Line2D([], [], color=NEUTRAL, linestyle=style, label=label)
        for label, style in styles.items()
    ]
    key(figure, handles)
    summary = "; ".join(f"{title}: {gap:.3f}" for title, gap in ends.items())
    return (
        figure,
        "Training and validation error by epoch; validation − training error after the last "
        f"epoch: {summary}.",
        _ended(histories) if strength is None else "",
    )


def _ended(histories: pd.DataFrame) -> str:
    """How errors and gap of finished trainings move with AR strength."""
    ends = histories.sort_values("epoch").groupby(["seed", "strength"]).last()
    train, held = (ends[name] for name in _KINDS["natural"])
    return moves(
        {
            "training error after the last epoch": (train, SHARE),
            "validation error": (held, SHARE),
            "the gap between them": (held - train, SHARE),
        }
    )


def _gap(ax, histories: pd.DataFrame, kind: str, paint: str) -> float:
    train, held = (histories.groupby("epoch")[name].mean() for name in _KINDS[kind])
    ax.plot(train.index, train, "--", color=paint)
    ax.plot(held.index, held, "-", color=paint)
    ax.fill_between(held.index, train, held, color=paint, alpha=0.2, linewidth=0)
    return float(held.iloc[-1] - train.iloc[-1])


@picture
def gap_by_scale(
    factors: Sequence[float],
    gaps: Mapping[float, Sequence[float]],
    *,
    marked: Mapping[float, float] | None = None,
):
    """A cross-entropy gap against the factor that multiplies all logits,
    a curve for each AR strength.

    factors: (k,), rising; gaps: {strength: (k,)}; marked: {strength: factor}, drawn as points on
    the curves, for the factor 1/T of a fitted temperature T.
    """
    figure, (ax,) = panels(1, height=3.2)
    for strength, values in gaps.items():
        ax.plot(factors, values, color=colour(strength))
        if strength in (marked or {}):
            at = float(np.interp(marked[strength], factors, values))
            ax.plot(marked[strength], at, marker(strength), color=colour(strength), markersize=8)
    ax.axvline(1, color=NEUTRAL, linewidth=0.8, linestyle=":")
    ax.set_xscale("log")
    ax.set(
        xlabel="factor on all logits (dotted: as trained)",
        ylabel="test − train cross-entropy (nats)",
    )
    if min(map(min, gaps.values())) > 0:
        log_axis(ax)
    legend(figure, gaps)
    at_one = pd.Series({s: float(np.interp(1, factors, values)) for s, values in gaps.items()})
    return (
        figure,
        "Cross-entropy gap against a factor on the logits; at factor 1 by AR strength: "
        f"{words(at_one)}.",
    )
