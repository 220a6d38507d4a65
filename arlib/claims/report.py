"""Verdicts for people: short tables, and the verdict of all studies together."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import pandas as pd

from arlib.claims import controls, gentler, matched, mechanism
from arlib.claims.decide import NO_GAP, NOT_MEASURED, SCALE_ONLY, decide
from arlib.claims.declared import Claim, Config
from arlib.claims.second import PARTS, claims_of
from arlib.claims.statistics import Interval
from arlib.claims.words import effect_text, p_text
from arlib.sources import source

ABSENT = "–"  # a part of a claim, in a study of protocol 1


def config_of(study) -> Config:
    """The `Config` of a study: protocol, `claims:` radii, classes, planned seeds,
    and whether it is a toy.
    """
    classes = max(source(recipe.dataset).classes for recipe in study.recipes)
    arms = study.source is not None
    seeds = {entry.recipe.seed for entry in study.entries if arms or not entry.variant}
    seeds = tuple(sorted(seeds))
    known = {"classes": classes, "toy": bool(study.toy), "seeds": seeds, "protocol": study.protocol}
    return Config.of({**study.claims, **known})


def verdicts(study) -> pd.DataFrame:
    """The verdicts of a study (`studies.load(name)`) by its own protocol:
    `decide` with its settings. A study of arms decides C8 and its parts (`decide_arms`).

    A study of protocol 1 has in after_the_fact what protocol 2 says of each claim, where its
    records suffice; its verdicts stay its own. A study of fronts decides C9, and nothing else.
    """
    records, config = study.records(), config_of(study)
    if study.source is not None:
        frame = mechanism.decide_arms(records, config)
    elif study.has_fronts:
        frame = decide(records[:0], config).set_index("claim", drop=False)
        for name, value in gentler.claim_row(study).items():
            frame.loc["C9", name] = value
        frame = frame.reset_index(drop=True)
    else:
        frame = decide(records, config)
    if config.protocol == 1:
        later = decide(records, replace(config, protocol=2)).set_index("claim")["verdict"]
        frame["after_the_fact"] = frame["claim"].map(later)
    frame.insert(0, "study", study.name)
    return frame


def completed(frame: pd.DataFrame, others: Iterable) -> pd.DataFrame:
    """The verdicts of a study, and of what it cannot measure those of studies that can: of arms
    that start from its networks (C8), of fronts (C9).

    frame: what `verdicts` returns; others: studies. Toys complete nothing but a toy.
    """
    out = frame.set_index("claim", drop=False)
    for other in others:
        own = verdicts(other).set_index("claim", drop=False)
        own = own[(own["verdict"] != NOT_MEASURED) & (own["toy"] <= bool(frame["toy"].any()))]
        for claim, row in own.iterrows():
            if claim in out.index and out.loc[claim, "verdict"] == NOT_MEASURED:
                if "effect_text" in row and "effect_text" not in out:
                    out["effect_text"] = ""
                known = [name for name in row.index if name in out]
                out = out.astype(dict.fromkeys(known, object))
                out.loc[claim, known] = row[known].to_numpy()
    return out.infer_objects().reset_index(drop=True)


def after_the_fact(study) -> pd.DataFrame:
    """What protocol 2 says of a study that it does not decide,
    parts of claims included: as `verdicts`.
    """
    frame = decide(study.records(), replace(config_of(study), protocol=2))
    frame.insert(0, "study", study.name)
    return frame


def trajectories(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """The nets behind the matched-fit control, for plotting:
    claim, statistic, kind, strength, seed, train_ce, value.

    kind: "standard", by protocol 1 along training, by protocol 2 at the ends of shorter trainings;
    or "AT".
    """
    config = Config.of(config)
    return (
        controls.curves(records, config)
        if config.protocol == 2
        else matched.trajectories(records, config)
    )


def tested(frame: pd.DataFrame) -> int:
    """How many claims were tested: those with any verdict but "not measured";
    the parts of a claim are not counted.
    """
    whole = frame[~frame["claim"].isin([part for parts in PARTS.values() for part in parts])]
    return int((whole["verdict"] != NOT_MEASURED).sum())


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Verdicts as a short table of text:
    claim, verdict, what is compared, effect, seeds, trend, twin.

    By protocol 2 also p adjusted for the number of claims (Holm) and what is left beside shorter
    trainings; of a study of protocol 1, what protocol 2 says after the fact.
    """
    declared = claims_of(2 if "holm_p" in frame else 1)
    rows = [_line(row, declared[row["claim"]]) for _, row in frame.iterrows()]
    out = pd.DataFrame(rows).set_index("Claim")
    out.attrs["finding"] = grouped(frame.set_index("claim")["verdict"])
    return out


