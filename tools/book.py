"""Build the book: `python -m tools.book`, or `make book`.

Chapters are executed side by side, and only those whose result may have changed (`executed.py`);
Sphinx then reads them from its own cache. If nothing changed at all, nothing is done.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn

from arlib import processes
from tools import executed

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))
from arbook import cache_of, fingerprint  # noqa: E402 - the extension that reads the cache

HTML = ROOT / "_build" / "html"
STAMP = HTML / ".built-from"
BUILD = ["jupyter-book", "build", ".", "-W", "-n", "--keep-going"]
MADE_BY = ("book", "executed", "myst", "plain", "reads", "references")
PAGES = ("_config.yml", "_toc.yml", "book", *(f"tools/{name}.py" for name in MADE_BY))


def build() -> int:
    """Execute what changed and render all pages; returns the exit status of jupyter-book."""
    os.environ.setdefault("ARLIB_STORE", str(ROOT / "_build" / "store"))  # published records only
    state = fingerprint(ROOT, PAGES)
    if STAMP.exists() and STAMP.read_text() == state:
        print("Nothing changed since the book was built.")
    else:
        STAMP.unlink(missing_ok=True)
        if failed := execute():
            for name, error in failed.items():
                print(f"{name} was not executed:\n{error}", file=sys.stderr)
            return 1
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


def execute() -> dict[str, str]:
    """Put the executed chapters where Sphinx looks for them; {name: error} of those that failed."""
    kept = executed.project()
    names = sorted(path.stem for path in (ROOT / "book").glob("*.ipynb"))
    failed = executed.bring_up_to_date(kept, names, processes.cores())
    cache = get_cache(str(cache_of(ROOT)))
    for name in names:
        if chapter := kept.take(name):
            bundle = CacheBundleIn(chapter, str(ROOT / "book" / f"{name}.ipynb"), data={})
            cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)
    return failed


if __name__ == "__main__":
    sys.exit(build())
