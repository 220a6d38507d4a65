"""A chapter alone on a foreign machine, as a plain notebook, which is what the buttons of its page
open: what Colab has, an empty folder, the repository only by its address.

The environment sees the dependencies of arlib and ipykernel through links, and nothing else of this
one: no arlib, no Jupyter Book, no papermill. papermill drives the kernel from outside. Python 3.13
and a GPU, which Colab has, are whatever this machine has.
"""

import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from bookfiles import ROOT, papermill
from packaging.requirements import Requirement

from arlib import notebook
from tools import plain

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
# Records only, live training, live attacks, and one as the repository has it. The code of plain
# notebooks is that of the sources, which test_book_nbval.py runs, so not all are run here again.
RUNS = [(name, "plain", []) for name in ("intro", "singular_values", "your_model")]
RUNS += [("singular_values", "book", ["-p", "study", "digits"])]


def needed(names: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """The named distributions and all they require (extras too: torch asks for cuda-toolkit[…]),
    here installed.
    """
    distributions: dict[str, importlib.metadata.Distribution] = {}
    todo, seen = [(name, "") for name in names], set()
    while todo:
        requirement, extra = todo.pop()
        if (requirement, extra) in seen:
            continue
        seen.add((requirement, extra))
        wanted = Requirement(requirement)
        if wanted.marker and not wanted.marker.evaluate({"extra": extra}):
            continue
        distributions[wanted.name.lower()] = distribution = importlib.metadata.distribution(
            wanted.name
        )
        todo += [
            (below, one) for below in distribution.requires or [] for one in ("", *wanted.extras)
        ]
    return distributions


def link_packages(target: Path) -> None:
    """A folder of links to what arlib depends on:
    a site-packages without arlib and without the book's tools.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    target.mkdir()
    for distribution in needed([*project["dependencies"], "ipykernel"]).values():
        site = Path(distribution.locate_file(""))
        for top in {
            file.parts[0]
            for file in distribution.files
            if file.parts[0] not in ("..", "__pycache__")
        }:
            if not (target / top).exists():
                (target / top).symlink_to(site / top)


def commit_copy(target: Path) -> None:
    """What git would have of this checkout were all of it committed."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout: there is nothing to install from")
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    author = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for command in (["init", "-q"], ["add", "-A"], [*author, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", *command], cwd=target, check=True, capture_output=True)


class Room:
    """The foreign machine."""

    def __init__(self, home: Path):
        self.home = home
        repository = home / "the re po"
        repository.mkdir(parents=True)
        commit_copy(repository)
        self.source = "git+" + repository.as_uri()
        assert "%20" in self.source
        link_packages(home / "packages")
        venv.create(home / "env", with_pip=True)
        self.python = home / "env" / "bin" / "python"
        (self.site,) = (home / "env" / "lib").glob("python*/site-packages")
        (self.site / "packages.pth").write_text(str(home / "packages"))
        kernel = {
            "argv": [str(self.python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            "display_name": "x",
        }
        (home / "jupyter" / "kernels" / "cleanroom").mkdir(parents=True)
        (home / "jupyter" / "kernels" / "cleanroom" / "kernel.json").write_text(
            json.dumps(kernel | {"language": "python"})
        )
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("ARLIB", "PYTHON"))}
        self.environment = kept | {"JUPYTER_PATH": str(home / "jupyter"), "OMP_NUM_THREADS": "1"}

    def run(self, code: str, **environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [self.python, "-c", code],
            capture_output=True,
            text=True,
            cwd=self.home,
            env=self.environment | environment,
        )

    def installed(self) -> set[str]:
        return {path.name.split("-")[0].lower() for path in self.site.glob("*.dist-info")}


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    return Room(tmp_path_factory.mktemp("cleanroom"))


def test_without_an_address_the_setup_cell_says_what_to_do(room):
    ran = room.run(notebook.setup_cell())
    assert ran.returncode == 1 and ran.stdout == ""
    assert ran.stderr.count("\n") == 1 and "set ARLIB_SOURCE" in ran.stderr


def test_an_address_that_does_not_answer_is_named(room):
    ran = room.run(notebook.setup_cell(), ARLIB_SOURCE="git+file:///no/such/repository")
    assert ran.returncode == 1
    assert (
        "arlib could not be installed from git+file:///no/such/repository"
        in ran.stderr.splitlines()[-1]
    )


@pytest.fixture(scope="module")
def chapters(tmp_path_factory):
    """Kind -> the folder of all chapters as notebooks of that kind."""
    folder = tmp_path_factory.mktemp("plain")
    plain.write(folder)
    return {"plain": folder, "book": ROOT / "book"}


@pytest.mark.parametrize("name, kind, options", RUNS)
def test_chapter_installs_arlib_and_runs_to_its_end(room, chapters, name, kind, options):
    folder = room.home / f"empty {kind} {name}"
    folder.mkdir()
    shutil.copy(chapters[kind] / f"{name}.ipynb", folder)
    environment = room.environment | {"ARLIB_SOURCE": room.source, "HOME": str(folder)}
    ran = papermill(
        folder / f"{name}.ipynb", folder / "out.ipynb", "-k", "cleanroom", *options, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-5000:]
    assert room.installed() <= {"pip", "setuptools", "arlib_book"}, (
        "torch and all else stay as they were"
    )


def test_the_installed_package_has_studies_and_records(room):
    if "arlib_book" not in room.installed():
        room.run(notebook.setup_cell(), ARLIB_SOURCE=room.source)
    for folder, kind in (("studies", "*.yml"), ("records", "*/*/record.json")):
        ours = {str(path.relative_to(ROOT / folder)) for path in (ROOT / folder).glob(kind)}
        shipped = room.site / "arlib" / "_shipped" / folder
        assert {str(path.relative_to(shipped)) for path in shipped.glob(kind)} == ours
    where = room.run("import arlib, torch; print(arlib.__file__, torch.__file__)").stdout
    assert str(room.site) in where and str(room.home / "packages") in where


def test_python_of_the_room_is_ours(room):
    assert room.run("import sys; print(sys.version_info[:2])").stdout.strip() == str(
        sys.version_info[:2]
    )
