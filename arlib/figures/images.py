"""Distributions over test images: margins, instance margins, reliability."""

from collections import defaultdict
from collections.abc import Mapping

import numpy as np

from arlib.errors import NotMeasured, one_of
from arlib.figures.style import GREY, NEUTRAL, by_strength, colour, legend, panels, picture

_QUANTILES = np.linspace(0, 1, 101)


def collect(study) -> dict[tuple[float, int], dict[str, np.ndarray]]:
    """The arrays of a study's finished runs by (strength, seed), variants left out: what figures here take."""
    frame = study.records().drop_duplicates("run")
    frame = frame[frame["variant"] == ""]
    return {(row.strength, row.seed): study.arrays(row.run) for row in frame.itertuples()}


def of_strengths(arrays: Mapping, needed: str = "") -> dict[float, list[dict[str, np.ndarray]]]:
    """{strength: [arrays of its seeds]} from keys (strength, seed) or strength alone, in order.

    Runs without the array `needed` are left out; `NotMeasured` if none has it.
    """
    found = defaultdict(list)
    for key, value in arrays.items():
        if not needed or needed in value:
            found[key[0] if isinstance(key, tuple) else key].append(value)
    if not found:
        what = f" (no {needed.partition('|')[0]})" if needed else ""
        raise NotMeasured(f"nothing is recorded to draw{what}; run the study first.")
    return dict(sorted(found.items()))


def _together(runs: list[dict], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(run[name]) for run in runs])


def _margins(runs: list[dict], right: bool) -> np.ndarray:
    return _together(runs, "margin|test").astype(float)[_together(runs, "correct|test") == right]


@picture
def margin_distribution(arrays: Mapping, *, strength: float):
    """Margins m of right and wrong test predictions at one AR strength, in the frame of all of them (for a slider).

    arrays: {(strength, seed) or strength: arrays of the run}; seeds are pooled; grey: AR strength 0.
    """
    runs = of_strengths(arrays)
    one_of("strength", strength, list(runs))
    figure, (ax,) = panels(1, height=3.2)
    _histograms([ax], runs, [strength], bins=60)
    ax.set_ylabel("share of test images")
    ax.legend()
    return figure, f"Distribution of margins at AR strength {strength:g}: {_medians(runs[strength])} predictions."


@picture
def margin_distributions(arrays: Mapping):
    """The same for all AR strengths at once: small multiples with common axes, for the page and for print."""
    runs = of_strengths(arrays)
    figure, axes = panels(len(runs), sharex=True, sharey=True, height=2.5)
    _histograms(axes, runs, list(runs), bins=40)
    axes[0].set_ylabel("share of test images")
    axes[0].legend()
    said = "; ".join(f"{strength:g}: {_medians(group)}" for strength, group in runs.items())
    return figure, f"Distributions of margins of right and wrong predictions by AR strength: {said}."


def _histograms(axes, runs: Mapping, strengths: list[float], *, bins: int) -> None:
    """One panel a strength, in the frame of all: filled right, hatched wrong, grey all at the smallest strength."""
    everything = np.concatenate([_together(r, "margin|test").astype(float) for r in runs.values()])
    low, high = np.quantile(everything, [0.001, 0.999])
    edges = np.linspace(low, high, bins + 1)
    counts = {
        s: [_share(_margins(r, right), len(_together(r, "correct|test")), edges) for right in (True, False)]
        for s, r in runs.items()
    }
    top = max(part.max() for parts in counts.values() for part in parts)
    for ax, s in zip(axes, strengths, strict=True):
        ax.stairs(counts[min(runs)][0] + counts[min(runs)][1], edges, color=GREY, label=f"all, at {min(runs):g}")
        ax.stairs(counts[s][0], edges, color=colour(s), fill=True, alpha=0.75, label="right")
        ax.stairs(counts[s][1], edges, color=colour(s), fill=False, hatch="///", label="wrong")
        ax.axvline(0, color=NEUTRAL, linewidth=0.8)
        ax.set(xlabel="margin m (logits)", xlim=(low, high), ylim=(0, 1.15 * top), title=f"AR strength {s:g}")