def grouped(verdicts: pd.Series) -> str:
    """ "supported: C1, C3; not measured: C8.": which claims (the index) have each verdict."""
    groups = verdicts.groupby(verdicts, sort=False).groups
    told = [f"{verdict}: {', '.join(names)}" for verdict, names in groups.items()]
    return f"{'; '.join(told)}."


def _line(row: pd.Series, claim: Claim) -> dict:
    measured = row["primary_verdict"] != NOT_MEASURED
    line = {
        "Claim": f"{claim.id} {claim.title}",
        "Verdict": row["verdict"] + (" (toy)" if row["toy"] and measured else ""),
    }
    if "after_the_fact" in row:
        line["By protocol 2, after the fact"] = row["after_the_fact"]
    if claim.id in PARTS and "holm_p" in row:  # its numbers stand in the rows of its parts
        return line | dict.fromkeys(_NUMBERS, "") | {"Expected": claim.arrow}
    line |= {
        "Statistic": row["statistic"] or "–",
        "Expected": claim.arrow,
        "AR strength": f"0 → {row['strength']:g}" if claim.primary else "–",
        "Effect [95 % interval]": effect_text(claim.primary, _interval(row))
        if claim.primary
        else row.get("effect_text") or "–",
        "Seeds": str(row["seeds"]),
        "Trend": p_text(row["trend_p"]) if measured else "–",
        "Twin": effect_text(claim.twin, _interval(row, "twin_")) if claim.twin else "–",
    }
    if "holm_p" in row:
        line |= {
            "Holm": p_text(row["holm_p"]) if measured else "–",
            "Left at equal fit": row["matched"] or "–",
        }
    return line


_NUMBERS = (
    "Statistic",
    "Expected",
    "AR strength",
    "Effect [95 % interval]",
    "Seeds",
    "Trend",
    "Twin",
    "Holm",
    "Left at equal fit",
)


def _interval(row: pd.Series, prefix: str = "") -> Interval:
    return Interval(*(row[prefix + name] for name in ("effect", "low", "high")))


def combine(by_study: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The verdicts of several studies side by side, and the combined one.

    Rows are claims, with the parts of protocol 2 if a study has them; columns: title, one per study
    (toys labelled, and not counted), combined, studies (how many non-toy studies measured it).
    Combined: the verdict on which all studies that decided agree, else mixed; undecided if none
    decided (a study without a gap to regularise decides nothing); supported in one study and "scale
    only" in another is "supported, scale only". `attrs["tested"]` is the number of claims tested,
    over all studies that count.
    """
    parts = any("holm_p" in frame for frame in by_study.values())
    declared = claims_of(2 if parts else 1)
    out = pd.DataFrame(index=pd.Index(declared, name="claim"))
    out["title"] = [claim.title for claim in declared.values()]
    counted = []
    for name, frame in by_study.items():
        by_claim, toy = (
            frame.set_index("claim")["verdict"].reindex(declared, fill_value=ABSENT),
            bool(frame["toy"].any()),
        )
        out[f"{name} (toy)" if toy else name] = by_claim
        counted += [] if toy else [by_claim]
    votes = {
        claim: [f[claim] for f in counted if f[claim] not in (NOT_MEASURED, ABSENT)]
        for claim in declared
    }
    out["combined"] = [_together(per_study) for per_study in votes.values()]
    out["studies"] = [len(per_study) for per_study in votes.values()]
    out.attrs["tested"] = sum(
        len(per_study) for claim, per_study in votes.items() if not declared[claim].part_of
    )
    out.attrs["finding"] = f"Combined, {grouped(out['combined'])}"
    return out


def _together(per_study: list[str]) -> str:
    # a study that decides nothing is no vote against one that does
    decided = set(per_study) - {"undecided", NO_GAP}
    if not decided:
        return "undecided" if per_study else NOT_MEASURED
    if len(decided) == 1:
        return decided.pop()
    return SCALE_ONLY if decided == {"supported", SCALE_ONLY} else "mixed"
