"""What a chapter file is: where it lies, its parameters, and which study it shows."""

import ast
import json
import re
import warnings
from collections.abc import Callable
from pathlib import Path

from arlib import files, places
from arlib.errors import InputError, one_of, shown


def find(names: list[str]) -> list[Path]:
    """Paths of chapters given by name, by path, or as "all"."""
    root = places.checkout()
    book = (
        {}
        if root is None
        else {path.stem: path for path in sorted((root / "book").glob("*.ipynb"))}
    )
    paths = []
    for name in names:
        if name.endswith(".ipynb"):
            path = places.path("chapter", name)
            if not path.is_file():
                raise InputError(f"chapter is {shown(name)}; there is no such file.")
            paths.append(path.resolve())
        else:
            one_of("chapter", name, ["all", *book])
            paths += book.values() if name == "all" else [book[name]]
    return list(dict.fromkeys(paths))


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
        if chapter.stat().st_size > files.JSON_LIMIT:
            raise ValueError(f"more than {files.JSON_LIMIT} bytes")
        with warnings.catch_warnings():
            # that cells lack ids, say: whoever saves the file gives them some
            warnings.simplefilter("ignore")
            cells = nbformat.read(chapter, as_version=4).cells
        for index, cell in enumerate(cells):
            if not isinstance(cell.metadata.get("tags", []), list):
                raise ValueError(f"the tags of cell {index + 1} are no list")
            if not isinstance(cell.source, str):
                raise ValueError(f"the source of cell {index + 1} is no text")
    except Exception as error:  # a damaged file fails in as many ways as there are damages
        why = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{chapter} is no notebook ({why[:200]}); open it in Jupyter and save it."
        ) from error
    return cells


def _holds_parameters(cell) -> bool:
    return cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", [])


def _assigned(chapter: Path, source: str) -> list[str]:
    try:
        body = _parsed(source).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # of NUL, of brackets
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        why = getattr(error, "msg", None) or str(error) or type(error).__name__
        raise InputError(
            f"{chapter}: the parameters cell has a mistake{where}: {' '.join(why.split())[:200]}."
        ) from error
    targets = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    targets += [target for node in body if isinstance(node, ast.Assign) for target in node.targets]
    names = [node for target in targets for node in ast.walk(target) if isinstance(node, ast.Name)]
    return [name.id for name in names if isinstance(name.ctx, ast.Store)]


def _parsed(source: str) -> ast.Module:
    """The cell as Python; only if it is none are lines for IPython looked for, as such a line may
    also stand inside a long text.
    """
    try:
        return ast.parse(source)
    except SyntaxError:
        return ast.parse("\n".join(map(_without_magic, source.splitlines())))


def _without_magic(line: str) -> str:
    """A line of IPython (%…, !…, ?…, …?, name = %…, name = !…) as Python that assigns the same."""
    if magic := re.match(r"(\s*)(?:[%!?].*|[\w.]+\?\??\s*)$", line):
        return f"{magic[1]}pass"
    return re.sub(r"^(\s*[\w, ]+=\s*)[%!].*$", r"\1None", line)


def use_study(
    name: str, folder: Path | None = None, *, fits: Callable[[str], bool] = lambda old: True
) -> list[Path]:
    """Set `study = "NAME"` in the parameters cell of every chapter; returns the files that changed.

    Only that line of the file changes, byte for byte. fits: whether the study can take the place of
    another one; a chapter of which it is False keeps what it has.
    """
    root = places.checkout()
    if folder is None and root is None:
        raise InputError("there is no checkout whose chapters could be changed.")
    changed = []
    for path in sorted((folder or root / "book").glob("*.ipynb")):
        cells = _cells(path)  # which says in one line what is wrong with the file
        old = path.read_text(encoding="utf-8")
        new = _with_study(old, cells, name, fits)
        if new != old:
            files.write_text(path, new)
            changed.append(path)
    return changed


_STUDY = re.compile(r"""^(study\s*(?::\s*str\s*)?=\s*)(["'])([^"']*)\2""")


def _with_study(text: str, cells: list, name: str, fits: Callable[[str], bool]) -> str:
    for cell in filter(_holds_parameters, cells):
        for line in cell.source.splitlines():
            old = _STUDY.match(line)
            if old and old[3] != name and fits(old[3]):
                new = _STUDY.sub(rf"\g<1>\g<2>{name}\g<2>", line)
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
