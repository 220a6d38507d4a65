"""What a device can do at most, and how much of it a training step asks for.

The ceilings are measured in the run they are used in: floating-point operations by a large matrix
product and the fastest of several convolutions, bytes by a copy. The work of a step is counted, not
timed: the operations of the convolutions and products by torch's FLOP counter, the bytes as every
operator's inputs and outputs, as if nothing were fused and no cache existed (so achieved bytes/s
above the ceiling mean fusion and caches at work).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from arlib import attacks, engine
from benchmarks import loops, report
from benchmarks.loops import Setting


@dataclass(frozen=True)
class Work:
    """Of one training step, an image:
    useful floating-point operations, bytes read and written unfused.
    """

    flops: float
    bytes: float


class Traffic(TorchDispatchMode):
    """Counts operations by torch's own formulas,
    and the bytes that operators read and write; views move nothing.

    (torch's FlopCounterMode follows modules by hooks that refuse `autograd.grad` to an input.)
    """

    def __init__(self):
        super().__init__()
        self.flops, self.bytes = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if formula := flop_registry.get(func._overloadpacket):
            self.flops += formula(*args, **kwargs, out_val=result)
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)]
        outputs = [t for t in tree_leaves(result) if isinstance(t, torch.Tensor)]
        known = {t.untyped_storage().data_ptr() for t in inputs}
        if func._schema.is_mutable or any(
            t.untyped_storage().data_ptr() not in known for t in outputs
        ):
            self.bytes += sum(t.numel() * t.element_size() for t in (*inputs, *outputs))
        return result


def work(setting: Setting) -> Work:
    """Work of our step (input-only gradients while crafting, batch norm folded)
    on an image of a full batch.
    """
    setting = replace(setting, device="cpu")
    model = loops.network(setting).train()
    prepared = engine.prepare(model, mode="folded").compare(
        torch.rand(2, 3, setting.size, setting.size)
    )
    few, more = (_counted(prepared, model, n, setting) for n in (2, 4))
    flops, moved = ((b - a) / 2 for a, b in zip(few, more, strict=True))  # an image's own share …
    # … and its part of the weights' bytes
    return Work(flops, moved + (few[1] - 2 * moved) / setting.batch)


def _counted(prepared, model, n: int, setting: Setting) -> tuple[float, float]:
    """Operations and bytes of a step on n images:
    steps × one attack step + one weight update's passes.
    """
    x, y = torch.rand(n, 3, setting.size, setting.size), torch.zeros(n, dtype=torch.long)
    crafted = counts(lambda: attacks.perturb(prepared, x, y, eps=setting.eps, steps=1))
    trained = counts(lambda: F.cross_entropy(model(x), y).backward())
    model.zero_grad()
    return tuple(setting.steps * a + b for a, b in zip(crafted, trained, strict=True))


def counts(function: Callable[[], object]) -> tuple[float, float]:
    """Floating-point operations (2 a multiply-add) and bytes of a call."""
    with Traffic() as traffic:
        function()
    return float(traffic.flops), float(traffic.bytes)


# Convolutions tried for the ceiling: channels, side of the map.
# On a CPU those win that stay in its cache.
SHAPES = {"cuda": ((256, 32), (512, 16), (64, 32)), "cpu": ((128, 32), (64, 16), (64, 8), (32, 16))}


def ceilings(device: str, precisions: list[str], quick: bool = False) -> pd.DataFrame:
    """Measured limits: precision, of what,
    and the best of 5 rounds (and of `SHAPES`) in TFLOP/s or GB/s.
    """
    gpu, rows = device != "cpu", []
    side, batch = (8192, 512) if gpu else (512, 16) if quick else (2048, 128)
    for precision in precisions:
        make = {"dtype": getattr(torch, precision), "device": device}
        a, b = torch.randn(side, side, **make), torch.randn(side, side, **make)
        calls, amounts = {"matrix product": lambda a=a, b=b: a @ b}, {"matrix product": 2 * side**3}
        for channels, pixels in SHAPES["cuda" if gpu else "cpu"]:
            name = f"convolution of {channels} channels at {pixels}"
            x = torch.randn(batch, channels, pixels, pixels, **make).to(
                memory_format=torch.channels_last
            )
            w = torch.randn(channels, channels, 3, 3, **make).to(memory_format=torch.channels_last)
            calls[name] = lambda x=x, w=w: F.conv2d(x, w, padding=1)
            amounts[name] = 2 * batch * pixels**2 * channels**2 * 9
        times = report.interleaved(calls, 5, device)
        rates = {name: amounts[name] / times[name].low / 1e12 for name in calls}
        best = max((name for name in rates if name.startswith("convolution")), key=rates.get)
        for name in ("matrix product", best):
            rows.append(
                {"ceiling": f"{name}, {precision}", "value": rates[name], "unit": "TFLOP/s"}
            )
    source = torch.zeros((2**30 if gpu else 2**25 if quick else 2**28) // 4, device=device)
    target = torch.empty_like(source)
    copy = report.timed(lambda: target.copy_(source), 5, device)
    rows.append(
        {"ceiling": "copy", "value": 2 * source.numel() * 4 / copy.low / 1e9, "unit": "GB/s"}
    )
    return pd.DataFrame(rows)


def highest(ceilings: pd.DataFrame, precision: str) -> float:
    """The larger of the ceilings of one precision, in TFLOP/s."""
    return ceilings.value[ceilings.ceiling.str.endswith(f", {precision}")].max()
