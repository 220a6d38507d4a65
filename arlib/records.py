"""Records: what is kept of a run, and how it is read back whole or not at all.

A record is a folder `<study>/<run id>/` with `record.json` (recipe, provenance, history, settings,
rows), `arrays.npz` (quantiles of spectra, per-image margins) and, where the study publishes them,
`weights.safetensors`. `record.json` carries a checksum of itself and the SHA-256 of the files
beside it. Runs are finished in the store (`runs/`, writable) and published into `records/`, which
nothing else writes.
"""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import uuid
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from arlib import files
from arlib.errors import InputError, RecordError, shown

if TYPE_CHECKING:  # what is recorded is listed without them
    import numpy as np
    import pandas as pd
    import torch

FORMAT = 1
LIMIT = 150_000  # bytes of a record without its weights
WEIGHTS = ("last.safetensors", "best.safetensors")  # of a finished run
BESIDE = ("arrays.npz", "weights.safetensors", *WEIGHTS)  # what `record.json` may name
# Bytes that are read of a record from anybody: far more than `write` makes.
TEXT_LIMIT, ARRAYS_LIMIT = 2**23, 2**26
MOST_COUNTED = 2**53  # images or values behind a number; a table holds them as 64-bit integers
WEIGHTS_LIMIT = 5_000_000  # bytes; larger networks publish no weights
COLUMNS = ("checkpoint", "split", "statistic", "layer", "setting", "n", "value")
# What is left out of a record that would be too large, in this order; every row of its table stays.
_REDUCTIONS = (
    ("margin|train", 20_000), ("margin|train", 10_000),
    ("quantiles|zeros", 0), ("quantiles|reshaped", 0), ("quantiles|circular+bn", 0),
)  # fmt: skip

_KINDS = {
    "run": str, "recipe": dict, "variant": str, "provenance": dict, "settings": dict,
    "left_out": list, "quantile_layers": dict,
}  # fmt: skip
_AGAIN = "Delete its folder to have it computed again, or restore it from the repository."


@dataclass(frozen=True)
class Record:
    """One stored run. rows: the table of measurements (`COLUMNS`); history: one row per epoch."""

    folder: Path
    run: str
    recipe: dict
    variant: str
    provenance: dict
    settings: dict
    left_out: list[str]
    quantile_layers: dict[str, list[str]]
    epochs: dict[str, list]
    """The columns of `history`, which are read without pandas."""
    measured: dict[str, list]
    """The columns of `rows`."""

    @cached_property
    def history(self) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(self.epochs)

    @cached_property
    def rows(self) -> pd.DataFrame:
        import pandas as pd

        table = pd.DataFrame(self.measured, columns=list(COLUMNS))
        return table.astype({"n": "int64", "value": "float64"})

    def arrays(self) -> dict[str, np.ndarray]:
        """Per-image arrays and, as `quantiles|<operator>|<layer>`,
        201 quantiles of each spectrum.
        """
        import numpy as np

        arrays = files.read_arrays(self.folder / "arrays.npz", ARRAYS_LIMIT)
        for operator, layers in self.quantile_layers.items():
            stacked = arrays.pop(f"quantiles|{operator}", ())
            pairs = zip(layers, stacked, strict=False)  # quantiles may have been left out
            for layer, row in pairs:
                arrays[f"quantiles|{operator}|{layer}"] = row.astype(np.float32)
        return arrays

    def weights(self) -> dict[str, torch.Tensor]:
        """Weights of the last checkpoint, float32;
        from a finished run exact, from a record half precision.
        """
        if file := weights_file(self.folder):
            stored = files.read_tensors(file)
            return {key: t.float() if t.is_floating_point() else t for key, t in stored.items()}
        raise InputError(
            f"{self.folder} holds no weights: a study publishes those of some runs only. Compute "
            f"the run yourself with `arlib study run {self.folder.parent.name} --afresh --store "
            "FOLDER`, and read it from that store."
        )


