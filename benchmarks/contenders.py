"""This project's training step as a contender, and every contender by its name.

Names: "public", "torchattacks", "art", and "ours MODE PRECISION" ("ours folded float32", "ours graphed bfloat16").
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from arlib import attacks, data, engine
from benchmarks import loops
from benchmarks.loops import Missing, Setting, sgd

EAGER = ("plain", "folded")


class DeviceBatches:
    """Batches without end from pictures that lie on the device as bytes, cropped and flipped there."""

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
            shuffled = torch.randperm(len(self.labels), generator=self.generator, device=self.setting.device)
            whole = len(shuffled) // self.setting.batch * self.setting.batch
            self.order = list(shuffled[:whole].split(self.setting.batch))
        index = self.order.pop()
        return data.augment(self.pixels[index].float() / 255, self.generator), self.labels[index]


class Ours:
    """Our step on the benchmark's pictures: data on the device, input gradients only, nothing waits for the device."""

    def __init__(self, setting: Setting, mode: str, precision: str):
        self.setting, self.batches = setting, DeviceBatches(setting)
        self.model = loops.network(setting).to(setting.device).train()
        if mode != "plain":
            self.model.to(memory_format=torch.channels_last)
        self.prepared = engine.prepare(self.model, mode=mode)
        self.optimizer = sgd(self.model, setting.lr)
        self.losses: list[Tensor] = []

    def step(self) -> int:
        x, y = self.batches.next()
        attack = {"eps": self.setting.eps, "steps": self.setting.steps, "step_size": self.setting.step_size}
        start = attacks.random_start(x, eps=self.setting.eps, generator=self.batches.generator)
        crafted = attacks.perturb(self.prepared.refresh(), x, y, start=start, **attack)
        value = F.cross_entropy(self.model(crafted).float(), y)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        return len(y)


def precisions(device: str) -> list[str]:
    """Those the device computes in by itself (bfloat16 emulated is slower than float32)."""
    if device == "cpu":
        able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    else:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    return ["float32", *(["bfloat16"] if able else [])]


def modes(device: str) -> list[str]:
    return ["plain", "folded", "compiled", *(["graphed"] if device != "cpu" else [])]


def names(device: str, peers: bool = True) -> list[str]:
    """All contenders of a device, the others first."""
    others = ["public", *(loops.PEERS if peers else [])]
    return [*others, *(f"ours {mode} {precision}" for precision in precisions(device) for mode in modes(device))]


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
    """The contender that simultaneous runs are measured with unless one is named."""
    return "ours folded float32" if device == "cpu" else "ours graphed bfloat16"
