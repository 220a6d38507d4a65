"""Figures of the benchmarks page: how cost grows, and how fast each contender is."""

import numpy as np
import pandas as pd
from matplotlib.ticker import NullLocator

from arlib.errors import NotMeasured
from arlib.figures.style import GREY, NEUTRAL, key, log_axis, panels, picture
from arlib.tables.sentences import WHO, fastest, longest_of_each

_COLOURS = ("#5F6773", "#0F5FAF", "#DB7A1C", "#A3123A")
_MARKERS = ("s", "o", "^", "D")
# What a table of speeds calls the rate, its least and its most, and who had it.
_RATES = (("images/s", "low", "high"), ("image-steps/s", "slowest", "fastest"))


@picture
def growth(table: pd.DataFrame):
    """Seconds and memory of one layer against channels and against map size, a line per method.

    table: columns channels, map, method, "wall s", MiB; one series varies channels on one map, the
    other the map.
    """
    fixed = table["map"].mode()[0], table["channels"].mode()[0]
    series = {
        "channels": table[table["map"] == fixed[0]],
        "map": table[table["channels"] == fixed[1]],
    }
    titles = {"channels": f"on {fixed[0]}×{fixed[0]} pixels", "map": f"with {fixed[1]} channels"}
    figure, axes = panels(4, height=2.7)
    for row, (column, label) in enumerate((("wall s", "seconds"), ("MiB", "memory, MiB"))):
        for place, (name, part) in enumerate(series.items()):
            ax = axes[2 * row + place]
            for (method, line), paint, mark in zip(
                part.groupby("method"), _COLOURS, _MARKERS, strict=False
            ):
                line = line.sort_values(name)
                ax.plot(
                    line[name], line[column], marker=mark, color=paint, markersize=5, label=method
                )
            ax.set_xscale("log", base=2)
            ticks = sorted(part[name].unique())
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.xaxis.set_minor_locator(NullLocator())
            ax.set(
                xlabel=name if name == "channels" else "side of the map",
                ylabel=label,
                title=titles[name],
            )
            log_axis(ax)
    key(figure, axes[0].get_legend_handles_labels()[0])
    about = "Seconds and memory of one layer against its channels and its map."
    return figure, about, f"{longest_of_each(table).capitalize()}."


@picture
def speeds(benchmark: dict | None):
    """Rate of every contender of a benchmark,
    with the slowest and the fastest round; one panel per network.

    found: as `tables.benchmarks.benchmark` gives it; the first of its tables that holds rates is
    drawn. Raises `NotMeasured` if there is none.
    """
    table, (rate, low, high), who = _first_rates(benchmark)
    networks = list(dict.fromkeys(table["network"])) if "network" in table else [""]
    most = max((table["network"] == name).sum() if name else len(table) for name in networks)
    figure, axes = panels(len(networks), columns=2, height=1.2 + 0.26 * most)
    for ax, network in zip(axes, networks, strict=True):
        part = (table[table["network"] == network] if network else table).iloc[::-1]
        sides = np.abs(np.stack([part[rate] - part[low], part[high] - part[rate]]).astype(float))
        for place, (name, value) in enumerate(zip(part[who], part[rate], strict=True)):
            ours = str(name).startswith("ours")
            ax.errorbar(value, place, xerr=sides[:, [place]], fmt="o" if ours else "s", capsize=3,
                        color=_COLOURS[1] if ours else NEUTRAL, ecolor=GREY)  # fmt: skip
        ax.set_yticks(range(len(part)), part[who])
        ax.set(xlabel=rate, title=network, ylabel=who if ax is axes[0] else "")
        ax.set_xlim(left=0)
    return (
        figure,
        f"{rate} of {len(table)} contenders, ours as blue points.",
        f"{fastest(table, rate, who)}.",
    )


def _first_rates(results: dict | None) -> tuple[pd.DataFrame, tuple[str, str, str], str]:
    for table in (results or {"tables": {}})["tables"].values():
        for rates in _RATES:
            who = next((name for name in WHO if name in table), None)
            if who and len(table) and set(rates) <= set(table):
                return table, rates, who
    raise NotMeasured("no table of speeds is recorded; run its benchmark.")
