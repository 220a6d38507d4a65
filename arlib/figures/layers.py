"""One number, or one spectrum, a layer: feature changes, Jacobians, singular values."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arlib.claims import Statistic
from arlib.claims.declared import BLOCKS, CONVOLUTIONS
from arlib.claims.values import clean, values
from arlib.errors import NotMeasured, one_of
from arlib.figures.images import of_strengths
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    STRENGTH,
    by_strength,
    colour,
    legend,
    log_axis,
    marker,
    panels,
    picture,
    strengths_of,
    words,
)

OPERATORS = {
    "circular": "circular",
    "circular+bn": "circular, BN folded",
    "circular+bn-natural": "… with natural BN statistics",
    "reshaped": "reshaped kernel",
    "zeros": "zero padding",
}


def _depth(names: Sequence[str]) -> list[str]:
    """Layer names in the order of the network: numbers inside names count as numbers."""
    return sorted(names, key=lambda name: [int(p) if p.isdigit() else -1 for p in name.replace("conv", ".").split(".")])


def _wide(table: pd.DataFrame, statistic: Statistic) -> pd.DataFrame:
    found = values(table, statistic).dropna(axis="columns")
    strengths_of(found)
    return found[_depth(found.columns)]


def _per_block(shown: list[tuple[str, str, pd.DataFrame]], *, strength: float | None = None, first: int = 1):
    """Panels (title, label, statistic by block) against depth, log axis, a colour a strength.

    strength: draw only this one and 0, in the frame of all; first: number of the first block shown.
    """
    figure, axes = panels(len(shown), height=3.2)
    said = []
    for ax, (title, label, wide) in zip(axes, shown, strict=True):
        chosen = [s for s in strengths_of(wide) if strength is None or s in (0, strength)]
        for s in chosen:
            by_strength(ax, first + np.arange(wide.shape[1]), {s: wide.xs(s, level="strength").to_numpy()})
        ax.set_ylim(0.9 * wide.min(axis=None), 1.1 * wide.max(axis=None))
        log_axis(ax)
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(title=title, xlabel="residual block", ylabel=label)
        said.append(f"{title} ({words(wide.median(axis=1).groupby('strength').mean().loc[chosen])})")
    legend(figure, chosen)
    return figure, "Medians over blocks by AR strength: " + "; ".join(said) + "."


def _changes(records: pd.DataFrame, radius: float) -> dict[str, pd.DataFrame]:
    """{title: (seed, strength) × block} under random and adversarial δ."""
    table, titles = clean(records), {"random": "Random signs", "adversarial": "Adversarial"}
    wide = lambda kind: _wide(table, Statistic("", "feature_change", setting=f"{kind}@{radius:g}", layers=BLOCKS))
    return {f"{title}, radius {radius:g}/255": wide(kind) for kind, title in titles.items()}


@picture
def feature_change(records: pd.DataFrame, *, radius: float = 4, strength: float | None = None):
    """Normalised feature change of every residual block under random and adversarial δ of one radius.

    strength: draw only this AR strength and 0, as one frame of a slider.
    """
    shown = _changes(records, radius).items()
    return _per_block([(title, "feature change", wide) for title, wide in shown], strength=strength)


@picture
def feature_gain(records: pd.DataFrame, *, radius: float = 4):
    """Gain of every residual block but the first: its feature change over that of the block before it."""
    changes = _changes(records, radius)
    gains = {title: (wide / wide.shift(axis=1)).iloc[:, 1:] for title, wide in changes.items()}
    return _per_block([(title, "gain over the block before", wide) for title, wide in gains.items()], first=2)


@picture
def change_per_block(records: pd.DataFrame, *, radius: float = 4):
    """Feature change of every residual block relative to AR strength 0; the grey band as in `spread_per_layer`."""
    return _relative(_changes(records, radius), "feature change", "residual block")


@picture
def jacobian(records: pd.DataFrame, *, radius: float | None = None):
    """Jacobian from the input to every residual block: largest singular value, and how uneven directions are.

    radius: shows the unevenness of sign patterns of this radius too, adversarial over random feature change.
    """
    table = clean(records)
    shown = [
        ("Steepest direction", "largest singular value", _wide(table, Statistic("", "jacobian_max", layers=BLOCKS))),
        ("Unevenness", "σ_max / (‖J‖_F/√rank)", _wide(table, Statistic("", "jacobian_uniformity", layers=BLOCKS))),
    ]
    if radius is not None:
        random, adversarial = _changes(records, radius).values()
        both = (adversarial / random).dropna()
        shown.append((f"Unevenness, ±{radius:g}/255", "adversarial / random change", both))
    return _per_block(shown)


@picture
def spread_per_layer(records: pd.DataFrame, *, operator: str = "circular"):
    """Std and std/mean of every counted convolution's singular values, relative to AR strength 0.

    Points: a seed each; line: their geometric mean; grey band: how far two seeds of one strength differ
    (the largest ratio of each layer, both ways), which is the noise floor.
    """
    table, titles = clean(records), {"sv_std": "std", "sv_std_over_mean": "std / mean"}
    of = lambda name: Statistic("", name, split="", setting=operator, layers=CONVOLUTIONS)
    shown = {f"{title} of singular values": _wide(table, of(name)) for name, title in titles.items()}
    return _relative(shown, f"spread of singular values ({OPERATORS.get(operator, operator)})", "convolution, by depth")


def _relative(shown: dict[str, pd.DataFrame], what: str, xlabel: str):
    """Panels of layer statistics relative to AR strength 0, the noise floor as a band."""
    figure, axes = panels(len(shown), sharey=True, height=3.2)
    said = []
    for ax, (title, wide) in zip(axes, shown.items(), strict=True):
        share = _ratios(ax, np.log(wide))
        ax.set(title=title, xlabel=xlabel, ylabel="ratio to AR strength 0" if ax is axes[0] else "")
        ax.xaxis.get_major_locator().set_params(integer=True)
        said.append(f"{title}: smaller than at 0 in {words(100 * share, ' %')} of layers and seeds")
    band = Line2D([], [], color=GREY, alpha=0.4, linewidth=7, label="seed against seed")
    legend(figure, [s for s in strengths_of(wide) if s > 0], extra=[band])
    return figure, f"{what[0].upper()}{what[1:]} by AR strength. {'; '.join(said)}."


def _ratios(ax, wide: pd.DataFrame) -> pd.Series:
    """Draw exp(log value − log value at 0) for each layer; the share below 1 by strength."""
    wide = _paired(wide)
    depth, plain = np.arange(1, wide.shape[1] + 1), wide.xs(0.0, level="strength")
    spread = wide.groupby(level="strength").agg(lambda column: column.max() - column.min()).max()
    ax.fill_between(depth, np.exp(-spread), np.exp(spread), color=GREY, alpha=0.3, linewidth=0)
    ax.axhline(1, color=NEUTRAL, linewidth=1)
    shares = {}
    for strength, rows in wide[wide.index.get_level_values("strength") > 0].groupby(level="strength"):
        ratio = (rows.droplevel("strength") - plain).dropna()
        for _, row in ratio.iterrows():
            ax.plot(depth, np.exp(row), marker(strength), color=colour(strength), markersize=2.5, alpha=0.5)
        ax.plot(depth, np.exp(ratio.mean()), color=colour(strength))
        shares[strength] = float((ratio < 0).to_numpy().mean())
    log_axis(ax)
    return pd.Series(shares)


def _paired(wide: pd.DataFrame) -> pd.DataFrame:
    """The rows of seeds that are there at AR strength 0, too; `NotMeasured` if that leaves nothing to compare."""
    strengths, seeds = (wide.index.get_level_values(name) for name in ("strength", "seed"))
    wide = wide[seeds.isin(seeds[strengths == 0])]
    if wide.index.get_level_values("strength").nunique() < 2:
        raise NotMeasured("no seed is recorded both at AR strength 0 and at another.")
    return wide


@picture
def operators(records: pd.DataFrame):
    """How much the choice of operator moves the statistic: median over layers, relative to AR strength 0."""
    table = clean(records)
    found = set(table.loc[table["statistic"] == "sv_std", "setting"])
    styles = dict(zip(OPERATORS, ("-", "--", (0, (5, 1, 1, 1, 1, 1)), ":", "-."), strict=True))
    figure, axes = panels(2, sharey=True, height=3.4)
    for ax, (name, title) in zip(axes, {"sv_std": "std", "sv_std_over_mean": "std / mean"}.items(), strict=True):
        for operator in (o for o in OPERATORS if o in found):
            wide = np.log(_wide(table, Statistic("", name, split="", setting=operator, layers=CONVOLUTIONS)))
            ratio = np.exp(_to_zero(wide).groupby("strength").mean())
            places = np.arange(len(ratio))
            ax.plot(places, ratio, linestyle=styles[operator], color=NEUTRAL, label=OPERATORS[operator], zorder=1)
            ax.scatter(places, ratio, c=[colour(s) for s in ratio.index], s=24, zorder=2)
        ax.set_xticks(places, [f"{s:g}" for s in ratio.index])
        ax.set(title=f"{title} of singular values", xlabel=STRENGTH)
        ax.set_ylabel("ratio to AR strength 0\n(median over layers)" if ax is axes[0] else "")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return (
        figure,
        f"Relative change with AR strength under {len(found & set(OPERATORS))} operators; last drawn: {words(ratio)}.",
    )


def _to_zero(wide: pd.DataFrame) -> pd.Series:
    """Median over layers of the log ratio to strength 0 of the same seed, index (seed, strength)."""
    wide = _paired(wide)
    seeds = wide.index.get_level_values("seed")
    return (wide - wide.xs(0.0, level="strength").loc[seeds].to_numpy()).median(axis=1)


@picture
def spectra(
    arrays: Mapping, *, layers: Sequence[str] | None = None, operator: str = "circular", strength: float | None = None
):
    """Singular values of layers, sorted, by AR strength: quantiles from the largest to the smallest.

    arrays: {(strength, seed) or strength: arrays of the run}; layers: by default six through the depth
    of the network; strength: draw only this one and 0, as one frame of a slider.
    """
    head, runs = f"quantiles|{operator}|", of_strengths(arrays)
    names = _depth([key.removeprefix(head) for key in next(iter(runs.values()))[0] if key.startswith(head)])
    if not names:
        raise NotMeasured(f"no spectra of operator {operator!r} are recorded in these arrays.")
    for name in layers or ():
        one_of("layer", name, names)
    counted = [name for name in names if ".conv" in name] or names
    layers = layers or [counted[i] for i in np.unique(np.linspace(0, len(counted) - 1, 6).round().astype(int))]
    figure, axes = panels(len(layers), columns=3, height=2.5)
    chosen = [s for s in runs if strength is None or s in (0, strength)]
    for ax, name in zip(axes, layers, strict=True):
        for s in chosen:
            rows = np.stack([run[head + name][::-1].astype(float) for run in runs[s]])
            by_strength(ax, np.linspace(0, 1, rows.shape[1]), {s: rows}, every=40)
        top = max(float(run[head + name].max()) for s in runs for run in runs[s])
        ax.set(title=name, xlabel="share of singular values", ylabel="singular value", ylim=(0, 1.05 * top))
    legend(figure, chosen)
    said = f"Sorted {OPERATORS.get(operator, operator)} singular values of {', '.join(layers)}"
    return figure, f"{said}, AR strengths {', '.join(f'{s:g}' for s in chosen)}."
