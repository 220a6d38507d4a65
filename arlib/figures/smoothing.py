"""C5 and C7: feature changes block by block, Jacobians, flips, changes by radius and frequency."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arlib.claims import FACTOR, SHARE, Statistic, moves
from arlib.claims.declared import BLOCKS
from arlib.claims.values import clean
from arlib.figures.layers import by_depth, relative
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    by_strength,
    colour,
    legend,
    log_axis,
    marker,
    one_scale,
    panels,
    picture,
    strengths_of,
    words,
)


def _per_block(
    shown: list[tuple[str, str, pd.DataFrame]], *, strength: float | None = None, first: int = 1
):
    """Panels (title, label, statistic by block) against depth, log axis, a colour per strength.

    strength: draw only this one and 0, in the frame of all; first: number of the first block shown.
    """
    figure, axes = panels(len(shown), height=3.2)
    phrases, told = [], {}
    for ax, (title, label, wide) in zip(axes, shown, strict=True):
        chosen = [s for s in strengths_of(wide) if strength is None or s in (0, strength)]
        for s in chosen:
            by_strength(
                ax, first + np.arange(wide.shape[1]), {s: wide.xs(s, level="strength").to_numpy()}
            )
        ax.set_ylim(0.9 * wide.min(axis=None), 1.1 * wide.max(axis=None))
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set(title=title, xlabel="residual block", ylabel=label)
        phrases.append(
            f"{title} ({words(wide.median(axis=1).groupby('strength').mean().loc[chosen])})"
        )
        drawn = wide[wide.index.get_level_values("strength").isin(chosen)]
        told[f"{label} ({title.lower()})" if title.lower() != label else label] = drawn, FACTOR
    one_scale(axes)
    for ax in axes:
        log_axis(ax)
    legend(figure, chosen)
    finding = f"Median over blocks. {moves(told)}" if len(chosen) > 1 else ""
    return figure, "Medians over blocks by AR strength: " + "; ".join(phrases) + ".", finding


def _changes(records: pd.DataFrame, radius: float) -> dict[str, pd.DataFrame]:
    """{title: (seed, strength) × block} under random and adversarial δ."""
    table, titles = clean(records), {"random": "Random signs", "adversarial": "Adversarial"}
    shown = {}
    for kind, title in titles.items():
        setting = f"{kind}@{radius:g}"
        statistic = Statistic("", "feature_change", setting=setting, layers=BLOCKS)
        shown[f"{title}, radius {radius:g}/255"] = by_depth(table, statistic)
    return shown


@picture
def feature_change(records: pd.DataFrame, *, radius: float = 4, strength: float | None = None):
    """Normalised feature change of every residual block under random
    and adversarial δ of one radius.

    strength: draw only this AR strength and 0, as one frame of a slider.
    """
    shown = _changes(records, radius).items()
    return _per_block([(title, "feature change", wide) for title, wide in shown], strength=strength)


@picture
def feature_gain(records: pd.DataFrame, *, radius: float = 4):
    """Gain of every residual block but the first:
    its feature change over that of the block before it.
    """
    changes = _changes(records, radius)
    gains = {title: (wide / wide.shift(axis=1)).iloc[:, 1:] for title, wide in changes.items()}
    return _per_block(
        [(title, "gain over the block before", wide) for title, wide in gains.items()], first=2
    )


@picture
def change_per_block(records: pd.DataFrame, *, radius: float = 4):
    """Feature change of every residual block relative to AR strength 0;
    the grey band as in `spread_per_layer`.
    """
    changes = _changes(records, radius)
    return relative(changes, "feature change", "residual block", head="feature change, ")


@picture
def jacobian(records: pd.DataFrame, *, radius: float | None = None):
    """Jacobian from the input to every residual block:
    largest singular value, and how uneven directions are.

    radius: shows the unevenness of sign patterns of this radius too, adversarial over random
    feature change.
    """
    table = clean(records)
    shown = [
        (
            "Steepest direction",
            "largest singular value",
            by_depth(table, Statistic("", "jacobian_max", layers=BLOCKS)),
        ),
        (
            "Unevenness",
            "σ_max / (‖J‖_F/√rank)",
            by_depth(table, Statistic("", "jacobian_uniformity", layers=BLOCKS)),
        ),
    ]
    if radius is not None:
        random, adversarial = _changes(records, radius).values()
        both = (adversarial / random).dropna()
        shown.append((f"Unevenness, ±{radius:g}/255", "adversarial / random change", both))
    return _per_block(shown)


def _radius_axis(ax, radii: pd.Series) -> None:
    """A horizontal axis of radii, doubling from tick to tick."""
    ticks = sorted(radii.unique())
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [f"{radius:g}" for radius in ticks])
    ax.set_xlabel("radius (255·‖δ‖∞)")


@picture
def flip_rates(records: pd.DataFrame):
    """Share of predictions that flip against the radius of the change:
    PGD, uniform noise, random signs.
    """
    table = clean(records)
    rows = table[(table["statistic"] == "flip_rate") & (table["checkpoint"] == "last")]
    strengths = strengths_of(rows)
    rows = rows.assign(
        kind=rows["setting"].str.split("@").str[0],
        radius=rows["setting"].str.split("@").str[1].astype(float),
    )
    figure, axes = panels(3, sharey=True, height=3.0)
    for ax, (kind, title) in zip(
        axes, {"pgd": "PGD-20", "uniform": "uniform", "sign": "random signs"}.items(), strict=True
    ):
        for strength in strengths:
            part = rows[(rows["kind"] == kind) & (rows["strength"] == strength)]
            wide = part.pivot(index="radius", columns="seed", values="value")
            by_strength(ax, wide.index, {strength: wide.to_numpy().T})
        _radius_axis(ax, rows["radius"])
        label = "flip rate (share of images)" if ax is axes[0] else ""
        ax.set(title=title, ylabel=label)
    legend(figure, strengths)
    largest = (
        rows[(rows["kind"] == "pgd") & (rows["radius"] == rows["radius"].median())]
        .groupby("strength")["value"]
        .mean()
    )
    return (
        figure,
        "Flip rates against radius; under PGD at the middle radius by AR strength: "
        f"{words(largest)}.",
        _flipped(rows),
    )


def _flipped(rows: pd.DataFrame) -> str:
    """How the flip rates of each kind of change move, at the largest radius that all kinds have."""
    kinds = {"pgd": "PGD", "uniform": "uniform noise", "sign": "random signs"}
    common = set.intersection(*(set(rows.loc[rows["kind"] == k, "radius"]) for k in kinds))
    told = {}
    for kind, name in kinds.items() if common else ():
        part = rows[(rows["kind"] == kind) & (rows["radius"] == max(common))]
        rates = part.set_index(["seed", "strength"])["value"]
        told[f"flip rate under {name} of radius {max(common):g}/255"] = rates, SHARE
    return moves(told)


@picture
def change_by_radius(changes: pd.DataFrame):
    """Feature change against radius, of networks trained at several strengths:
    adversarial solid, random dashed.

    changes: columns strength, direction ("random", "adversarial"), radius (255·‖δ‖∞), layer,
    change.
    """
    layers, styles = list(dict.fromkeys(changes["layer"])), {"random": "--", "adversarial": "-"}
    figure, axes = panels(len(layers), sharey=True, height=3.1)
    for ax, layer in zip(axes, layers, strict=True):
        for (strength, direction), part in changes[changes["layer"] == layer].groupby(
            ["strength", "direction"]
        ):
            style = {
                "marker": marker(strength),
                "color": colour(strength),
                "linestyle": styles[direction],
            }
            ax.plot(part["radius"], part["change"], markersize=5, **style)
        _radius_axis(ax, changes["radius"])
        ax.set(title=layer, ylabel="feature change" if ax is axes[0] else "")
    for ax in axes:
        log_axis(ax)
    handles = [
        Line2D([], [], color=NEUTRAL, linestyle=line, label=name) for name, line in styles.items()
    ]
    legend(figure, sorted(changes["strength"].unique()), extra=handles)
    largest = (
        changes[changes["radius"] == changes["radius"].max()]
        .groupby(["direction", "strength"])["change"]
        .mean()
    )
    summary = ", ".join(
        f"{kind} at {strength:g}: {value:.3g}" for (kind, strength), value in largest.items()
    )
    return (
        figure,
        f"Feature change against radius; mean over blocks at the largest radius: {summary}.",
    )


@picture
def ratio_by_band(ratios: Mapping[str, Mapping[float, Sequence[float]]], bands: Sequence[str]):
    """Change relative to AR strength 0 in bands of spatial frequency: {layer:
    {strength: (bands,)}}.

    A flat line is a smoothing that is the same in all bands.
    """
    figure, axes = panels(len(ratios), sharey=True, height=2.9)
    phrases = []
    for ax, (layer, curves) in zip(axes, ratios.items(), strict=True):
        ax.axhline(1, color=GREY, linewidth=1)
        for strength, values in curves.items():
            ax.plot(
                range(len(bands)),
                values,
                color=colour(strength),
                marker=marker(strength),
                markersize=6,
            )
        ax.set_xticks(range(len(bands)), bands)
        ax.set(
            title=layer,
            xlabel="spatial frequency",
            ylim=(0, 1.1 * max(1, *(max(v) for v in curves.values()))),
        )
        ax.set_ylabel("change relative to AR strength 0" if ax is axes[0] else "")
        phrases += [
            f"{layer} at {s:g}: {', '.join(f'{v:.2f}' for v in values)}"
            for s, values in curves.items()
        ]
    legend(figure, sorted({strength for curves in ratios.values() for strength in curves}))
    return (
        figure,
        f"Feature change relative to AR strength 0 in bands {', '.join(bands)}. "
        f"{'; '.join(phrases)}.",
    )
