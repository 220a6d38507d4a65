"""The first page: what the paper's story turns on, and all effects with their intervals."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from arlib.claims import CLAIMS, NOT_MEASURED, PARTS, Config, Interval, claims_of
from arlib.errors import NotMeasured
from arlib.figures.margins import moves_of_shared, shared_margins
from arlib.figures.shared import row_of_panels
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    STRENGTH,
    colour,
    is_narrow,
    key,
    marker,
    panels,
    picture,
    row_label,
)

_ERROR, _CE = "error (share of images)", "cross-entropy (nats)"
_DISTANCES = {
    "instance": ("distance to the boundary", 4),
    "output": ("lead of the right logit", 2),
    "slope": ("logits lost per step", 64),
}
# colours of verdicts that can stand as a marker on white
_DECIDED = {"supported": colour(4), "contradicted": colour(8)}
_DIFFERENCES, _FACTORS = "difference", "factor"


@picture
def four_effects(records: pd.DataFrame, config: Config | dict | None = None):
    """The abstract in four panels: confidence, feature change, margins, natural error,
    against AR strength.
    """
    names = {"C3": "max-softmax", "C5": "feature change", "C4": "margin |m| (logits)", "C1": _ERROR}
    titles = {
        "C3": "Less confident?",
        "C5": "Smoother?",
        "C4": "Nearer the boundary?",
        "C1": "Less accurate?",
    }
    shown = [
        (titles[c], label, CLAIMS[c].primary.at(Config.of(config))) for c, label in names.items()
    ]
    return row_of_panels(records, shown)


def distances(arrays: Mapping) -> tuple[int, pd.DataFrame]:
    """What adversarial training does to the two margins and the slope between them, as factors.

    arrays: {(strength, seed): arrays of the run}. Returns the number of images (those that every
    network gets right), and the medians of `shared_margins` as factors to strength 0 of the same
    seed: a row per run (index seed, strength), columns output, instance, slope.
    Raises `NotMeasured` where no seed has both strength 0 and another.
    """
    images, medians = shared_margins(arrays)
    plain = medians.xs(0.0, level="strength") if (0.0 in medians.index.levels[1]) else None
    if plain is None:
        raise NotMeasured("no network of AR strength 0 is recorded to compare with.")
    whole = medians[medians.index.get_level_values("seed").isin(plain.index)]
    if len(whole) == len(plain):
        raise NotMeasured("no seed has both AR strength 0 and another; run the study first.")
    base = plain.reindex(whole.index.get_level_values("seed"))
    return images, whole / base.to_numpy()


@picture
def three_distances(arrays: Mapping):
    """The two margins and the slope between them on the same images, as factors to strength 0."""
    images, factors = distances(arrays)
    _, medians = shared_margins(arrays)
    figure, (ax,) = panels(1, alone=7.6, height=3.6)
    strengths = sorted(factors.index.get_level_values("strength").unique())
    places = np.arange(len(strengths))
    for name, (label, like) in _DISTANCES.items():
        wide = factors[name].unstack("strength")[strengths]
        mean = np.exp(np.log(wide).mean())
        for _, row in wide.iterrows():
            ax.plot(places, row, color=colour(like), linewidth=0.7, alpha=0.4)
        ax.plot(places, mean, color=colour(like), marker=marker(like), markersize=6)
        last = mean.iloc[-1]
        ax.annotate(
            f"{label}\n× {last:.2g}",
            (places[-1], last),
            xytext=(10, 0),
            textcoords="offset points",
            va="center",
            color=colour(like),
        )
    ax.axhline(1, color=NEUTRAL, linewidth=0.8)
    ax.set_yscale("log")
    ax.set_xticks(places, [f"{s:g}" for s in strengths])
    room = (2.4 if is_narrow() else 1) * 0.55 * len(places) / 2  # for the words at the lines' ends
    ax.set_xlim(-0.2, len(places) - 1 + room)
    ax.set(xlabel=STRENGTH, ylabel="factor to ordinary training (log scale)")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    alt = "Three lines against AR strength on a logarithmic axis, all from 1 at ordinary training."
    return figure, alt, f"{moves_of_shared(medians)} All on the same {images} images."


@picture
def forest(verdicts: pd.DataFrame):
    """Every measured claim's effect with its 95 % interval, of claims with parts each part's:
    differences left, factors right.

    verdicts: what `claims.verdicts` returns. Factors are on a log scale; an arrow at the left of a
    row says which way the paper expects it to move. Raises `NotMeasured` if nothing is.
    """
    measured = verdicts[verdicts["primary_verdict"] != NOT_MEASURED]
    # the numbers of a claim with parts are those of its parts
    wholes = [whole for whole, parts in PARTS.items() if measured["claim"].isin(parts).any()]
    measured = measured[~measured["claim"].isin(wholes)]
    if measured.empty:
        raise NotMeasured("no claim is measured; run the study first.")
    declared = claims_of(2)  # has the parts of claims, too; none is on another scale by protocol 1
    factor = measured["claim"].map(lambda claim: declared[claim].primary.log).astype(bool)
    groups = [g for g in ((_DIFFERENCES, measured[~factor]), (_FACTORS, measured[factor])) if
              len(g[1])]  # fmt: skip
    figure, axes = panels(
        len(groups), columns=2, height=0.9 + 0.42 * max(len(g) for _, g in groups)
    )
    phrases = []
    for ax, (kind, rows) in zip(axes, groups, strict=True):
        for place, (_, row) in enumerate(rows.iterrows()):
            low, mean, high = (row[name] for name in ("low", "effect", "high"))
            low, mean, high = np.exp([low, mean, high]) if kind == _FACTORS else (low, mean, high)
            paint = _DECIDED.get(row["verdict"], GREY)
            ax.plot([low, high], [place, place], color=paint, linewidth=2.2, solid_capstyle="butt")
            ax.plot(mean, place, marker(4 if row["verdict"] in _DECIDED else 0), color=paint)
            phrases.append(f"{row['claim']} {row['title']}: {row['verdict']}")
        labels = rows["claim"] + " " + rows["title"] + " " + rows["expected"]
        ax.set_yticks(range(len(rows)), [row_label(label) for label in labels])
        ax.set_ylim(len(rows) - 0.4, -0.6)
        ax.axvline(1 if kind == _FACTORS else 0, color=NEUTRAL, linewidth=0.8)
        if kind == _FACTORS:
            ax.set_xscale("log")
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.xaxis.set_minor_locator(NullLocator())
        ax.set(xlabel="factor (log scale)" if kind == _FACTORS else "difference", ylabel="claim")
    paints = {**_DECIDED, "any other verdict": GREY}
    handles = [Line2D([], [], color=p, marker="o", label=name) for name, p in paints.items()]
    key(figure, handles, "lower center")
    return figure, f"Effects with 95 % intervals. {'; '.join(phrases)}.", _sides(measured)


def _sides(measured: pd.DataFrame) -> str:
    """On which side of no change the intervals lie, as the paper expects it or not."""
    expected = measured["expected"].map({"↑": 1, "↓": -1}).fillna(0)
    sides = [
        Interval(*ends).sign for ends in measured[["effect", "low", "high"]].itertuples(index=False)
    ]
    ways = {"on the side that the paper expects": 1, "on the other side": -1, "around no change": 0}
    groups = {
        words: measured.loc[(expected * sides == way).to_numpy(), "claim"].tolist()
        for words, way in ways.items()
    }
    told = [
        f"{len(names)} {words} ({', '.join(names)})" for words, names in groups.items() if names
    ]
    return f"Of {len(measured)} intervals {'; '.join(told)}."
