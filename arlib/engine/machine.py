"""How to compute: the device, how fast a mode, in which precision,
in how many parts. Passed whole.
"""

import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from arlib.engine.devices import device
from arlib.errors import InputError, one_of

log = logging.getLogger(__name__)
MODES = ("auto", "plain", "folded", "compiled", "graphed", "compiled+graphed")
PRECISIONS = ("float32", "bfloat16-attack", "bfloat16")
# Folding is exact but for rounding, and was shown to train equal networks on a CPU
# (benchmarks.equivalence, on the digits); so was compiling, which there gains little and begins
# with seconds of compilation. On a GPU nothing is shown.
AUTO = {"cpu": "folded", "cuda": "folded", "mps": "folded"}


@dataclass(frozen=True)
class Machine:
    """What this device really runs; `settle` makes one from what was asked for.

    mode: "plain" (as written, eager), "folded" (BN folded where the attack runs, channels_last),
    "compiled" (folded, by torch.compile), "graphed" (folded, captured as CUDA graphs) or
    "compiled+graphed".
    precision: "float32", "bfloat16" (the network's passes; weights, logits and losses stay
    float32), or "bfloat16-attack" (only the passes that craft images, most of them; the gradient of
    the weights is float32's).
    micro_batches: parts in which a batch is worked on, to save memory; batch norm sees each by
    itself.
    """

    device: torch.device
    mode: str = "plain"
    precision: str = "float32"
    micro_batches: int = 1

    @property
    def layout(self) -> torch.memory_format:
        """Memory layout of images and convolutions."""
        return torch.contiguous_format if self.mode == "plain" else torch.channels_last

    @property
    def graphed(self) -> bool:
        """Whether work is captured as CUDA graphs."""
        return "graphed" in self.mode

    @property
    def eager_mode(self) -> str:
        """The mode without CUDA graphs."""
        return self.mode.replace("compiled+graphed", "compiled").replace("graphed", "folded")

    @property
    def attack_dtype(self) -> torch.dtype:
        """What the passes that craft images are computed in."""
        return torch.float32 if self.precision == "float32" else torch.bfloat16

    def autocast(self) -> torch.autocast:
        """Inside it a network's convolutions and products run in bfloat16 if `precision` is that.

        Weights stay float32. Casts are not cached: each weight is cast once per pass anyway, and a
        cached cast would outlive a CUDA graph.
        """
        enabled = self.precision == "bfloat16"
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=enabled, cache_enabled=False
        )


def settle(
    where: str | torch.device = "auto",
    mode: str = "auto",
    precision: str = "float32",
    micro_batches: int = 1,
    *,
    strict: bool = False,
) -> Machine:
    """The mode and precision that a device can really run, of those asked for.

    mode "auto" is what `AUTO` has for the device: nothing that could give other results than the
    plain path. What the device lacks falls back to what it has, with one line in the log, or, if
    `strict`, raises `InputError` with that line.
    """
    one_of("mode", mode, MODES)
    one_of("precision", precision, PRECISIONS)
    if micro_batches < 1:
        raise InputError(f"micro_batches is {micro_batches}; it must be at least 1.")
    where = device(where)
    mode = AUTO[where.type] if mode == "auto" else mode
    if "graphed" in mode and where.type != "cuda":
        less = mode.removesuffix("+graphed") if "+" in mode else "folded"
        mode = _instead("mode", mode, less, f"{where.type} has no CUDA graphs", strict)
    if "compiled" in mode and (why := why_not_compiled(where)):
        less = mode.replace("compiled+", "").replace("compiled", "folded")
        mode = _instead("mode", mode, less, why, strict)
    if precision != "float32" and not _has_bfloat16(where):
        precision = _instead(
            "precision", precision, "float32", f"{where} cannot compute in it", strict
        )
    return Machine(where, mode, precision, micro_batches)


def why_not_compiled(where: torch.device) -> str:
    """Why torch.compile cannot work for a device here; empty if it can."""
    if where.type == "cuda":
        from torch.utils._triton import has_triton

        return "" if has_triton() else "torch.compile finds no Triton here"
    if not any(map(shutil.which, filter(None, [os.environ.get("CXX"), "g++", "clang++"]))):
        return "torch.compile finds no compiler here"
    # its linker options are split at spaces (torch 2.6 to 2.11)
    folder = str(Path(torch.__file__).parent)
    return (
        f"torch.compile cannot link to torch in a folder with a space ({folder})"
        if " " in folder
        else ""
    )


def _instead(name: str, asked: str, given: str, why: str, strict: bool) -> str:
    if strict:
        raise InputError(
            f"{name} is {asked!r}, but {why}. Use {given!r}, or drop strict to fall back to it."
        )
    log.warning("%s %s: %s; %s is used", name, asked, why, given)
    return given


def _has_bfloat16(where: torch.device) -> bool:
    # torch also says yes where bfloat16 is only emulated, which gains nothing
    return where.type == "cpu" or (
        where.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    )
