"""Build the book, unless nothing it depends on has changed:
`python -m tools.book`, or `make book`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from arbook import fingerprint  # noqa: E402 - the Sphinx extension that keys the execution cache by the same hash

HTML = ROOT / "_build" / "html"
STAMP = HTML / ".built-from"
BUILD = ["jupyter-book", "build", ".", "-W", "-n", "--keep-going"]
MADE_BY = ("book", "myst", "plain", "references")
PAGES = ("_config.yml", "_toc.yml", "book", *(f"tools/{name}.py" for name in MADE_BY))


def build() -> int:
    """Execute what changed and render all pages; returns the exit status of jupyter-book."""
    os.environ.setdefault("ARLIB_STORE", str(ROOT / "_build" / "store"))  # published records only
    state = fingerprint(ROOT, PAGES)
    if STAMP.exists() and STAMP.read_text() == state:
        print("Nothing changed since the book was built.")
    else:
        STAMP.unlink(missing_ok=True)
        command = [
            sys.executable,
            "-c",
            "from jupyter_book.cli.main import main; main()",
            *BUILD[1:],
        ]
        status = subprocess.run(command, cwd=ROOT).returncode
        if status:
            # Sphinx would not read the faulty pages again, and so find nothing wrong the next time.
            shutil.rmtree(ROOT / "_build" / ".doctrees", ignore_errors=True)
            print("The book was not built: a warning above counts as an error.", file=sys.stderr)
            return status
        STAMP.write_text(state)
    print(
        f"Open the book: {HTML / 'index.html'}\nor run `make serve` and go to http://localhost:8000"
    )
    return 0


if __name__ == "__main__":
    sys.exit(build())
