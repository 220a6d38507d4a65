"""The rows of the house: a room of arlib imports only from rows below its own,
and within a row one way.
"""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "arlib"
ROWS = (  # from the top; CONTRIBUTING.md has the same
    ("cli", "notebook", "client", "report", "boundary", "widgets", "figures", "tables"),
    ("claims",),
    ("batch", "chapters", "studies"),
    ("measure", "training"),
    ("bounds", "smoothness", "margins", "spectra", "attacks", "confidence"),
    (
        "records",
        "data",
        "models",
        "engine",
        "sources",
        "places",
        "processes",
        "files",
        "fields",
        "errors",
    ),
)
ROW = {room: row for row, rooms in enumerate(ROWS) for room in rooms}
FACE = ("__init__", "__main__")  # hands names on


def rooms_of(path: Path) -> set[str]:
    """The rooms that a file imports from, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "arlib":
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arlib."):
            names.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            names |= {
                alias.name.split(".")[1] for alias in node.names if alias.name.startswith("arlib.")
            }
    return names & ROW.keys()


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room_of(path) not in FACE]


def test_every_room_has_its_row():
    assert {room_of(path) for path in FILES} == ROW.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_room_imports_nothing_from_above(path):
    room = room_of(path)
    above = {other for other in rooms_of(path) if ROW[other] < ROW[room]}
    assert not above, f"{path.name} (of {room}) imports from {above}, which stands above it"


def test_no_rooms_import_each_other_in_a_circle():
    graph = {room: set() for room in ROW}
    for path in FILES:
        graph[room_of(path)] |= rooms_of(path) - {room_of(path)}
    TopologicalSorter(graph).prepare()  # raises CycleError with the rooms of a circle


def modules_of(path: Path) -> set[str]:
    """The modules of arlib that a file imports at its top, as dotted names;
    packages' faces are passed through.
    """
    names = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("arlib"):
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_no_files_import_each_other_in_a_circle():
    known = {
        ".".join(("arlib", *path.relative_to(PACKAGE).with_suffix("").parts)): path
        for path in FILES
    }
    files = {name: path for name, path in known.items() if not name.endswith("__init__")}
    TopologicalSorter(
        {name: modules_of(path) & files.keys() for name, path in files.items()}
    ).prepare()
