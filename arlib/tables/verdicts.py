"""What the rules of protocol 2 say of studies that they do not decide, side by side."""

from collections.abc import Iterable

import pandas as pd

from arlib import claims
from arlib.claims.report import grouped
from arlib.claims.words import effect_text
from arlib.errors import NotMeasured


def after_the_fact(studies: Iterable) -> pd.DataFrame:
    """The verdicts of protocol 2 on studies of protocol 1, with their effects, as text.

    studies: `studies.Study`s, of which those of protocol 2 are left out. A row per claim and part
    of a claim, a column per study, toys labelled. Raises `NotMeasured` without one of protocol 1.
    """
    columns, told = {}, []
    for study in studies:
        if study.protocol == 1:
            frame = claims.after_the_fact(study)
            columns[study.name + (" (toy)" if study.toy else "")] = [
                _cell(row) for row in frame.to_dict("records")
            ]
            if not study.toy:
                verdicts = frame.set_index("claim")["verdict"]
                told.append(f"{study.name}: {grouped(verdicts)}")
    if not columns:
        raise NotMeasured("no study here is of protocol 1.")
    names = frame["claim"] + " " + frame["title"]
    out = pd.DataFrame(columns, index=pd.Index(names, name="claim"))
    out.attrs["finding"] = " ".join(told)
    return out


def _cell(row: dict) -> str:
    """ "supported, × 0.856 [0.843, 0.87]"; the numbers of a whole stand with its parts."""
    primary = claims.claims_of(2)[row["claim"]].primary
    if row["claim"] in claims.PARTS or primary is None or pd.isna(row["effect"]):
        return row["verdict"]
    effect = claims.Interval(row["effect"], row["low"], row["high"])
    return f"{row['verdict']}, {effect_text(primary, effect)}"
