"""What a chapter file is: where it lies, its parameters, and which study it shows."""

import ast
import json
import re
import warnings
from pathlib import Path

from arlib import files, places
from arlib.errors import InputError, one_of


def find(names: list[str]) -> list[Path]:
    """Paths of chapters given by name, by path, or as "all"."""
    root = places.checkout()
    book = (
        {}
        if root is None
        else {path.stem: path for path in sorted((root / "book").glob("*.ipynb"))}
    )
    found = []
    for name in names:
        if name.endswith(".ipynb"):
            if not Path(name).is_file():
                raise InputError(f"chapter is {name!r}; there is no such file.")
            found.append(Path(name).resolve())
        else:
            one_of("chapter", name, ["all", *book])
            found += book.values() if name == "all" else [book[name]]
    return list(dict.fromkeys(found))


def declared_parameters(chapter: Path) -> list[str]:
    """Names assigned in the cell tagged `parameters`; lines for IPython (%…, !…) are passed over.

    Raises `InputError` for a file that is no notebook of today's format, has no such cell, or has a
    mistake in it.
    """
    for cell in _cells(chapter):
        if _holds_parameters(cell):
            return _assigned(chapter, cell.source)
    raise InputError(
        f"{chapter} has no cell tagged 'parameters'; it cannot be run with parameters."
    )


def _cells(chapter: Path) -> list:
    """The cells of a notebook, of whichever format; `InputError` for a file that is none."""
    try:
        import nbformat
    except ImportError as error:
        raise InputError(
            "nbformat is not installed; it comes with the book's requirements.txt."
        ) from error
    try:
        with warnings.catch_warnings():
            # that cells lack ids, say: whoever saves the file gives them some
            warnings.simplefilter("ignore")
            return nbformat.read(chapter, as_version=4).cells
    except Exception as error:  # a damaged file fails in as many ways as there are damages
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{chapter} is no notebook ({why[:200]}); open it in Jupyter and save it."
        ) from error


def _holds_parameters(cell) -> bool:
    return "parameters" in cell.metadata.get("tags", [])


def _assigned(chapter: Path, source: str) -> list[str]:
    lines = ["" if line.lstrip().startswith(("%", "!")) else line for line in source.splitlines()]
    try:
        body = ast.parse("\n".join(lines)).body
    except SyntaxError as error:
        raise InputError(
            f"{chapter}: the parameters cell has a mistake in line {error.lineno}: {error.msg}."
        ) from error
    targets = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    targets += [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names = [
        part
        for target in targets
        for part in (target.elts if isinstance(target, ast.Tuple) else [target])
    ]
    return [name.id for name in names if isinstance(name, ast.Name)]


def use_study(name: str, folder: Path | None = None) -> list[Path]:
    """Set `study = "NAME"` in the parameters cell of every chapter; returns the files that changed.

    Only that line of the file changes, byte for byte.
    """
    root = places.checkout()
    if folder is None and root is None:
        raise InputError("there is no checkout whose chapters could be changed.")
    changed = []
    for path in sorted((folder or root / "book").glob("*.ipynb")):
        old = path.read_text(encoding="utf-8")
        new = _with_study(old, _cells(path), name)
        if new != old:
            files.write_text(path, new)
            changed.append(path)
    return changed


def _with_study(text: str, cells: list, name: str) -> str:
    for cell in filter(_holds_parameters, cells):
        for line in cell.source.splitlines():
            new = re.sub(
                r"""^(study\s*(?::\s*str\s*)?=\s*)(["'])[^"']*\2""", rf"\g<1>\g<2>{name}\g<2>", line
            )
            if new != line:
                return _replace_line(text, line, new)
    return text


def _replace_line(text: str, old: str, new: str) -> str:
    """Replace one line of a cell's source in the notebook's JSON, after the cell's tag."""
    for escaped in (False, True):
        before, after = (json.dumps(line, ensure_ascii=escaped)[1:-1] for line in (old, new))
        where = text.find(before, text.index('"parameters"'))
        if where >= 0:
            return text[:where] + after + text[where + len(before) :]
    raise InputError(
        f"the line {old!r} was not found again in the notebook; save it once with Jupyter."
    )
