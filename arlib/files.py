"""Files that are whole or not there: atomic writes, reads that name what is damaged, no pickle.

What is read may come from anybody: it has a limit, which holds before memory is taken for it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import stat
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING

from arlib.errors import RecordError, shown

if TYPE_CHECKING:  # reading JSON needs neither
    import numpy as np
    import torch

JSON_LIMIT = 2**26  # bytes of text
ARRAYS_LIMIT = 2**32  # bytes of all arrays of a file in memory
_AGAIN = "Delete its folder to have it computed again."
_not_made: set[Path] = set()


@contextlib.contextmanager
def not_made_anew(folder: Path) -> Iterator[None]:
    """For a folder that others may take away: once it is gone, what is written into it raises
    `FileNotFoundError`, where a folder is otherwise made for each file that lacks one.
    """
    _not_made.add(folder)
    try:
        yield
    finally:
        _not_made.discard(folder)


def _make_folder(folder: Path) -> None:
    for kept in _not_made & {folder, *folder.parents}:
        # One by one and none above: were the folder asked for first and made then, it could go
        # between the two.
        inner = folder
        steps = []
        while inner != kept:
            steps.append(inner)
            inner = inner.parent
        for step in reversed(steps):
            step.mkdir(exist_ok=True)
        return
    folder.mkdir(parents=True, exist_ok=True)


def _atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write to a neighbour, flush it to disk, then rename:
    readers see the old file or the new one.

    An `OSError`, of a full disk say, names the file that was to be written.
    """
    path = Path(path)
    try:
        _make_folder(path.parent)
        handle, name = mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
        os.close(handle)
        try:
            write(name)
            with open(name, "rb") as written:
                os.fsync(written.fileno())
            os.chmod(name, 0o644)  # mkstemp makes files private; a shared store must stay readable
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        if error.errno is None:
            raise OSError(f"{path} could not be written: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error


def write_text(path: Path, text: str) -> None:
    _atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    _atomically(path, lambda name: Path(name).write_bytes(content))


def write_json(path: Path, value: object) -> None:
    """Write strict JSON (a NaN is an error, not a word that other readers refuse)."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write a compressed npz without pickle."""
    import numpy as np

    plain = {key: np.asarray(value) for key, value in arrays.items()}
    objects = [key for key, value in plain.items() if value.dtype == object]
    if objects:
        raise TypeError(f"arrays of objects would need pickle: {objects}")
    _atomically(path, lambda name: np.savez_compressed(name, **plain))


def write_tensors(
    path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write safetensors (contiguous copies on the CPU)."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}

    def write(name: str) -> None:
        try:
            save_file(plain, name, metadata)
        except SafetensorError as error:  # a full disk, say, which everywhere else is an OSError
            raise OSError(str(error)) from error

    _atomically(path, write)


def read_json(path: Path, limit: int = JSON_LIMIT) -> dict:
    """Read strict JSON of at most `limit` bytes;
    `RecordError` names a file that is missing, damaged or too large.
    """
    _refuse_large(path, limit)
    try:
        with open(path, "rb") as stored:
            text = stored.read(limit + 1)
        return json.loads(text.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def peek_json(path: Path) -> dict | None:
    """What another process left in a JSON file; None where there is none, not yet, or a damaged
    one.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _no_number(word: str) -> None:
    """JSON has no NaN and no Infinity; Python reads them all the same."""
    raise ValueError(f"{word} is no JSON")


def _damaged(path: Path, why: object) -> RecordError:
    words = " ".join(str(why).split()) or type(why).__name__
    return RecordError(f"{path} is damaged: {words[:300]}. {_AGAIN}")


def _refuse_large(path: Path, limit: int) -> None:
    """`RecordError` if there is no such file, or one of more than `limit` bytes."""
    try:
        status = Path(path).stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError(f"{path} is missing.") from error
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for, a device never ends
        raise RecordError(f"{path} is no file. {_AGAIN}")
    if status.st_size > limit:
        raise RecordError(f"{path} has {status.st_size} bytes; allowed: {limit}. {_AGAIN}")


def read_arrays(path: Path, limit: int = ARRAYS_LIMIT) -> dict[str, np.ndarray]:
    """Read an npz without pickle, of at most `limit` bytes unpacked;
    `RecordError` names a file that is missing, damaged or too large.
    """
    import numpy as np

    _refuse_large(path, limit)
    try:
        _refuse_large_arrays(path, limit)
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except (RecordError, PermissionError, MemoryError):
        raise
    except Exception as error:  # a damaged file fails in as many ways as there are damages
        raise _damaged(path, error) from error


def _refuse_large_arrays(path: Path, limit: int) -> None:
    """An npz says what it will take, in the archive's list and in each array's head:
    both must be true.
    """
    import numpy as np

    with zipfile.ZipFile(path) as archive:
        total = sum(member.file_size for member in archive.infolist())
        if total > limit:
            raise RecordError(f"{path} unpacks to {total} bytes; allowed: {limit}. {_AGAIN}")
        for member in archive.infolist():
            with archive.open(member) as packed:
                version = np.lib.format.read_magic(packed)
                if version not in ((1, 0), (2, 0)):  # another one is of arrays with named fields
                    raise ValueError(f"{shown(member.filename)} is no plain array")
                head = f"read_array_header_{version[0]}_{version[1]}"
                shape, _, dtype = getattr(np.lib.format, head)(packed)
                if dtype.hasobject:
                    raise ValueError(f"{shown(member.filename)} has objects, which need pickle")
                if math.prod(shape) * dtype.itemsize != member.file_size - packed.tell():
                    raise ValueError(f"{shown(member.filename)} is not as large as it says")


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Read safetensors; `RecordError` names a file that is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:  # an OSError of a folder, say, of that name
        raise _damaged(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; `RecordError` names a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            return stored.metadata() or {}
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except PermissionError:
        raise
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from error


def read_described(path: Path, key: str) -> dict:
    """The JSON object that a safetensors file carries under `key`;
    `RecordError` where it is missing or junk.
    """
    text = read_metadata(path).get(key)
    try:
        described = json.loads(text or "null")
    except (ValueError, RecursionError):
        described = None
    if not isinstance(described, dict):
        raise RecordError(
            f"{path} is no file of ours: its {key!r} is {shown(text)}. Delete it, or restore it."
        )
    return described


def checksum(content: dict) -> str:
    """SHA-256 of plain content as canonical JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()
