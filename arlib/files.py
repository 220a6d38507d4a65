"""Files that are whole or not there: atomic writes, reads that name what is damaged, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING

from arlib.errors import RecordError

if TYPE_CHECKING:  # reading JSON needs neither
    import numpy as np
    import torch


def _atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write to a neighbour, flush it to disk, then rename:
    readers see the old file or the new one.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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


def write_text(path: Path, text: str) -> None:
    _atomically(path, lambda name: Path(name).write_text(text, encoding="utf-8"))


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
    try:
        _atomically(path, lambda name: save_file(plain, name, metadata))
    except SafetensorError as error:  # a full disk, say, which everywhere else is an OSError
        raise OSError(f"{path} could not be written: {error}") from error


def read_json(path: Path) -> dict:
    """Read JSON; `RecordError` names a file that is missing or damaged."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise RecordError(
            f"{path} is damaged: {error}. Delete its folder to have it computed again."
        ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read an npz without pickle; `RecordError` names a file that is missing or damaged."""
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as stored:
            return {key: stored[key] for key in stored.files}
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zipfile.zlib.error) as error:
        raise RecordError(
            f"{path} is damaged: {error}. Delete its folder to have it computed again."
        ) from error


def read_tensors(path: Path, device: str | torch.device = "cpu") -> dict[str, torch.Tensor]:
    """Read safetensors; `RecordError` names a file that is missing or damaged."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path, device=str(device))
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except SafetensorError as error:
        raise RecordError(
            f"{path} is damaged: {error}. Delete its folder to have it computed again."
        ) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file; `RecordError` names a file that is missing or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as stored:
            return stored.metadata() or {}
    except FileNotFoundError as error:
        raise RecordError(f"{path} is missing.") from error
    except SafetensorError as error:
        raise RecordError(
            f"{path} is damaged: {error}. Delete its folder to have it computed again."
        ) from error


def read_described(path: Path, key: str) -> dict:
    """The JSON object that a safetensors file carries under `key`;
    `RecordError` where it is missing or junk.
    """
    text = read_metadata(path).get(key)
    try:
        described = json.loads(text or "null")
    except json.JSONDecodeError:
        described = None
    if not isinstance(described, dict):
        raise RecordError(
            f"{path} is no file of ours: its {key!r} is {str(text)[:60]!r}. Delete it, or restore "
            "it."
        )
    return described


def checksum(content: dict) -> str:
    """SHA-256 of plain content as canonical JSON, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, allow_nan=False).encode()).hexdigest()


def sha256(path: Path) -> str:
    with open(path, "rb") as stored:
        return hashlib.file_digest(stored, "sha256").hexdigest()