def weights_file(folder: Path) -> Path | None:
    """The last checkpoint's weights of a finished run or beside a record; None where there are
    none.
    """
    beside = (folder / name for name in ("last.safetensors", "weights.safetensors"))
    return next((file for file in beside if file.is_file()), None)


def write(
    folder: Path, *, run: str, recipe: dict, variant: str, provenance: dict, settings: dict,
    history: pd.DataFrame, rows: pd.DataFrame, arrays: dict[str, np.ndarray],
) -> None:  # fmt: skip
    """Write `arrays.npz`, then `record.json`, into the folder of a run,
    which has its weights already.

    rows: a table with `COLUMNS`; arrays: name → array. A record that would pass 150 kB keeps a
    thinned `margin|train` and fewer quantiles, and says so in `left_out`; rows are always complete.
    Values are kept to 7 significant digits, quantiles as float16.
    """
    import pandas as pd

    if not (folder / WEIGHTS[0]).is_file():
        raise RecordError(
            f"{folder / WEIGHTS[0]} is missing: a run is not finished without its weights."
        )
    layers, groups = _pack_rows(pd.DataFrame(rows))
    arrays, quantile_layers = _stack_quantiles(arrays)
    columns = pd.DataFrame(history)
    content = {
        "format": FORMAT,
        "run": run,
        "recipe": recipe,
        "variant": variant,
        "provenance": provenance,
        "settings": settings,
        "history": {c: [_number(v) for v in columns[c]] for c in columns},
        "layers": layers,
        "rows": groups,
        "quantile_layers": quantile_layers,
    }
    arrays, content["left_out"] = _reduce(arrays, LIMIT - len(_text(content)) - 500)
    files.write_arrays(folder / "arrays.npz", arrays)
    beside = [folder / name for name in ("arrays.npz", *WEIGHTS) if (folder / name).is_file()]
    content["files"] = {path.name: files.sha256(path) for path in beside}
    files.write_text(folder / "record.json", _text(content))


def read(folder: Path) -> Record:
    """Read a record; `RecordError` names the file that is missing,
    altered or of another version.
    """
    folder = Path(folder)
    return _record(folder, _content(folder))


def _record(folder: Path, content: dict) -> Record:
    """The record that the checked content of `record.json` describes."""
    try:
        epochs = {name: [_value(v) for v in column] for name, column in content["history"].items()}
        if len({len(column) for column in epochs.values()}) > 1:
            raise ValueError("its history has columns of different lengths")
        measured = _unpack_rows(content["layers"], content["rows"])
        parts = {name: content[name] for name in _KINDS}
    # its checksum fits, so it was written like this, and in as many ways as there are mistakes
    except Exception as error:
        raise _no_record(folder, f"{type(error).__name__}: {error}") from error
    for name, kind in _KINDS.items():
        if not isinstance(parts[name], kind):
            raise _no_record(folder, f"its {name} is {shown(parts[name])}")
    return Record(folder, epochs=epochs, measured=measured, **parts)


def read_finished(folder: Path) -> Record:
    """Read the record of a run of ours: beside `read`'s checks, that its weights are there."""
    content = _content(folder)  # every file is hashed for it, so it is read once
    record = _record(folder, content)
    if WEIGHTS[0] not in content["files"]:
        raise RecordError(f"{folder} lacks {WEIGHTS[0]}: a run is not finished without weights.")
    return record


def is_finished(folder: Path) -> bool:
    return (Path(folder) / "record.json").is_file()


def publish(folder: Path, target: Path, *, weights: bool) -> bool:
    """Copy the finished run in `folder` to the record folder `target`;
    False if it is there already, unchanged.

    weights: also keep the last checkpoint (convolutions float16, the rest float32) unless it is
    larger than 5 MB. The record appears whole or not at all.
    """
    content, target = _content(folder), Path(target)
    _record(folder, content)
    if is_finished(target) and _same(content, _content(target)):
        return False
    new = target.with_name(f".{target.name}-{uuid.uuid4().hex[:8]}")
    try:
        new.mkdir(parents=True)
        shutil.copyfile(folder / "arrays.npz", new / "arrays.npz")
        if weights:
            _write_weights(
                files.read_tensors(folder / "last.safetensors"), new / "weights.safetensors"
            )
        # a copy is what it is a copy of, which was hashed above
        beside = {"arrays.npz": content["files"]["arrays.npz"]}
        if (half := new / "weights.safetensors").is_file():
            beside[half.name] = files.sha256(half)
        content["files"] = beside
        files.write_text(new / "record.json", _text(content))
        if target.exists():
            shutil.rmtree(target)
        os.rename(new, target)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return True


