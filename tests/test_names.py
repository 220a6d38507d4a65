"""Names say what a thing is: `found`, `said` and `heat` say how it came about, or only resemble."""

import ast
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("arlib", "benchmarks", "tests", "tools")
EMPTY = {"found", "said", "heat"}
CHAPTERS = sorted((ROOT / "book").glob("*.ipynb"))


def names(source: str) -> set[str]:
    """Every name that this code binds or uses, attributes and keywords too."""
    tree = ast.parse(source)
    fields = ("id", "arg", "attr", "name", "asname")
    return {getattr(node, field, None) for node in ast.walk(tree) for field in fields}


def test_empty_names_are_noticed():
    assert names("def f(heat):\n    found = heat.said") >= EMPTY


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_empty(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    hits = {str(path): EMPTY & names(path.read_text(encoding="utf-8")) for path in paths}
    assert not {path: empty for path, empty in hits.items() if empty}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_name_of_a_chapter_is_empty(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert not EMPTY & names("\n".join(codes))
