"""The tools behind `make`: what a build depends on, the stamped address, the environment."""

import json
import os
import re
import shutil
import subprocess
import tomllib

import nbformat
import pytest
from bookfiles import ROOT

from arlib import claims, notebook, studies
from tools import book, execute, findings, plumbing, stamp


@pytest.fixture
def project(tmp_path):
    """A small copy of the project: one chapter, one record, one study."""
    root = tmp_path / "a b"
    for name in ("pyproject.toml", "requirements.txt"):
        (root / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, root)
    for name in ("arlib/x.py", "records/s/r/record.json", "studies/s.yml"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("1")
    cell = nbformat.v4.new_code_cell(
        "stale", metadata={"tags": ["setup"], "execution": {"x": "2026"}}
    )
    view = {execute.VIEW: {"model_id": "0"}, "text/plain": "controls"}
    cell.outputs = [nbformat.v4.new_output("display_data", view)]
    chapter = nbformat.v4.new_notebook(
        cells=[cell, nbformat.v4.new_code_cell("x = 1")], metadata={"widgets": {}}
    )
    (root / "book").mkdir()
    nbformat.write(chapter, root / "book" / "one.ipynb")
    return root


@pytest.mark.parametrize(
    "name", ["arlib/x.py", "records/s/r/record.json", "studies/s.yml", "requirements.txt"]
)
def test_a_build_depends_on_what_chapters_read(project, name):
    before = book.fingerprint(project)
    assert book.fingerprint(project) == before
    with open(project / name, "a") as changed:
        changed.write(" ")
    assert book.fingerprint(project) != before


def test_a_build_depends_on_names_and_the_store_but_not_on_caches(project, monkeypatch):
    before = book.fingerprint(project)
    (project / "arlib" / "__pycache__").mkdir()
    (project / "arlib" / "__pycache__" / "x.pyc").write_text("1")
    assert book.fingerprint(project) == before
    monkeypatch.setenv("ARLIB_STORE", "/elsewhere")
    assert book.fingerprint(project) != before
    monkeypatch.undo()
    (project / "arlib" / "x.py").rename(project / "arlib" / "y.py")
    assert book.fingerprint(project) != before


def test_unchanged_book_is_not_built_again(monkeypatch, tmp_path, capsys):
    calls = []

    def fake(command, cwd):
        return calls.append(command) or subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(book.subprocess, "run", fake)
    monkeypatch.setattr(book, "execute", dict)
    monkeypatch.setattr(book, "HTML", tmp_path)
    monkeypatch.setattr(book, "STAMP", tmp_path / ".built-from")
    assert book.build() == 0 and len(calls) == 1
    assert {"-W", "-n", "--keep-going"} <= set(calls[0])
    assert str(tmp_path / "index.html") in capsys.readouterr().out
    assert book.build() == 0 and len(calls) == 1
    assert "Nothing changed" in capsys.readouterr().out


def test_a_failed_build_fails_again(monkeypatch, tmp_path):
    monkeypatch.setattr(
        book.subprocess, "run", lambda command, cwd: subprocess.CompletedProcess(command, 1)
    )
    monkeypatch.setattr(book, "ROOT", tmp_path)
    monkeypatch.setattr(book, "HTML", tmp_path / "_build" / "html")
    monkeypatch.setattr(book, "STAMP", tmp_path / "_build" / "html" / ".built-from")
    (tmp_path / "_build" / ".doctrees").mkdir(parents=True)
    assert book.build() == 1
    assert not book.STAMP.exists() and not (tmp_path / "_build" / ".doctrees").exists()


def test_no_page_is_rendered_of_a_chapter_that_failed(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(book.subprocess, "run", lambda *_, **__: pytest.fail("rendered"))
    monkeypatch.setattr(book, "execute", lambda: {"margins": "ValueError: no"})
    monkeypatch.setattr(book, "STAMP", tmp_path / ".built-from")
    assert book.build() == 1 and not book.STAMP.exists()
    assert "margins was not executed:\nValueError: no" in capsys.readouterr().err


def test_stamp_writes_the_address_once_and_everywhere(project):
    assert stamp.repository(project) == ""
    assert stamp.restamp(project, write=False) == ["one.ipynb", "captions.json"]
    for address in ("https://example.org/first/try", "https://example.org/a/b"):
        stamp.write_address(address, project)
        assert tomllib.loads((project / "pyproject.toml").read_text())["project"]["urls"] == {
            "Repository": address
        }
    assert stamp.restamp(project) == ["one.ipynb", "captions.json"]
    (cell,) = stamp.setup_cells(json.loads((project / "book" / "one.ipynb").read_text()))
    assert "".join(cell["source"]) == notebook.setup_cell("https://example.org/a/b")
    assert stamp.restamp(project) == []
    nbformat.validate(nbformat.read(project / "book" / "one.ipynb", as_version=4))


@pytest.mark.parametrize(
    "address", ["http://example.org", "https://a b", 'https://a"; import os', "git@host:a/b"]
)
def test_an_address_that_is_none_is_refused(project, address):
    with pytest.raises(SystemExit, match="must begin with https"):
        stamp.write_address(address, project)
    assert stamp.repository(project) == ""


def test_tidy_drops_what_changes_from_run_to_run(project):
    path = project / "book" / "one.ipynb"
    assert execute.write(path, execute.tidy(nbformat.read(path, as_version=4)))
    chapter = json.loads(path.read_text())
    assert set(chapter["metadata"]) == {"kernelspec", "language_info"}
    assert chapter["cells"][0]["metadata"] == {"tags": ["setup"]}
    assert set(chapter["cells"][0]["outputs"][0]["data"]) == {"text/plain"}
    assert not execute.write(path, execute.tidy(nbformat.read(path, as_version=4)))


def test_pieces_of_one_stream_are_stored_as_one():
    def stream(name, text):
        return nbformat.v4.new_output("stream", name=name, text=text)

    shown = nbformat.v4.new_output("display_data", data={"text/plain": "a figure"})
    pieces = [stream("stdout", "a\n"), stream("stdout", "b\n"), stream("stderr", "c\n")]
    cell = nbformat.v4.new_code_cell("", outputs=[*pieces, shown, stream("stdout", "d\n")])
    book = execute.tidy(nbformat.v4.new_notebook(cells=[cell]))
    kept = book.cells[0].outputs
    assert [o.get("text") for o in kept] == ["a\nb\n", "c\n", None, "d\n"]
    nbformat.validate(book)


@pytest.mark.parametrize(
    "prose, rest",
    [
        ("median |m| of x_adv, 2 * 3", r"median \|m\| of x\_adv, 2 \* 3"),
        ("`f(x)` and ``g``", "``f(x)`` and ``g``"),
        ("- first\n  goes on\n- second", "- first goes on\n- second"),
        ("eps: radius,\n    in pixels\nn: images", "- eps: radius, in pixels\n- n: images"),
        (
            "Args:\n    eps: radius,\n        in pixels\n    n: images",
            "Args:\n\n- eps: radius, in pixels\n- n: images",
        ),
        ("    indented *code*", "::\n\n        indented *code*"),
    ],
)
def test_prose_docstrings_become_rest(prose, rest):
    from arbook import readable_docstring

    lines = prose.splitlines()
    readable_docstring(None, "function", "f", None, None, lines)
    assert "\n".join(lines).strip() == rest


def test_environment_refuses_an_old_python_in_one_sentence(tmp_path):
    """Names on the PATH that do not run (as version managers leave) or
    are too old are passed over.
    """
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "environment.sh", tmp_path / "tools")
    names = tmp_path / "bin"
    names.mkdir()
    for name in ("python3.11", "python3.12", "python3.13", "python3"):
        (names / name).write_text("#!/bin/sh\nexit 1\n")
        (names / name).chmod(0o755)
    (names / "dirname").symlink_to(shutil.which("dirname"))
    run = [shutil.which("bash"), str(tmp_path / "tools" / "environment.sh")]
    ran = subprocess.run(run, capture_output=True, text=True, env=os.environ | {"PATH": str(names)})
    assert ran.returncode == 1
    assert "no Python 3.11 or newer found" in ran.stderr and not (tmp_path / ".venv").exists()


def test_make_help_lists_every_target():
    ran = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True
    )
    assert {line.split()[0] for line in ran.stdout.splitlines()} == {
        "help", "env", "book", "test", "test-slow", "test-faults", "test-gpu", "serve", "clean",
    }  # fmt: skip


