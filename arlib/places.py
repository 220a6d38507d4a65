"""Where things lie: the checkout, the store, records, study files, data.

Nothing is looked up in the working directory: notebooks run in `book/`, papermill in the caller's
folder, Colab in an empty one.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from arlib.errors import InputError, shown

PACKAGE = Path(__file__).resolve().parent
# bytes of a path and of one name in it: a little less than file systems take (4,095 and 255),
# since files of ours lie below, and others beside them for a moment under longer names
LONGEST, LONGEST_NAME = 3000, 200


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
        return path("root", root)
    if os.environ.get("ARLIB_DATA"):
        return path("ARLIB_DATA", os.environ["ARLIB_DATA"])
    home = checkout()
    return _cache() if home is None else home / "data"


def _cache() -> Path:
    return Path.home() / ".cache" / "arlib"


def path(name: str, value: str | Path) -> Path:
    """A path that somebody gave, `~` expanded; name: what it is, for the message.

    Raises `InputError` for one that no file system takes, or of an unknown user.
    """
    text = str(value)
    try:
        sizes = [len(os.fsencode(part)) for part in (text, *Path(text).parts)]
    except UnicodeEncodeError:
        raise InputError(f"{name} is {shown(text)}; it has letters no path can have.") from None
    if "\0" in text:
        raise InputError(f"{name} is {shown(text)}; it has a NUL, which no path can have.")
    if max(sizes) > LONGEST or max(sizes[1:], default=0) > LONGEST_NAME:
        raise InputError(
            f"{name} is {shown(text)}, {sizes[0]} bytes long; allowed: {LONGEST}, and "
            f"{LONGEST_NAME} for one name in it."
        )
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise InputError(
            f"{name} is {shown(text)}; there is no user of that name. Write the folder out, or "
            "begin with ./ if it is called so."
        ) from None


def _absolute(name: str, value: str | Path | None) -> Path | None:
    if not value:
        return None
    given = path(name, value)
    if not given.is_absolute():
        raise InputError(
            f"{name} is {str(value)!r}; give an absolute path, so that it means one folder "
            "everywhere."
        )
    return given
