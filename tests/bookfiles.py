"""The chapters as files, and how tests execute them:
in processes of their own, from published records only.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml
from bs4 import BeautifulSoup
from markdown_it import MarkdownIt

ROOT = Path(__file__).resolve().parents[1]
CHAPTERS = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))


def toc(root: Path = ROOT) -> list[str]:
    """All pages of the book, as _toc.yml lists them."""
    table = yaml.safe_load((root / "_toc.yml").read_text())
    return [table["root"], *(page["file"] for part in table["parts"] for page in part["chapters"])]


def read(name: str) -> dict:
    return json.loads((ROOT / "book" / f"{name}.ipynb").read_text(encoding="utf-8"))


def source(cell: dict) -> str:
    return "".join(cell["source"])


def tagged(chapter: dict, tag: str) -> list[int]:
    """Indices of the cells with a tag."""
    return [i for i, cell in enumerate(chapter["cells"]) if tag in cell["metadata"].get("tags", [])]


def environment(store: Path) -> dict[str, str]:
    """This checkout's arlib, no unpublished run, one thread."""
    ours = {"PYTHONPATH": str(ROOT), "ARLIB_STORE": str(store), "OMP_NUM_THREADS": "1"}
    return os.environ | ours


def nbval(paths: list[Path], store: Path, *options: str) -> subprocess.CompletedProcess:
    """Execute notebooks and compare every stored output, as `pytest --nbval` does."""
    sanitize = str(ROOT / "tests" / "nbval_sanitize.cfg")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-c",
        os.devnull,
        "--rootdir",
        str(paths[0].parent),
        "-q",
        "--color=no",
    ]
    command += ["-p", "no:cacheprovider", "--nbval-current-env", "--nbval-sanitize-with", sanitize]
    command += options or ("--nbval",)
    return subprocess.run(
        [*command, *map(str, paths)],
        capture_output=True,
        text=True,
        env=environment(store),
        cwd=paths[0].parent,
    )


def papermill(chapter: Path, out: Path, *options: str, **kept) -> subprocess.CompletedProcess:
    """Run one chapter by papermill, in the folder of its output."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        "--no-progress-bar",
        *options,
        str(chapter),
        str(out),
    ]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=out.parent, timeout=900, **kept
    )


def texts(notebook) -> list[str]:
    """All Markdown of a notebook: cells and outputs."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"] + [
        output.data["text/markdown"]
        for output in outputs
        if "text/markdown" in output.get("data", {})
    ]


def links(text: str) -> list[str]:
    """As a client without MyST finds them."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inner = [child for token in tokens for child in token.children or ()]
    return [one.attrs["href"] for one in inner if one.type == "link_open"] + re.findall(
        r'href="([^"]+)"', text
    )


def buttons(page: Path) -> set[str]:
    """Links to notebooks outside a page's text."""
    parsed = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    links = parsed.select(".article-header-buttons a[href]")
    return {link["href"] for link in links if link["href"].endswith(".ipynb")}
