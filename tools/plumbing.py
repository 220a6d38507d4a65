"""Hide in the page the code from which a reader learns nothing: python -m tools.plumbing [--check]

That is parameters, checks, imports, and cells that only call a figure, a table, a slider or a
verdict. Such cells get the tag `hide-input`; the code stays, folded, and a notebook client shows
it. Cells that are hidden already stay as they are.
"""

import ast
import json
import sys

from arlib import files
from tools import stamp

ROOMS = {"figures", "tables", "notebook", "widgets", "claims", "Markdown", "benchmarks", "text"}
MOST = 4  # lines: what is longer does something a reader may want to read
HIDDEN = {"hide-input", "hide-cell", "remove-cell", "remove-input"}


def plumbing(cell: dict) -> bool:
    """Whether a code cell only sets up or shows."""
    if "parameters" in cell["metadata"].get("tags", []):
        return True
    text = "".join(cell["source"])
    statements = ast.parse(text).body
    if any(_called(one) == "notebook.check" for one in statements):
        return True
    if any(isinstance(one, ast.Import | ast.ImportFrom) for one in statements):
        return not any(isinstance(one, ast.For | ast.FunctionDef | ast.ClassDef | ast.With)
                       for one in statements)  # fmt: skip
    if len(text.strip().splitlines()) > MOST:
        return False
    plain = all(isinstance(one, ast.Assign | ast.Expr) for one in statements)
    return plain and _called(statements[-1]).partition(".")[0] in ROOMS


def _called(statement: ast.stmt) -> str:
    """The dotted name that an expression statement calls or shows; "" for anything else."""
    if not isinstance(statement, ast.Expr):
        return ""
    value = statement.value
    while isinstance(value, ast.Call | ast.Subscript):
        value = value.func if isinstance(value, ast.Call) else value.value
    return ast.unparse(value)


def hide(chapter: dict) -> list[str]:
    """Tag what only sets up or shows; returns the ids of the cells that had no such tag."""
    cells = []
    for cell in chapter["cells"]:
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] == "code" and not HIDDEN & set(tags) and plumbing(cell):
            cell["metadata"]["tags"] = [*tags, "hide-input"]
            cells.append(cell["id"])
    return cells


def main(arguments: list[str]) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    seen = 0
    for path in stamp.chapters():
        text = path.read_text(encoding="utf-8")
        chapter = json.loads(text)
        if folded := hide(chapter):
            seen += len(folded)
            print(f"{path.stem}: {', '.join(folded)}")
            if not arguments:
                files.write_text(path, json.dumps(chapter, indent=1, ensure_ascii=False) + "\n")
    return int(bool(arguments and seen))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