def _medians(group: list[dict]) -> str:
    right, wrong = (np.abs(_margins(group, kind)) for kind in (True, False))
    parts = {"right": right, "wrong": wrong}
    return ", ".join(f"median |m| {np.median(part):.3g} of {name}" for name, part in parts.items() if len(part))


def _share(values: np.ndarray, of: int, bins: np.ndarray) -> np.ndarray:
    """Histogram as shares of all images; values outside fall into the outer bins."""
    return np.histogram(values.clip(bins[0], bins[-1]), bins)[0] / of


@picture
def margin_quantiles(arrays: Mapping):
    """Quantiles of |m| by AR strength, right and wrong test predictions apart and on images all nets get right."""
    runs = of_strengths(arrays)
    shared = np.logical_and.reduce([run["correct|test"] for group in runs.values() for run in group])
    kinds = {
        "Right": lambda run: run["correct|test"],
        "Wrong": lambda run: ~run["correct|test"],
        f"All nets right (n = {shared.sum()})": lambda run: shared,
    }
    figure, axes = panels(3, height=3.0)
    for ax, (title, chosen) in zip(axes, kinds.items(), strict=True):
        for strength, group in runs.items():
            rows = [np.abs(run["margin|test"].astype(float))[chosen(run)] for run in group]
            rows = [np.quantile(row, _QUANTILES) for row in rows if len(row)]
            if rows:
                by_strength(ax, _QUANTILES, {strength: np.stack(rows)}, every=20)
        ax.set(title=title, xlabel="share of these images", ylabel="|m| (logits)" if ax is axes[0] else "")
    legend(figure, runs)
    medians = ", ".join(
        f"{s:g}: {np.median(np.abs(_together(g, 'margin|test').astype(float))):.3g}" for s, g in runs.items()
    )
    return (
        figure,
        f"Quantiles of |m|, right and wrong predictions apart; medians over all test images by AR strength: {medians}.",
    )


@picture
def survival(arrays: Mapping, *, largest: float | None = None):
    """Share of test images whose instance margin (an upper bound) exceeds a radius, by AR strength.

    largest: end of the axis in 255·ε; by default where one image in a hundred is left.
    """
    runs = of_strengths(arrays, "instance_margin|test")
    everything = np.concatenate([_together(group, "instance_margin|test") for group in runs.values()])
    end = largest or max(255 * float(np.quantile(everything, 0.99)), 1.0)
    radii = np.linspace(0, end, 200)
    figure, (ax,) = panels(1, height=3.4)
    said = []
    for strength, group in runs.items():
        margins = [255 * run["instance_margin|test"].astype(float) for run in group]
        by_strength(ax, radii, {strength: np.stack([(m[:, None] > radii).mean(axis=0) for m in margins])}, every=40)
        said.append(f"{strength:g}: {np.median(np.concatenate(margins)):.3g}")
    counts = sorted({len(run["instance_margin|test"]) for group in runs.values() for run in group})
    ax.set(
        xlabel="radius r (255·ε)",
        ylabel=f"share with margin > r (n = {', '.join(map(str, counts))})",
        ylim=(0, 1),
        xlim=(0, end),
    )
    legend(figure, runs)
    return figure, f"Survival curves of instance margins; medians (255·ε) by AR strength: {', '.join(said)}."


@picture
def reliability(arrays: Mapping, *, bins: int = 15):
    """Accuracy against confidence in equal-mass bins, by AR strength: below the diagonal is over-confident."""
    runs = of_strengths(arrays)
    figure, (ax,) = panels(1, height=3.6)
    ax.plot([0, 1], [0, 1], color=GREY, linewidth=1)
    said = []
    for strength, group in runs.items():
        sure, right = _together(group, "max_softmax|test").astype(float), _together(group, "correct|test")
        parts = np.array_split(np.argsort(sure, kind="stable"), bins)
        points = np.array([(sure[part].mean(), right[part].mean()) for part in parts])
        by_strength(ax, points[:, 0], {strength: points[:, 1]})
        said.append(f"{strength:g}: confidence {sure.mean():.3f}, accuracy {right.mean():.3f}")
    ax.set(xlabel="mean max-softmax in the bin", ylabel="accuracy in the bin", xlim=(0, 1), ylim=(0, 1))
    legend(figure, runs)
    return figure, f"Reliability by AR strength, {bins} bins of equal mass, seeds pooled. {'; '.join(said)}."
