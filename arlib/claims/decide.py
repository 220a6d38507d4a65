"""The verdicts: every claim decided from the records of one study, by one set of rules."""

from dataclasses import replace

import pandas as pd

from arlib.claims.declared import CLAIMS, Claim, Config, Statistic
from arlib.claims.evidence import LEVEL, Evidence, gather
from arlib.claims.matched import matched_fit
from arlib.claims.values import clean, collapsed, values
from arlib.claims.words import describe

NOT_MEASURED = "not measured"
SCALE_ONLY = "supported, scale only"
VERDICTS = ("supported", SCALE_ONLY, "contradicted", "undecided", "mixed", NOT_MEASURED)


def decide(records: pd.DataFrame, config: Config | dict | None = None) -> pd.DataFrame:
    """One row a claim, computed from a record table alone.

    records: tidy table of one study (checkpoint, split, statistic, layer, setting, value, strength,
    seed, and variant if there is one; only variant "" counts). config: strengths and radii, see `Config`.

    Columns: claim, title, expected, statistic, strength, at_zero, at_effect, effect, low, high,
    differences (a tuple, one a seed; log ratios for log statistics), seeds, trend_p, strengths,
    share (smallest over seeds, of layers that are smaller), floor, primary_verdict, the same with
    twin_ in front, onset_low … dose_high, matched (the matched-fit reading), toy, verdict, note.
    Raises InputError for missing columns, unknown config keys, or two values of one thing.
    """
    config, table = Config.of(config), clean(records)
    config = replace(config, seeds=tuple(sorted({*config.seeds, *table["seed"].unique().tolist()})))
    gone = collapsed(table, config)
    matched = matched_fit(table, config).set_index(["claim", "strength"])["reading"]
    rows = []
    for claim in CLAIMS.values():
        reading = matched.get((claim.id, config.effect), "")
        rows.append(_row(claim, table, config, gone, reading))
    return pd.DataFrame(rows)


def judge(evidence: Evidence, expected: int) -> str:
    """The verdict of one statistic: supported, contradicted, undecided or not measured.

    Decided if the 95 % interval excludes 0 and the trend has p < .05 in the same direction; for
    layer statistics also if in every seed most layers, and more than the noise floor, move that way.
    """
    if evidence.problem:
        return NOT_MEASURED
    sign = evidence.effect.sign
    decided = sign != 0 and evidence.trend_p < LEVEL and evidence.trend == sign
    if evidence.shares:
        decided = decided and _most_layers(evidence, sign)
    return "undecided" if not decided else "supported" if sign == expected else "contradicted"


def _most_layers(evidence: Evidence, sign: int) -> bool:
    shares = evidence.shares if sign < 0 else evidence.larger
    return min(shares) > max(0.5, evidence.floor)


def verdict(primary: Evidence, twin: Evidence | None, expected: int, *, scale_twin: bool = False) -> str:
    """The verdict of a claim from its primary statistic and twin.

    mixed: intervals that each exclude 0 point in opposite directions (primary against twin; 0 to the
    smallest strength against smallest to largest). This goes before "supported, scale only", which
    says that the primary fell and its scale-free twin (`scale_twin`) did not follow.
    """
    own = judge(primary, expected)
    if own == NOT_MEASURED:
        return own
    against_twin = twin is not None and primary.effect.sign * twin.effect.sign < 0
    if against_twin or primary.onset.sign * primary.dose.sign < 0:
        return "mixed"
    if own == "supported" and scale_twin and judge(twin, expected) in ("undecided", "contradicted"):
        return SCALE_ONLY
    return own


def _row(claim: Claim, table: pd.DataFrame, config: Config, gone: pd.DataFrame, reading: str) -> dict:
    row = {"claim": claim.id, "title": claim.title, "expected": claim.arrow, "strength": config.effect}
    primary, twin = (_evidence(s, table, config, gone) for s in (claim.primary, claim.twin))
    decision = verdict(primary, twin, claim.expected, scale_twin=claim.id == "C6") if primary else NOT_MEASURED
    row |= _columns(claim.primary, primary, config)
    row["primary_verdict"] = judge(primary, claim.expected) if primary else NOT_MEASURED
    row |= {f"twin_{name}": value for name, value in _columns(claim.twin, twin, config).items()}
    row["twin_verdict"] = judge(twin, claim.expected) if twin else ""
    for name in ("onset", "dose"):
        row[f"{name}_low"], row[f"{name}_high"] = getattr(primary or Evidence(), name)[1:]
    row |= {"matched": reading, "toy": config.toy, "verdict": decision}
    return row | {"note": describe(claim, config, primary, twin, decision, gone, reading)}


def _evidence(statistic: Statistic | None, table, config: Config, gone: pd.DataFrame) -> Evidence | None:
    if statistic is None:
        return None
    statistic = statistic.at(config)
    return gather(values(table, statistic), statistic, config, out=set(gone["strength"]))


def _columns(statistic: Statistic | None, found: Evidence | None, config: Config) -> dict:
    found = found or Evidence()
    return {
        "statistic": statistic.at(config).label if statistic else "",
        "at_zero": found.at_zero,
        "at_effect": found.at_effect,
        "effect": found.effect.mean,
        "low": found.effect.low,
        "high": found.effect.high,
        "differences": found.differences,
        "seeds": len(found.seeds),
        "trend_p": found.trend_p,
        "strengths": found.strengths,
        "share": min(found.shares, default=float("nan")),
        "floor": found.floor,
    }
