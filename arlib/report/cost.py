"""What the parts of a comparison take: seconds, and the most memory held."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
import torch

MEGABYTE = 2**20


def peak(device: torch.device) -> float | None:
    """The most memory held so far, in megabytes: on a GPU by tensors, else by the process;
    None if nobody tells.

    Only read, never reset: it is the process's own count. So a part that stays below what an
    earlier one needed raises it by nothing.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MEGABYTE
    # Linux: the resource count would begin with the peak of whoever started this process.
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        status = ""
    if own := re.search(r"^VmHWM:\s+(\d+) kB", status, re.MULTILINE):
        return int(own[1]) * 1024 / MEGABYTE
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / MEGABYTE


def growth(before: float | None, after: float | None) -> float | None:
    """By how many megabytes the peak grew, never below 0; None if nobody tells.

    Linux adds up what each core counts and does not wait for all of them, so its peak may read
    a little less than it did before.
    """
    return None if before is None or after is None else round(max(after - before, 0.0), 1)


def table(
    models: Sequence[str], seconds: Mapping[str, float], megabytes: Mapping[str, float | None]
) -> pd.DataFrame:
    """A row per part, with the seconds of each model and the memory of all together,
    as text; keys "model/part".
    """
    # names of models may hold slashes, parts never do
    parts = dict.fromkeys(key.rpartition("/")[2] for key in seconds)
    rows = {}
    for part in parts:
        keys = [f"{model}/{part}" for model in models]
        row = {
            model: _with_unit(seconds.get(key), "s")
            for model, key in zip(models, keys, strict=True)
        }
        grown = [megabytes.get(key) for key in keys]
        known = [value for value in grown if value is not None]
        rows[part] = row | {"memory": f"+{_with_unit(sum(known), 'MB')}" if known else "–"}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("part")


def _with_unit(value: float | None, unit: str) -> str:
    return "–" if value is None else f"{value:.1f} {unit}"
