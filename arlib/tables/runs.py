"""Small tables of text for the chapters:
record tables in, a DataFrame of words and rounded numbers out.
"""

import math
from collections.abc import Collection

import numpy as np
import pandas as pd

from arlib import claims
from arlib.attacks import wilson
from arlib.claims import NOT_MEASURED
from arlib.claims.mechanism import share_text
from arlib.claims.values import at_common_radius, clean, values
from arlib.claims.words import effect_text, p_text
from arlib.errors import NotMeasured, one_of
from arlib.sources import source

CROSS = ("pgd-50x10", "square")  # attacks that check the strong one, on a few networks


def interval(accuracy: float, n: int) -> str:
    """An accuracy on n images with Wilson's 95 % interval: "81.1 % [76.8, 84.8]"."""
    low, high = wilson(round(accuracy * n), n)  # back to a count, which the interval is of
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def accuracies(records: pd.DataFrame, *, checkpoint: str = "last") -> pd.DataFrame:
    """Natural accuracy and accuracy under each recorded attack
    at the common radius, on test images.

    One row per run (strength, seed; variants left out) and attack: attack, setting, n, accuracy,
    low, high.
    attack: "natural", "pgd-10", "apgd-ce+t"; low and high: Wilson's 95 % interval over images. The
    attacks that only check the strong one are in `cross_checks`. Raises `NotMeasured` if nothing is
    recorded.
    """
    rows = _rows(records, checkpoint, "test", ("error", "robust_error"))
    common = rows["setting"].eq("") | at_common_radius(rows["setting"])
    rows = rows[common & ~rows["setting"].str.partition("@")[0].map(_crosses)]
    kinds = rows["setting"].str.partition("@")[0]
    table = rows[["strength", "seed", "setting", "n"]].assign(
        attack=kinds.where(kinds != "", "natural"), accuracy=1 - rows["value"]
    )
    ends = [wilson(round(row.accuracy * row.n), row.n) for row in table.itertuples()]
    table[["low", "high"]] = np.array(ends)
    order = table["attack"].map({"natural": 0, "pgd-10": 1}).fillna(2)
    table = (
        table.assign(order=order).sort_values(["strength", "seed", "order"]).drop(columns="order")
    )
    return table.reset_index(drop=True)


def under_attack(records: pd.DataFrame, *, checkpoint: str = "last") -> pd.DataFrame:
    """`accuracies` as text: a row per run, a column per attack with its radius and n,
    intervals over images.
    """
    table = accuracies(records, checkpoint=checkpoint)
    head = table.apply(lambda row: f"{row['setting'] or 'natural'} (n = {row['n']:,})", axis=1)
    table = table.assign(
        head=head, text=[interval(row.accuracy, row.n) for row in table.itertuples()]
    )
    wide = table.pivot(index=["strength", "seed"], columns="head", values="text")[
        list(dict.fromkeys(head))
    ]
    wide = wide.fillna(NOT_MEASURED).rename_axis(columns=None).rename(index=lambda key: f"{key:g}")
    by_attack = {
        f"accuracy, {name}": (part.set_index(["seed", "strength"])["accuracy"], claims.SHARE)
        for name, part in table.groupby(head.rename("head"), sort=False)
    }
    wide.attrs["finding"] = claims.moves(by_attack)
    return wide


