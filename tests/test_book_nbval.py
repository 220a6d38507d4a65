"""The stored outputs of every chapter are what executing it prints."""

import configparser
import json
import re
from pathlib import Path

import pytest
from bookfiles import CHAPTERS, ROOT, nbval, read, source, tagged

SANITIZED = re.compile(r"Environment: arlib|\d (ms|s|seconds?|min|minutes?)\b|images/s|0x|/\w+/")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", CHAPTERS)
def test_stored_outputs_are_reproduced(name, tmp_path):
    ran = nbval([ROOT / "book" / f"{name}.ipynb"], tmp_path)
    assert ran.returncode == 0, ran.stdout[-6000:]


@pytest.mark.slow
def test_one_changed_number_fails(tmp_path):
    """A test of the test above: a chapter up to its first stored number,
    as it is and with that digit changed.
    """
    chapter, at, output, key = first_number()
    chapter["cells"] = chapter["cells"][: at + 1]
    kept, changed = tmp_path / "kept.ipynb", tmp_path / "changed.ipynb"
    kept.write_text(json.dumps(chapter))
    stored = chapter["cells"][at]["outputs"][output]
    holder = stored if key == "text" else stored["data"]
    holder[key] = one_more("".join(holder[key]))
    changed.write_text(json.dumps(chapter))
    ran = nbval([kept, changed], tmp_path / "store")
    assert ran.returncode == 1, ran.stdout[-3000:]
    failed = re.findall(r"^FAILED (?:.*/)?(\w+)\.ipynb::", ran.stdout, re.M)
    assert failed == ["changed"], ran.stdout[-3000:]


def first_number():
    """The chapter that comes to a stored number in the fewest cells:
    (chapter, cell, output, key of its text).
    """
    numbers = []
    for name in CHAPTERS:
        chapter = read(name)
        for at, cell in enumerate(chapter["cells"]):
            for i, output in enumerate(cell.get("outputs", [])):
                for key, holder in (("text", output), ("text/plain", output.get("data", {}))):
                    text = "".join(holder.get(key, ""))
                    if (
                        re.search(r"\d", text)
                        and not SANITIZED.search(text)
                        and not tagged_away(cell)
                    ):
                        numbers.append((at, name, i, key))
    at, name, i, key = min(numbers)
    return read(name), at, i, key


def tagged_away(cell: dict) -> bool:
    return any(tag.startswith("nbval") for tag in cell["metadata"].get("tags", []))


def one_more(text: str) -> str:
    return re.sub(r"\d", lambda digit: str((int(digit[0]) + 1) % 10), text, count=1)


def test_no_chapter_hides_from_nbval():
    """Whole cells are not excluded: what may differ is sanitised, by name, in one file."""
    for name in CHAPTERS:
        hidden = [source(cell)[:60] for cell in read(name)["cells"] if tagged_away(cell)]
        assert not hidden, name
        assert not tagged(read(name), "skip-execution"), name


def sanitised(text: str) -> str:
    rules = configparser.RawConfigParser()
    rules.read(Path(__file__).with_name("nbval_sanitize.cfg"))
    for section in rules.sections():
        text = re.sub(rules[section]["regex"], rules[section]["replace"], text)
    return text


def test_only_the_number_behind_an_approximation_may_differ():
    for value in ("3.14", "−0.0251", "1e−05", "100", "1.2e+03"):
        assert sanitised(f"gap: ≈ {value} points; 8/255") == "gap: ≈ VALUE points; 8/255"


def test_the_sanitizer_keeps_numbers():
    for text in (
        "accuracy 0.913",
        "n = 1,000",
        "8/255",
        "× 0.55 [0.50, 0.61]",
        "<td>0.25</td>",
        "4/255, 8/255",
        "3 seeds",
    ):
        assert sanitised(text) == text
