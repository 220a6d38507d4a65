"""Tables as Markdown."""

import math
import re

import pandas as pd

from arlib.claims.words import FINDING


def plain(text: str) -> str:
    """A text of a study file, say, for Markdown: in one line, and without what a page would run.

    Emphasis and code stay as they are; tags and MyST roles come out as the letters they are.
    """
    # a tag begins with a letter or one of /!?, so "p < 0.05" stays as it is
    line = re.sub(r"<(?=[A-Za-z/!?])", "&lt;", " ".join(text.splitlines()))
    return re.sub(r"\{(?=[\w:.+-]+\}`)", r"\{", line)


def markdown(frame: pd.DataFrame) -> str:
    """Any small frame of text as a Markdown table, its index first."""
    frame = frame.reset_index()
    heads = [str(name) for name in frame.columns]
    lines = [heads, ["---"] * len(heads), *frame.astype(str).to_numpy().tolist()]
    return "\n".join(
        "| " + " | ".join(plain(cell).replace("|", r"\|") for cell in line) + " |" for line in lines
    )


def with_finding(frame: pd.DataFrame) -> str:
    """The same, and below it what the table shows: `attrs["finding"]`, if it has one."""
    finding = frame.attrs.get("finding", "")
    return markdown(frame) + (f"\n\n{FINDING}{plain(finding)}" if finding else "")


def markdown_of_numbers(frame: pd.DataFrame) -> str:
    """A frame of numbers and words, without its index:
    three significant digits, nothing cut off.
    """
    head = " | ".join(_escaped(name) for name in frame)
    sides = " | ".join(
        "---:" if pd.api.types.is_numeric_dtype(frame[name]) else "---" for name in frame
    )
    rows = [
        " | ".join(_cell(value) for value in row)
        for row in frame.astype(object).itertuples(index=False)
    ]
    return "\n".join(f"| {line} |" for line in (head, sides, *rows))


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _number(value)
    return "–" if value is None else _escaped(value)


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"


def _escaped(value: object) -> str:
    return plain(str(value)).replace("|", "\\|").replace("*", "\\*").replace("_", "\\_")
