"""The sentences of the first page: three findings, and why to believe them."""

import math

import pandas as pd

from arlib import claims
from arlib.claims.words import effect_text
from arlib.errors import NotMeasured
from arlib.tables.runs import margin_factors
from arlib.tables.text import plain

_NOTHING = "Not measured in this study."
_TWO = ("output", "instance")  # margins: the lead in logits, the distance in pixels


def first_page(study, verdicts: pd.DataFrame, margins: tuple[int, pd.DataFrame] | None) -> dict:
    """Sentences by name, as Markdown: nearer, smoother, gap, why.

    study: a `studies.Study`; verdicts: `claims.verdicts(study)`; margins: what
    `figures.shared_margins` returns, or None where no instance margins are recorded.
    """
    rows = verdicts.set_index("claim")
    return {
        "nearer": _nearer(margins),
        "smoother": _smoother(rows),
        "gap": _gap(rows),
        "why": _why(study, verdicts),
    }


def _nearer(margins: tuple[int, pd.DataFrame] | None) -> str:
    if margins is None:
        return _NOTHING
    images, medians = margins
    try:
        factors = margin_factors(medians)
    except NotMeasured:  # one seed: no interval
        return _NOTHING
    strength, (lead, distance, slope) = factors.index[-1], factors.iloc[-1]
    lead_sign, distance_sign = (_sign(medians[name], float(strength)) for name in _TWO)
    opposite = lead_sign < 0 < distance_sign
    head = "Nearer in logits, farther in pixels" if opposite else "Two margins, the same images"
    return (
        f"{head}: at AR strength {strength}, on the {images} test images that every network gets "
        f"right, the lead of the right logit is {lead}, the distance to the boundary {distance}, "
        f"and the slope between them {slope}, as factors to ordinary training."
    )


def _sign(values: pd.Series, strength: float) -> int:
    """Which way the values moved from strength 0, by the t interval; 0 where that holds none."""
    logs = values.map(math.log).unstack("strength")
    return claims.t_interval((logs[strength] - logs[0.0]).dropna().tolist()).sign


def _smoother(rows: pd.DataFrame) -> str:
    """C5 and C6: what the study's protocol says, and the later one after the fact."""
    sentences = []
    for claim, what in (("C5", "Smoother layers"), ("C6", "More even singular values")):
        row = rows.loc[claim]
        later = row.get("after_the_fact")
        # by protocol 2 the parts say why the whole is called what it is called
        parts = [part for part in claims.PARTS[claim] if part in rows.index] or [claim]
        effects = {rows.loc[part, "statistic"]: _effect(rows, part) for part in parts}
        told = ", ".join(f"{statistic} {effect}" for statistic, effect in effects.items() if effect)
        sentences.append(
            f"{what}: {row['verdict']}"
            + (f", by protocol 2 {later}" if later and later != row["verdict"] else "")
            + (f" ({told})" if told else "")
        )
    return f"{'; '.join(sentences)}."


def _effect(rows: pd.DataFrame, claim: str) -> str:
    row, primary = rows.loc[claim], claims.claims_of(2)[claim].primary
    if math.isnan(row["effect"]):
        return ""
    return effect_text(primary, claims.Interval(row["effect"], row["low"], row["high"]))


def _gap(rows: pd.DataFrame) -> str:
    """C1 and C2: what it costs, and whether less fitting explains the smaller gap."""
    price, gap = _effect(rows, "C1"), _effect(rows, "C2")
    if not (price and gap):
        return _NOTHING
    reading = rows.loc["C2", "matched"]
    beside = f" Beside an ordinary network that fits as little: {reading}." if reading else ""
    return f"Test error moves by {price}, the gap (test minus train error) by {gap}.{beside}"


def _why(study, verdicts: pd.DataFrame) -> str:
    runs, planned = len(study.finished()), len(study.entries)
    networks = f"{runs} networks" if runs == planned else f"{runs} of {planned} networks"
    seeds = {entry.recipe.seed for entry in study.entries}
    strengths = {entry.recipe.strength for entry in study.entries}
    toy = " It is a toy: it shows the method and says nothing about the paper." if study.toy else ""
    grid = f"{len(strengths)} strengths, {len(seeds)} seeds"
    return (
        f"{networks} of one design ({plain(study.title)}), {grid}; the rules of protocol "
        f"{study.protocol} were fixed before the first was trained, "
        f"{claims.tested(verdicts)} of {len(claims.CLAIMS)} claims are tested, and no run was left "
        f"out.{toy}"
    )
