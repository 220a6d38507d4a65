"""The judge's bench: one statistic of a study, judged by rules that a reader may choose.

`Bench.answer` is what `arlib.claims` says for a choice, `Bench.content` the numbers from which the
page's script says the same. A test compares the two for every choice.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from arlib import claims
from arlib.claims import Claim, Evidence, Statistic
from arlib.claims.decide import LEAST_GAP, NO_GAP
from arlib.claims.evidence import SEEDS_NEEDED, gather
from arlib.claims.sensitivity import statistics_of
from arlib.claims.values import clean, collapsed, values
from arlib.claims.words import OPERATORS as WORDS
from arlib.claims.words import effect_text

LEVELS = (0.1, 0.05, 0.01)
PROTOCOLS = (1, 2)
DIRECTIONS = {"supported": "rises", "contradicted": "falls"}
# What a spectrum is of, where it stands alone.
OPERATORS = WORDS | {"circular+bn-natural": "circular, BN folded, natural statistics"}
# A part asks what its claim asks by protocol 1, of the same statistics.
_SAME = {"C5a": "C5", "C6a": "C6"}


@dataclass(frozen=True)
class Item:
    """A statistic on the bench, for the claim that declares it."""

    claim: Claim
    role: str
    statistic: Statistic

    @property
    def expected(self) -> int:
        """The declared direction; 0 where none is, then only rising or falling is judged."""
        follows = {"primary": 1, "twin": self.claim.twin_follows}.get(self.role, 0)
        return follows * self.claim.expected

    @property
    def needs_gap(self) -> bool:
        """Protocol 2 asks C2 for a gap that there is room to close."""
        return self.claim.id == "C2" and self.role == "primary"

    def content(self) -> dict:
        statistic, claim = self.statistic, self.claim
        return {
            "claim": claim.id,
            "title": claim.title,
            "role": self.role,
            "label": statistic.label,
            "setting": _setting(statistic.setting),
            "expected": self.expected,
            "log": statistic.log,
            "percent": statistic.percent,
            "layers": bool(statistic.layers),
            "twin_follows": claim.twin_follows,
            "scale_twin": claim.id == "C6",
            "needs_gap": self.needs_gap,
        }


def _setting(name: str) -> str:
    """A setting of the record table in words: an operator, or an attack and its radius."""
    attack, _, radius = name.partition("@")
    if not radius:
        return OPERATORS.get(name, name)
    return f"{attack} at {radius}/255" if radius[0].isdigit() else f"{attack} at {radius} radius"


@dataclass(frozen=True)
class Answer:
    """What the rules say of one item."""

    evidence: Evidence
    verdict: str


class Bench:
    """A study's statistics, each read from its records once."""

    def __init__(self, study):
        table = clean(study.records())
        self.study, self.config = study, claims.config_of(study)
        self.table = table[table["checkpoint"].isin(["last", "best"])]
        self.seeds = sorted(map(int, table["seed"].unique()))
        self.strengths = sorted(float(s) for s in table["strength"].unique() if s > 0)
        gone = collapsed(table, self.config)
        self.collapsed = [(float(row.strength), int(row.seed)) for row in gone.itertuples()]
        self.items = self._items()

    @cache  # noqa: B019 - a bench lives as long as the page is made
    def frame(self, statistic: Statistic) -> pd.DataFrame:
        """The statistic of every run: rows (seed, strength), a column per layer."""
        return values(self.table, statistic)

    def _items(self) -> list[Item]:
        """Every declared statistic of both protocols that is recorded for enough seeds, once.

        None of a claim whose primary statistic is not.
        """
        out: dict[tuple, Item] = {}
        for protocol in PROTOCOLS:
            for claim in claims.claims_of(protocol).values():
                if claim.id in _SAME or not self._is_recorded(claim.primary):
                    continue
                for role, statistic in statistics_of(claim, self.table, self.config):
                    if self._is_recorded(statistic):
                        key = (claim.id, replace(statistic, label=""))
                        out.setdefault(key, Item(claim, role, statistic))
        return list(out.values())

    def _is_recorded(self, statistic: Statistic | None) -> bool:
        if statistic is None:
            return False
        statistic = statistic.at(self.config)
        return not gather(self.frame(statistic), statistic, self.config, noise=False).problem

    def answer(
        self,
        item: Item,
        *,
        strength: float,
        seeds: Collection[int],
        protocol: int,
        level: float,
    ) -> Answer:
        """An item's evidence and verdict as `arlib.claims` has them, for one choice.

        A claim's primary statistic is judged with its twin, as the claim is; every other one
        alone. Where no direction is declared the verdict is "rises", "falls", "mixed" or
        "undecided".
        """
        claim, choice = item.claim, (strength, tuple(seeds), level)
        own, twin = self._evidence(item.statistic, *choice), None
        rules = {"protocol": protocol, "level": level}
        if item.role == "primary" and claim.twin is not None:
            twin = self._evidence(claim.twin.at(self.config), *choice)
            rules |= {"scale_twin": claim.id == "C6", "twin_follows": claim.twin_follows}
        decision = claims.verdict(own, twin, item.expected or 1, **rules)
        if not item.expected:
            decision = DIRECTIONS.get(decision, decision)
        if item.needs_gap and protocol == 2 and own.at_zero < LEAST_GAP:
            decision = NO_GAP
        return Answer(own, decision)

    @cache  # noqa: B019
    def _evidence(self, statistic: Statistic, strength: float, seeds: tuple, level: float):
        frame = self.frame(statistic)
        frame = frame[frame.index.get_level_values("seed").isin(seeds)]
        config = replace(self.config, effect=strength, seeds=seeds)
        out = {s for s, seed in self.collapsed if seed in seeds}
        return gather(frame, statistic, config, out=out, level=level)

    def content(self) -> dict:
        """All from which the page's script judges, as plain content."""
        tables: dict[Statistic, int] = {}
        place = {(item.claim.id, item.role): i for i, item in enumerate(self.items)}
        listed = []
        for item in self.items:
            table = tables.setdefault(replace(item.statistic, label=""), len(tables))
            twin = place.get((item.claim.id, "twin")) if item.role == "primary" else None
            listed.append({**item.content(), "table": table, "twin": twin})
        return {
            "study": self.study.name,
            "title": self.study.title,
            "protocol": self.config.protocol,
            "effect": self.config.effect,
            "strengths": self.strengths,
            "seeds": self.seeds,
            "seeds_needed": SEEDS_NEEDED,
            "least_gap": LEAST_GAP,
            # Student's t by level and degrees of freedom, from 1 on
            "student": {
                f"{level:g}": [
                    float(stats.t.ppf(1 - level / 2, df)) for df in range(1, len(self.seeds))
                ]
                for level in LEVELS
            },
            "collapsed": self.collapsed,
            "tables": [_plain(self.frame(statistic)) for statistic in tables],
            "items": listed,
        }


def _plain(frame: pd.DataFrame) -> list[list]:
    """A row per run: strength, seed, then its number or one per layer; null where it lacks one."""
    rows = []
    for (seed, strength), row in zip(frame.index, frame.to_numpy().tolist(), strict=True):
        numbers = [None if np.isnan(value) else value for value in row]
        rows.append([float(strength), int(seed), *numbers])
    return rows


def declared(study) -> list[dict]:
    """The study's own verdicts, a row per claim: what stands on the page without any script."""
    frame = claims.verdicts(study)
    listed = {**claims.claims_of(1), **claims.claims_of(2)}
    rows = []
    for row in frame.to_dict("records"):
        statistic = listed[row["claim"]].primary
        measured = statistic is not None and row["primary_verdict"] != claims.NOT_MEASURED
        effect = claims.Interval(row["effect"], row["low"], row["high"])
        rows.append(
            {
                "claim": f"{row['claim']} {row['title']}",
                "statistic": row["statistic"] if measured else "–",
                "effect": effect_text(statistic, effect) if measured else "–",
                "verdict": row["verdict"],
            }
        )
    return rows
