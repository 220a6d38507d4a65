"""Write the setup cell into every chapter, the repository's address where it belongs,
and arlib/captions.json.

python -m tools.stamp                  every chapter carries the setup cell of arlib.notebook again
python -m tools.stamp ADDRESS          the same, with this address (https://…) from now on,
                                       and with today's date in CITATION.cff
python -m tools.stamp --check          only say whether a chapter differs (exit status 1)
"""

import datetime
import json
import re
import sys
from pathlib import Path

import yaml

from arlib import client, files, notebook

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from arbook import repository  # noqa: E402 - the one reader of pyproject's address


def contents(root: Path = ROOT) -> list[str]:
    """The names of all pages in the order of `_toc.yml`, without their folder."""
    path = root / "_toc.yml"
    if not path.exists():
        return []
    table = yaml.safe_load(path.read_text(encoding="utf-8"))
    listed = [page for part in table["parts"] for page in part["chapters"]]
    return [Path(page).name for page in (table["root"], *(page["file"] for page in listed))]


def chapters(root: Path = ROOT) -> list[Path]:
    """In the order of the contents; those that are not listed come last."""
    order = {name: at for at, name in enumerate(contents(root))}
    notebooks = (root / "book").glob("*.ipynb")
    return sorted(notebooks, key=lambda path: (order.get(path.stem, len(order)), path.name))


def setup_cells(chapter: dict) -> list[dict]:
    """The cells tagged `setup` of a notebook."""
    return [cell for cell in chapter["cells"] if "setup" in cell["metadata"].get("tags", [])]


def write_address(address: str, root: Path = ROOT) -> None:
    """Set `[project.urls] Repository` in pyproject.toml."""
    if not re.fullmatch(r"https://[^\s\"\\]+", address):
        sys.exit(
            f"the address is {address!r}; it must begin with https:// and hold no spaces or quotes."
        )
    path = root / "pyproject.toml"
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\n\[project\.urls\]\nRepository = .*\n", "", text)
    text = text.replace(
        "\n[project.scripts]", f'\n[project.urls]\nRepository = "{address}"\n\n[project.scripts]', 1
    )
    files.write_text(path, text)
    cite(address, root)


def cite(address: str, root: Path = ROOT) -> None:
    """Set address and today's date in CITATION.cff, which has neither before."""
    path = root / "CITATION.cff"
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"\n(repository-code|date-released): .*", "", text)
    stamped = f'date-released: {datetime.date.today()}\nrepository-code: "{address}"\n'
    files.write_text(path, text.replace("\nauthors:\n", f"\n{stamped}authors:\n", 1))


def page(address: str, name: str) -> str:
    """Where the workflow `pages` publishes a chapter;
    "" if the repository's host is not known to publish pages.
    """
    parts = re.fullmatch(r"https://github\.com/([^/]+)/([^/]+?)/?", address)
    return f"https://{parts[1]}.github.io/{parts[2]}/book/{name}.html" if parts else ""


def setup_cell(root: Path, name: str) -> str:
    """The setup cell that a chapter should have."""
    address = repository(root)
    return notebook.setup_cell(address, page(address, name))


def captions(root: Path = ROOT) -> str:
    """What `arlib/captions.json` should hold:
    clients do not show a cell's metadata, so the package has it, too. The order gives figures
    their numbers (`client.numbered`).
    """
    captioned = [
        client.captions(json.loads(path.read_text(encoding="utf-8"))) for path in chapters(root)
    ]
    merged = {key: entry for chapter in captioned for key, entry in chapter.items()}
    return json.dumps(merged, indent=1, ensure_ascii=False) + "\n"


def restamp(root: Path = ROOT, write: bool = True) -> list[str]:
    """Bring the setup cell of every chapter and the captions up to date;
    returns the names of files that differed.
    """
    changed = []
    for path in chapters(root):
        chapter = json.loads(path.read_text(encoding="utf-8"))
        wanted = setup_cell(root, path.stem).splitlines(keepends=True)
        stale = [
            cell for cell in setup_cells(chapter) if "".join(cell["source"]) != "".join(wanted)
        ]
        for cell in stale:
            cell["source"] = wanted
        if stale:
            changed.append(path.name)
        if stale and write:
            files.write_text(path, json.dumps(chapter, indent=1, ensure_ascii=False) + "\n")
    kept, captioned = root / "arlib" / "captions.json", captions(root)
    if not kept.exists() or kept.read_text(encoding="utf-8") != captioned:
        changed.append(kept.name)
        if write:
            files.write_text(kept, captioned)
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
