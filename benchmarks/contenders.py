"""This project's training step as a contender, and every contender by its name.

Names: "public", "torchattacks", "art", and "ours MODE PRECISION" ("ours folded float32", "ours
graphed bfloat16").
"""

import torch
from torch import Tensor

from arlib import data, engine
from arlib.errors import InputError
from arlib.training import Recipe
from arlib.training.step import Step
from benchmarks import loops
from benchmarks.loops import Missing, Setting


class DeviceBatches:
    """Batches without end from pictures that lie on the device as bytes,
    cropped and flipped there.
    """

    def __init__(self, setting: Setting):
        pixels, labels = loops.pictures(setting)
        self.setting = setting
        self.pixels = torch.from_numpy(pixels.transpose(0, 3, 1, 2).copy()).to(setting.device)
        self.labels = torch.from_numpy(labels).to(setting.device)
        self.generator = torch.Generator(setting.device).manual_seed(setting.seed)
        self.order: list[Tensor] = []

    def next(self) -> tuple[Tensor, Tensor]:
        """Images (b, 3, h, w) float32 in [0, 1] and labels (b,)."""
        if not self.order:
            shuffled = torch.randperm(
                len(self.labels), generator=self.generator, device=self.setting.device
            )
            whole = len(shuffled) // self.setting.batch * self.setting.batch
            self.order = list(shuffled[:whole].split(self.setting.batch))
        index = self.order.pop()
        return data.augment(self.pixels[index].float() / 255, self.generator), self.labels[index]


class Ours:
    """This project's own training step (`arlib.training.step`) on the benchmark's pictures,
    which lie on the device.
    """

    def __init__(self, setting: Setting, mode: str, precision: str):
        machine = engine.settle(setting.device, mode, precision)
        recipe = Recipe(
            dataset="cifar10",
            eps=setting.eps,
            steps=setting.steps,
            lr=setting.lr,
            seed=setting.seed,
        )
        self.batches, self.lr = DeviceBatches(setting), setting.lr
        self.model = loops.network(setting).to(setting.device, memory_format=machine.layout).train()
        self.update = Step(recipe, self.model, machine)

    def step(self) -> int:
        x, y = self.batches.next()
        self.update(x, y, self.batches.generator, self.lr, 0.0)
        return len(y)


def precisions(device: str) -> list[str]:
    """Those the device computes in by itself (emulated bfloat16 is slower than float32)."""
    if device == "cpu":
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    return ["float32", *(["bfloat16"] if able else [])]


def modes(device: str) -> list[str]:
    """The engine's modes that the device runs as such."""
    return [mode for mode in engine.MODES if mode != "auto" and _runs(mode, device)]


def _runs(mode: str, device: str) -> bool:
    try:
        engine.settle(device, mode, strict=True)
    except InputError:
        return False
    return True


def names(device: str, peers: bool = True) -> list[str]:
    """All contenders of a device, the others first."""
    others = ["public", *(loops.PEERS if peers else [])]
    able = engine.PRECISIONS if "bfloat16" in precisions(device) else ("float32",)
    return [*others, *(f"ours {mode} {precision}" for precision in able for mode in modes(device))]


def make(name: str, setting: Setting):
    """The loop of that name, ready for its first `step()`, which may compile.

    Raises `Missing` if it cannot run here.
    """
    if name == "public":
        return loops.Public(setting)
    if name in loops.PEERS:
        try:
            return loops.Public(setting, loops.PEERS[name](setting))
        except ImportError as reason:
            raise Missing(f"{name} cannot be imported ({reason})") from reason
    _, mode, precision = name.split()
    return Ours(setting, mode, precision)


def fastest(device: str) -> str:
    """The contender that scaling is measured with unless one is named."""
    return "ours folded float32" if device == "cpu" else f"ours graphed {precisions(device)[-1]}"
