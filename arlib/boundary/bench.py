"""The judge's bench: one statistic of a study, judged by rules that a reader may choose.

`answer` is what `arlib.claims` says for a choice; `bench` the numbers from which the page's script
says the same. A test compares the two for every choice.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
import pandas as pd
from scipy import stats

from arlib import claims
from arlib.claims import Claim, Config, Evidence, Statistic
from arlib.claims.decide import LEAST_GAP, NO_GAP
from arlib.claims.declared import CONVOLUTIONS
from arlib.claims.evidence import SEEDS_NEEDED, gather
from arlib.claims.sensitivity import statistics_of
from arlib.claims.values import clean, collapsed, values
from arlib.claims.words import OPERATORS, effect_text

LEVELS = (0.1, 0.05, 0.01)
PROTOCOLS = (1, 2)
DIRECTIONS = {"supported": "rises", "contradicted": "falls"}
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
    def family(self) -> tuple[str, str]:
        """What items have in common that differ in operator or radius only."""
        return self.claim.id, self.statistic.label


@dataclass(frozen=True)
class Answer:
    """What the rules say of one item."""

    evidence: Evidence
    verdict: str


def items(records: pd.DataFrame, config: Config) -> list[Item]:
    """Every declared statistic that is recorded for three seeds, of both protocols, each once.

    Of the statistics of C6 that decide nothing by either protocol none is taken.
    """
    table = clean(records)
    out: dict[tuple, Item] = {}
    for protocol in PROTOCOLS:
        for claim in claims.claims_of(protocol).values():
            if claim.id in _SAME or claim.primary is None:
                continue
            deciding = {claim.primary.name, getattr(claim.twin, "name", "")}
            for role, statistic in statistics_of(claim, table, config):
                if statistic.layers == CONVOLUTIONS and statistic.name not in deciding:
                    continue
                item = Item(claim, role, statistic)
                frame = values(table, statistic)
                if not gather(frame, statistic, config, noise=False).problem:
                    out.setdefault((claim.id, replace(statistic, label="")), item)
    return list(out.values())


def answer(
    records: pd.DataFrame,
    config: Config,
    item: Item,
    *,
    strength: float,
    seeds: Collection[int],
    protocol: int,
    level: float,
) -> Answer:
    """An item's evidence and verdict as `arlib.claims` has them, for one choice.

    A claim's primary statistic is judged with its twin, as the claim is; every other one alone.
    Where no direction is declared the verdict is "rises", "falls", "mixed" or "undecided".
    """
    table = clean(records)
    table = table[table["seed"].isin(list(seeds))]
    config = replace(config, effect=strength, protocol=protocol, seeds=tuple(seeds))
    out = set(collapsed(table, config)["strength"])
    own = _evidence(table, config, item.statistic, out, level)
    claim, rules = item.claim, {"protocol": protocol, "level": level}
    if item.role == "primary" and claim.twin is not None:
        twin = _evidence(table, config, claim.twin.at(config), out, level)
        rules |= {"scale_twin": claim.id == "C6", "twin_follows": claim.twin_follows}
        said = claims.verdict(own, twin, item.expected, **rules)
    else:
        said = claims.verdict(own, None, item.expected or 1, **rules)
    if not item.expected:
        said = DIRECTIONS.get(said, said)
    if _needs_gap(item) and protocol == 2 and own.at_zero < LEAST_GAP:
        said = NO_GAP
    return Answer(own, said)


def _evidence(table, config: Config, statistic: Statistic, out: set, level: float) -> Evidence:
    return gather(values(table, statistic), statistic, config, out=out, level=level)


def _needs_gap(item: Item) -> bool:
    return item.claim.id == "C2" and item.role == "primary"


def bench(study) -> dict:
    """All that the page needs to judge a study, as plain content."""
    records, config = study.records(), claims.config_of(study)
    table, listed = clean(records), items(records, config)
    place = {(item.claim.id, item.role): i for i, item in enumerate(listed)}
    seeds = sorted(map(int, table["seed"].unique()))
    return {
        "study": study.name,
        "title": study.title,
        "protocol": config.protocol,
        "effect": config.effect,
        "strengths": sorted(float(s) for s in table["strength"].unique() if s > 0),
        "seeds": seeds,
        "seeds_needed": SEEDS_NEEDED,
        "levels": LEVELS,
        "least_gap": LEAST_GAP,
        # Student's t by level and degrees of freedom, from 1 on
        "student": {
            f"{level:g}": [float(stats.t.ppf(1 - level / 2, df)) for df in range(1, len(seeds))]
            for level in LEVELS
        },
        "collapsed": [
            [float(row.strength), int(row.seed)] for row in collapsed(records, config).itertuples()
        ],
        "items": [_item(item, table, place) for item in listed],
    }


def _item(item: Item, table: pd.DataFrame, place: dict) -> dict:
    statistic, claim = item.statistic, item.claim
    frame = values(table, statistic)
    twin = place.get((claim.id, "twin")) if item.role == "primary" else None
    return {
        "claim": claim.id,
        "title": claim.title,
        "role": item.role,
        "label": statistic.label,
        "setting": OPERATORS.get(statistic.setting, statistic.setting.replace("@", " at ")),
        "expected": item.expected,
        "log": statistic.log,
        "percent": statistic.percent,
        "layers": bool(statistic.layers),
        "twin": twin,
        "twin_follows": claim.twin_follows,
        "scale_twin": twin is not None and claim.id == "C6",
        "needs_gap": _needs_gap(item),
        "runs": [[float(strength), int(seed)] for seed, strength in frame.index],
        "values": [[None if np.isnan(v) else v for v in row] for row in frame.to_numpy().tolist()],
    }


def declared(study) -> list[dict]:
    """The study's own verdicts, a row a claim: what stands on the page without any script."""
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


def chosen_seeds(seeds: list[int]) -> list[tuple[int, ...]]:
    """Every choice of seeds that can decide anything, and one that cannot."""
    from itertools import combinations

    sizes = range(SEEDS_NEEDED - 1, len(seeds) + 1)
    few, *rest = (list(combinations(seeds, size)) for size in sizes)
    return [few[0], *chain.from_iterable(rest)]
