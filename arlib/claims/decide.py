"""The verdicts: every claim decided from the records of one study, by one set of rules."""

from collections.abc import Collection
from dataclasses import replace

import pandas as pd

from arlib.claims.controls import reading_of, shares_left
from arlib.claims.declared import CLAIMS, Claim, Config, Statistic
from arlib.claims.evidence import LEVEL, Evidence, gather
from arlib.claims.matched import matched_fit
from arlib.claims.second import PARTS, claims_of
from arlib.claims.statistics import holm
from arlib.claims.values import clean, collapsed, values
from arlib.claims.words import describe
from arlib.errors import one_of

NOT_MEASURED = "not measured"
SCALE_ONLY = "supported, scale only"
FEATURES_ONLY = "features only"  # C5 by protocol 2: C5a without C5b
WEIGHTS_ONLY = "raw weights only"  # C6 by protocol 2: C6a without C6b
WEIGHTS_ALONE = "weights only"  # C8 by protocol 2: C8a without C8b
_HALF = {"C5": FEATURES_ONLY, "C6": WEIGHTS_ONLY}
NO_GAP = "no gap to regularise"  # C2 by protocol 2
LEAST_GAP = 0.05  # between test and train error of the strength-0 nets, for C2 to count


def decide(
    records: pd.DataFrame,
    config: Config | dict | None = None,
    *,
    only: Collection[str] | None = None,
) -> pd.DataFrame:
    """One row per claim, computed from a record table alone.

    only: the rows of these claims, the same as they are among all.

    records: tidy table of one study (checkpoint, split, statistic, layer, setting, value, strength,
    seed, and variant if there is one; only variant "" counts). config: strengths and radii, see
    `Config`.

    Columns: claim, title, expected, statistic, strength, at_zero, at_effect, effect, low, high,
    differences (a tuple, one per seed; log ratios for log statistics), seeds, trend_p, strengths,
    share (smallest over seeds, of layers that are smaller), floor, primary_verdict, the same with
    twin_ in front, onset_low … dose_high, matched (the matched-fit reading), toy, verdict, note.
    By protocol 2 (`config.protocol`) the parts of C5 and C6 have rows of their own, below the
    claim's, whose verdict follows from them (`part_of` names it); and more columns: p (of the t
    test), holm_p (the larger of p and trend_p of every statistic that decides, adjusted for their
    number), noise (the noise floor of a layer statistic), and those of `controls.shares_left` with
    share_ in front.
    Raises InputError for missing columns, unknown config keys, or two values of one thing.
    """
    config, table = Config.of(config), clean(records)
    # a seed with any record counts: where one statistic lacks it, the note can say so
    config = replace(config, seeds=tuple(sorted({*config.seeds, *table["seed"].unique().tolist()})))
    gone = collapsed(table, config)
    for name in only or ():
        one_of("claim", name, tuple(claims_of(config.protocol)))
    if config.protocol == 2:  # Holm counts all claims, so all are decided
        frame = _by_protocol_2(records, table, config, gone)
        return frame if only is None else frame[frame["claim"].isin(only)].reset_index(drop=True)
    matched = matched_fit(table, config, strengths=[config.effect], only=only).set_index(
        ["claim", "strength"]
    )["reading"]
    rows = []
    for claim in CLAIMS.values():
        if only is None or claim.id in only:
            reading = matched.get((claim.id, config.effect), "")
            rows.append(_row(claim, table, config, gone, reading))
    return pd.DataFrame(rows)


def _by_protocol_2(
    records: pd.DataFrame, table: pd.DataFrame, config: Config, gone: pd.DataFrame
) -> pd.DataFrame:
    shares = shares_left(records, config, strengths=[config.effect])
    shares = shares.set_index("claim").drop(columns=["title", "statistic"])
    rows = {}
    for claim in claims_of(2).values():
        left = shares.reindex([claim.id]).iloc[0]
        rows[claim.id] = _row(claim, table, config, gone, reading_of(left)) | {
            "part_of": claim.part_of
        }
        rows[claim.id] |= {
            f"share_{name}": value for name, value in left.items() if name != "strength"
        }
    for whole, parts in PARTS.items():
        rows[whole] |= _whole(whole, rows[whole], [rows[part] for part in parts])
    frame = pd.DataFrame(rows.values())
    # a claim with parts follows from them and tests nothing itself: it is not counted
    deciding = frame[(frame["primary_verdict"] != NOT_MEASURED) & ~frame["claim"].isin(PARTS)]
    # effect and trend must both be significant, so the larger p is the p of the claim
    adjusted = holm(deciding[["p", "trend_p"]].max(axis=1)) if len(deciding) else []
    return frame.assign(holm_p=pd.Series(adjusted, index=deciding.index, dtype=float))


def _whole(claim: str, row: dict, parts: list[dict]) -> dict:
    """The verdict of a claim that has parts:
    its first part's, unless the second does not follow; of C8 see `of_two_parts`.
    """
    first, second = parts[0]["verdict"], parts[1]["verdict"]
    verdict = of_two_parts(first, second) if claim == "C8" else first
    if claim in _HALF and first in ("supported", SCALE_ONLY) and second != "supported":
        verdict = _HALF[claim] if second != NOT_MEASURED else NOT_MEASURED
    outcomes = "; ".join(
        f"{part['claim']} ({part['title'].partition(': ')[2]}): {part['verdict']}" for part in parts
    )
    note = f"{outcomes}. {parts[0]['note']}"
    return {"verdict": verdict, "matched": _readings(parts), "note": note}


