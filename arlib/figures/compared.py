"""Any models side by side: what `arlib.compare` measured."""

import textwrap

import numpy as np

from arlib.errors import NotMeasured
from arlib.figures.style import NEUTRAL, colour, panels, picture

_PAINTS = ("#0F5FAF", "#DB7A1C", "#1E8C6E", "#A3123A", "#B97CE0", "#4A98CC")


def _widen(ax, largest: float) -> None:
    """At least a fifth of the largest value across,
    so that a difference in the third digit does not fill a panel.
    """
    low, high = ax.get_xlim()
    short = max(0.0, 0.2 * largest - (high - low)) / 2
    margin = 0.1 * (high - low)
    ax.set_xlim(low - short - margin, high + short + margin)


@picture
def compared(comparison):
    """Each quantity of a comparison in a panel, a dot per model,
    with the interval over images where there is one.

    Shaded, where there are any: what the book's recorded networks span, in the colours of their
    strengths.
    """
    whole = comparison.rows[comparison.rows["layer"] == ""]
    groups = list(whole.groupby(["quantity", "setting"], sort=False))
    if not groups:
        raise NotMeasured("nothing of these models was measured; see what was left out, and why.")
    labels = list(comparison.table.index)
    models = list(comparison.models)
    figure, axes = panels(len(groups), columns=3, height=1.25 + 0.28 * len(models))
    axes[0].set_ylabel("model")
    for ax, (key, part), label in zip(axes, groups, labels, strict=True):
        _shade(ax, comparison.band, *key)
        for place, model in enumerate(models):
            row = part[part["model"] == model]
            if len(row):
                value, low, high = row.iloc[0][["value", "low", "high"]].astype(float)
                spread = [[value - low], [high - value]] if np.isfinite([low, high]).all() else None
                ax.errorbar(
                    value,
                    place,
                    xerr=spread,
                    fmt="o",
                    color=_PAINTS[place % len(_PAINTS)],
                    capsize=3,
                )
        ax.set_yticks(
            range(len(models)), [textwrap.shorten(model, 18, placeholder="…") for model in models]
        )
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.set_xlabel("\n".join(textwrap.wrap(label, 32)), fontsize=9)
        ax.set_title(part["claim"].iloc[0], fontsize=9, color=NEUTRAL)
        _widen(ax, part["value"].abs().max())
    table = comparison.table[models]
    summary = "; ".join(
        f"{name}: " + ", ".join(f"{model} {row[model]}" for model in models)
        for name, row in table.iterrows()
    )
    shaded = "" if comparison.band is None else f" {comparison.band.about}"
    return figure, f"{len(groups)} quantities of {', '.join(models)}. {summary}.{shaded}"


def _shade(ax, band, quantity: str, setting: str) -> None:
    """What recorded networks span; a line where that is too narrow for an area."""
    for strength, (low, high) in ({} if band is None else band.of(quantity, setting)).items():
        ax.axvspan(low, high, color=colour(strength), alpha=0.18, lw=2)
