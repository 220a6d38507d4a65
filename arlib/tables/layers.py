"""Small tables of text on layers, for the chapters:
the rule of "most layers", operators, scale, directions.
"""

from functools import partial

import numpy as np
import pandas as pd

from arlib import claims
from arlib.claims import NOT_MEASURED
from arlib.claims.values import clean, values
from arlib.claims.words import OPERATORS, effect_text, p_text
from arlib.errors import NotMeasured, one_of

_ALONE = "verdict of this statistic alone"


def layer_rule(study, claim: str) -> pd.DataFrame:
    """The conditions of "most layers" one by one, for both statistics of C5 or C6 on a study,
    by protocol 2 of all their parts, as text.

    One row per condition, one column per statistic. Shares are of layers that move the way of the
    median, one number per seed.
    Raises `NotMeasured` if the deciding statistic is not measured at three seeds.
    """
    config, table = claims.config_of(study), clean(study.records())
    known = claims.claims_of(config.protocol)
    one_of("claim", claim, [c.id for c in known.values() if c.primary and c.primary.layers])
    parts = claims.PARTS.get(claim, ()) if config.protocol == 2 else ()
    out, columns = set(claims.collapsed(table, config)["strength"]), {}
    for part in parts or (claim,):
        declared = known[part]
        for statistic, follows in ((declared.primary, 1), (declared.twin, declared.twin_follows)):
            statistic, expected = statistic.at(config), declared.expected * follows
            evidence = claims.gather(values(table, statistic), statistic, config, out=out)
            if evidence.problem and not columns:
                raise NotMeasured(f"{claim} is not measured on {study.name}: {evidence.problem}")
            name = f"{part}: {statistic.label}" if parts else statistic.label
            columns[name] = _conditions(evidence, statistic, expected, config.protocol)
    out = pd.DataFrame(columns).fillna(NOT_MEASURED).rename_axis("condition")
    told = "; ".join(
        f"{name}, {rows['stands out'].partition(':')[0]}, {rows[_ALONE]}"
        for name, rows in out.items()
        if rows["stands out"] != NOT_MEASURED
    )
    out.attrs["finding"] = f"Whether it stands out, and the verdict of each alone: {told}."
    return out


def _conditions(
    evidence: claims.Evidence, statistic: claims.Statistic, expected: int, protocol: int
) -> dict[str, str]:
    if evidence.problem:
        return {}
    rises = evidence.effect.mean > 0
    shares = evidence.larger if rises else evidence.shares
    conditions = {
        "ratio, median over layers [95 % interval]": effect_text(statistic, evidence.effect),
        "trend over strengths": p_text(evidence.trend_p),
        f"share of layers that go {'up' if rises else 'down'}, by seed": ", ".join(
            f"{100 * s:.0f} %" for s in shares
        ),
    }
    if protocol == 2:
        stands = min(shares) > 0.5 and abs(evidence.effect.mean) > evidence.noise
        conditions["ratio between two seeds of one strength, 95th percentile"] = (
            f"× {np.exp(evidence.noise):.3g}"
        )
        conditions["stands out"] = "yes" if stands else "no"
    else:
        stands = min(shares) > max(0.5, evidence.floor)
        conditions["share between two seeds of one strength"] = (
            f"up to {100 * evidence.floor:.0f} %"
        )
        conditions["stands out"] = (
            "yes" if stands else "cannot: the floor is 100 %" if evidence.floor == 1 else "no"
        )
    return conditions | {_ALONE: claims.judge(evidence, expected, protocol)}


def operators(records: pd.DataFrame, *, strength: float) -> pd.DataFrame:
    """Std and std/mean of singular values at AR strength 0 and at `strength`,
    a row per operator, as text.

    Medians over the counted convolutions, their mean over seeds (as `claims.verdicts` takes
    levels), and the way their log ratio goes, by seed. Last column: std at 0 over the circular
    operator's, median over layers.
    """
    table, rows = clean(records), {}

    def read(name: str, setting: str) -> pd.DataFrame:
        statistic = claims.Statistic("", name, "", setting=setting, layers="convolutions")
        return values(table, statistic)

    plain = read("sv_std", "circular")
    for operator, name in OPERATORS.items():
        spectra = {"std": read("sv_std", operator), "std/mean": read("sv_std_over_mean", operator)}
        if spectra["std"].empty:
            continue
        levels = {
            title: wide.median(axis=1).groupby("strength").mean() for title, wide in spectra.items()
        }
        if not {0.0, strength} <= set(levels["std"].index):
            raise NotMeasured(f"no spectra at AR strengths 0 and {strength:g} are recorded.")
        row = {}
        for title, level in levels.items():
            row |= {f"{title} at {s:g}": f"{level[s]:.3g}" for s in (0.0, strength)}
            row[f"{title} goes"] = _way(_differences(np.log(spectra[title]), strength))
        ratio = (
            spectra["std"].groupby("strength").mean().loc[0.0]
            / plain.groupby("strength").mean().loc[0.0]
        )
        rows[name] = row | {"std / circular": f"{ratio.median():.2f}"}
    if not rows:
        raise NotMeasured("no spectra are recorded; run the study first.")
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("operator")
    counts = {title: out[f"{title} goes"].value_counts() for title in ("std", "std/mean")}
    told = "; ".join(
        f"{title} {', '.join(f'{way} for {count}' for way, count in ways.items())}"
        for title, ways in counts.items()
    )
    out.attrs["finding"] = f"Of {len(out)} operators, by the way that all seeds go: {told}."
    return out