def test_the_readme_says_what_the_records_say():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert findings.updated(readme, findings.written(findings.shown())[0]) == readme, (
        "run: python -m tools.findings"
    )


@pytest.mark.slow
def test_findings_are_of_the_published_records_and_say_what_is_missing(tmp_path):
    section = findings.written("digits")[0]
    picture, first, *_ = section.splitlines()[0], section.splitlines()[2]
    described = r"Three lines against AR strength .+ From AR strength 0 to 64, .+"
    static = "book/_static/three-distances"
    source = f'<source media="(prefers-color-scheme: dark)" srcset="{static}-dark.png">'
    light = rf"!\[{described}\]\({static}\.png\)"
    assert re.fullmatch(f"<picture>{re.escape(source)}{light}</picture>", picture)
    for name in (f"{static}.png", f"{static}-dark.png"):
        assert (ROOT / name).stat().st_size < 60_000
    assert first.startswith("1. Nearer in logits, farther in pixels: at AR strength 64, ")
    assert (
        "\nResNet-8 on 8×8 digits (toy) (study `digits`, 12 networks), AR strength 0 against 32: "
    ) in section
    verdicts = claims.verdicts(studies.load("digits")).set_index("claim")["verdict"]
    rows = [
        line.strip("| ").split(" | ")[:2] for line in section.splitlines() if line.startswith("| C")
    ]
    assert {
        name.split()[0]: verdict.removesuffix(" (toy)") for name, verdict in rows
    } == verdicts.to_dict()
    unrun = [
        name
        for name in studies.names(tmp_path)
        if not any((ROOT / "records" / name).glob("*/record.json"))
    ]
    assert re.findall("`(.+?)`", section.partition("Not run yet: ")[2]) == unrun


