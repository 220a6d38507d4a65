"""Numbers and verdicts in plain words: what a chapter prints below its head."""

import math

import pandas as pd

from arlib.claims.declared import Claim, Config, Statistic
from arlib.claims.evidence import LEVEL, Evidence
from arlib.claims.statistics import Interval

# Begins the sentence that says what a figure or a table of records shows.
FINDING = "*Finding:* "
_INSIDE_NOISE = "Two seeds of one strength differ by as much."

# What a spectrum is of, as figures and tables call it.
OPERATORS = {
    "circular": "circular",
    "circular+bn": "circular, BN folded",
    "circular+bn-natural": "… with natural BN statistics",
    "reshaped": "reshaped kernel",
    "zeros": "zero padding",
}


def _signed(value: float, digits: int) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def effect_text(statistic: Statistic, effect: Interval) -> str:
    """An effect with its 95 % interval:
    a factor for log statistics, points for rates, else the difference.

    "× 0.55 [0.50, 0.61]", "+12.2 points [10.9, 13.5]", "−0.210 [−0.250, −0.170]", "–" if not
    measured.
    """
    if math.isnan(effect.mean):
        return "–"
    if statistic.log:
        mean, low, high = (math.exp(value) for value in effect)
        return f"× {mean:.3g} [{low:.3g}, {high:.3g}]"
    scale, digits, unit = (100, 1, " points") if statistic.percent else (1, 3, "")
    mean, low, high = (_signed(scale * value, digits) for value in effect)
    return f"{mean}{unit} [{low}, {high}]"


def p_text(p: float) -> str:
    """A p value with its exact small end: "p = 0.009"; "p < 0.001"."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}" if p < 0.1 else f"p = {p:.2f}"


def _level(statistic: Statistic, value: float) -> str:
    return (f"{100 * value:.1f} %" if statistic.percent else f"{value:.3g}").replace("-", "−")


def describe(
    claim: Claim,
    config: Config,
    primary: Evidence | None,
    twin: Evidence | None,
    verdict: str,
    collapsed: pd.DataFrame,
    reading: str,
) -> str:
    """The verdict's reasons, in sentences."""
    if primary is None:
        return f"Not measured. It needs {claim.needs}."
    sentences = [_sentence(claim.primary.at(config), primary, config)]
    sentences += [_why(claim, primary, verdict, config)]
    if twin is not None:
        sentences.append("Beside it: " + _sentence(claim.twin.at(config), twin, config))
    sentences += primary.remarks
    sentences += [
        f"AR strength {row.strength:g} is out: seed {row.seed} collapsed ({row.reason})."
        for row in collapsed.itertuples()
    ]
    beside = (
        "Against a standard net at equal train cross-entropy"
        if config.protocol == 1
        else "Beside shorter trainings"
    )
    sentences += [f"{beside}: {reading}."] if reading else []
    return " ".join(text for text in sentences if text)


def _sentence(statistic: Statistic, evidence: Evidence, config: Config) -> str:
    symbol = statistic.label[1:2] == "("  # q(v) is not Q(v)
    name = statistic.label if symbol else statistic.label[0].upper() + statistic.label[1:]
    if evidence.problem:
        return f"{name}: not measured. {evidence.problem}"
    verb = {1: "rises", -1: "falls", 0: "goes"}[evidence.effect.sign]
    kind = ", median over layers," if statistic.layers else ""
    text = (
        f"{name}{kind} {verb} from {_level(statistic, evidence.at_zero)} at AR strength 0 to "
        f"{_level(statistic, evidence.at_effect)} at {config.effect:g}: "
        f"{effect_text(statistic, evidence.effect)}, 95 % interval over {len(evidence.seeds)} "
        f"seeds; trend {p_text(evidence.trend_p)}."
    )
    return text + (" " + _shares(evidence, config, log=statistic.log) if evidence.shares else "")


def _shares(evidence: Evidence, config: Config, *, log: bool) -> str:
    low, high = f"{100 * min(evidence.shares):.0f}", f"{100 * max(evidence.shares):.0f}"
    own = (
        f"{low} % of the layers in every seed"
        if low == high
        else f"{low} to {high} % of the layers"
    )
    noise = f"in up to {100 * evidence.floor:.0f} %"
    if config.protocol == 2:
        noise = (
            f"the median differs by a factor of up to {math.exp(evidence.noise):.3g}"
            if log
            else f"by {evidence.noise:.3g}"
        )
    return f"It is smaller in {own}; between two seeds of one strength, {noise}."


def _why(claim: Claim, primary: Evidence, verdict: str, config: Config) -> str:
    """Why a verdict is not a plain yes or no; empty if it is."""
    if verdict == "no gap to regularise":
        gap = _level(claim.primary, primary.at_zero)
        return (
            f"The gap of the strength-0 networks, {gap}, is too small to be closed; a gap of 5 % "
            "or more counts."
        )
    if verdict == "mixed":
        if primary.onset.sign * primary.dose.sign < 0:
            first, last = primary.strengths[1], primary.strengths[-1]
            return f"From 0 to {first:g} it moves one way, from {first:g} to {last:g} the other."
        return "The statistic beside it moves the other way."
    if verdict == "supported, scale only":
        return "Its scale-free twin does not fall by the same rule."
    return _undecided(primary, config) if verdict == "undecided" else ""


def _undecided(evidence: Evidence, config: Config) -> str:
    if evidence.effect.sign == 0:
        return "The interval contains no change."
    if evidence.trend_p >= LEVEL:
        few = (
            " (with so few usable strengths it cannot fall below .05)"
            if _smallest_p(evidence) >= LEVEL
            else ""
        )
        return f"The trend over strengths is not significant{few}."
    if evidence.trend != evidence.effect.sign:
        return "The trend over strengths points the other way."
    if config.protocol == 2:
        few = min(evidence.shares if evidence.effect.sign < 0 else evidence.larger) <= 0.5
        return "In some seed it holds in no more than half of the layers." if few else _INSIDE_NOISE
    if evidence.floor == 1:
        return (
            "Two seeds of one strength already differ in all layers alike, so that no share of "
            "layers can stand out."
        )
    return "The share of layers does not stand out from the differences between seeds."


def _smallest_p(evidence: Evidence) -> float:
    # of all orders in which each seed's strengths can come, two are extreme: all rise or all fall
    return 2 / math.factorial(len(evidence.strengths)) ** len(evidence.seeds)