def _readings(parts: list[dict]) -> str:
    """What the control says of each part: one may be explained by less fitting, another not."""
    told = [(part["claim"], part.get("share_reading")) for part in parts]
    return "; ".join(f"{name} {reading}" for name, reading in told if isinstance(reading, str))


def of_two_parts(weights: str, features: str) -> str:
    """The row of C8, which sums up its parts and decides nothing of its own.

    What both say; where one is supported and the other is not, which one.
    """
    if NOT_MEASURED in (weights, features):
        return NOT_MEASURED
    if weights == features:
        return weights
    if "supported" in (weights, features):
        return WEIGHTS_ALONE if weights == "supported" else FEATURES_ONLY
    return "undecided"


def judge(evidence: Evidence, expected: int, protocol: int = 1, *, level: float = LEVEL) -> str:
    """The verdict of one statistic: supported, contradicted, undecided or not measured.

    Decided if the 95 % interval excludes 0 and the trend has p < .05 in the same direction; for
    layer statistics also if in every seed most layers move that way and, by protocol 1, more of
    them than the noise floor, by protocol 2 the effect is larger than the noise between seeds of
    one strength. level: of the trend; the interval carries its own.
    """
    if evidence.problem:
        return NOT_MEASURED
    sign = evidence.effect.sign
    decided = sign != 0 and evidence.trend_p < level and evidence.trend == sign
    if evidence.shares:
        decided = decided and _most_layers(evidence, sign, protocol)
    return "undecided" if not decided else "supported" if sign == expected else "contradicted"


def _most_layers(evidence: Evidence, sign: int, protocol: int) -> bool:
    shares = evidence.shares if sign < 0 else evidence.larger
    if protocol == 2:
        return min(shares) > 0.5 and abs(evidence.effect.mean) > evidence.noise
    return min(shares) > max(0.5, evidence.floor)


def verdict(
    primary: Evidence, twin: Evidence | None, expected: int, *,
    scale_twin: bool = False, twin_follows: int = 1, protocol: int = 1, level: float = LEVEL,
) -> str:  # fmt: skip
    """The verdict of a claim from its primary statistic and twin.

    mixed: intervals that each exclude 0 point in opposite directions (primary against twin; 0 to
    the smallest strength against smallest to largest). This goes before "supported, scale only",
    which says that the primary fell and its scale-free twin (`scale_twin`) did not follow.
    """
    own = judge(primary, expected, protocol, level=level)
    if own == NOT_MEASURED:
        return own
    against_twin = twin is not None and primary.effect.sign * twin_follows * twin.effect.sign < 0
    if against_twin or primary.onset.sign * primary.dose.sign < 0:
        return "mixed"
    if (
        own == "supported"
        and scale_twin
        and judge(twin, expected, protocol, level=level) in ("undecided", "contradicted")
    ):
        return SCALE_ONLY
    return own


def _row(
    claim: Claim, table: pd.DataFrame, config: Config, gone: pd.DataFrame, reading: str
) -> dict:
    row = {
        "claim": claim.id,
        "title": claim.title,
        "expected": claim.arrow,
        "strength": config.effect,
    }
    primary, twin = (_evidence(s, table, config, gone) for s in (claim.primary, claim.twin))
    decision = _decision(claim, primary, twin, table, config) if primary else NOT_MEASURED
    row |= _columns(claim.primary, primary, config)
    row["primary_verdict"] = (
        judge(primary, claim.expected, config.protocol) if primary else NOT_MEASURED
    )
    row |= {f"twin_{name}": value for name, value in _columns(claim.twin, twin, config).items()}
    row["twin_verdict"] = (
        judge(twin, claim.expected * claim.twin_follows, config.protocol) if twin else ""
    )
    for name in ("onset", "dose"):
        row[f"{name}_low"], row[f"{name}_high"] = getattr(primary or Evidence(), name)[1:]
    row |= {"matched": reading, "toy": config.toy, "verdict": decision}
    return row | {"note": describe(claim, config, primary, twin, decision, gone, reading)}


def _decision(
    claim: Claim, primary: Evidence, twin: Evidence | None, table: pd.DataFrame, config: Config
) -> str:
    scale_twin = claim.id in ("C6", "C6a")
    options = {
        "scale_twin": scale_twin,
        "twin_follows": claim.twin_follows,
        "protocol": config.protocol,
    }
    decision = verdict(primary, twin, claim.expected, **options)
    little = (
        claim.id == "C2"
        and config.protocol == 2
        and not primary.problem
        and primary.at_zero < LEAST_GAP
    )
    return NO_GAP if little else decision


def _evidence(
    statistic: Statistic | None, table, config: Config, gone: pd.DataFrame
) -> Evidence | None:
    if statistic is None:
        return None
    statistic = statistic.at(config)
    return gather(values(table, statistic), statistic, config, out=set(gone["strength"]))


def _columns(statistic: Statistic | None, evidence: Evidence | None, config: Config) -> dict:
    evidence = evidence or Evidence()
    return {
        "statistic": statistic.at(config).label if statistic else "",
        "at_zero": evidence.at_zero,
        "at_effect": evidence.at_effect,
        "effect": evidence.effect.mean,
        "low": evidence.effect.low,
        "high": evidence.effect.high,
        "differences": evidence.differences,
        "seeds": len(evidence.seeds),
        "trend_p": evidence.trend_p,
        "strengths": evidence.strengths,
        "share": min(evidence.shares, default=float("nan")),
        "floor": evidence.floor,
    } | ({"p": evidence.p, "noise": evidence.noise} if config.protocol == 2 else {})
