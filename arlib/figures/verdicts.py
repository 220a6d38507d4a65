"""All claims and studies: the verdicts, and each claim against how well the networks fit."""

from collections.abc import Mapping
from textwrap import fill

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, NullLocator

from arlib.claims import CLAIMS, NOT_MEASURED, PARTS, Config, claims_of, sensitivity
from arlib.errors import NotMeasured
from arlib.figures.style import (
    GREY,
    NEUTRAL,
    colour,
    key,
    legend,
    marker,
    panels,
    picture,
    row_label,
    strengths_of,
)

COLOURS = {
    "supported": "#BFDDF2",
    "supported, scale only": "#DDEBF5",
    "features only": "#DDEBF5",
    "raw weights only": "#DDEBF5",
    "weights only": "#DDEBF5",
    "margins only": "#DDEBF5",
    "no gap to regularise": "#E9EBEE",
    "–": "#FFFFFF",
    "contradicted": "#F6C9A3",
    "mixed": "#E4D3F2",
    "undecided": "#E9EBEE",
    "not measured": "#FFFFFF",
}


@picture
def matched_fit(points: pd.DataFrame, claim: str | None = None):
    """Statistics against natural train cross-entropy:
    standard nets that are less trained, AT nets at their end.

    points: `claims.trajectories(records, config)`; claim: C2 to C7, or by protocol 2 also C1 and
    parts of claims (of a whole claim all its parts), by default all in small multiples.
    """
    points = (
        points if claim is None else points[points["claim"].isin((claim, *PARTS.get(claim, ())))]
    )
    strengths, shown = strengths_of(points), sorted(points["claim"].unique())
    less = points.attrs.get("standard", "along training")
    figure, axes = panels(len(shown), columns=3, height=2.9)
    for ax, name in zip(axes, shown, strict=True):
        part = points[points["claim"] == name]
        if part["train_ce"].max() > 30 * part["train_ce"].min() > 0:
            ax.set_xscale("log")
        for _, path in part[part["kind"] == "standard"].groupby("seed"):
            ax.plot(
                path["train_ce"],
                path["value"],
                color=colour(0),
                linewidth=1,
                marker="o",
                markersize=3,
            )
        for strength, nets in part[part["kind"] == "AT"].groupby("strength"):
            ax.plot(
                nets["train_ce"],
                nets["value"],
                marker(strength),
                color=colour(strength),
                markersize=7,
            )
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
    summary = (
        f"standard nets {less} as lines, adversarially trained nets as points, at their train "
        "cross-entropy"
    )
    where = "; ".join(f"{name} {_beside(points[points['claim'] == name])}" for name in shown)
    finding = (
        f"Nets of AR strength {max(strengths):g} beside standard nets of their seed that fit as "
        f"little: {where}."
    )
    return figure, f"{', '.join(shown)}: {summary}.", finding


def _beside(part: pd.DataFrame) -> str:
    """How many nets of the largest strength lie above or below their own seed's standard nets of
    equal fit, or beyond all of these.
    """
    trained = part[part["kind"] == "AT"]
    if trained.empty:
        return "not measured"
    largest = trained["strength"].max()
    counts = dict.fromkeys(("above", "below", "at a fit that no standard net has"), 0)
    for net in trained[trained["strength"] == largest].itertuples():
        path = part[(part["kind"] == "standard") & (part["seed"] == net.seed)]
        path = path.sort_values("train_ce")
        fits = path["train_ce"].to_numpy(dtype=float)
        if not len(fits) or not fits[0] <= net.train_ce <= fits[-1]:
            counts["at a fit that no standard net has"] += 1
        else:
            there = float(np.interp(net.train_ce, fits, path["value"].to_numpy(dtype=float)))
            counts["above" if net.value > there else "below"] += 1
    told = [f"{count} {place}" for place, count in counts.items() if count]
    return ", ".join(told)


@picture
def residuals(verdicts: pd.DataFrame, matched: pd.DataFrame):
    """What is left of each effect beside a standard network that fits as little, with intervals.

    verdicts: of `claims.verdicts`; matched: of `claims.matched_fit` for a study of protocol 1, of
    `claims.shares_left` for one of protocol 2. Of the first, the effect (grey) and what is left of
    it (coloured) in their own units; of the second the share left (1 is all) at equal train
    cross-entropy and at equal train error. Raises `NotMeasured` where nothing is compared.
    """
    at = verdicts.set_index("claim")["strength"].max()
    rows = matched[matched["strength"] == at]
    if "ce_left" in rows:
        return _shares(rows[rows[["ce_left", "error_left"]].notna().any(axis=1)], at)
    effects = verdicts[verdicts["primary_verdict"] != NOT_MEASURED].set_index("claim")
    rows = rows[rows["difference"].notna() & rows["claim"].isin(effects.index)].set_index("claim")
    if rows.empty:
        raise NotMeasured("no effect is compared at equal fit; the study measured no control.")
    factor = pd.Series({claim: claims_of(2)[claim].primary.log for claim in rows.index})
    groups = [(kind, rows[factor == log]) for kind, log in (("difference", False), ("factor", True))
              if (factor == log).any()]  # fmt: skip
    most = max(len(part) for _, part in groups)
    figure, axes = panels(len(groups), columns=2, height=1.1 + 0.5 * most)
    for ax, (kind, part) in zip(axes, groups, strict=True):
        for place, (claim, row) in enumerate(part.iterrows()):
            whole = effects.loc[claim, ["low", "effect", "high"]]
            left = row[["low", "difference", "high"]]
            for shift, ends, paint in ((-0.14, whole, GREY), (0.14, left, _LEFT)):
                _bar(ax, place + shift, ends.to_numpy(dtype=float), paint, kind == "factor")
        _claims_axis(ax, [f"{claim} {row['title']}" for claim, row in part.iterrows()], kind)
    handles = [Line2D([], [], color=paint, marker="o", label=name)
               for name, paint in (("effect", GREY), ("left at equal fit", _LEFT))]  # fmt: skip
    key(figure, handles)
    told = _by_reading(rows.reset_index())
    alt = f"Effects from AR strength 0 to {at:g}, and what is left of them at equal fit."
    return figure, alt, f"At AR strength {at:g}: {told}."


