"""Write the setup cell into every chapter, and the repository's address where it belongs.

python -m tools.stamp                  every chapter carries the setup cell of arlib.notebook again
python -m tools.stamp ADDRESS          the same, with this address (https://…) from now on
python -m tools.stamp --check          only say whether a chapter differs (exit status 1)
"""

import json
import re
import sys
from pathlib import Path

from arlib import files, notebook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from arbook import repository  # noqa: E402 - the one reader of pyproject's address


def chapters(root: Path = ROOT) -> list[Path]:
    return sorted((root / "book").glob("*.ipynb"))


def setup_cells(chapter: dict) -> list[dict]:
    """The cells tagged `setup` of a notebook."""
    return [cell for cell in chapter["cells"] if "setup" in cell["metadata"].get("tags", [])]


def write_address(address: str, root: Path = ROOT) -> None:
    """Set `[project.urls] Repository` in pyproject.toml."""
    if not re.fullmatch(r"https://[^\s\"\\]+", address):
        sys.exit(f"the address is {address!r}; it must begin with https:// and hold no spaces or quotes.")
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\n\[project\.urls\]\nRepository = .*\n", "", text)
    text = text.replace("\n[project.scripts]", f'\n[project.urls]\nRepository = "{address}"\n\n[project.scripts]', 1)
    files.write_text(path, text)


def restamp(root: Path = ROOT, write: bool = True) -> list[str]:
    """Bring the setup cell of every chapter up to date; returns the names of those that differed."""
    wanted = notebook.setup_cell(repository(root)).splitlines(keepends=True)
    changed = []
    for path in chapters(root):
        chapter = json.loads(path.read_text(encoding="utf-8"))
        stale = [cell for cell in setup_cells(chapter) if "".join(cell["source"]) != "".join(wanted)]
        for cell in stale:
            cell["source"] = wanted
        if stale:
            changed.append(path.name)
        if stale and write:
            files.write_text(path, json.dumps(chapter, indent=1, ensure_ascii=False) + "\n")
    return changed


def main(arguments: list[str]) -> int:
    if "--help" in arguments or len(arguments) > 1:
        print(__doc__)
        return 2
    check = arguments == ["--check"]
    if arguments and not check:
        write_address(arguments[0])
    changed = restamp(write=not check)
    print(f"{'Differs' if check else 'Stamped'}: {', '.join(changed) or 'nothing'}")
    return int(check and bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