def scale_and_shape(records: pd.DataFrame) -> pd.DataFrame:
    """Std of circular singular values relative to AR strength 0, and its factors:
    root mean square, std over that.

    A row per strength, as text: median over the counted convolutions with a t interval over seeds.
    (Medians of factors multiply to the median of the product only nearly.)
    """
    of = partial(claims.Statistic, "", split="", setting="circular", layers="convolutions")
    std, mean = (values(clean(records), of(name)) for name in ("sv_std", "sv_mean"))
    rms = np.sqrt(std**2 + mean**2)
    columns = {
        "std": std,
        "scale: root mean square": rms,
        "shape: std / root mean square": std / rms,
    }
    rows = {}
    for strength in sorted(set(std.index.get_level_values("strength")) - {0.0}):
        row = {name: _factor(np.log(wide), strength) for name, wide in columns.items()}
        rows[f"{strength:g}"] = {name: text for name, text in row.items() if text}
    if not any(rows.values()):
        raise NotMeasured("spectra are not recorded for two seeds of AR strength 0 and of another.")
    out = pd.DataFrame.from_dict(rows, orient="index").fillna(NOT_MEASURED)
    told = claims.moves({name: (wide, claims.FACTOR) for name, wide in columns.items()})
    out.attrs["finding"] = f"Median over layers. {told}"
    return out.rename_axis("AR strength")


def unevenness(study) -> pd.DataFrame:
    """Whether directions become more alike, as text:
    adversarial over random feature change, and the Jacobian's u.

    A row a measure, columns: median over blocks at AR strength 0 and at that of the verdicts (means
    over seeds), the factor between them with a t interval over seeds, and the way it goes by seed.
    """
    table, config = clean(study.records()), claims.config_of(study)

    def of(name: str, setting: str = "") -> pd.DataFrame:
        return values(table, claims.Statistic("", name, setting=setting, layers="blocks"))

    worst, typical = (
        of("feature_change", f"{kind}@{config.feature:g}") for kind in ("adversarial", "random")
    )
    measures = {
        f"adversarial / random change, radius {config.feature:g}/255": worst / typical,
        "σ_max / (‖J‖_F/√rank)": of("jacobian_uniformity"),
    }
    rows = {}
    for name, wide in measures.items():
        levels = wide.median(axis=1).groupby("strength").mean()
        if {0.0, config.effect} <= set(levels.index):
            rows[name] = {f"at {s:g}": f"{levels[s]:.3g}" for s in (0.0, config.effect)}
            rows[name]["factor [95 % interval]"] = (
                _factor(np.log(wide), config.effect) or NOT_MEASURED
            )
            rows[name]["goes"] = _way(_differences(np.log(wide), config.effect))
    if not rows:
        raise NotMeasured(
            f"feature changes and Jacobians at AR strengths 0 and {config.effect:g} are not "
            "recorded."
        )
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("unevenness")
    ends = (0.0, config.effect)
    told = {
        name: (measures[name][measures[name].index.isin(ends, level="strength")], claims.FACTOR)
        for name in rows
    }
    out.attrs["finding"] = f"Median over blocks. {claims.moves(told)}"
    return out


def _factor(logs: pd.DataFrame, strength: float) -> str:
    """The factor from AR strength 0 to this one as text; empty with fewer than two seeds."""
    differences, ratio = _differences(logs, strength), claims.Statistic("", "", log=True)
    return effect_text(ratio, claims.t_interval(differences)) if len(differences) > 1 else ""


def _differences(logs: pd.DataFrame, strength: float) -> pd.Series:
    """Median over layers of the log ratio to AR strength 0, a number per seed."""
    levels = {s: group.droplevel("strength") for s, group in logs.groupby(level="strength")}
    return (
        (levels[strength] - levels[0.0]).median(axis=1).dropna()
        if 0.0 in levels
        else pd.Series(dtype=float)
    )


def _way(differences: pd.Series) -> str:
    if differences.empty:
        return NOT_MEASURED
    return "down" if (differences < 0).all() else "up" if (differences > 0).all() else "both ways"
