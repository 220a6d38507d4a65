"""Verdicts as one line of coloured words."""

import html

import pandas as pd

from arlib.claims.second import PARTS

# background, as in the strip of all studies; the word itself says it without the colour
_COLOURS = {"supported": "#BFDDF2", "contradicted": "#F6C9A3", "mixed": "#E4D3F2"}
_OTHER = "#E9EBEE"
_STYLE = (
    "display:inline-block;margin:.15em .3em .15em 0;padding:.1em .6em;border-radius:1em;"
    "color:#1F2937;background:{}"
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
            f'<span style="{_STYLE.format(_COLOURS.get(verdict, _OTHER))}">'
            f"{html.escape(claim)}: <strong>{html.escape(verdict)}</strong></span>"
            for claim, verdict in self.verdicts.items()
        )
        return f"<p>{' '.join(chips)}</p>"
