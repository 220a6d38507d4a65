"""Execute chapters in place, so that their stored outputs are what they print now.

python -m tools.execute [CHAPTER …]      all chapters, or those named (`margins`); side by side, and
                                         only what may have changed (`executed.py`)
python -m tools.execute --tidy           only drop metadata that does not belong in the repository
(exit 1 if any)

From published records only (runs of the store that are not published do not count), one thread, and
with nothing kept that changes from run to run: no times, no machine's kernel version.
"""

import os
import sys
from pathlib import Path

import nbformat

from arlib import files, processes
from tools import executed

ROOT = Path(__file__).resolve().parents[1]
KEPT = ("tags", "mystnb")
# of a widget that lived in a kernel which is gone
VIEW = "application/vnd.jupyter.widget-view+json"


def write(path: Path, chapter: nbformat.NotebookNode) -> bool:
    """Write a chapter if that changes its file; returns whether it did."""
    text = nbformat.writes(chapter, indent=1) + "\n"
    if path.read_text(encoding="utf-8") == text:
        return False
    files.write_text(path, text)
    return True


def tidy(chapter: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without what differs between two executions of the same chapter."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    colab = {
        key: chapter.metadata[key] for key in ("accelerator", "colab") if key in chapter.metadata
    }
    chapter.metadata = nbformat.from_dict(
        {"kernelspec": kernel, "language_info": {"name": "python"}} | colab
    )
    for cell in chapter.cells:
        if "outputs" in cell:
            cell.outputs = _joined(cell.outputs)
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(VIEW, None)
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in KEPT if key in cell.metadata}
        )
    return chapter


def _joined(outputs: list) -> list:
    """Neighbouring pieces of one stream as one: where a kernel cuts it is an accident of timing."""
    kept = []
    for output in outputs:
        same = kept and output.output_type == kept[-1].output_type == "stream"
        if same and output.name == kept[-1].name:
            kept[-1].text += output.text
        else:
            kept.append(output)
    return kept


def main(names: list[str]) -> int:
    known = {path.stem: path for path in sorted((ROOT / "book").glob("*.ipynb"))}
    if names == ["--tidy"]:
        changed = [
            name
            for name, path in known.items()
            if write(path, tidy(nbformat.read(path, as_version=4)))
        ]
        print(f"Tidied: {', '.join(changed) or 'nothing'}")
        return int(bool(changed))
    if unknown := sorted(set(names) - set(known)):
        print(
            f"no such chapter: {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr
        )
        return 2
    os.environ |= {
        "PYTHONPATH": str(ROOT),
        "ARLIB_STORE": str(ROOT / "_build" / "store"),
        "OMP_NUM_THREADS": "1",
    }
    kept = executed.project()
    failed = executed.bring_up_to_date(kept, names or list(known), processes.cores())
    for name in names or known:
        if chapter := kept.take(name):
            write(known[name], tidy(chapter))
    for name, error in failed.items():
        print(f"{name} was not executed:\n{error}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
