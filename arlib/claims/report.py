"""Verdicts for people: short tables, and the verdict of all studies together."""

from collections.abc import Mapping

import pandas as pd

from arlib.claims.decide import NOT_MEASURED, SCALE_ONLY, decide
from arlib.claims.declared import CLAIMS, Claim, Config
from arlib.claims.statistics import Interval
from arlib.claims.words import effect_text, p_text


def config_of(study) -> Config:
    """The `Config` of a study: its `claims:` radii, its classes, its planned seeds, and whether it is a toy."""
    recipes = [getattr(entry, "recipe", entry) for entry in study.recipes]
    classes = 100 if any(recipe.dataset == "cifar100" for recipe in recipes) else 10
    seeds = tuple(
        sorted({r.seed for r, e in zip(recipes, study.recipes, strict=True) if not getattr(e, "variant", "")})
    )
    return Config.of({**study.claims, "classes": classes, "toy": bool(study.toy), "seeds": seeds})


def verdicts(study) -> pd.DataFrame:
    """The verdicts of a study (`studies.load(name)`), computed from its records: `decide` with its settings."""
    frame = decide(study.records(), config_of(study))
    frame.insert(0, "study", study.name)
    return frame


def tested(frame: pd.DataFrame) -> int:
    """How many claims were tested: those with any verdict but "not measured"."""
    return int((frame["verdict"] != NOT_MEASURED).sum())


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """Verdicts as a short table of text: claim, verdict, what is compared, effect, seeds, trend, twin."""
    rows = [_line(row, CLAIMS[row["claim"]]) for _, row in frame.iterrows()]
    return pd.DataFrame(rows).set_index("Claim")


def _line(row: pd.Series, claim: Claim) -> dict:
    measured = row["primary_verdict"] != NOT_MEASURED
    return {
        "Claim": f"{claim.id} {claim.title}",
        "Verdict": row["verdict"] + (" (toy)" if row["toy"] and measured else ""),
        "Statistic": row["statistic"] or "–",
        "Expected": claim.arrow,
        "AR strength": f"0 → {row['strength']:g}" if claim.primary else "–",
        "Effect [95 % interval]": effect_text(claim.primary, _interval(row)) if claim.primary else "–",
        "Seeds": str(row["seeds"]),
        "Trend": p_text(row["trend_p"]) if measured else "–",
        "Twin": effect_text(claim.twin, _interval(row, "twin_")) if claim.twin else "–",
    }


def _interval(row: pd.Series, prefix: str = "") -> Interval:
    return Interval(*(row[prefix + name] for name in ("effect", "low", "high")))


def markdown(frame: pd.DataFrame) -> str:
    """Any small frame of text as a Markdown table, its index first."""
    frame = frame.reset_index()
    lines = [[str(name) for name in frame.columns], ["---"] * frame.shape[1], *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def combine(by_study: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The verdicts of several studies side by side, and the combined one.

    Rows are claims; columns: title, one a study (toys labelled, and not counted), combined, studies
    (how many non-toy studies measured it). Combined: the verdict on which all studies that decided
    agree, else mixed; undecided if none decided; supported in one study and "scale only" in another
    is "supported, scale only". `attrs["tested"]` is the number of claims tested, over all studies that count.
    """
    out = pd.DataFrame(index=pd.Index(CLAIMS, name="claim"))
    out["title"] = [claim.title for claim in CLAIMS.values()]
    counted = []
    for name, frame in by_study.items():
        found, toy = frame.set_index("claim")["verdict"], bool(frame["toy"].any())
        out[f"{name} (toy)" if toy else name] = found
        counted += [] if toy else [found]
    votes = {claim: [found[claim] for found in counted if found[claim] != NOT_MEASURED] for claim in CLAIMS}
    out["combined"] = [_together(found) for found in votes.values()]
    out["studies"] = [len(found) for found in votes.values()]
    out.attrs["tested"] = sum(map(len, votes.values()))
    return out


def _together(found: list[str]) -> str:
    decided = set(found) - {"undecided"}
    if not decided:
        return "undecided" if found else NOT_MEASURED
    if len(decided) == 1:
        return decided.pop()
    return SCALE_ONLY if decided == {"supported", SCALE_ONLY} else "mixed"
