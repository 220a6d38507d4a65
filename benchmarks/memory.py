"""Most memory a call takes above what was there before it."""

import contextlib
import ctypes
import math
from collections.abc import Callable
from pathlib import Path

import torch

CLEAR, STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def peak(function: Callable[[], object], device: str | torch.device = "cpu") -> float:
    """MiB: of the GPU's allocator, or of resident memory (Linux only; NaN elsewhere)."""
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        torch.cuda.synchronize(device)
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    try:
        _return_what_is_free()
        CLEAR.write_text("5")  # sets VmHWM, the most so far, to what is resident now
    except OSError:
        return math.nan
    before = _resident("VmRSS")
    function()
    return _resident("VmHWM") - before


def _return_what_is_free() -> None:
    """Else a call would reuse freed memory that is still resident, and seem to take none."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident(key: str) -> float:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) / 1024
