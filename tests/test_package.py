"""The package as an index and a public host see it."""

import datetime
import importlib.util
import re
import shutil
import subprocess
import sys
import tomllib
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from bookfiles import ROOT

from arlib import __version__
from tools import stamp

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))


@pytest.fixture
def hook(monkeypatch):
    """hatch_build.py, without hatchling, which only builds have."""
    interface = ModuleType("hatchling.metadata.plugin.interface")
    interface.MetadataHookInterface = SimpleNamespace
    monkeypatch.setitem(sys.modules, interface.__name__, interface)
    described = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    return module


def test_on_an_index_no_link_of_the_readme_is_relative(hook):
    metadata = {"urls": {"Repository": "https://example.org/a/b.git"}}
    hook.CustomMetadataHook(root=str(ROOT)).update(metadata)
    text = metadata["readme"]["text"]
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert links and all(link.startswith(("https://", "#")) for link in links)
    assert "](https://example.org/a/b/blob/main/studies/README.md)" in text
    # a picture is the file itself, not the page about it
    assert "](https://example.org/a/b/raw/main/book/_static/three-distances.png)" in text
    assert 'srcset="https://example.org/a/b/raw/main/book/_static/' in text
    assert metadata["readme"]["content-type"] == "text/markdown"


def test_before_the_address_is_known_links_stay(hook):
    metadata = {}
    hook.CustomMetadataHook(root=str(ROOT)).update(metadata)
    assert metadata["readme"]["text"] == (ROOT / "README.md").read_text(encoding="utf-8")


def test_version_authors_and_what_an_index_sorts_by():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == __version__ == citation["version"]
    assert PROJECT["authors"] == citation["authors"]
    assert PROJECT["keywords"] and "Typing :: Typed" in PROJECT["classifiers"]
    least = PROJECT["requires-python"].removeprefix(">=")
    assert f"Programming Language :: Python :: {least}" in PROJECT["classifiers"]


def test_released_versions_have_their_date():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    titles = [title for title in re.findall(r"(?m)^## (.*)", text) if title != "Unreleased"]
    assert titles and all(re.fullmatch(r"\d+\.\d+\.\d+ \(\d{4}-\d\d-\d\d\)", t) for t in titles)


def test_stamping_cites_address_and_date_once(tmp_path):
    shutil.copy(ROOT / "CITATION.cff", tmp_path)
    for address in ("https://example.org/a", "https://example.org/b"):
        stamp.cite(address, tmp_path)
    text = (tmp_path / "CITATION.cff").read_text(encoding="utf-8")
    cited = yaml.safe_load(text)
    assert cited["repository-code"] == "https://example.org/b"
    assert cited["date-released"] == datetime.date.today()
    assert text.count("repository-code") == text.count("date-released") == 1


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_hash_and_rights_are_given_by_name(path):
    text = path.read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    assert content["permissions"] == {"contents": "read"} and content["jobs"]
    for used, comment in re.findall(r"uses: (\S+)(.*)", text):
        if used.startswith("./"):
            assert (ROOT / used).is_file()
            continue
        # Its hash is not verified yet: see the comment beside it.
        if used != "pypa/gh-action-pypi-publish@v1.13.0":
            assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", used), used
            assert re.fullmatch(r" # v\d+\.\d+\.\d+", comment), used


def test_templates_can_be_read():
    for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(path.read_text(encoding="utf-8"))


def test_make_help_needs_nothing_but_awk(tmp_path):
    """What macOS has (make 3.81, sed of BSD) reads the Makefile alike."""
    if not shutil.which("make") or not shutil.which("awk"):
        pytest.skip("no make or awk here")
    (tmp_path / "awk").symlink_to(shutil.which("awk"))
    asked = subprocess.run(
        [shutil.which("make"), "help"],
        cwd=ROOT,
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    lines = asked.stdout.splitlines()
    targets = re.findall(r"(?m)^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert [line.split()[0] for line in lines] == targets, asked.stderr
    assert "book        execute the chapters from records and render _build/html" in lines
