"""Every other way to look at a claim, with its effect:
printed beside the verdict, never part of it.
"""

from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from arlib.claims.declared import Claim, Config, Statistic
from arlib.claims.evidence import gather
from arlib.claims.second import claims_of
from arlib.claims.values import clean, collapsed, values
from arlib.claims.words import effect_text
from arlib.errors import one_of


def sensitivity(
    records: pd.DataFrame, claim: str, config: Config | dict | None = None
) -> pd.DataFrame:
    """All statistics of `claim` ("C1" … "C7"), the deciding ones first;
    rows without data are left out.

    Columns: role (primary, twin, sensitivity), statistic, setting, checkpoint, effect, low, high
    (log ratios for log statistics), text (the effect as printed), seeds, trend_p.
    """
    config, table = Config.of(config), clean(records)
    one_of("claim", claim, claims_of(config.protocol))
    declared = claims_of(config.protocol)[claim]
    out = set(collapsed(table, config)["strength"])
    rows = []
    for role, statistic in statistics_of(declared, table, config):
        evidence = gather(values(table, statistic), statistic, config, out=out, noise=False)
        if not evidence.problem:
            rows.append(
                (
                    role,
                    statistic.label,
                    statistic.setting,
                    statistic.checkpoint,
                    *evidence.effect,
                    effect_text(statistic, evidence.effect),
                    len(evidence.seeds),
                    evidence.trend_p,
                )
            )
    columns = [
        "role",
        "statistic",
        "setting",
        "checkpoint",
        "effect",
        "low",
        "high",
        "text",
        "seeds",
        "trend_p",
    ]
    frame = pd.DataFrame(rows, columns=columns)
    frame.attrs["claim"] = declared.statement
    return frame


def statistics_of(
    declared: Claim, table: pd.DataFrame, config: Config
) -> Iterator[tuple[str, Statistic]]:
    """(role, statistic) with "*" settings spread over what is recorded; nothing comes twice."""
    seen = set()
    listed = [("primary", declared.primary), ("twin", declared.twin)]
    listed += [("sensitivity", statistic) for statistic in declared.sensitivity]
    for role, statistic in listed:
        for concrete in _spread(statistic.at(config), table) if statistic else ():
            # without the label: what "*" stands for may be the primary by another name
            key = replace(concrete, label="")
            if key not in seen:
                seen.add(key)
                yield role, concrete


def _spread(statistic: Statistic, table: pd.DataFrame) -> list[Statistic]:
    if statistic.setting != "*":
        return [statistic]
    rows = table[
        (table["statistic"] == statistic.name) & (table["checkpoint"] == statistic.checkpoint)
    ]
    return [
        replace(statistic, setting=setting)
        for setting in sorted(rows["setting"].unique(), key=_natural)
    ]


def _natural(setting: str) -> tuple[str, float, str]:
    """Sorts "pgd@16" after "pgd@8"."""
    name, _, radius = setting.partition("@")
    return name, float(radius) if radius.replace(".", "", 1).isdigit() else float("inf"), radius