_LEFT = "#0F5FAF"


def _shares(rows: pd.DataFrame, at: float):
    if rows.empty:
        raise NotMeasured("no effect is compared at equal fit; the study's controls are missing.")
    figure, (ax,) = panels(1, height=1.1 + 0.5 * len(rows))
    axes_of_fit = {"ce": ("at equal train cross-entropy", _LEFT),
                   "error": ("at equal train error", "#DB7A1C")}  # fmt: skip
    for place, (_, row) in enumerate(rows.iterrows()):
        for shift, (axis, (_, paint)) in zip((-0.14, 0.14), axes_of_fit.items(), strict=True):
            ends = [float(row[f"{axis}_{end}"]) for end in ("low", "left", "high")]
            if np.isfinite(ends[1]):
                _bar(ax, place + shift, ends, paint, False)
                _mark_beyond(ax, place + shift, ends[1], paint)
    ax.axvline(1, color=GREY, linewidth=0.8, linestyle=":")
    _claims_axis(ax, [f"{row.claim} {row.title}" for row in rows.itertuples()], "share left")
    ax.set_xlim(*_SHOWN)  # an interval without ends fills the panel
    handles = [Line2D([], [], color=paint, marker="o", label=name)
               for name, paint in axes_of_fit.values()]  # fmt: skip
    key(figure, handles)
    told = _by_reading(rows)
    alt = f"The share of each effect at AR strength {at:g} that is left beside shorter trainings."
    far = rows[~rows[["ce_left", "error_left"]].fillna(0).apply(_is_shown).all(axis=1)]
    beyond = ", ".join(
        f"{row.claim} ({row.ce_left:.3g}, {row.error_left:.3g})" for row in far.itertuples()
    ).replace("-", "−")
    beyond = f" Beyond the ends of the axis: {beyond}." if beyond else ""
    return figure, alt, f"At AR strength {at:g}: {told}.{beyond}"


_SHOWN = (-1.0, 2.0)  # shares: from all turned round to twice as much


def _is_shown(share):
    return (share >= _SHOWN[0]) & (share <= _SHOWN[1])


def _mark_beyond(ax, place: float, share: float, paint: str) -> None:
    """An arrow at the end of the axis, with the number, for a share that lies beyond it."""
    if _is_shown(share):
        return
    end, way = (_SHOWN[0], 1) if share < _SHOWN[0] else (_SHOWN[1], -1)
    ax.plot(end + 0.05 * way, place, "<" if way > 0 else ">", color=paint, markersize=6)
    text = f"{share:.2g}".replace("-", "−")
    side = "left" if way > 0 else "right"
    ax.text(end + 0.11 * way, place, text, ha=side, va="center", color=paint, fontsize="small")


def _by_reading(rows: pd.DataFrame) -> str:
    """ "explained by less fitting: C2; more than less fitting: C3, C4": claims by reading."""
    groups = rows.groupby("reading", sort=False)["claim"]
    return "; ".join(f"{reading}: {', '.join(names)}" for reading, names in groups)


def _bar(ax, place: float, ends, paint: str, log: bool) -> None:
    """A point with its interval; without ends only the point."""
    low, middle, high = np.exp(ends) if log else ends
    if np.isfinite([low, high]).all():
        ax.plot([low, high], [place, place], color=paint, linewidth=2.2, solid_capstyle="butt")
    ax.plot(middle, place, "o", color=paint, markersize=5)


def _claims_axis(ax, names: list[str], kind: str) -> None:
    ax.set_yticks(range(len(names)), [fill(name, 22) for name in names])
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.axvline(1 if kind == "factor" else 0, color=NEUTRAL, linewidth=0.8)
    if kind == "factor":
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel=f"{kind} (log scale)" if kind == "factor" else kind, ylabel="claim")


def _wrapped(claim: str, part: pd.DataFrame) -> str:
    label = part["statistic"].iloc[0].replace(" on test images", "")
    return fill(label, 28) + (
        "\n(ratio to finished at 0)" if claims_of(2)[claim].primary.layers else ""
    )


