"""One number a network against AR strength: errors, losses, confidence, the four effects, flips, attacks."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D

from arlib.claims import CLAIMS, PARTS, Config, Statistic, claims_of
from arlib.claims.values import clean, values
from arlib.errors import InputError
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    against_strength,
    by_strength,
    colour,
    legend,
    marker,
    panels,
    picture,
    strengths_of,
    words,
)

_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"


def _values(table: pd.DataFrame, statistic: Statistic) -> pd.Series:
    """One number a run, index (seed, strength); medians over the layers of layer statistics."""
    found = values(table, statistic)
    strengths_of(found)
    return found.median(axis=1)


def _row(records: pd.DataFrame, shown: list[tuple]):
    """A panel for each (title, axis label, statistic[, factor]), and the sentence that says what they show."""
    table = clean(records)
    figure, axes = panels(len(shown))
    said = []
    for ax, (title, label, statistic, *factor) in zip(axes, shown, strict=True):
        found = _values(table, statistic) * (factor or [1])[0]
        against_strength(ax, found, label=label)
        ax.set_title(title)
        said.append(f"{title} ({words(found.groupby('strength').mean())})")
    return figure, "Means over seeds by AR strength: " + "; ".join(said) + "."


@picture
def four_effects(records: pd.DataFrame, config: Config | dict | None = None):
    """The abstract in four panels: confidence, feature change, margins, natural error, against AR strength."""
    names = {"C3": "max-softmax", "C5": "feature change", "C4": "margin |m| (logits)", "C1": _ERROR}
    titles = {"C3": "Less confident?", "C5": "Smoother?", "C4": "Nearer the boundary?", "C1": "Less accurate?"}
    shown = [(titles[c], label, CLAIMS[c].primary.at(Config.of(config))) for c, label in names.items()]
    return _row(records, shown)


@picture
def errors(records: pd.DataFrame, *, checkpoint: str = "last"):
    """Natural error on train and test images, and the gap between them, against AR strength."""
    at = {"checkpoint": checkpoint}
    train, test = (Statistic("", "error", split=split, **at) for split in ("train", "test"))
    gap = Statistic("", "error", minus="train", **at)
    return _row(
        records, [("Train", _ERROR, train), ("Test", _ERROR, test), ("Test − train", "difference in error", gap)]
    )


@picture
def cross_entropy(records: pd.DataFrame):
    """Cross-entropy on train and test images, and its gap before and after one temperature a network."""
    gap, scaled = (Statistic("", name, minus="train") for name in ("ce", "ce_scaled"))
    train, test = (Statistic("", "ce", split=split) for split in ("train", "test"))
    shown = [("Train", _CE, train), ("Test", _CE, test), ("Test − train", _CE, gap)]
    return _row(records, [*shown, ("Test − train, one temperature", _CE, scaled)])


@picture
def confidence(records: pd.DataFrame):
    """Mean max-softmax, signed over-confidence before and after temperature scaling, calibration error."""
    shown = {
        "max_softmax": ("Confidence", "mean max-softmax"),
        "overconfidence": ("Over-confidence", "max-softmax − accuracy"),
        "overconfidence_scaled": ("… after scaling", "max-softmax − accuracy"),
        "ece": ("Calibration error", "ECE"),
    }
    return _row(records, [(title, label, Statistic("", name)) for name, (title, label) in shown.items()])


@picture
def margin_medians(records: pd.DataFrame):
    """Output margins, raw and scale-free, and instance margins: they may move in opposite directions."""
    shown = [
        ("Output margin", "median |m| (logits)", Statistic("", "median_abs_margin")),
        ("… free of scale", "median |m|/R", Statistic("", "median_abs_margin_scalefree")),
        ("Instance margin (≤)", "median (255·ε)", Statistic("", "instance_margin_median"), 255),
    ]
    return _row(records, shown)


@picture
def robust_errors(records: pd.DataFrame, *, setting: str = "pgd-10@8"):
    """Error under attack on train and test images and the robust gap, at one radius for every network."""
    train, test = (Statistic("", "robust_error", split=split, setting=setting) for split in ("train", "test"))
    gap = Statistic("", "robust_error", minus="train", setting=setting)
    label = f"error under {setting}"
    return _row(records, [("Train", label, train), ("Test", label, test), ("Test − train", "difference in error", gap)])


@picture
def training_curves(histories: pd.DataFrame):
    """Error by epoch: natural on train and validation images, and under attack on validation images."""
    if "variant" in histories:
        histories = histories[histories["variant"] == ""]
    strengths = strengths_of(histories)
    columns = {"train_error": "Train", "val_error": "Validation", "val_robust_error": "Validation, attacked"}
    figure, axes = panels(3, sharey=True, height=3.0)
    for ax, (column, title) in zip(axes, columns.items(), strict=True):
        for strength in strengths:
            wide = histories[histories["strength"] == strength].pivot(index="epoch", columns="seed", values=column)
            by_strength(ax, wide.index, {strength: wide.to_numpy().T}, every=max(1, len(wide) // 6))
        ax.set(title=title, xlabel="epoch", ylabel=_ERROR if ax is axes[0] else "")
    legend(figure, strengths)
    last = histories[histories["epoch"] == histories["epoch"].max()].groupby("strength")["val_error"].mean()
    said = f"Training curves; validation error after the last epoch by AR strength: {words(last)}."
    return figure, said + " The attack is at the trained strength; at 0 it is none."


@picture
def flip_rates(records: pd.DataFrame):
    """Share of predictions that flip against the radius of the change: PGD, uniform noise, random signs."""
    table = clean(records)
    rows = table[(table["statistic"] == "flip_rate") & (table["checkpoint"] == "last")]
    strengths = strengths_of(rows)
    rows = rows.assign(
        kind=rows["setting"].str.split("@").str[0], radius=rows["setting"].str.split("@").str[1].astype(float)
    )
    figure, axes = panels(3, sharey=True, height=3.0)
    for ax, (kind, title) in zip(
        axes, {"pgd": "PGD-20", "uniform": "uniform", "sign": "random signs"}.items(), strict=True
    ):
        for strength in strengths:
            part = rows[(rows["kind"] == kind) & (rows["strength"] == strength)]
            wide = part.pivot(index="radius", columns="seed", values="value")
            by_strength(ax, wide.index, {strength: wide.to_numpy().T})
        ax.set_xscale("log", base=2)
        radii = sorted(rows["radius"].unique())
        ax.set_xticks(radii, [f"{radius:g}" for radius in radii])
        ax.set(title=title, xlabel="radius (255·‖δ‖∞)", ylabel="flip rate (share of images)" if ax is axes[0] else "")
    legend(figure, strengths)
    largest = (
        rows[(rows["kind"] == "pgd") & (rows["radius"] == rows["radius"].median())].groupby("strength")["value"].mean()
    )
    return figure, f"Flip rates against radius; under PGD at the middle radius by AR strength: {words(largest)}."


@picture
def matched_fit(points: pd.DataFrame, claim: str | None = None):
    """Statistics against natural train cross-entropy: standard nets that are less trained, AT nets at their end.

    points: `claims.trajectories(records, config)`; claim: C2 to C7, or by protocol 2 also C1 and parts of claims (of a
    whole claim all its parts), by default all in small multiples.
    """
    points = points if claim is None else points[points["claim"].isin((claim, *PARTS.get(claim, ())))]
    strengths, shown = strengths_of(points), sorted(points["claim"].unique())
    less = points.attrs.get("standard", "along training")
    figure, axes = panels(len(shown), columns=3, height=2.9)
    for ax, name in zip(axes, shown, strict=True):
        part = points[points["claim"] == name]
        if part["train_ce"].max() > 30 * part["train_ce"].min() > 0:
            ax.set_xscale("log")
        for _, path in part[part["kind"] == "standard"].groupby("seed"):
            ax.plot(path["train_ce"], path["value"], color=colour(0), linewidth=1, marker="o", markersize=3)
        for strength, nets in part[part["kind"] == "AT"].groupby("strength"):
            ax.plot(nets["train_ce"], nets["value"], marker(strength), color=colour(strength), markersize=7)
        ax.set(
            title=fill(f"{name} {claims_of(2)[name].title}", 24),
            xlabel="natural train CE (nats)",
            ylabel=_wrapped(name, part),
        )
    legend(
        figure,
        [s for s in strengths if s > 0],
        extra=[Line2D([], [], color=colour(0), marker="o", markersize=3, label=f"0, {less}")],
    )
    said = f"standard nets {less} as lines, adversarially trained nets as points, at their train cross-entropy"
    return figure, f"{', '.join(shown)}: {said}."


def _wrapped(claim: str, part: pd.DataFrame) -> str:
    label = part["statistic"].iloc[0].replace(" on test images", "")
    return fill(label, 28) + ("\n(ratio to finished at 0)" if claims_of(2)[claim].primary.layers else "")


@picture
def attack_ladder(table: pd.DataFrame):
    """Accuracy under attacks of growing strength with 95 % intervals.

    table: rows of `attacks.evaluate(...).table` at one ε (attack, accuracy, low, high, n), weakest first;
    a column strength gives one set of points for each network.
    """
    table = table if "strength" in table else table.assign(strength=0.0)
    if table.duplicated(["attack", "strength"]).any():
        raise InputError("attack_ladder needs one row for each attack and strength: select one eps first.")
    strengths, attacks = strengths_of(table), list(dict.fromkeys(table["attack"]))
    figure, (ax,) = panels(1, height=1.2 + 0.35 * len(attacks))
    for shift, strength in zip(np.linspace(-0.15, 0.15, len(strengths)), strengths, strict=True):
        part = table[table["strength"] == strength].set_index("attack").reindex(attacks)
        spread = np.abs(part[["low", "high"]].to_numpy().T - part["accuracy"].to_numpy())
        style = {"color": colour(strength), "fmt": marker(strength), "capsize": 3}
        ax.errorbar(part["accuracy"], np.arange(len(attacks)) + shift, xerr=spread, **style)
    ax.set_yticks(range(len(attacks)), attacks)
    ax.invert_yaxis()
    counts = sorted(set(table["n"])) if "n" in table else []
    ax.set(xlabel="accuracy" + (f" (n = {', '.join(map(str, counts))} images)" if counts else ""), ylabel="attack")
    if len(strengths) > 1:
        legend(figure, strengths)
    said = "; ".join(f"{row.attack} at AR strength {row.strength:g}: {row.accuracy:.3f}" for row in table.itertuples())
    return figure, f"Accuracy under each attack: {said}."


_VERDICTS = {
    "supported": "#BFDDF2",
    "supported, scale only": "#DDEBF5",
    "features only": "#DDEBF5",
    "raw weights only": "#DDEBF5",
    "no gap to regularise": "#E9EBEE",
    "–": "#FFFFFF",
    "contradicted": "#F6C9A3",
    "mixed": "#E4D3F2",
    "undecided": "#E9EBEE",
    "not measured": "#FFFFFF",
}


@picture
def verdict_strip(by_study: pd.DataFrame | Mapping[str, pd.DataFrame]):
    """Verdicts as a table of coloured words: a row a claim, a column a study.

    by_study: what `claims.verdicts` returns, or a mapping of study name to that. The parts of a claim have rows
    where some study is of protocol 2; in one of protocol 1 they are "–".
    """
    frames = {"verdict": by_study} if isinstance(by_study, pd.DataFrame) else dict(by_study)
    names = [f"{name} (toy)" if frame["toy"].any() else name for name, frame in frames.items()]
    first = max(frames.values(), key=len)
    verdicts = {name: frame.set_index("claim")["verdict"].reindex(first["claim"], fill_value="–")
                for name, frame in frames.items()}  # fmt: skip
    figure, (ax,) = panels(1, height=0.5 + 0.32 * len(first))
    figure.set_figwidth(3.2 + 2.0 * len(frames))
    for column, found in enumerate(verdicts.values()):
        for row, verdict in enumerate(found):
            ax.fill([column, column + 1, column + 1, column], [row, row, row + 1, row + 1], color=_VERDICTS[verdict])
            ax.text(column + 0.5, row + 0.5, verdict, ha="center", va="center", fontsize=9, color=NEUTRAL)
    ax.set(xlim=(0, len(frames)), ylim=(len(first), 0), xlabel="study", ylabel="claim")
    ax.set_xticks(np.arange(len(frames)) + 0.5, names)
    ax.set_yticks(np.arange(len(first)) + 0.5, first["claim"] + " " + first["title"])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.grid(False)
    for edge in range(len(first) + 1):
        ax.axhline(edge, color=GREY, linewidth=0.5)
    said = [
        f"{name}: " + ", ".join(f"{claim} {verdict}" for claim, verdict in found.items())
        for name, found in zip(names, verdicts.values(), strict=True)
    ]
    return figure, "Verdicts. " + "; ".join(said) + "."
