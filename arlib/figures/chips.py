"""Verdicts as one line of coloured words."""

import html

import pandas as pd

from arlib.claims import PARTS
from arlib.figures.style import GREY, NEUTRAL
from arlib.figures.verdicts import COLOURS

_STYLE = (
    "display:inline-block;margin:.15em .3em .15em 0;padding:.1em .6em;border-radius:1em;"
    f"border:1px solid {GREY};color:{NEUTRAL};background:"
)


class Chips:
    """One chip per claim, shown as HTML in a page or notebook, else as text; parts of claims are
    left out.

    verdicts: what `arlib.claims.verdicts` returns.
    """

    def __init__(self, verdicts: pd.DataFrame):
        parts = [part for of_claim in PARTS.values() for part in of_claim]
        rows = verdicts[~verdicts["claim"].isin(parts)]
        self.verdicts = {
            f"{row['claim']} {row['title']}": row["verdict"] for _, row in rows.iterrows()
        }

    def __repr__(self) -> str:
        return "\n".join(f"{claim}: {verdict}" for claim, verdict in self.verdicts.items())

    def _repr_html_(self) -> str:
        chips = (
            f'<span style="{_STYLE}{COLOURS[verdict]}">'
            f"{html.escape(claim)}: <strong>{html.escape(verdict)}</strong></span>"
            for claim, verdict in self.verdicts.items()
        )
        return f"<p>{' '.join(chips)}</p>"
