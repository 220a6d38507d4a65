"""What the page "Walk the boundary" shows: `walk` measures with networks what a reader walks along,
`bench` has the numbers from which a reader judges, `page` is the markup of both.
"""

from arlib.boundary.bench import LEVELS, Answer, Bench, Item
from arlib.boundary.page import judge_panel, walk_panel
from arlib.boundary.walk import gradients, measure, measured_again, read

__all__ = [
    "LEVELS",
    "Answer",
    "Bench",
    "Item",
    "gradients",
    "judge_panel",
    "measure",
    "measured_again",
    "read",
    "walk_panel",
]
