"""Reading times at the chapters' heads, and the map of chapters on the first page.

python -m tools.reading              writes both
python -m tools.reading --check      only says which chapters differ (exit status 1)

Every chapter opens with its title, a question, and in its first box what one needs to know, what
one will be able to do, and how long it takes to read, which is counted here.
"""

import json
import math
import re
import sys
from pathlib import Path

from arlib import files
from tools import stamp

ROOT = stamp.ROOT
PER_MINUTE = 180  # words of a text with formulas; novels are read at 240
FORMULA = 15  # a displayed formula takes as long as so many words
TIME = re.compile(r"\*\*Reads\*\* in about \d+ minutes?")
MAP = re.compile(r"(?<=<!-- map -->\n\n).*?(?=\n\n<!-- end of the map -->)", re.S)
QUESTION = re.compile(r"\A# (?P<title>.+)\n\n\*(?P<question>[^*\n]+\?)\*\n")


def minutes(chapter: dict) -> int:
    """How long a chapter's text and captions take to read; code and solutions are not counted."""
    prose = " ".join(
        "".join(cell["source"])
        if cell["cell_type"] == "markdown"
        else cell["metadata"].get("mystnb", {}).get("figure", {}).get("caption", "")
        for cell in chapter["cells"]
    )
    prose = re.sub(r"<details>.*?</details>", " ", prose, flags=re.S)
    prose, formulas = re.subn(r"\$\$.*?\$\$", " ", prose, flags=re.S)
    prose = re.sub(r"\$[^$]+\$", " formula ", prose)
    words = len(re.findall(r"[^\W\d_][\w’'-]*", re.sub(r"\{[\w:]+\}`[^`]*`", " role ", prose)))
    return max(1, math.ceil((words + FORMULA * formulas) / PER_MINUTE))


def head(chapter: dict) -> str:
    return "".join(chapter["cells"][0]["source"])


def written(chapter: dict, rows: str) -> dict:
    """The chapter with its reading time, and the map if it has a place for it."""
    cells = [dict(cell) for cell in chapter["cells"]]
    for cell in cells:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown" and MAP.search(text):
            # not as a pattern: a question may hold a backslash
            cell["source"] = MAP.sub(lambda _: rows, text).splitlines(keepends=True)
    chapter = chapter | {"cells": cells}
    count = minutes(chapter)
    time = f"**Reads** in about {count} minute{'s' * (count > 1)}"
    cells[0]["source"] = TIME.sub(time, head(chapter)).splitlines(keepends=True)
    return chapter


def the_map(chapters: dict[str, dict]) -> str:
    """A table of the chapters but the first, in the order of the contents."""
    lines = ["| If you ask | read | minutes |", "| --- | --- | ---: |"]
    for name, chapter in list(chapters.items())[1:]:
        about = QUESTION.match(head(chapter))
        if about:
            where = f"[{about['title']}]({name}.ipynb)"
            lines.append(f"| {about['question']} | {where} | {minutes(chapter)} |")
    return "\n".join(lines)


def main(arguments: list[str], root: Path = ROOT) -> int:
    if arguments not in ([], ["--check"]):
        print(__doc__)
        return 2
    chapters = {path.stem: json.loads(path.read_text(encoding="utf-8"))
                for path in stamp.chapters(root)}  # fmt: skip
    rows, changed = the_map(chapters), []
    for name, chapter in chapters.items():
        after = written(chapter, rows)
        if after != chapter:
            changed.append(name)
            if not arguments:
                text = json.dumps(after, indent=1, ensure_ascii=False) + "\n"
                files.write_text(root / "book" / f"{name}.ipynb", text)
    print(f"{'Differs' if arguments else 'Written'}: {', '.join(changed) or 'nothing'}")
    return int(bool(arguments and changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
