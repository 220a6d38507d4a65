"""Where things lie: the checkout, the store, records, study files, data.

Nothing is looked up in the working directory: notebooks run in `book/`, papermill in the caller's
folder, Colab in an empty one.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from arlib.errors import InputError

PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Places:
    """The writable store, and the folders searched for records and for study files, in order."""

    store: Path
    records: tuple[Path, ...]
    studies: tuple[Path, ...]


def checkout() -> Path | None:
    """The repository this package runs from, or None when it is installed."""
    root = PACKAGE.parent
    return root if (root / "pyproject.toml").is_file() else None


def places(store: str | Path | None = None) -> Places:
    """Look-up order: the argument, `ARLIB_STORE`, the checkout's folders,
    the copy shipped in the package.

    A store may hold study files of its own (`<store>/NAME.yml`); they come before the checkout's.
    Raises `InputError` for a relative store.
    """
    root, shipped = checkout(), PACKAGE / "_shipped"
    roots = [shipped] if root is None else [root, shipped]
    given = _absolute("store", store) or _absolute("ARLIB_STORE", os.environ.get("ARLIB_STORE"))
    chosen = given or _cache() / "runs" if root is None else given or root / "runs"
    return Places(
        chosen,
        records=tuple(folder / "records" for folder in roots),
        studies=(chosen, *(folder / "studies" for folder in roots)),
    )


def data_root(root: str | Path | None = None) -> Path:
    """Where downloaded data sets lie:
    argument, `ARLIB_DATA`, the checkout's `data/`, else ~/.cache/arlib.
    """
    if root is not None:
        return Path(root)
    if os.environ.get("ARLIB_DATA"):
        return Path(os.environ["ARLIB_DATA"])
    home = checkout()
    return _cache() if home is None else home / "data"


def _cache() -> Path:
    return Path.home() / ".cache" / "arlib"


def _absolute(name: str, value: str | Path | None) -> Path | None:
    if not value:
        return None
    path = Path(value).expanduser()
    if not path.is_absolute():
        raise InputError(
            f"{name} is {str(value)!r}; give an absolute path, so that it means one folder "
            "everywhere."
        )
    return path
