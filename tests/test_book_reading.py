"""Reading times, questions and the map of chapters."""

import json

import pytest
from bookfiles import CHAPTERS, read

from tools import reading, stamp


def chapter(*texts: str, caption: str = "") -> dict:
    cells = [{"cell_type": "markdown", "metadata": {}, "source": [text]} for text in texts]
    code = {"cell_type": "code", "metadata": {}, "source": ["not counted " * 1000]}
    if caption:
        code["metadata"] = {"mystnb": {"figure": {"caption": caption}}}
    return {"cells": [*cells, code]}


def test_minutes_are_of_words_and_formulas_and_not_of_code_or_solutions():
    words = "word " * reading.PER_MINUTE
    assert reading.minutes(chapter(words)) == 1
    assert reading.minutes(chapter(words + "more")) == 2
    assert reading.minutes(chapter(words, caption="one more")) == 2
    assert reading.minutes(chapter(words + "<details>\nmore words\n</details>")) == 1
    assert reading.minutes(chapter("$$ a + b $$ " * 12)) == 1  # 12 × 15 words
    assert reading.minutes(chapter("$$ a + b $$ " * 13)) == 2
    assert reading.minutes(chapter("word " * (reading.PER_MINUTE - 1) + "$x + y + z$")) == 1


def test_a_time_and_a_map_are_written_where_they_belong():
    first = chapter("# A\n\n*What?*\n\n**Reads** in about 99 minutes.",
                    "<!-- map -->\n\nold\n\n<!-- end of the map -->")  # fmt: skip
    second = chapter("# B\n\n*Why \\alpha?*\n\n" + "word " * 2 * reading.PER_MINUTE)
    rows = reading.the_map({"a": first, "b": second})
    assert rows.splitlines()[2:] == ["| Why \\alpha? | [B](b.ipynb) | 3 |"]
    after = reading.written(first, rows)
    assert "in about 1 minute." in reading.head(after)
    assert rows in "".join(after["cells"][1]["source"]) and "old" not in json.dumps(after)
    assert reading.written(after, rows) == after


def test_times_and_map_are_up_to_date(capsys):
    assert reading.main(["--check"]) == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_opens_with_a_question_and_what_it_takes(name):
    opening = reading.head(read(name))
    assert reading.QUESTION.match(opening), "title, then a question in italics"
    assert reading.TIME.search(opening)
    if name != stamp.contents()[0]:
        assert "**You need**" in opening and "**Afterwards you can**" in opening


def test_the_map_has_every_chapter():
    (text,) = [
        "".join(cell["source"])
        for cell in read(stamp.contents()[0])["cells"]
        if "<!-- map -->" in "".join(cell["source"])
    ]
    assert all(f"({name}.ipynb) |" in text for name in CHAPTERS if name != stamp.contents()[0])
