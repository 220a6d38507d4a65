"""The directives of the page "Walk the boundary": its panels, made from records at build time.

`{walk}` stands for panel 1, of the study in `records/boundary/walk.json`; `{judge}` for panel 2, of
the study that the book's first page shows.
"""

import json
import os
import re
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import Directive

SCRIPTS = ("chart.js", "boundary.js", "statistics.js", "judge.js")
STYLE = "boundary.css"


def shown_study() -> str:
    """The study in the parameters of the book's first page."""
    chapter = Path(__file__).resolve().parents[1] / "intro.ipynb"
    for cell in json.loads(chapter.read_text(encoding="utf-8"))["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            return re.search(r'^study: str = "([^"]+)"', "".join(cell["source"]), re.M)[1]
    raise ValueError(f"{chapter} has no cell tagged 'parameters'.")


class Panel(Directive):
    """Raw markup for HTML; other builders get nothing."""

    def run(self) -> list[nodes.Node]:
        # where the page is read, not where Sphinx loads its extensions: arlib takes seconds
        from arlib import boundary, studies

        store = os.environ.get("ARLIB_STORE")  # set by arbook: published records alone
        markup = self.markup(boundary, lambda name: studies.load(name, store))
        return [nodes.raw("", markup, format="html")]


class Walk(Panel):
    def markup(self, boundary, load) -> str:
        content = boundary.read()
        return boundary.walk_panel(content, load(content["study"]))


class Judge(Panel):
    def markup(self, boundary, load) -> str:
        return boundary.judge_panel(load(shown_study()))


def add_files(app, pagename, templatename, context, doctree) -> None:
    """Scripts and style go to the page that has a panel, and to no other."""
    if doctree is not None and any(
        "ar-panel" in raw.astext() for raw in doctree.findall(nodes.raw)
    ):
        app.add_css_file(STYLE)
        for name in SCRIPTS:
            app.add_js_file(name, loading_method="defer")


def setup(app):
    app.add_directive("walk", Walk)
    app.add_directive("judge", Judge)
    app.connect("html-page-context", add_files)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
