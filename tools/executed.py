"""Executed chapters, kept in `_build/executed` for as long as nothing that they read has changed.

A chapter is executed anew when its code changed, or a file that it read the last time (modules of
arlib, study files, records), or when a study that it read gained or lost a record. Text around the
code, or a record of a study that it does not show, costs no execution. What a process that it
started has read nobody sees: such a chapter depends on everything.
"""

import hashlib
import importlib.util
import json
import math
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from arlib import files

ROOT = Path(__file__).resolve().parents[1]
WATCHED = ("arlib", "book", "data", "records", "studies")
ALWAYS = ("requirements.txt", "pyproject.toml")  # the environment, and what set-up cells are told
COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # of a kernel's tracebacks
WATCH = Path(__file__).with_name("reads.py")


class Executed:
    """The executed chapters of a project.

    everything: gives a hash of all that any chapter may read.
    """

    def __init__(self, root: Path, everything: Callable[[], str]):
        self.root, self.everything = root, everything
        self.folder = root / "_build" / "executed"

    def take(self, name: str) -> nbformat.NotebookNode | None:
        """The chapter as it stands, with the outputs that it had when it was executed;
        None if it must be executed.
        """
        account = self._account(name)
        try:
            if account["state"] != self._state(name, account["reads"]):
                return None
            executed = nbformat.read(self.folder / f"{name}.ipynb", as_version=4)
        except (OSError, ValueError, KeyError):
            return None
        chapter = self._source(name)
        for cell, done in zip(_codes(chapter), _codes(executed), strict=True):
            cell.update(outputs=done.outputs, execution_count=done.execution_count)
        chapter.metadata = executed.metadata | chapter.metadata  # the state of widgets
        return chapter

    def seconds(self, name: str) -> float:
        """How long it took the last time; infinity for a chapter that nobody knows."""
        return self._account(name).get("seconds", math.inf)

    def _account(self, name: str) -> dict:
        try:
            return json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def _source(self, name: str) -> nbformat.NotebookNode:
        return nbformat.read(self.root / "book" / f"{name}.ipynb", as_version=4)

    def keep(self, name: str, chapter: nbformat.NotebookNode, reads: list, seconds: float) -> None:
        """Keep a chapter that has just been executed, in so many seconds.

        What was written in that time it may have read as it was before; then it is out of date.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        begun = time.time() - seconds
        still = not any(self._written(read) > begun for read in (f"book/{name}.ipynb", *reads))
        state = self._state(name, reads) if still else ""
        account = {"reads": reads, "state": state, "seconds": round(seconds, 1)}
        files.write_text(self.folder / f"{name}.ipynb", nbformat.writes(chapter))
        files.write_text(self.folder / f"{name}.json", json.dumps(account, indent=1))

    def _written(self, read: str) -> float:
        path = self.root / read
        return path.stat().st_mtime if path.is_file() else 0.0

    def _state(self, name: str, reads: list[str]) -> str:
        """SHA-256 of the chapter's code, and of all that it reads as it is now."""
        digest = hashlib.sha256(f"{sys.version} {os.environ.get('ARLIB_STORE')}".encode())
        digest.update(json.dumps([cell.source for cell in _codes(self._source(name))]).encode())
        for read in (*ALWAYS, *reads):
            digest.update(f"\0{read}\0{self._content(read)}".encode())
        return digest.hexdigest()

    def _content(self, read: str) -> str:
        if read == "process":
            return self.everything()
        path = self.root / read
        if path.is_dir():
            return "\n".join(sorted(str(inner.relative_to(path)) for inner in _inside(path)))
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def project() -> Executed:
    """The executed chapters of this project."""
    sys.path.insert(0, str(ROOT / "book" / "_ext"))
    from arbook import fingerprint  # what also keys Sphinx's cache

    return Executed(ROOT, lambda: fingerprint(ROOT))


def of_project(root: Path, notes: str) -> list[str]:
    """What `reads.py` noted, as paths in the project: files, and folders whose names matter.

    Whether a record is there may be asked without listing a folder; so a chapter that reads a study
    depends on the names of all its records, and each one on which studies there are.
    """
    reads = {"studies", *(f"records/{folder}" for folder in ("benchmarks", "boundary", "others"))}
    for line in notes.splitlines():
        kind, _, text = line.partition("\t")
        if kind == "process":
            reads.add("process")
            continue
        path = Path(text)
        if path.suffix == ".pyc":
            if kind != "file" or path.parent.name != "__pycache__":
                continue
            path = Path(importlib.util.source_from_cache(text))
        if not path.is_relative_to(root):
            continue
        inner = path.relative_to(root)
        if not inner.parts or inner.parts[0] not in WATCHED:
            continue
        if inner.parts[0] == "studies" and inner.suffix == ".yml":
            reads.add(f"records/{inner.stem}")
        listed = inner.parts[0] == "records" and len(inner.parts) > 1
        if listed or (kind == "file" and not path.is_dir()):
            reads.add(str(inner))
    return sorted(reads)


def _codes(chapter: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in chapter.cells if cell.cell_type == "code"]


def _inside(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if "__pycache__" not in path.parts]


def run(path: Path, root: Path) -> tuple[nbformat.NotebookNode, list[str], float]:
    """Execute a chapter in its own folder; with its outputs, what it read of the project, and its
    seconds.

    Raises nbclient's CellExecutionError where a cell raises anything.
    """
    begun = time.monotonic()
    chapter = nbformat.read(path, as_version=4)
    client = NotebookClient(
        chapter,
        timeout=1200,
        kernel_name="python3",
        record_timing=False,  # it would stand in the cells, by which Sphinx's cache knows a chapter
        resources={"metadata": {"path": str(path.parent)}},
        # that it runs over TCP is no news
        extra_arguments=["--IPKernelApp.log_level=40", f"--IPKernelApp.exec_files={WATCH}"],
    )
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "reads"
        notes.touch()
        client.execute(env=os.environ | {"BOOK_READS": str(notes)})
        reads = of_project(root, notes.read_text(encoding="utf-8", errors="surrogateescape"))
    return chapter, reads, time.monotonic() - begun


def bring_up_to_date(kept: Executed, names: list[str], workers: int) -> dict[str, str]:
    """Execute what must be, side by side, the longest first; {name: error} of those that failed.

    What is done is kept at once, so that an interrupted build goes on where it stopped.
    """
    stale = sorted((n for n in names if kept.take(n) is None), key=kept.seconds, reverse=True)
    failed = {}
    with ProcessPoolExecutor(max(1, min(workers, len(stale)))) as pool:
        jobs = {
            pool.submit(run, kept.root / "book" / f"{name}.ipynb", kept.root): name
            for name in stale
        }
        for done, job in enumerate(as_completed(jobs), 1):
            name = jobs[job]
            try:
                chapter, reads, seconds = job.result()
            except Exception as error:
                failed[name] = COLOURS.sub("", str(error))
                print(f"{name}: stopped ({done} of {len(stale)})", flush=True)
                continue
            kept.keep(name, chapter, reads, seconds)
            print(f"{name}: executed in {seconds:.0f} s ({done} of {len(stale)})", flush=True)
    return failed
