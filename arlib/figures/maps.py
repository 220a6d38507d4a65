"""What a chapter measures itself of linear maps and features: spectra, intervals, changes by radius and frequency."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from arlib.errors import InputError
from arlib.figures.style import GREY, NEUTRAL, colour, legend, log_axis, marker, panels, picture

_COLOURS = ("#0F5FAF", "#DB7A1C", "#1E8C6E", "#A3123A", "#B97CE0")
_LINES = ("-", "--", ":", "-.", (0, (5, 1, 1, 1)))


@picture
def symbol(kernel: Tensor, size: int):
    """Gain |ŵ(k)| of a one-channel kernel (k, k) at every frequency of a size × size map, and these sorted."""
    if kernel.ndim != 2 or max(kernel.shape) > size:
        raise InputError(f"kernel is {tuple(kernel.shape)}, size {size}; needed: (k, k) with k at most the size.")
    gain = torch.fft.fft2(kernel.double(), s=(size, size)).abs().numpy()
    figure, (left, right) = panels(2, height=3.6)
    half = (size - 1) // 2  # frequencies from −half upwards, 0 in the middle
    ends = (-half - 0.5, size - half - 0.5)
    image = left.imshow(np.roll(gain, (half, half), (0, 1)), extent=(*ends, *ends[::-1]), cmap="cividis")
    left.set(title="gain of each wave", xlabel="frequency across", ylabel="frequency down")
    left.grid(False)
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
    figure.colorbar(image, ax=left, orientation="horizontal", shrink=0.8, label="gain |ŵ(k)|")
    ordered = np.sort(gain, axis=None)[::-1]
    right.plot(np.linspace(0, 1, len(ordered)), ordered, color=NEUTRAL)
    right.set(title="the same, sorted", xlabel="share of singular values", ylabel="singular value", ylim=(0, None))
    said = f"from {ordered[-1]:.3g} to {ordered[0]:.3g}"
    return figure, f"Gains of a {kernel.shape[0]}×{kernel.shape[1]} kernel on {size}² frequencies, {said}, and sorted."


@picture
def readings(layers: Mapping[str, Mapping[str, Tensor]]):
    """Sorted singular values of layers, each read in several ways: {layer: {reading: values (n,)}}."""
    figure, axes = panels(len(layers), height=2.9)
    said = []
    for ax, (layer, found) in zip(axes, layers.items(), strict=True):
        for (name, values), paint, line in zip(found.items(), _COLOURS, _LINES, strict=False):
            ordered = np.sort(np.asarray(values.detach().cpu(), dtype=float))[::-1]
            ax.plot(np.linspace(0, 1, len(ordered)), ordered, color=paint, linestyle=line, label=name)
        ax.set(title=layer, xlabel="share of singular values", ylim=(0, None))
        ax.set_ylabel("singular value" if ax is axes[0] else "")
        spread = [f"{name} {float(values.double().std(correction=0)):.3g}" for name, values in found.items()]
        said.append(f"{layer}: {', '.join(spread)}")
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=len(handles[0]))
    return figure, f"Sorted singular values in several readings; std: {'; '.join(said)}."


@picture
def estimates(table: pd.DataFrame):
    """Estimates with their intervals beside other readings: a row a layer, columns {reading: value} and intervals.

    table: index layer; a reading R is a column "R", with "R low" and "R high" beside it where it is an estimate.
    """
    names = [name for name in table.columns if not name.endswith((" low", " high"))]
    figure, (ax,) = panels(1, height=1.0 + 0.42 * len(table))
    for shift, name, paint in zip(np.linspace(-0.2, 0.2, len(names)), names, _COLOURS, strict=False):
        places, value = np.arange(len(table)) + shift, table[name].to_numpy(dtype=float)
        sides = np.zeros((2, len(table)))
        if f"{name} low" in table:
            sides = np.stack([value - table[f"{name} low"], table[f"{name} high"] - value]).astype(float)
        ax.errorbar(value, places, xerr=sides, fmt="o", markersize=5, capsize=4, color=paint, label=name)
    ax.set_yticks(range(len(table)), table.index)
    ax.invert_yaxis()
    ax.set(xlabel="std of singular values", ylabel="layer")
    figure.legend(loc="outside upper center", ncols=len(names))
    wide = [f"{layer} {row[names[0]]:.3g}" for layer, row in table.iterrows()]
    return figure, f"Std of singular values of layers in {len(names)} readings; {names[0]}: {', '.join(wide)}."


@picture
def change_by_radius(changes: pd.DataFrame):
    """Feature change against radius, of networks trained at several strengths: adversarial solid, random dashed.

    changes: columns strength, direction ("random", "adversarial"), radius (255·‖δ‖∞), layer, change.
    """
    layers, styles = list(dict.fromkeys(changes["layer"])), {"random": "--", "adversarial": "-"}
    figure, axes = panels(len(layers), sharey=True, height=3.1)
    for ax, layer in zip(axes, layers, strict=True):
        for (strength, direction), part in changes[changes["layer"] == layer].groupby(["strength", "direction"]):
            style = {"marker": marker(strength), "color": colour(strength), "linestyle": styles[direction]}
            ax.plot(part["radius"], part["change"], markersize=5, **style)
        ax.set_xscale("log", base=2)
        radii = sorted(changes["radius"].unique())
        ax.set_xticks(radii, [f"{radius:g}" for radius in radii])
        ax.set(title=layer, xlabel="radius (255·‖δ‖∞)", ylabel="feature change" if ax is axes[0] else "")
    for ax in axes:
        log_axis(ax)
    handles = [Line2D([], [], color=NEUTRAL, linestyle=line, label=name) for name, line in styles.items()]
    legend(figure, sorted(changes["strength"].unique()), extra=handles)
    largest = changes[changes["radius"] == changes["radius"].max()].groupby(["direction", "strength"])["change"].mean()
    said = ", ".join(f"{kind} at {strength:g}: {value:.3g}" for (kind, strength), value in largest.items())
    return figure, f"Feature change against radius; mean over blocks at the largest radius: {said}."


@picture
def ratio_by_band(ratios: Mapping[str, Mapping[float, Sequence[float]]], bands: Sequence[str]):
    """Change relative to AR strength 0 in bands of spatial frequency: {layer: {strength: (bands,)}}.

    A flat line is a smoothing that is the same in all bands.
    """
    figure, axes = panels(len(ratios), sharey=True, height=2.9)
    said = []
    for ax, (layer, found) in zip(axes, ratios.items(), strict=True):
        ax.axhline(1, color=GREY, linewidth=1)
        for strength, values in found.items():
            ax.plot(range(len(bands)), values, color=colour(strength), marker=marker(strength), markersize=6)
        ax.set_xticks(range(len(bands)), bands)
        ax.set(title=layer, xlabel="spatial frequency", ylim=(0, 1.1 * max(1, *(max(v) for v in found.values()))))
        ax.set_ylabel("change relative to AR strength 0" if ax is axes[0] else "")
        said += [f"{layer} at {s:g}: {', '.join(f'{v:.2f}' for v in values)}" for s, values in found.items()]
    legend(figure, sorted({strength for found in ratios.values() for strength in found}))
    return figure, f"Feature change relative to AR strength 0 in bands {', '.join(bands)}. {'; '.join(said)}."