@picture
def sensitivities(records: pd.DataFrame, config: Config | dict | None = None):
    """How much depends on how one asks: a dot for every declared statistic of every claim, at its
    effect in half-widths of its own 95 % interval, so that beyond ±1 the interval excludes no
    change. What decides is a diamond. Raises `NotMeasured` where fewer than three seeds compare.
    """
    asked = {c: sensitivity(records, c, config) for c, one in CLAIMS.items() if one.primary}
    asked = {claim: table for claim, table in asked.items() if len(table)}
    if not asked:
        raise NotMeasured("no claim has three seeds that compare; run the study.")
    figure, (ax,) = panels(1, alone=7.6, height=0.9 + 0.42 * len(asked))
    ax.axvspan(-1, 1, color=GREY, alpha=0.25, linewidth=0)
    told = []
    for place, (claim, table) in enumerate(asked.items()):
        half = (table["high"] - table["low"]) / 2
        far = (table["effect"] / half.clip(lower=1e-12)).clip(-_FAR, _FAR).to_numpy(dtype=float)
        decides = (table["role"] == "primary").to_numpy()
        # dots of one row a little apart, always in the same way
        apart = place + 0.24 * np.sin(2.4 * np.arange(len(far)))
        ax.plot(far[~decides], apart[~decides], "o", color=_LEFT, markersize=4, alpha=0.55)
        ax.plot(far[decides], [place] * decides.sum(), "D", color=NEUTRAL, markersize=6)
        told.append(f"{claim} {(far < -1).sum()} down, {(far > 1).sum()} up, of {len(far)}")
    ax.set_yticks(
        range(len(asked)), [row_label(f"{claim} {CLAIMS[claim].title}") for claim in asked]
    )
    ax.set_ylim(len(asked) - 0.5, -0.5)
    ax.set_xscale("symlog", linthresh=1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="falls ← half-widths → rises", ylabel="claim")
    looks = {"decides": (NEUTRAL, "D"), "also asked": (_LEFT, "o")}
    key(figure, [Line2D([], [], color=paint, marker=shape, linestyle="", label=name)
                 for name, (paint, shape) in looks.items()])  # fmt: skip
    alt = "A row for each claim with a dot for each statistic that was measured."
    return figure, alt, f"Intervals that exclude no change: {'; '.join(told)}."


_FAR = 100.0  # half-widths from no change at which a dot stays on the figure


@picture
def verdict_strip(by_study: pd.DataFrame | Mapping[str, pd.DataFrame]):
    """Verdicts as a table of coloured words: a row per claim, a column per study.

    by_study: what `claims.verdicts` returns, or a mapping of study name to that. The parts of a
    claim have rows where some study is of protocol 2; in one of protocol 1 they are "–".
    """
    frames = {"verdict": by_study} if isinstance(by_study, pd.DataFrame) else dict(by_study)
    names = [f"{name} (toy)" if frame["toy"].any() else name for name, frame in frames.items()]
    first = max(frames.values(), key=len)
    verdicts = {name: frame.set_index("claim")["verdict"].reindex(first["claim"], fill_value="–")
                for name, frame in frames.items()}  # fmt: skip
    figure, (ax,) = panels(1, alone=3.2 + 2.0 * len(frames), height=0.5 + 0.32 * len(first))
    for column, of_study in enumerate(verdicts.values()):
        for row, verdict in enumerate(of_study):
            ax.fill(
                [column, column + 1, column + 1, column],
                [row, row, row + 1, row + 1],
                color=COLOURS[verdict],
            )
            ax.text(
                column + 0.5,
                row + 0.5,
                verdict,
                ha="center",
                va="center",
                fontsize=9,
                color=NEUTRAL,
            )
    ax.set(xlim=(0, len(frames)), ylim=(len(first), 0), xlabel="study", ylabel="claim")
    ax.set_xticks(np.arange(len(frames)) + 0.5, names)
    ax.set_yticks(np.arange(len(first)) + 0.5, first["claim"] + " " + first["title"])
    ax.xaxis.tick_top()
    ax.xaxis.set_label_position("top")
    ax.tick_params(length=0)
    ax.grid(False)
    for edge in range(len(first) + 1):
        ax.axhline(edge, color=GREY, linewidth=0.5)
    phrases = [
        f"{name}: " + ", ".join(f"{claim} {verdict}" for claim, verdict in of_study.items())
        for name, of_study in zip(names, verdicts.values(), strict=True)
    ]
    return figure, "Verdicts. " + "; ".join(phrases) + ".", counted(verdicts)


def counted(verdicts: Mapping[str, pd.Series]) -> str:
    """How many claims have each verdict, study by study; parts of claims are not counted."""
    parts = [part for of_claim in PARTS.values() for part in of_claim]
    told = []
    for name, of_study in verdicts.items():
        counts = of_study[~of_study.index.isin(parts)].value_counts(sort=False)
        told.append(f"{name}: {', '.join(f'{n} {verdict}' for verdict, n in counts.items())}")
    return f"{'; '.join(told)}."