def test_findings_stand_between_their_marks():
    text = f"before\n{findings.BEGIN}old\n{findings.END}after\n"
    assert (
        findings.updated(text, "new\n") == f"before\n{findings.BEGIN}\nnew\n\n{findings.END}after\n"
    )
    with pytest.raises(SystemExit, match="once each"):
        findings.updated("no marks", "new\n")


@pytest.mark.parametrize("code, hidden", [
    ("study: str = 'digits'", False),
    ("notebook.check(globals())\nx = [r for r in range(3)]", True),
    ("import torch\nfrom torch import nn\n\nchosen = notebook.study(study, store)", True),
    ("import torch\n\nfor x in range(3):\n    print(x)", False),
    ("figures.errors(records)", True),
    ("rows = records[records['statistic'] == 'error']\nfigures.errors(rows)", True),
    ("notebook.table(tables.gaps, records)", True),
    ("found.table[['n']]", False),
    ("sigma = spectra.of(net, (1, 8, 8))\nprint(sigma)", False),
    ("a = 1\nb = 2\nc = 3\nd = 4\nfigures.errors(records)", False),
    ("def draw(c):\n    return figures.errors(records)", False),
])  # fmt: skip
def test_what_only_sets_up_or_shows_is_hidden_and_nothing_else(code, hidden):
    cell = {"id": "a", "cell_type": "code", "metadata": {}, "source": code.splitlines(True)}
    assert plumbing.hide({"cells": [cell]}) == (["a"] if hidden else [])
    assert cell["metadata"] == ({"tags": ["hide-input"]} if hidden else {})
    assert plumbing.hide({"cells": [cell]}) == []  # once is enough
    cell["metadata"] = {"tags": ["parameters"]}
    assert plumbing.hide({"cells": [cell]}) == ["a"]
    assert cell["metadata"]["tags"] == ["parameters", "hide-input"]


def test_no_chapter_shows_its_plumbing(capsys):
    assert plumbing.main(["--check"]) == 0, f"run: python -m tools.plumbing\n{capsys.readouterr()}"
