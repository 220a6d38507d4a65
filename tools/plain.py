"""The chapters as notebooks that any client renders: Colab, Jupyter without MyST, GitHub.

python -m tools.plain [FOLDER]     write one NAME.ipynb per chapter (to _build/html/plain)

The build of the book does the same (book/_ext/arbook.py). Code stays as it is, and its stored
outputs too, but for what only myst-nb reads and what needs a kernel that is gone; prose becomes
Markdown, and captions stand below their figures as `arlib.client` shows them when a cell is run.
"""

import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_markdown_cell, new_output

from arlib import client, files
from arlib.errors import InputError
from tools import execute, myst, references, stamp

FOLDER = stamp.ROOT / "_build" / "html" / "plain"
GLUED = "application/papermill.record/"
HEAD = (
    "*This is {page} as a plain notebook. Numbers in the text were computed with the parameters "
    "that stand here; after a run of yours, the line below the first code cell has its result.*"
)


def write(folder: Path = FOLDER, root: Path = stamp.ROOT) -> list[Path]:
    """Write all chapters; returns the files. A chapter that is gone goes here, too.

    Raises `InputError`, before anything is written, for MyST that has no plain form.
    """
    book = references.read(root)
    made = {
        folder / path.name: nbformat.writes(convert(path, book), indent=1) + "\n"
        for path in stamp.chapters(root)
    }
    for path in folder.glob("*.ipynb"):
        if path not in made:
            path.unlink()
    for path, text in made.items():
        files.write_text(path, text)
    return list(made)


def convert(path: Path, book: references.Book) -> nbformat.NotebookNode:
    """One chapter; `InputError` names the chapter and the cell that cannot be converted."""
    chapter = execute.tidy(nbformat.read(path, as_version=4))
    page, glued = book.of(path.stem), values(chapter)
    for cell in chapter.cells:
        try:
            if cell.cell_type == "markdown":
                cell.source = myst.markdown(cell.source, page, glued)
            elif cell.cell_type == "code":
                _plain_code(cell, page, glued)
        except InputError as error:
            raise InputError(f"{path.name}, cell {cell.id}: {error}") from None
    chapter.cells[0].source += "\n\n" + HEAD.format(page=page.page())
    if works := page.bibliography():
        chapter.cells.append(new_markdown_cell(f"## References\n\n{works}", id="references"))
    return chapter


def values(chapter: nbformat.NotebookNode) -> dict[str, tuple[str, bool]]:
    """What the cells glued, as stored: name -> (value, whether it is Markdown)."""
    glued = {}
    for cell in chapter.cells:
        for output in cell.get("outputs", []):
            name = output.get("metadata", {}).get("scrapbook", {}).get("name")
            if name:
                text = output.data.get(GLUED + "text/markdown")
                plain = output.data.get(GLUED + "text/plain", "")
                glued[name] = (plain, False) if text is None else (text, True)
    return glued


def _plain_code(cell: nbformat.NotebookNode, page: references.Page, glued: dict) -> None:
    """Outputs that can be shown, a caption as one of them, and what the page folds, folded."""
    tags = set(cell.metadata.get("tags", []))
    shown = cell.metadata.pop("mystnb", {})
    cell.outputs = [output for output in cell.outputs if _can_be_shown(output)]
    for output in cell.outputs:  # clients show the wide figure
        output.get("metadata", {}).get("image/png", {}).pop("narrow", None)
    if tags & {"remove-cell", "remove-output"}:
        cell.outputs = []
    folded = tags & {"hide-input", "hide-cell", "remove-cell", "remove-input"}
    if folded and "parameters" not in tags:  # these are there to be changed
        # JupyterLab and Notebook 7, and Colab, each by its own name
        cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}
    if shown and any("image/png" in output.get("data", {}) for output in cell.outputs):
        text = caption(shown, page, glued)
        cell.outputs.append(new_output("display_data", {"text/markdown": text}))


def _can_be_shown(output: nbformat.NotebookNode) -> bool:
    data = output.get("data")
    return data is None or any(not kind.startswith(GLUED) for kind in data)


def caption(shown: dict, page: references.Page, glued: dict) -> str:
    """A figure's caption as the client prints it when the cell is run."""
    figure = shown.get("figure", {})
    name = figure.get("name", "")
    known = {
        "name": name,
        "number": int(page.book.figures[name].words) if name else 0,
        "caption": myst.markdown(figure.get("caption", ""), page, glued),
        "alt": shown["image"]["alt"],
    }
    return client.caption(known, {})


def main(arguments: list[str]) -> int:
    if "--help" in arguments or len(arguments) > 1:
        print(__doc__)
        return 2
    try:
        made = write(Path(arguments[0]) if arguments else FOLDER)
    except InputError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{len(made)} plain notebooks: {made[0].parent}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
