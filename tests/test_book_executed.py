"""Chapters are executed anew when what they read has changed, and only then."""

import importlib.util
import os
import shutil

import nbformat
import pytest
from bookfiles import ROOT
from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

from tools import executed

CODE = """\
from pathlib import Path
from arlib import x
import json
here = Path("..").resolve()
(here / "studies" / "one.yml").read_text()
total = sum(json.loads(p.read_text()) for p in sorted((here / "records" / "one").glob("*/r.json")))
print(x.value, total, sorted(name for name in globals() if "watch" in name or name == "os"))
"""
FILES = {
    "arlib/__init__.py": "",
    "arlib/x.py": "value = 5",
    "arlib/unused.py": "value = 6",
    "studies/one.yml": "title: one",
    "studies/two.yml": "title: two",
    "records/one/a/r.json": "1",
    "records/two/a/r.json": "10",
    "requirements.txt": "torch",
    "pyproject.toml": "[project]",
}
READS = ["arlib/x.py", "records/one", "records/one/a/r.json", "studies", "studies/one.yml"]


def chapter(code: str = CODE, text: str = "# One"):
    cells = [nbformat.v4.new_markdown_cell(text), nbformat.v4.new_code_cell(code)]
    return nbformat.v4.new_notebook(cells=cells)


@pytest.fixture
def root(tmp_path):
    """A small project with one chapter."""
    root = tmp_path / "a b"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    (root / "book").mkdir()
    nbformat.write(chapter(), root / "book" / "one.ipynb")
    return root


@pytest.fixture
def kept(root):
    """That chapter, executed."""
    kept = executed.Executed(root, lambda: "everything")
    ran = chapter()
    ran.cells[1].outputs = [nbformat.v4.new_output("stream", text="5 1")]
    kept.keep("one", ran, READS, 0.0)
    assert kept.take("one") is not None
    return kept


def test_text_around_the_code_and_what_nobody_read_cost_no_execution(kept):
    edited = chapter(text="# Another title")
    edited.cells[1].metadata["tags"] = ["hide-input"]
    nbformat.write(edited, kept.root / "book" / "one.ipynb")
    for name in ("arlib/unused.py", "records/two/a/r.json"):
        (kept.root / name).write_text("99")
    (kept.root / "records/two/b").mkdir()
    (kept.root / "arlib/__pycache__").mkdir()
    title, code = kept.take("one").cells
    assert title.source == "# Another title" and code.metadata.tags == ["hide-input"]
    assert code.outputs[0].text == "5 1"


@pytest.mark.parametrize("name", ["arlib/x.py", "records/one/a/r.json", "studies/one.yml"])
def test_what_was_read_and_changed_or_is_gone_is_read_again(kept, name):
    content = (kept.root / name).read_text()
    (kept.root / name).write_text("99")
    assert kept.take("one") is None
    (kept.root / name).unlink()
    assert kept.take("one") is None
    (kept.root / name).write_text(content)
    assert kept.take("one") is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "records/one/b").mkdir(),  # a new record of a study that it shows
        lambda root: shutil.rmtree(root / "records/one"),
        lambda root: (root / "studies/three.yml").touch(),
        lambda root: (root / "requirements.txt").write_text("torch>2"),
        lambda root: nbformat.write(chapter(CODE + "\n1"), root / "book/one.ipynb"),
        lambda root: (root / "_build/executed/one.json").write_text("{"),
        lambda root: (root / "_build/executed/one.json").write_text("{}"),
        lambda root: (root / "_build/executed/one.ipynb").unlink(),
    ],
)
def test_a_chapter_is_executed_anew_after(kept, change):
    change(kept.root)
    assert kept.take("one") is None


@pytest.mark.parametrize("name", ["arlib/x.py", "book/one.ipynb"])
def test_what_was_written_while_a_chapter_ran_it_may_not_have_seen(kept, name):
    now = (kept.root / name).stat().st_mtime
    os.utime(kept.root / name, (now + 5, now + 5))
    kept.keep("one", chapter(), READS, 1.0)
    assert kept.take("one") is None


def test_a_chapter_that_started_a_process_depends_on_everything(root):
    state = ["before"]
    kept = executed.Executed(root, lambda: state[0])
    kept.keep("one", chapter(), [*READS, "process"], 0.0)
    assert kept.take("one") is not None
    state[0] = "after"
    assert kept.take("one") is None


def test_notes_become_paths_of_the_project(root):
    compiled = importlib.util.cache_from_source(str(root / "arlib/x.py"))
    notes = [
        f"file\t{compiled}", f"file\t{root}/studies/one.yml", f"folder\t{root}/arlib",
        f"folder\t{root}/records/one", f"file\t{root}/records/one/a/r.json",
        "file\t/etc/hosts", f"file\t{root}/_build/x", "file\tone\ttwo", "file\t",
    ]  # fmt: skip
    reads = executed.of_project(root, "\n".join(notes))
    assert set(reads) >= set(READS)
    assert {read.split("/")[0] for read in reads} == {"arlib", "records", "studies"}
    assert "process" not in reads and "process" in executed.of_project(root, "process\t")


@pytest.mark.slow
def test_a_kernel_notes_what_its_chapter_reads_and_leaves_no_name_behind(root, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(root))
    ran, reads, seconds = executed.run(root / "book" / "one.ipynb", root)
    assert ran.cells[1].outputs[0].text == "5 1 []\n"
    cache = get_cache(str(root / "cache"))
    cache.cache_notebook_bundle(CacheBundleIn(ran, "one.ipynb"), check_validity=False)
    source = nbformat.read(root / "book" / "one.ipynb", as_version=4)
    assert cache.match_cache_notebook(source).uri == "one.ipynb"
    assert set(READS) <= set(reads) and seconds > 0
    assert not {"process", "arlib/unused.py", "records/two/a/r.json"} & set(reads)


@pytest.mark.slow
def test_one_chapter_that_fails_leaves_the_others_done(root, monkeypatch, capsys):
    monkeypatch.setenv("PYTHONPATH", str(root))
    nbformat.write(chapter("import subprocess\nsubprocess.run(['true'])"), root / "book/two.ipynb")
    nbformat.write(chapter("raise ValueError('no')"), root / "book" / "three.ipynb")
    kept = executed.Executed(root, lambda: "everything")
    failed = executed.bring_up_to_date(kept, ["one", "two", "three"], workers=2)
    assert list(failed) == ["three"] and "ValueError: no" in failed["three"]
    assert kept.take("three") is None
    assert all(kept.take(name) is not None for name in ("one", "two"))
    assert "process" in (kept.folder / "two.json").read_text()
    assert "three: stopped" in capsys.readouterr().out
    assert list(executed.bring_up_to_date(kept, ["one", "two", "three"], workers=2)) == ["three"]
    assert "(1 of 1)" in capsys.readouterr().out


def test_the_project_s_own_chapters_are_watched_where_they_read():
    assert executed.WATCH == ROOT / "tools" / "reads.py" and executed.WATCH.is_file()
