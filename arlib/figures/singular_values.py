"""C6: spectra of layers, their spread, and what a chapter measures itself of linear maps."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from arlib.claims import FACTOR, Statistic, claims_of, directions, moves
from arlib.claims.declared import CONVOLUTIONS
from arlib.claims.values import clean, values
from arlib.claims.words import OPERATORS
from arlib.errors import InputError, NotMeasured, one_of
from arlib.figures.layers import by_depth, depth, paired, relative
from arlib.figures.shared import of_strengths
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    STRENGTH,
    against_strength,
    by_strength,
    colour,
    key,
    legend,
    log_axis,
    one_scale,
    panels,
    picture,
    words,
)

_COLOURS = ("#0F5FAF", "#DB7A1C", "#1E8C6E", "#A3123A", "#B97CE0")
_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))


@picture
def spread_per_layer(records: pd.DataFrame, *, operator: str = "circular"):
    """Std and std/mean of every counted convolution's singular values, relative to AR strength 0.

    Points: a seed each; line: their geometric mean; grey band: how far two seeds of one strength
    differ (the largest ratio of each layer, both ways), which is the noise floor.
    """
    table, titles = clean(records), {"sv_std": "std", "sv_std_over_mean": "std / mean"}
    shown = {}
    for name, title in titles.items():
        statistic = Statistic("", name, split="", setting=operator, layers=CONVOLUTIONS)
        shown[f"{title} of singular values"] = by_depth(table, statistic)
    return relative(
        shown,
        f"spread of singular values ({OPERATORS.get(operator, operator)})",
        "convolution, by depth",
    )


@picture
def concentration(records: pd.DataFrame):
    """C6 in its parts, against AR strength: the spread of the weights' singular values, as they
    stand and with batch norm folded in, and how uneven the Jacobians at test images are.

    Medians over layers; a thin line per seed. Dashed: before training. What a study did not
    measure is left out.
    """
    table, parts = clean(records), claims_of(2)
    shown = {
        "weights (C6a)": (parts["C6a"].primary, "std"),
        "weights, without their scale": (parts["C6a"].twin, "std / mean"),
        "as applied (C6b)": (parts["C6b"].primary, "std / mean"),
        "at the data (C6c)": (parts["C6c"].primary, "σ_max / (‖J‖_F/√rank)"),
    }
    levels = {title: values(table, statistic) for title, (statistic, _) in shown.items()}
    shown = {title: what for title, what in shown.items() if not levels[title].empty}
    if not shown:
        raise NotMeasured("no spectra are recorded; run the study first.")
    figure, axes = panels(len(shown), columns=2, height=2.6)
    told, before = {}, []
    for ax, (title, (statistic, label)) in zip(axes, shown.items(), strict=True):
        against_strength(ax, levels[title].median(axis=1), label=label)
        ax.set_title(title)
        told[statistic.label] = levels[title], FACTOR
        start = values(table, statistic, "initial")
        if not start.empty:
            level = start.median(axis=1).mean()
            ax.axhline(level, color=GREY, linestyle="--")
            before.append(f"{statistic.label} {level:.3g}")
    one_scale(axes)
    if before:
        key(figure, [Line2D([], [], color=GREY, linestyle="--", label="before training")])
    alt = f"{len(shown)} panels against AR strength: {'; '.join(shown)}."
    finding = f"Median over layers. {moves(told)}"
    return figure, alt, finding + (f" Before training: {'; '.join(before)}." if before else "")


@picture
def operators(records: pd.DataFrame):
    """How much the choice of operator moves the statistic:
    median over layers, relative to AR strength 0.
    """
    table = clean(records)
    recorded = set(table.loc[table["statistic"] == "sv_std", "setting"])
    styles = dict(zip(OPERATORS, ("-", "--", (0, (5, 1, 1, 1, 1, 1)), ":", "-."), strict=True))
    figure, axes = panels(2, sharey=True, height=3.4)
    told = {}
    for ax, (name, title) in zip(
        axes, {"sv_std": "std", "sv_std_over_mean": "std / mean"}.items(), strict=True
    ):
        for operator in (o for o in OPERATORS if o in recorded):
            spread = by_depth(
                table, Statistic("", name, split="", setting=operator, layers=CONVOLUTIONS)
            )
            told.setdefault(title, {})[OPERATORS[operator]] = spread, FACTOR
            ratio = np.exp(_to_zero(np.log(spread)).groupby("strength").mean())
            places = np.arange(len(ratio))
            ax.plot(
                places,
                ratio,
                linestyle=styles[operator],
                color=NEUTRAL,
                label=OPERATORS[operator],
                zorder=1,
            )
            ax.scatter(places, ratio, c=[colour(s) for s in ratio.index], s=24, zorder=2)
        ax.set_xticks(places, [f"{s:g}" for s in ratio.index])
        ax.set(title=f"{title} of singular values", xlabel=STRENGTH)
        ax.set_ylabel("ratio to AR strength 0\n(median over layers)" if ax is axes[0] else "")
    key(figure, axes[0].get_legend_handles_labels()[0])
    ways = "; ".join(f"{title} {directions(by_operator)}" for title, by_operator in told.items())
    return (
        figure,
        f"Relative change with AR strength under {len(recorded & set(OPERATORS))} operators; last "
        f"drawn: {words(ratio)}.",
        f"To the largest strength, median over layers, by the 95 % interval over seeds: {ways}.",
    )


def _to_zero(wide: pd.DataFrame) -> pd.Series:
    """Median over layers of the log ratio to strength 0 of the same seed,
    index (seed, strength).
    """
    wide = paired(wide)
    seeds = wide.index.get_level_values("seed")
    return (wide - wide.xs(0.0, level="strength").loc[seeds].to_numpy()).median(axis=1)


@picture
def spectra(
    arrays: Mapping,
    *,
    layers: Sequence[str] | None = None,
    operator: str = "circular",
    strength: float | None = None,
):
    """Singular values of layers, sorted, by AR strength:
    quantiles from the largest to the smallest.

    arrays: {(strength, seed) or strength: arrays of the run}; layers: by default six through the
    depth of the network; strength: draw only this one and 0, as one frame of a slider.
    """
    runs = of_strengths(arrays)
    head, names = _recorded(arrays, operator)
    for name in layers or ():
        one_of("layer", name, names)
    layers = layers or _through(names)
    figure, axes = panels(len(layers), columns=3, height=2.5, sharey=True)
    top = max(float(run[head + name].max()) for name in layers for group in runs.values()
              for run in group)  # fmt: skip
    chosen = [s for s in runs if strength is None or s in (0, strength)]
    for ax, name in zip(axes, layers, strict=True):
        for s in chosen:
            rows = np.stack([run[head + name][::-1].astype(float) for run in runs[s]])
            by_strength(ax, np.linspace(0, 1, rows.shape[1]), {s: rows}, every=40)
        ax.set(
            title=name,
            xlabel="share of singular values",
            ylabel="singular value",
            ylim=(0, 1.05 * top),
        )
    legend(figure, chosen)
    summary = f"Sorted {OPERATORS.get(operator, operator)} singular values of {', '.join(layers)}"
    alt = f"{summary}, AR strengths {', '.join(f'{s:g}' for s in chosen)}."
    shown = {key: run for key, run in arrays.items() if _strength(key) in chosen}
    return figure, alt, _ends_of_spectra(shown, head, layers) if len(chosen) > 1 else ""


@picture
def spectra_ratios(
    arrays: Mapping,
    *,
    layers: Sequence[str] | None = None,
    operator: str = "circular",
    start: Mapping[str, np.ndarray] | None = None,
):
    """Sorted singular values of layers over those of the network of the same seed at AR strength 0.

    arrays: {(strength, seed): arrays of the run}; start: {layer: 201 quantiles, rising} of the
    untrained network, drawn dashed over the mean of strength 0. Curves that would coincide part
    here: 1 is no difference, a level line a change of scale alone. The smallest twentieth of the
    values is left out, where both may be next to nothing. Raises `NotMeasured` without a seed at
    strength 0 and another.
    """
    head, names = _recorded(arrays, operator)
    layers = layers or _through(names)
    plain = {seed: run for (s, seed), run in arrays.items() if s == 0}
    others = {(s, seed): run for (s, seed), run in arrays.items() if s > 0 and seed in plain}
    if not others:
        raise NotMeasured("no seed is recorded both at AR strength 0 and at another.")
    strengths = sorted({s for s, _ in others})
    figure, axes = panels(len(layers), columns=3, height=2.5, sharey=True)
    part = slice(None, 191)
    for ax, name in zip(axes, layers, strict=True):
        below = {seed: run[head + name][::-1].astype(float)[part] for seed, run in plain.items()}
        below = {seed: np.where(values > 0, values, np.nan) for seed, values in below.items()}
        shares = np.linspace(0, 1, 201)[part]
        for s in strengths:
            rows = [run[head + name][::-1].astype(float)[part] / below[seed]
                    for (at, seed), run in others.items() if at == s]  # fmt: skip
            by_strength(ax, shares, {s: np.stack(rows)}, every=40)
        if name in (start or {}):
            first = np.asarray(start[name], dtype=float)[::-1][part]
            ax.plot(shares, first / np.mean([*below.values()], axis=0), "--", color=GREY)
        ax.axhline(1, color=NEUTRAL, linewidth=0.8)
        ax.set(title=name, xlabel="share of singular values")
        ax.set_ylabel("ratio to AR strength 0" if ax is axes[0] else "")
    for ax in axes:
        log_axis(ax)
    dashed = Line2D([], [], color=GREY, linestyle="--", label="before training")
    legend(figure, strengths, extra=[dashed] if start else [])
    alt = f"Ratio of sorted {OPERATORS.get(operator, operator)} singular values to AR strength 0."
    told = _ends_of_spectra(arrays, head, layers)
    if not start:
        return figure, alt, told
    return figure, alt, f"{told} {_before_training(plain, start, head, layers)}"


def _before_training(
    plain: Mapping[int, Mapping], start: Mapping, head: str, layers: Sequence[str]
) -> str:
    """How the middle singular value of the untrained network compares, median over layers."""
    ratios = [
        np.median(start[layer])
        / np.mean([np.median(run[head + layer].astype(float)) for run in plain.values()])
        for layer in layers
        if layer in start
    ]
    return (
        f"Before training the middle one was × {np.median(ratios):.3g} of what it is at AR "
        "strength 0."
    )


def _recorded(arrays: Mapping, operator: str) -> tuple[str, list[str]]:
    """Where the quantiles of this operator stand in arrays, and of which layers, by depth."""
    head, first = f"quantiles|{operator}|", next(iter(arrays.values()), {})
    names = depth([key.removeprefix(head) for key in first if key.startswith(head)])
    if not names:
        raise NotMeasured(f"no spectra of operator {operator!r} are recorded in these arrays.")
    return head, names


def _through(names: Sequence[str]) -> list[str]:
    """Six layers through the depth of the network: convolutions of blocks, if there are any."""
    inside = [name for name in names if ".conv" in name] or list(names)
    return [inside[i] for i in np.unique(np.linspace(0, len(inside) - 1, 6).round().astype(int))]


def _strength(key: tuple[float, int] | float) -> float:
    return key[0] if isinstance(key, tuple) else key


def _ends_of_spectra(arrays: Mapping, head: str, layers: Sequence[str]) -> str:
    """How the largest and the middle singular value of these layers move, median over them."""
    index = pd.MultiIndex.from_tuples(
        [key[::-1] if isinstance(key, tuple) else (0, key) for key in arrays],
        names=["seed", "strength"],
    )
    told = {}
    for name, share in (("the largest singular value", 1.0), ("the middle one", 0.5)):
        rows = [
            [float(np.quantile(run[head + layer].astype(float), share)) for layer in layers]
            for run in arrays.values()
        ]
        told[name] = pd.DataFrame(rows, index=index, columns=list(layers)), FACTOR
    return f"Median over these {len(layers)} layers. {moves(told)}"


@picture
def symbol(kernel: Tensor, size: int):
    """Gain |ŵ(k)| of a one-channel kernel (k, k) at every frequency
    of a size × size map, and these sorted.
    """
    if kernel.ndim != 2 or max(kernel.shape) > size:
        raise InputError(
            f"kernel is {tuple(kernel.shape)}, size {size}; needed: (k, k) with k at most the size."
        )
    gain = torch.fft.fft2(kernel.double(), s=(size, size)).abs().numpy()
    figure, (left, right) = panels(2, height=3.6)
    half = (size - 1) // 2  # frequencies from −half upwards, 0 in the middle
    ends = (-half - 0.5, size - half - 0.5)
    image = left.imshow(
        np.roll(gain, (half, half), (0, 1)), extent=(*ends, *ends[::-1]), cmap="cividis"
    )
    left.set(title="gain of each wave", xlabel="frequency across", ylabel="frequency down")
    left.grid(False)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    figure.colorbar(image, ax=left, orientation="horizontal", shrink=0.8, label="gain |ŵ(k)|")
    ordered = np.sort(gain, axis=None)[::-1]
    right.plot(np.linspace(0, 1, len(ordered)), ordered, color=NEUTRAL)
    right.set(
        title="the same, sorted",
        xlabel="share of singular values",
        ylabel="singular value",
        ylim=(0, None),
    )
    span = f"from {ordered[-1]:.3g} to {ordered[0]:.3g}"
    return (
        figure,
        f"Gains of a {kernel.shape[0]}×{kernel.shape[1]} kernel on {size}² frequencies, {span}, "
        "and sorted.",
    )


@picture
def readings(layers: Mapping[str, Mapping[str, Tensor]]):
    """Sorted singular values of layers, each read in several ways: {layer:
    {reading: values (n,)}}.
    """
    figure, axes = panels(len(layers), height=2.9)
    phrases = []
    for ax, (layer, by_reading) in zip(axes, layers.items(), strict=True):
        for (name, spectrum), paint, line in zip(
            by_reading.items(), _COLOURS, _LINES, strict=False
        ):
            ordered = np.sort(np.asarray(spectrum.detach().cpu(), dtype=float))[::-1]
            ax.plot(
                np.linspace(0, 1, len(ordered)), ordered, color=paint, linestyle=line, label=name
            )
        ax.set(title=layer, xlabel="share of singular values", ylim=(0, None))
        ax.set_ylabel("singular value" if ax is axes[0] else "")
        spread = [
            f"{name} {float(spectrum.double().std(correction=0)):.3g}"
            for name, spectrum in by_reading.items()
        ]
        phrases.append(f"{layer}: {', '.join(spread)}")
    key(figure, axes[0].get_legend_handles_labels()[0])
    return figure, f"Sorted singular values in several readings; std: {'; '.join(phrases)}."


@picture
def estimates(table: pd.DataFrame):
    """Estimates with their intervals beside other readings: a row per layer, columns {reading:
    value} and intervals.

    table: index layer; a reading R is a column "R", with "R low" and "R high" beside it where it is
    an estimate.
    """
    names = [name for name in table.columns if not name.endswith((" low", " high"))]
    figure, (ax,) = panels(1, height=1.0 + 0.42 * len(table))
    for shift, name, paint in zip(
        np.linspace(-0.2, 0.2, len(names)), names, _COLOURS, strict=False
    ):
        places, value = np.arange(len(table)) + shift, table[name].to_numpy(dtype=float)
        sides = np.zeros((2, len(table)))
        if f"{name} low" in table:
            sides = np.stack([value - table[f"{name} low"], table[f"{name} high"] - value]).astype(
                float
            )
        ax.errorbar(
            value, places, xerr=sides, fmt="o", markersize=5, capsize=4, color=paint, label=name
        )
    ax.set_yticks(range(len(table)), table.index)
    ax.invert_yaxis()
    ax.set(xlabel="std of singular values", ylabel="layer")
    key(figure, ax.get_legend_handles_labels()[0])
    wide = [f"{layer} {row[names[0]]:.3g}" for layer, row in table.iterrows()]
    return (
        figure,
        f"Std of singular values of layers in {len(names)} readings; {names[0]}: "
        f"{', '.join(wide)}.",
    )
