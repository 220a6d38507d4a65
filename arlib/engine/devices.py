"""Which device, how fast a mode, in which precision: asked for by name, answered by what the machine has."""

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import torch

from arlib.errors import InputError, one_of

log = logging.getLogger(__name__)
MODES = ("auto", "plain", "folded", "compiled", "graphed", "compiled+graphed")
PRECISIONS = ("float32", "bfloat16-attack", "bfloat16")
# Folding is exact but for rounding, and was shown to train equal networks on a CPU (benchmarks.equivalence, on the
# digits); so was compiling, which there gains little and begins with seconds of compilation. On a GPU nothing is shown.
AUTO = {"cpu": "folded", "cuda": "folded", "mps": "folded"}


def device(name: str | torch.device = "auto") -> torch.device:
    """The device meant by `name`: "auto" is the first GPU if there is one, else the CPU.

    Raises `InputError` for an unknown name or a device that this machine does not have.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, …, mps.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {str(name)!r}, but torch sees {torch.cuda.device_count()} GPUs here. "
            "Use device='cpu' or 'auto'."
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device is 'mps', but torch has no Metal device here. Use device='cpu' or 'auto'.")
    one_of("device", chosen.type, ("cpu", "cuda", "mps"))
    return chosen


def settle(mode: str, precision: str, where: torch.device, *, strict: bool = False) -> tuple[str, str]:
    """The mode and precision that a device can really run, of those asked for.

    mode: "plain" (as written, eager), "folded" (BN folded where the attack runs, channels_last), "compiled"
    (folded, by torch.compile), "graphed" (folded, captured as CUDA graphs), "compiled+graphed", or
    "auto", what `AUTO` has for the device: nothing that could give other results than the plain path.
    precision: "float32", "bfloat16" (the network's passes; weights, logits and losses stay float32), or
    "bfloat16-attack" (only the passes that craft images, most of them; the gradient of the weights is float32's).

    What the device lacks falls back to what it has, with one line in the log, or, if `strict`, raises
    `InputError` with that line.
    """
    one_of("mode", mode, MODES)
    one_of("precision", precision, PRECISIONS)
    mode = AUTO[where.type] if mode == "auto" else mode
    if "graphed" in mode and where.type != "cuda":
        less = mode.removesuffix("+graphed") if "+" in mode else "folded"
        mode = _instead("mode", mode, less, f"{where.type} has no CUDA graphs", strict)
    if "compiled" in mode and (why := why_not_compiled(where)):
        less = mode.replace("compiled+", "").replace("compiled", "folded")
        mode = _instead("mode", mode, less, why, strict)
    if precision != "float32" and not _has_bfloat16(where):
        precision = _instead("precision", precision, "float32", f"{where} cannot compute in it", strict)
    return mode, precision


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Inside it a GPU's convolutions are tried out once for each shape, and the fastest is kept; else nothing."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


def attack_dtype(precision: str) -> torch.dtype:
    """What the passes that craft images are computed in."""
    return torch.float32 if precision == "float32" else torch.bfloat16


def autocast(where: torch.device, precision: str) -> AbstractContextManager:
    """Inside it a network's convolutions and products run in bfloat16 if `precision` is that; weights stay float32.

    Casts are not cached: each weight is cast once a pass anyway, and a cached cast would outlive a CUDA graph.
    """
    return torch.autocast(where.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False)


def _instead(name: str, asked: str, given: str, why: str, strict: bool) -> str:
    if strict:
        raise InputError(f"{name} is {asked!r}, but {why}. Use {given!r}, or drop strict to fall back to it.")
    log.warning("%s %s: %s; %s is used", name, asked, why, given)
    return given


def why_not_compiled(where: torch.device) -> str:
    """Why torch.compile cannot work for a device here; empty if it can."""
    if where.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "torch.compile finds no Triton here"
    if not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++"]))):
        return "torch.compile finds no compiler here"
    folder = str(Path(torch.__file__).parent)  # its linker options are split at spaces (torch 2.6 to 2.11)
    return f"torch.compile cannot link to torch in a folder with a space ({folder})" if " " in folder else ""


def _has_bfloat16(where: torch.device) -> bool:
    return where.type == "cpu" or (where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False))