def size(folder: Path) -> int:
    """Bytes of a record without its weights."""
    return sum((folder / name).stat().st_size for name in ("record.json", "arrays.npz"))


def _same(finished: dict, published: dict) -> bool:
    """Whether the published record is of this very run: equal but for the weights beside it."""
    arrays = [content["files"].get("arrays.npz") for content in (finished, published)]
    rest = [
        {k: v for k, v in content.items() if k not in ("files", "checksum")}
        for content in (finished, published)
    ]
    return arrays[0] == arrays[1] and rest[0] == rest[1]


def halved(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as they are published: convolutions float16, the rest as it is."""
    return {k: t.half() if t.ndim == 4 and t.is_floating_point() else t for k, t in tensors.items()}


def _write_weights(tensors: dict[str, torch.Tensor], path: Path) -> None:
    half = halved(tensors)
    if sum(t.numel() * t.element_size() for t in half.values()) <= WEIGHTS_LIMIT:
        files.write_tensors(path, half)


def _content(folder: Path) -> dict:
    """`record.json` after every check that needs no recipe:
    syntax, checksum, version, the files beside it.
    """
    path = folder / "record.json"
    content = files.read_json(path, TEXT_LIMIT)
    if not isinstance(content, dict) or "format" not in content:
        raise RecordError(f"{path} is not a record. {_AGAIN}")
    if content["format"] != FORMAT:
        raise RecordError(
            f"{path} has format {shown(content['format'])}; this arlib reads format {FORMAT}. "
            "Update arlib."
        )
    if content.get("checksum") != _checksum(content):
        raise RecordError(f"{path} is damaged: its content does not match its checksum. {_AGAIN}")
    beside = content.get("files")
    if not isinstance(beside, dict) or "arrays.npz" not in beside or {*beside} - {*BESIDE}:
        raise _no_record(folder, f"the files it names are {shown(beside)}")
    for name, expected in beside.items():
        if not (folder / name).is_file():
            raise RecordError(f"{folder / name} is missing. {_AGAIN}")
        if (actual := files.sha256(folder / name)) != expected:
            raise RecordError(
                f"{folder / name} is damaged: SHA-256 {actual}, recorded {shown(expected)}. "
                f"{_AGAIN}"
            )
    return content


def _no_record(folder: Path, why: str) -> RecordError:
    return RecordError(f"{folder / 'record.json'} is not a record: {why[:200]}. {_AGAIN}")


def _checksum(content: dict) -> str:
    return files.checksum({key: value for key, value in content.items() if key != "checksum"})


def _text(content: dict) -> str:
    """JSON that diffs well: one line per field,
    one line per group of rows or a column of the history.
    """
    # plain types, so that the checksum is of what is read
    content = json.loads(json.dumps(content, allow_nan=False))
    content["checksum"] = _checksum(content)
    dump = partial(json.dumps, separators=(",", ":"), ensure_ascii=False)
    fields = []
    for key, value in content.items():
        if value and key in ("rows", "layers"):
            value = "[\n  " + ",\n  ".join(map(dump, value)) + "\n ]"
        elif value and key in ("history", "provenance", "files"):
            value = (
                "{\n  " + ",\n  ".join(f"{dump(k)}: {dump(v)}" for k, v in value.items()) + "\n }"
            )
        else:
            value = dump(value)
        fields.append(f" {dump(key)}: {value}")
    return "{\n" + ",\n".join(fields) + "\n}\n"


def _number(value: object) -> object:
    """A JSON value with 7 significant digits; NaN is null, an infinity a word."""
    import numpy as np

    if isinstance(value, str | bool | np.bool_) or value is None:
        return bool(value) if isinstance(value, np.bool_) else value
    value = float(value)
    if math.isnan(value):
        return None
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return int(value) if value.is_integer() and abs(value) < 1e7 else float(f"{value:.7g}")


def _value(stored: object) -> object:
    return (
        float("nan") if stored is None else float(stored) if stored in ("inf", "-inf") else stored
    )


def _pack_rows(rows: pd.DataFrame) -> tuple[list[list[str]], list[list]]:
    """Rows that differ only in the layer become one group;
    equal lists of layers are stored once.
    """
    if missing := set(COLUMNS) - set(rows.columns):
        raise ValueError(f"the table of rows lacks the columns {sorted(missing)}")
    keys = ["checkpoint", "split", "statistic", "setting"]
    if rows.duplicated([*keys, "layer"]).any():
        raise ValueError(
            f"measured twice: {rows[rows.duplicated([*keys, 'layer'])].iloc[0].to_dict()}"
        )
    layers: dict[tuple[str, ...], int] = {}
    groups = []
    for key, group in rows.groupby(keys, sort=False):
        index = layers.setdefault(tuple(group["layer"]), len(layers))
        counts = [int(n) for n in group["n"]]
        counts = counts[0] if len(set(counts)) == 1 else counts
        groups.append([*key, index, counts, [_number(v) for v in group["value"]]])
    return [list(names) for names in layers], groups


def _unpack_rows(layers: list[list[str]], groups: list[list]) -> dict[str, list]:
    table = {name: [] for name in COLUMNS}
    for *key, index, counts, values in groups:
        names = layers[index]
        # before they are laid end to end, lest a short file becomes a table of any length
        if len(values) != len(names) or not (isinstance(counts, int) or len(counts) == len(names)):
            raise ValueError(f"{shown(key)} has {len(values)} values of {len(names)} layers")
        each = [counts] if isinstance(counts, int) else counts
        if not all(isinstance(count, int) and 0 <= count <= MOST_COUNTED for count in each):
            raise ValueError(f"{shown(key)} counts {shown(counts)}")
        for column, value in zip(("checkpoint", "split", "statistic", "setting"), key, strict=True):
            table[column] += [value] * len(names)
        table["layer"] += names
        table["n"] += [counts] * len(names) if isinstance(counts, int) else counts
        table["value"] += [float(_value(v)) for v in values]
    return table


def _stack_quantiles(
    arrays: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """One float16 array (layers, 201) an operator:
    a zip entry per layer would cost more than its numbers.
    """
    import numpy as np

    plain, stacks, layers = {}, {}, {}
    for key, value in arrays.items():
        kind, _, rest = key.partition("|")
        operator, _, layer = rest.partition("|")
        if kind != "quantiles" or not layer:
            plain[key] = value
            continue
        stacks.setdefault(operator, []).append(value)
        layers.setdefault(operator, []).append(layer)
    for operator, values in stacks.items():
        stacked = np.stack(values)  # (layers, 201)
        fits = np.abs(stacked).max() < np.finfo(np.float16).max
        plain[f"quantiles|{operator}"] = stacked.astype(np.float16 if fits else np.float32)
    return plain, layers


def _reduce(arrays: dict[str, np.ndarray], budget: int) -> tuple[dict[str, np.ndarray], list[str]]:
    import numpy as np

    arrays, left_out = dict(arrays), []
    for key, keep in _REDUCTIONS:
        if _bytes(arrays) <= budget:
            break
        if key not in arrays or (keep and len(arrays[key]) <= keep):
            continue
        left_out.append(
            f"{key}: "
            f"{f'{keep} of {len(arrays[key])} images kept, evenly spaced' if keep else 'not kept'}"
        )
        if keep:
            arrays[key] = arrays[key][
                np.linspace(0, len(arrays[key]) - 1, keep).round().astype(int)
            ]
        else:
            del arrays[key]
    return arrays, left_out


def _bytes(arrays: dict[str, np.ndarray]) -> int:
    import numpy as np

    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.tell()
