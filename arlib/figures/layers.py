"""What figures of layers have in common: their order, one row per network, ratios to strength 0."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arlib.claims import FACTOR, Statistic, moves
from arlib.claims.values import values
from arlib.errors import NotMeasured
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    colour,
    legend,
    log_axis,
    marker,
    panels,
    strengths_of,
    words,
)


def depth(names: Sequence[str]) -> list[str]:
    """Layer names in the order of the network: numbers inside names count as numbers."""
    return sorted(
        names,
        key=lambda name: [
            int(p) if p.isdigit() else -1 for p in name.replace("conv", ".").split(".")
        ],
    )


def by_depth(table: pd.DataFrame, statistic: Statistic) -> pd.DataFrame:
    wide = values(table, statistic).dropna(axis="columns")
    strengths_of(wide)
    return wide[depth(wide.columns)]


def relative(shown: dict[str, pd.DataFrame], what: str, xlabel: str, *, head: str = ""):
    """Panels of layer statistics relative to AR strength 0, the noise floor as a band.

    head: what a panel's title lacks as the name of its statistic.
    """
    figure, axes = panels(len(shown), sharey=True, height=3.2)
    phrases, beyond = [], []
    for ax, (title, wide) in zip(axes, shown.items(), strict=True):
        share = ratios(ax, np.log(wide))
        beyond.append(f"{title}: {outside(np.log(wide))}")
        ax.set(title=title, xlabel=xlabel, ylabel="ratio to AR strength 0" if ax is axes[0] else "")
        ax.xaxis.get_major_locator().set_params(integer=True)
        phrases.append(
            f"{title}: smaller than at 0 in {words(100 * share, ' %')} of layers and seeds"
        )
    band = Line2D([], [], color=GREY, alpha=0.4, linewidth=7, label="seed against seed")
    legend(figure, [s for s in strengths_of(wide) if s > 0], extra=[band])
    told = moves({head + title: (wide, FACTOR) for title, wide in shown.items()})
    finding = f"Median over layers. {told} Outside the grey band: {'; '.join(beyond)}."
    return figure, f"{what[0].upper()}{what[1:]} by AR strength. {'; '.join(phrases)}.", finding


def outside(wide: pd.DataFrame) -> str:
    """In how many layers the mean ratio at the largest strength leaves what two seeds of one
    strength differ by: "9 of 9 layers at 8, all of them smaller".

    wide: logarithms, rows (seed, strength). Without two seeds of one strength there is no band.
    """
    wide = paired(wide)
    groups = wide.groupby(level="strength")
    if groups.size().max() < 2:
        return "not known without two seeds of one strength"
    spread = groups.agg(lambda column: column.max() - column.min()).max()
    largest = max(wide.index.get_level_values("strength"))
    mean = (wide.xs(largest, level="strength") - wide.xs(0.0, level="strength")).dropna().mean()
    left = mean[mean.abs() > spread]
    smaller = int((left < 0).sum())
    ways = f", {smaller} of them smaller" if len(left) else ""
    return f"{len(left)} of {len(mean)} layers at {largest:g}{ways}"


def ratios(ax, wide: pd.DataFrame) -> pd.Series:
    """Draw exp(log value − log value at 0) for each layer; the share below 1 by strength."""
    wide = paired(wide)
    depth, plain = np.arange(1, wide.shape[1] + 1), wide.xs(0.0, level="strength")
    spread = wide.groupby(level="strength").agg(lambda column: column.max() - column.min()).max()
    ax.fill_between(depth, np.exp(-spread), np.exp(spread), color=GREY, alpha=0.3, linewidth=0)
    ax.axhline(1, color=NEUTRAL, linewidth=1)
    shares = {}
    for strength, rows in wide[wide.index.get_level_values("strength") > 0].groupby(
        level="strength"
    ):
        ratio = (rows.droplevel("strength") - plain).dropna()
        for _, row in ratio.iterrows():
            ax.plot(
                depth,
                np.exp(row),
                marker(strength),
                color=colour(strength),
                markersize=2.5,
                alpha=0.5,
            )
        ax.plot(depth, np.exp(ratio.mean()), color=colour(strength))
        shares[strength] = float((ratio < 0).to_numpy().mean())
    log_axis(ax)
    return pd.Series(shares)


def paired(wide: pd.DataFrame) -> pd.DataFrame:
    """The rows of seeds that are there at AR strength 0, too;
    `NotMeasured` if that leaves nothing to compare.
    """
    strengths, seeds = (wide.index.get_level_values(name) for name in ("strength", "seed"))
    wide = wide[seeds.isin(seeds[strengths == 0])]
    if wide.index.get_level_values("strength").nunique() < 2:
        raise NotMeasured("no seed is recorded both at AR strength 0 and at another.")
    return wide
