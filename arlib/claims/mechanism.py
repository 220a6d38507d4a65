"""C8 by intervention: what of the way from a standard to a robust network an arm goes.

S′ and A′ are the standard and the robust network of a seed, trained on with nothing imposed.

reproduced share = (arm − S′) / (A′ − S′), of an arm that starts from the standard network;
lost share = (A′ − Rescue) / (A′ − S′), of the robust network that is given standard spectra;

means over seeds, Fieller's interval, on the log scale where the statistic is compared so.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from arlib.claims.decide import NOT_MEASURED, decide, of_two_parts
from arlib.claims.declared import CLAIMS, Config, Statistic
from arlib.claims.evidence import SEEDS_NEEDED
from arlib.claims.statistics import Interval, Ratio, fieller, t_interval
from arlib.claims.values import clean, collapsed, values
from arlib.training.arm import KINDS

STANDARD, ROBUST, RESCUE = "s", "a", "rescue"
MARGIN, ERROR = "margin", "error"
SHAMS = ("other", "noise")
TESTED = {"C8a": "d", "C8b": "smooth"}
LARGEST_RESIDUAL = 0.02  # of a spectrum that counts as imposed
TOLERANCE = 0.1  # on |log| of the smoothness that was to be matched
MOST, FEW = 0.5, 0.25  # of a share
MARGINS_ONLY = "margins only"
DOSES = {"dose-minus-1": -1.0, "dose-minus-half": -0.5, "s": 0.0, "dose-half": 0.5, "d": 1.0}

STATISTICS: dict[str, Statistic] = {
    MARGIN: CLAIMS["C4"].primary,
    ERROR: CLAIMS["C1"].primary,
    "scale-free": CLAIMS["C4"].twin,
    "confidence": CLAIMS["C3"].primary,
    "features": CLAIMS["C5"].primary,
    "flips": CLAIMS["C7"].primary,
    "robust": Statistic("error under PGD-10 at {effect}/255", "robust_error",
                        setting="pgd-10@{effect}", percent=True),
}  # fmt: skip
"""What arms are compared in; the first two decide."""
SHORT = {
    "margin": "median |m|",
    "error": "test error",
    "scale-free": "median |m|/R",
    "confidence": "confidence (C3)",
    "features": "feature change (C5a)",
    "flips": "flips (C7)",
    "robust": "robust error",
}
"""The same in two or three words."""
_NOTE = {
    "C8a": "the robust network’s spectra in every layer",
    "C8b": "feature changes as small as the robust network’s",
}


@dataclass(frozen=True)
class Share:
    """A share of one statistic; NaN ends where too few seeds have it."""

    ratio: Ratio
    seeds: tuple[int, ...] = ()

    @property
    def decides(self) -> bool:
        return len(self.seeds) >= SEEDS_NEEDED


def title(arm: str) -> str:
    """An arm as it is printed: "D: robust spectra"."""
    return KINDS[arm].title if arm in KINDS else arm


def in_order(arms) -> list[str]:
    """Arms in the order in which they are declared."""
    known = list(KINDS)
    return sorted(arms, key=lambda arm: known.index(arm) if arm in known else len(known))


def arms_of(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """One row per arm and seed, a column for each of `STATISTICS` in its own unit.

    Of features the median over blocks. Index (arm, seed); arms as they stand in the records. Arms
    that collapsed are left out and stand in `attrs["collapsed"]` (arm, seed, reason).
    """
    config = Config.of(config)
    parts, gone = {}, []
    for arm, rows in _by_arm(records):
        table = clean(rows.assign(variant=""))
        lost = collapsed(table, config)
        gone += [(arm, row.seed, row.reason) for row in lost.itertuples()]
        columns = {}
        for name, statistic in STATISTICS.items():
            wide = values(table, statistic.at(config))
            if wide.shape[1]:
                columns[name] = wide.median(axis=1).droplevel("strength")
        part = pd.DataFrame(columns, columns=list(STATISTICS)).drop(index=lost["seed"])
        parts[arm] = part
    empty = pd.DataFrame(columns=list(STATISTICS), dtype=float)
    empty.index = pd.MultiIndex.from_arrays([[], []], names=["arm", "seed"])
    out = pd.concat(parts, names=["arm", "seed"]) if parts else empty
    out.attrs["collapsed"] = gone
    return out


def _by_arm(records: pd.DataFrame):
    rows = records[records["variant"].isin(KINDS)]
    return rows.groupby("variant", sort=False)


def manipulations(records: pd.DataFrame) -> pd.DataFrame:
    """Whether each arm has what was to be imposed: one row per arm and seed that imposes anything.

    Columns: arm, seed, kind ("spectra" or "features"), layers (with an imposed spectrum), of (all
    counted layers), worst (largest residual ‖σ − wanted‖/‖wanted‖; of features
    |log(value/target)|), layer (where), value, target, weight (of the penalty), holds.
    """
    out = []
    for arm, rows in _by_arm(records):
        for seed, part in rows.groupby("seed"):
            residuals = part[part["statistic"] == "imposed_residual"]
            matched = part[part["statistic"].isin(("matched_value", "matched_target"))]
            if len(residuals):
                out.append(_of_spectra(arm, seed, part, residuals))
            elif len(matched) == 2:
                out.append(_of_features(arm, seed, part))
    columns = ["arm", "seed", "kind", "layers", "of", "worst", "layer", "value", "target",
               "weight", "holds"]  # fmt: skip
    return pd.DataFrame(out, columns=columns)


def _of_spectra(arm: str, seed: int, part: pd.DataFrame, residuals: pd.DataFrame) -> dict:
    worst = residuals.loc[residuals["value"].idxmax()]
    counted = set(part[(part["statistic"] == "counted") & (part["value"] > 0)]["layer"])
    missing = counted - set(residuals["layer"])
    early = arm == "d-early"  # acts on some layers only, by its design
    holds = worst["value"] <= LARGEST_RESIDUAL and (early or not missing)
    return {
        "arm": arm, "seed": seed, "kind": "spectra", "layers": len(residuals),
        "of": len(residuals) if early else len(counted), "worst": worst["value"],
        "layer": worst["layer"], "holds": bool(holds),
    }  # fmt: skip


def _of_features(arm: str, seed: int, part: pd.DataFrame) -> dict:
    number = part.drop_duplicates("statistic", keep="last").set_index("statistic")["value"]
    value, target = number["matched_value"], number["matched_target"]
    worst = abs(math.log(value / target)) if value > 0 and target > 0 else math.inf
    return {
        "arm": arm, "seed": seed, "kind": "features", "worst": worst, "layer": "", "value": value,
        "target": target, "weight": number.get("penalty_weight", math.nan),
        "holds": worst <= TOLERANCE,
    }  # fmt: skip


def shares(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """Reproduced and lost shares: one row per arm and statistic.

    Columns: arm, kind ("reproduced" or "lost"), statistic (of `STATISTICS`), share, low, high,
    seeds (their number). With fewer than 3 seeds low and high are NaN: the share is of one or two
    networks and decides nothing. The ends are infinite where Fieller's interval is unbounded.
    """
    table, rows = arms_of(records, config), []
    for arm in table.index.get_level_values("arm").unique():
        if arm in (STANDARD, ROBUST):
            continue
        kind = "lost" if arm == RESCUE else "reproduced"
        for name in STATISTICS:
            share = _share(table, arm, name)
            if share.seeds:
                rows.append((arm, kind, name, *share.ratio, len(share.seeds)))
    columns = ["arm", "kind", "statistic", "share", "low", "high", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def _share(table: pd.DataFrame, arm: str, statistic: str) -> Share:
    column = table[statistic].astype(float)
    numbers = np.log(column.where(column > 0)) if STATISTICS[statistic].log else column
    wide = numbers.unstack("arm").reindex(columns=[STANDARD, ROBUST, arm]).dropna()
    if wide.empty:
        return Share(Ratio())
    standard, robust, own = (wide[name].to_numpy() for name in (STANDARD, ROBUST, arm))
    above, below = (robust - own if arm == RESCUE else own - standard), robust - standard
    seeds = tuple(wide.index)
    if len(seeds) >= SEEDS_NEEDED:
        return Share(fieller(above, below), seeds)
    mean = below.mean()
    return Share(Ratio(float(above.mean() / mean) if mean else math.nan), seeds)


def decide_arms(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """The verdicts of a study of arms, as `decide` has them: only C8, C8a and C8b are decided.

    C8a asks it of the arm D and of Rescue, C8b of the arm Smooth (no arm takes smoothness away, so
    it has no lost share). supported: the lower ends of all these shares are above ½, for margin and
    for error, and the upper ends of Other and Noise below ¼. "margins only": the same for margin
    but not for error. contradicted: the upper ends are below ¼. Else undecided. not measured: fewer
    than 3 seeds, or in some seed the manipulation did not take. C8 sums up its parts.

    Adds a column effect_text: the shares as a table prints them.
    """
    config = Config.of(config)
    frame = decide(records.iloc[:0], config).astype({"note": object})
    frame["effect_text"] = ""
    table, checks = arms_of(records, config), manipulations(records)
    verdicts = {}
    for claim, arm in TESTED.items():
        verdict, note, text, seeds = _decision(claim, arm, table, checks)
        verdicts[claim] = (verdict, note)
        row = frame["claim"] == claim
        frame.loc[row, ["verdict", "note", "effect_text", "seeds"]] = verdict, note, text, seeds
    whole = of_two_parts(*(verdict for verdict, _ in verdicts.values()))
    notes = [f"{claim}: {verdict}. {note}" for claim, (verdict, note) in verdicts.items()]
    frame.loc[frame["claim"] == "C8", ["verdict", "note"]] = whole, " ".join(notes)
    return frame


def _decision(
    claim: str, arm: str, table: pd.DataFrame, checks: pd.DataFrame
) -> tuple[str, str, str, int]:
    """(verdict, note, shares as text, seeds) of one part."""
    own = [arm, RESCUE] if claim == "C8a" else [arm]
    by = {(a, s): _share(table, a, s) for a in (*own, *SHAMS) for s in (MARGIN, ERROR)}
    text = "; ".join(
        f"{s} {share_text(by[a, s])}{' lost' if a == RESCUE else ''}"
        for a in own
        for s in (MARGIN, ERROR)
        if by[a, s].seeds
    )
    seeds = min(len(by[a, s].seeds) for a in own for s in (MARGIN, ERROR))
    sentence = f"Share of the way from S′ to A′, given {_NOTE[claim]}: {text or 'nothing yet'}."
    problem = _problem(own, by, table, checks)
    if problem:
        return NOT_MEASURED, f"{problem} {sentence}" if text else problem, text, seeds

    def above(statistic: str) -> bool:
        return all(by[a, statistic].ratio.low > MOST for a in own)

    def below(arms, statistic: str) -> bool:
        return all(by[a, statistic].ratio.high < FEW for a in arms)

    if all(below(own, s) for s in (MARGIN, ERROR)):
        return "contradicted", sentence, text, seeds
    if not above(MARGIN):
        return "undecided", sentence, text, seeds
    lacking = [a for a in SHAMS if not all(by[a, s].decides for s in (MARGIN, ERROR))]
    if lacking:
        needed = " and ".join(a.capitalize() for a in lacking)
        return NOT_MEASURED, f"{needed} is needed with 3 seeds. {sentence}", text, seeds
    shams = "; ".join(
        f"{a.capitalize()} {s} {share_text(by[a, s])}" for a in SHAMS for s in (MARGIN, ERROR)
    )
    sentence += f" Beside it: {shams}."
    if above(ERROR) and all(below(SHAMS, s) for s in (MARGIN, ERROR)):
        return "supported", sentence, text, seeds
    if not above(ERROR) and below(SHAMS, MARGIN):
        return MARGINS_ONLY, sentence, text, seeds
    return "undecided", sentence, text, seeds


def _problem(own: list[str], by: dict, table: pd.DataFrame, checks: pd.DataFrame) -> str:
    """Why a part is not measured; empty if it is."""
    failed = checks[checks["arm"].isin(own) & ~checks["holds"].astype(bool)]
    for row in failed.itertuples():
        return (
            f"The manipulation did not take in arm {row.arm} of seed {row.seed} "
            f"({row.layer or 'feature changes'} {100 * row.worst:.1f} % off)."
        )
    for arm in own:
        if not all(by[arm, s].decides for s in (MARGIN, ERROR)):
            have = len(by[arm, MARGIN].seeds)
            lost = [f"{a} of seed {s} collapsed" for a, s, _ in table.attrs["collapsed"]]
            return (
                f"Arm {arm} with S′ and A′ is there for {have} of {SEEDS_NEEDED} "
                f"seeds{'; ' + ', '.join(lost) if lost else ''}."
            )
    return ""


def share_text(share: Share | tuple) -> str:
    """ "0.42 [0.31, 0.55]"; without an interval where there are too few seeds; "–" for none."""
    ratio = share.ratio if isinstance(share, Share) else Ratio(*share)
    if math.isnan(ratio.value):
        return "–"
    if math.isnan(ratio.low):
        return two_digits(ratio.value)
    if not ratio.bounded:
        return f"{two_digits(ratio.value)} [unbounded]"
    ends = ", ".join(map(two_digits, (ratio.low, ratio.high)))
    return f"{two_digits(ratio.value)} [{ends}]"


def two_digits(value: float) -> str:
    """ "−0.42"; what rounds to 0 has no sign."""
    text = f"{value:.2f}"
    return text.lstrip("-") if float(text) == 0 else text.replace("-", "−")


def arrows(
    records: pd.DataFrame,
    config: Config | Mapping | None = None,
    verdicts_of_source: pd.DataFrame | None = None,
) -> dict[int, str]:
    """What the tests say of each arrow of the story (`figures.causal_graph` numbers them).

    1 and 2, from training to even spectra and to smooth features, by C6b and C5a of the study that
    the arms start from; 3, from spectra to features, by D's share of C5a; 4 and 5 by C8a and C8b;
    6, from margins to accuracy, by Temperature, whose errors cannot move whatever |m| does.

    "stands" (supported, or a share's lower end above ½), "in part" (margins only), "broken"
    (contradicted, or the upper end below ¼), "undecided", "not measured".
    """
    words = {"supported": "stands", "contradicted": "broken", MARGINS_ONLY: "in part"}
    frame = decide_arms(records, config).set_index("claim")["verdict"]
    states = {n: frame.get(c, NOT_MEASURED) for n, c in ((4, "C8a"), (5, "C8b"))}
    if verdicts_of_source is not None:
        source = verdicts_of_source.set_index("claim")["verdict"]
        states |= {n: source.get(c, NOT_MEASURED) for n, c in ((1, "C6b"), (2, "C5a"))}
    named = {
        n: words.get(v, v if v == NOT_MEASURED else "undecided") for n, v in sorted(states.items())
    }
    table = arms_of(records, config)
    share = _share(table, "d", "features")
    low, high = share.ratio.low, share.ratio.high
    decided = "stands" if low > MOST else "broken" if high < FEW else "undecided"
    named[3] = decided if share.decides else NOT_MEASURED
    there = "temperature" in table.index.get_level_values("arm")
    named[6] = "broken" if there else NOT_MEASURED
    return {number: named.get(number, NOT_MEASURED) for number in range(1, 7)}


def doses(records: pd.DataFrame, config: Config | Mapping | None = None) -> pd.DataFrame:
    """The statistics against the dose: how far on the way from the standard network's spectra to
    the robust one's (log scale), S′ at 0 and D at 1. One row per statistic, dose and seed.

    Columns: statistic, dose, seed, value. `attrs["slopes"]`: {statistic: `Interval`} of the slope
    of the least-squares line per seed, on the statistic's own scale (log where it is compared so);
    the mean alone with fewer than 3 seeds. Only seeds with all five doses.
    """
    table, rows, slopes = arms_of(records, config), [], {}
    for name, statistic in STATISTICS.items():
        wide = table[name].astype(float).unstack("arm").reindex(columns=list(DOSES)).dropna()
        if wide.empty:
            continue
        for seed, row in wide.iterrows():
            rows += [(name, dose, seed, row[arm]) for arm, dose in DOSES.items()]
        numbers = np.log(wide) if statistic.log else wide
        places = np.array(list(DOSES.values()))
        each = [float(np.polyfit(places, row, 1)[0]) for row in numbers.to_numpy()]
        enough = len(each) >= SEEDS_NEEDED
        slopes[name] = t_interval(each) if enough else Interval(float(np.mean(each)))
    out = pd.DataFrame(rows, columns=["statistic", "dose", "seed", "value"])
    out.attrs["slopes"] = slopes
    return out