def cross_checks(records: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of the checked networks under the strong attack, under each other one alone,
    and under all together.

    As text, intervals over images: a row per network (strength, seed), a column per attack; the
    strong attack's number may be of more images. `attrs["added"]`: the largest share, in points,
    that the others took from what the strong attack left on the same images. Raises `NotMeasured`
    if no network was checked.
    """
    rows = _rows(records, "last", "test", ("robust_error",))
    kinds = rows["setting"].str.partition("@")[0]
    checked = rows[kinds.map(_crosses)][["strength", "seed"]].drop_duplicates()
    if checked.empty:
        raise NotMeasured(
            "no network was attacked by other means; see cross_images in the study's settings."
        )
    rows = rows[kinds.map(lambda kind: kind == "apgd-ce+t" or _crosses(kind))].merge(
        checked, on=["strength", "seed"]
    )
    rows = rows.sort_values(["strength", "seed"], kind="stable")
    heads = [f"{row.setting} (n = {row.n:,})" for row in rows.itertuples()]
    texts = [interval(1 - row.value, row.n) for row in rows.itertuples()]
    wide = rows.assign(head=heads, text=texts).pivot(
        index=["strength", "seed"], columns="head", values="text"
    )
    wide = wide[list(dict.fromkeys(heads))].fillna(NOT_MEASURED).rename_axis(columns=None)
    wide = wide.rename(index=lambda key: f"{key:g}")
    errors = rows.assign(kind=rows["setting"].str.partition("@")[0]).pivot_table(
        "value", ["strength", "seed"], "kind"
    )
    together = "+".join(("apgd-ce+t", *CROSS))
    # only where all saw the same images: else the difference would also be one of images
    same_images = rows.groupby(["strength", "seed"])["n"].nunique().eq(1).all()
    wide.attrs["added"] = (
        100 * float((errors[together] - errors["apgd-ce+t"]).max()) if same_images else float("nan")
    )
    taken = (
        f"at most {wide.attrs['added']:.1f} points of accuracy are lost"
        if same_images
        else "how much is lost is not known, since not all attacks saw the same images"
    )
    wide.attrs["finding"] = (
        f"Where the other attacks are added to the strong one, {taken} ({len(wide)} networks)."
    )
    return wide


def _crosses(kind: str) -> bool:
    return bool(set(kind.split("+")) & set(CROSS))


def robust_gap(records: pd.DataFrame) -> pd.DataFrame:
    """Natural and robust error (PGD-10 at the common radius) on train and test images,
    last and best weights.

    A row per strength and checkpoint; means over seeds in percent, with the smallest and the
    largest gap. The gap is test − train error, in points.
    """
    last = _rows(records, "last", "test", ("robust_error",))["setting"]
    common = last[last.str.startswith("pgd-10@") & (last != "pgd-10@trained")].unique()
    rows = {}
    for strength in sorted(_rows(records, "last", "test", ("error",))["strength"].unique()):
        for checkpoint in ("last", "best"):
            row = _gap(records, strength, checkpoint, "error", "", "natural")
            for setting in common:
                row |= _gap(records, strength, checkpoint, "robust_error", setting, setting)
            rows[f"{strength:g}", checkpoint] = row
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis(["strength", "weights"])
    table = clean(records)
    kinds = {"natural gap": ("error", "")}
    kinds |= {f"gap under {setting}": ("robust_error", setting) for setting in common}
    gaps = {
        f"{name}, {checkpoint} weights": claims.Statistic(
            "", statistic, minus="train", setting=setting, checkpoint=checkpoint
        )
        for name, (statistic, setting) in kinds.items()
        for checkpoint in ("last", "best")
    }
    told = {name: values(table, statistic) for name, statistic in gaps.items()}
    out.attrs["finding"] = claims.moves(
        {name: (wide, claims.SHARE) for name, wide in told.items() if len(wide)}
    )
    return out


def cost(histories: pd.DataFrame) -> pd.DataFrame:
    """What the trainings of each strength took: runs, epochs, minutes and images/s, as recorded."""
    grid = histories[histories["variant"] == ""]
    if grid.empty:
        raise NotMeasured("nothing is recorded; run the study first.")
    rows = {}
    for strength, part in grid.groupby("strength"):
        runs = part.groupby("seed").agg(epochs=("epoch", "max"), seconds=("seconds", "sum"))
        rows[f"{strength:g}"] = {
            "runs": len(runs),
            "epochs": _range(runs["epochs"], "{:.0f}"),
            "minutes a run": _range(runs["seconds"] / 60, "{:.1f}"),
            "images/s (median epoch)": f"{part['images_per_second'].median():,.0f}",
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("strength")
    took = grid.groupby(["seed", "strength"])["seconds"].sum() / 60
    out.attrs["finding"] = claims.moves({"the time of one training, in minutes,": (took, "factor")})
    return out


def measuring(study) -> pd.DataFrame:
    """Where the time of measuring goes: minutes of each part by strength, medians over the runs
    whose record says so, the longest part first. Controls and runs of fronts are left out.

    Raises `NotMeasured` where no record has it: records name their parts since they are measured
    one by one.
    """
    taken, finished = {}, study.finished()
    for entry in study.entries:
        if entry.variant or entry.run not in finished:
            continue
        if seconds := study.record(entry.run).provenance.get("part_seconds"):
            parts = pd.Series(seconds).groupby(lambda part: part.partition("@")[0]).sum()
            taken[entry.recipe.strength, entry.run] = parts / 60
    if not taken:
        raise NotMeasured("no record says how long each of its parts was measured.")
    by_run = pd.DataFrame(taken).fillna(0.0).rename(index=_PARTS)
    minutes = by_run.T.groupby(level=0).median().T
    minutes = minutes.loc[minutes.max(axis=1).sort_values(ascending=False).index]
    runs = pd.Series([strength for strength, _ in taken]).value_counts()
    out = minutes[minutes.max(axis=1) >= 0.05].map("{:.1f}".format).rename_axis("part")
    out.columns = [f"minutes at {s:g} (n = {runs[s]})" for s in minutes]
    longest = by_run.sum(axis=1).sort_values(ascending=False) / by_run.to_numpy().sum()
    told = ", ".join(f"{part} {100 * share:.0f} %" for part, share in longest.head(3).items())
    least, most = (f"{minutes:.0f}" for minutes in (by_run.sum().min(), by_run.sum().max()))
    took = least if least == most else f"{least} to {most}"
    out.attrs["finding"] = (
        f"Measuring one of these networks took {took} minutes, most of it: {told}."
    )
    return out


# Parts of measuring, in words.
_PARTS = {
    "along": "at checkpoints along training", "instance": "distances to the boundary",
    "bound": "q(v) on training images", "flips": "flip rates", "accept": "check of distances",
    "adversarial": "adversarial feature changes", "initialisation": "at initialisation",
    "jacobian": "Jacobians", "features": "random feature changes", "robust": "robust error, PGD",
    "strong": "robust error, APGD", "outputs": "errors, margins, confidence",
}  # fmt: skip


def training_time(study, rates: pd.DataFrame) -> pd.DataFrame:
    """How long the adversarial trainings of a study would take at measured speeds:
    a row per loop, as text.

    rates: a table of the training benchmark, with columns loop and images/s, of the study's network
    and PGD steps.
    """
    adversarial = [recipe for recipe in study.recipes if recipe.eps]
    images = sum(r.epochs * (r.train_images or source(r.dataset).train) for r in adversarial)
    hours = images / rates["images/s"].to_numpy() / 3600
    text = [
        f"{h / 24:,.1f} days"
        if h >= 48
        else f"{h:,.1f} hours"
        if h >= 2
        else f"{60 * h:,.0f} minutes"
        for h in hours
    ]
    named = {
        "images/s": [f"{rate:,.4g}" for rate in rates["images/s"]],
        f"{len(adversarial)} trainings": text,
    }
    out = pd.DataFrame(named, index=pd.Index(rates["loop"], name="loop"))
    if len(out):
        fastest, slowest = int(hours.argmin()), int(hours.argmax())
        out.attrs["finding"] = (
            f"The fastest loop ({rates['loop'].iloc[fastest]}) would take {text[fastest]}, the "
            f"slowest ({rates['loop'].iloc[slowest]}) {text[slowest]}."
        )
    return out


def by_seed(records: pd.DataFrame, claim: str, *, twin: bool = False) -> pd.DataFrame:
    """The statistic that decides a claim of one number per network ("C1" … "C4"):
    a row per seed, a column per strength.

    twin: its declared twin instead. As text: percent for rates, else 3 digits; `attrs["statistic"]`
    names it.
    """
    one_of(
        "claim", claim, [c.id for c in claims.CLAIMS.values() if c.primary and not c.primary.layers]
    )
    statistic = claims.CLAIMS[claim].twin if twin else claims.CLAIMS[claim].primary
    numbers = values(clean(records), statistic)
    if numbers.empty:
        raise NotMeasured(f"no {statistic.label} is recorded; run the study first.")

    def text(value: float) -> str:
        if np.isnan(value):
            return NOT_MEASURED
        number = f"{100 * value:.1f} %" if statistic.percent else f"{value:.3g}"
        return number.replace("-", "−")

    wide = numbers[""].unstack("strength").map(text)
    wide = wide.rename(columns=lambda s: f"{s:g}").rename_axis(columns=None)
    wide.index = pd.Index([f"seed {seed}" for seed in wide.index], name="AR strength")
    wide.attrs["statistic"] = statistic.label
    wide.attrs["finding"] = claims.moves({statistic.label: (numbers, claims.kind_of(statistic))})
    return wide


def sensitivity(study, claim: str, only: Collection[str] = ()) -> pd.DataFrame:
    """Every declared statistic of a claim with its effect on a study, as text:
    the deciding ones come first; or `only` those of these names.

    Empty where fewer than three seeds can be compared.
    """
    table = claims.sensitivity(study.records(), claim, claims.config_of(study))
    table = table[table["statistic"].isin(only)] if only else table
    twice = table["statistic"].duplicated(keep=False) & (table["setting"] != "")
    names = table["statistic"].where(~twice, table["statistic"] + ", " + table["setting"])
    out = {
        "role": table["role"],
        "effect [95 % interval]": table["text"],
        "seeds": table["seeds"].astype(str),
    }
    out = pd.DataFrame(out | {"trend": table["trend_p"].map(p_text)})
    out.index = pd.Index(names, name="statistic")
    signs = [claims.Interval(*ends).sign for ends in table[["effect", "low", "high"]].to_numpy()]
    ways = {"up": 1, "down": -1, "not clear": 0}
    counts = [f"{signs.count(sign)} {way}" for way, sign in ways.items() if sign in signs]
    out.attrs["finding"] = (
        f"Of {len(out)} statistics, by their 95 % intervals over seeds: {', '.join(counts)}."
    )
    return out


def matched(study, claim: str) -> pd.DataFrame:
    """The matched-fit control of one claim on a study, as text, one row per strength.

    claim: "C2" … "C7"; of a study of protocol 2 also "C1".
    effect: adversarially trained net − finished standard net; at equal fit: − standard net of equal
    train cross-entropy. Factors for log statistics, points for rates. Of a study of protocol 2: the
    share of the effect that is left beside shorter trainings, at equal train cross-entropy and at
    equal train error; of C5 and C6 all parts. Raises `NotMeasured` without checkpoints or controls.
    """
    if study.protocol == 2:
        return _left(study, claim)
    table = claims.matched_fit(study.records(), claims.config_of(study), only=[claim])
    if table.empty:
        raise NotMeasured(f"{study.name} has no measurements along training for {claim}.")
    statistic, rows = claims.CLAIMS[claim].primary, {}
    for row in table.itertuples():
        whole = effect_text(statistic, claims.Interval(row.effect, row.effect, row.effect)).split(
            " ["
        )[0]
        rows[f"{row.strength:g}"] = {
            "train CE": f"{row.train_ce:.3f}",
            "effect": whole,
            "at equal fit [95 % interval]": effect_text(
                statistic, claims.Interval(row.difference, row.low, row.high)
            ),
            "seeds that reach it": str(row.seeds),
            "reading": row.reading,
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("AR strength")
    strength, last = out.index[-1], out.iloc[-1]
    out.attrs["finding"] = (
        f"{claim} at AR strength {strength}: {last['effect']} beside the finished standard "
        f"network, {last['at equal fit [95 % interval]']} beside the one that fits as little: "
        f"{last['reading']}."
    )
    return out


def readings(matched_fit: pd.DataFrame) -> pd.DataFrame:
    """What the control says of every claim at every AR strength: a row per claim, as text.

    matched_fit: what `claims.matched_fit` or `claims.shares_left` returns.
    """
    if matched_fit.empty:
        raise NotMeasured("no network of equal fit is measured; the study has no control.")
    names = matched_fit["claim"] + " " + matched_fit["title"]
    wide = matched_fit.assign(claim=names, at=[f"at {s:g}" for s in matched_fit["strength"]])
    wide = wide.pivot(index="claim", columns="at", values="reading").fillna(NOT_MEASURED)
    order = [f"at {s:g}" for s in sorted(matched_fit["strength"].unique())]
    wide = wide[order].rename_axis(columns=None)
    counts = wide[order[-1]].value_counts(sort=False)
    told = ", ".join(f"{count} {reading}" for reading, count in counts.items())
    strength = matched_fit["strength"].max()
    wide.attrs["finding"] = f"Of {len(wide)} claims at AR strength {strength:g}: {told}."
    return wide


def _left(study, claim: str) -> pd.DataFrame:
    parts = claims.PARTS.get(claim, (claim,))
    table = claims.shares_left(study.records(), claims.config_of(study), only=parts)
    if table.empty:
        raise NotMeasured(f"{study.name} has no controls measured for {claim}.")

    def share(row: pd.Series, axis: str) -> str:
        if row[f"{axis}_seeds"] == 0:
            return NOT_MEASURED
        left, low, high = (row[f"{axis}_{end}"] for end in ("left", "low", "high"))
        # fewer than three seeds reach it, or none
        return "cannot be told" if math.isnan(left) else share_text((left, low, high))

    rows = {
        (f"{row['claim']}, " if len(parts) > 1 else "") + f"{row['strength']:g}": {
            "left at equal train CE [95 % interval]": share(row, "ce"),
            "left at equal train error": share(row, "error"),
            "seeds that reach it": f"{row['ce_seeds']}, {row['error_seeds']}",
            "reading": row["reading"],
        }
        for row in table.to_dict("records")
    }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("AR strength")
    largest = table[table["strength"] == table["strength"].max()]
    read = "; ".join(f"{row.claim} {row.reading}" for row in largest.itertuples())
    out.attrs["finding"] = f"At AR strength {table['strength'].max():g}: {read}."
    return out


def gaps(records: pd.DataFrame) -> pd.DataFrame:
    """Error gap and cross-entropy gap, before and after one temperature per network,
    by AR strength, as text.
    """
    columns = {
        "error gap (points)": (claims.Statistic("", "error", minus="train"), 100, "{:.1f}"),
        "CE gap, raw": (claims.Statistic("", "ce", minus="train"), 1, "{:.3f}"),
        "temperature T": (claims.Statistic("", "temperature", split="val"), 1, "{:.2f}"),
        "CE gap at T": (claims.Statistic("", "ce_scaled", minus="train"), 1, "{:.3f}"),
    }
    table, out, told = clean(records), {}, {}
    for name, (statistic, factor, form) in columns.items():
        numbers = factor * values(table, statistic)
        told[name] = numbers, claims.DIFFERENCE
        if numbers.empty:
            raise NotMeasured(f"no {statistic.name} is recorded; run the study first.")
        out[name] = (
            numbers[""]
            .groupby("strength")
            .apply(lambda part, form=form: _range(part, form).replace("-", "−"))
        )
    frame = pd.DataFrame(out).fillna(NOT_MEASURED)
    frame = frame.rename(index="{:g}".format).rename_axis("AR strength")
    frame.attrs["finding"] = claims.moves(told)
    return frame


def instance_margins(records: pd.DataFrame) -> pd.DataFrame:
    """Instance margins by AR strength:
    images, median over seeds (255·ε), and in how many seeds they were accepted.
    """
    last = _rows(records, "last", "test", ("instance_margin_median", "instance_margin_accepted"))
    rows = {}
    for strength, part in last.groupby("strength"):
        wide = part.pivot(index="seed", columns="statistic", values="value")
        median, accepted = 255 * wide["instance_margin_median"], wide["instance_margin_accepted"]
        rows[f"{strength:g}"] = {
            "images": f"{part['n'].min():,}",
            "median (255·ε)": _range(median, "{:.2f}"),
            "accepted": f"{int(accepted.sum())} of {len(accepted)} seeds",
        }
    out = pd.DataFrame.from_dict(rows, orient="index").rename_axis("AR strength")
    checked = last[last["statistic"] == "instance_margin_accepted"]["value"]
    out.attrs["finding"] = (
        f"The margins of {int(checked.sum())} of {len(checked)} networks passed the check against "
        "a stronger attack."
    )
    return out


def margin_factors(medians: pd.DataFrame) -> pd.DataFrame:
    """Both margins and the slope between them relative to AR strength 0:
    factors with t intervals over seeds.

    medians: what `figures.shared_margins` returns second. Raises `NotMeasured` unless two seeds or
    more are there at strength 0 and at another.
    """
    logs, rows = np.log(medians).unstack("strength"), {}
    strengths = [s for s in logs.columns.get_level_values("strength").unique() if s > 0]
    for strength in strengths if 0.0 in logs.columns.get_level_values("strength") else ():
        parts = {
            name: (logs[name][strength] - logs[name][0.0]).dropna() for name in medians.columns
        }
        if len(parts["output"]) > 1:
            ratio = claims.Statistic("", "", log=True)
            rows[f"{strength:g}"] = {
                n: effect_text(ratio, claims.t_interval(part)) for n, part in parts.items()
            }
    if not rows:
        raise NotMeasured("margins are not measured at two seeds of AR strength 0 and of another.")
    titles = {"output": "output margin m", "instance": "instance margin v", "slope": "slope m/v"}
    out = pd.DataFrame.from_dict(rows, orient="index").rename(columns=titles)
    out = out.rename_axis("AR strength")
    told = {titles[name]: (medians[name], claims.FACTOR) for name in medians.columns}
    out.attrs["finding"] = claims.moves(told)
    return out


def _rows(
    records: pd.DataFrame, checkpoint: str, split: str, statistics: tuple[str, ...]
) -> pd.DataFrame:
    rows = records[
        (records["variant"] == "")
        & (records["checkpoint"] == checkpoint)
        & (records["split"] == split)
    ]
    rows = rows[rows["statistic"].isin(statistics)]
    if rows.empty:
        raise NotMeasured(
            f"no {' or '.join(statistics)} of {checkpoint} weights is recorded; run the study "
            "first."
        )
    return rows


def _gap(
    records: pd.DataFrame, strength: float, checkpoint: str, statistic: str, setting: str, name: str
) -> dict:
    chosen = (
        (records["strength"] == strength)
        & (records["checkpoint"] == checkpoint)
        & (records["variant"] == "")
    )
    chosen &= (records["statistic"] == statistic) & (records["setting"] == setting)
    wide = (
        records[chosen]
        .pivot(index="seed", columns="split", values="value")
        .reindex(columns=["train", "test"])
    )
    wide = 100 * wide.dropna()
    if wide.empty:
        return {f"{name}: {column}": NOT_MEASURED for column in ("train", "test", "gap")}
    means = {f"{name}: {column}": f"{wide[column].mean():.1f}" for column in ("train", "test")}
    return means | {f"{name}: gap": _range(wide["test"] - wide["train"], "{:.1f}")}


def _range(values: pd.Series, form: str) -> str:
    """ "12.3 (11.8 to 12.9)": mean, smallest and largest;
    the number alone where all round to it.
    """
    mean, low, high = (form.format(value) for value in (values.mean(), values.min(), values.max()))
    return mean if low == high else f"{mean} ({low} to {high})"
