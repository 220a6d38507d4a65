"""Texts of study files in pages."""

import re

import pandas as pd
from markdown_it import MarkdownIt
from mdit_py_plugins.myst_role import myst_role_plugin

from arlib import tables

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "a\n\n<script>alert(1)</script>\n\nb",
    "a\n\n```{raw} html\n<script>alert(1)</script>\n```\n",
    "<!-- ",
    "| <iframe src=//x> |",
    "{raw}`<script>`",
    "{download}`/etc/passwd`",
]


def test_a_title_in_a_table_shows_its_letters_and_runs_nothing():
    table = pd.DataFrame({"what": HOSTILE}, index=pd.Index(["x"] * len(HOSTILE), name="study"))
    parser = MarkdownIt("commonmark", {"html": True}).enable("table").use(myst_role_plugin)
    made = parser.render(tables.markdown(table))
    tags = set(re.findall(r"</?([a-z]+)", made))
    assert tags == {"table", "thead", "tbody", "tr", "th", "td", "code"} and "<!--" not in made
    assert made.count("<tr>") == 1 + len(HOSTILE)
    assert "alert(1)" in made and "myst role" not in made


def test_comparisons_emphasis_and_code_stay():
    table = pd.DataFrame({"p": ["p < 0.05", "**C6**", "`a < b`", "a <b|c>"]}).rename_axis("n")
    lines = tables.markdown(table).split("\n")[2:]
    assert lines == [
        "| 0 | p < 0.05 |",
        "| 1 | **C6** |",
        "| 2 | `a < b` |",
        r"| 3 | a &lt;b\|c> |",
    ]
