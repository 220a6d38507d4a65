"""One optimiser step of a recipe: craft, differentiate, update. Fast variants are layers on this one path.

What the layers are, by `mode` and `precision`, is in `engine.settle`. A batch may be worked on in
micro-batches and on several processes; its gradient is that of the whole batch, except that batch
norm normalises each part by itself.
"""

import logging
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from arlib import engine
from arlib.errors import TrainingStopped
from arlib.training import awp, objectives
from arlib.training.distributed import World
from arlib.training.recipe import Recipe

log = logging.getLogger(__name__)


class Step:
    """Crafts and differentiates batches of a recipe; calling it is one step, which never waits for a GPU.

    prepared: the network as attacks see it; `refresh()` it before using it outside of a step.
    """

    def __init__(self, recipe: Recipe, model: nn.Module, world: World, mode: str, precision: str, parts: int = 1):
        self.recipe, self.model, self.world, self.precision, self.parts = recipe, model, world, precision, parts
        self.device = next(model.parameters()).device
        self.format = torch.contiguous_format if mode == "plain" else torch.channels_last
        eager = mode.replace("compiled+graphed", "compiled").replace("graphed", "folded")
        self.prepared = engine.prepare(model, eager, engine.attack_dtype(precision))
        decay = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.SGD(model.parameters(), **decay, fused=self.device.type == "cuda" or None)
        self.network = DistributedDataParallel(model, broadcast_buffers=False) if world.size > 1 else model
        self.halved, self.graphed = False, "graphed" in mode
        self._capture()

    def _capture(self) -> None:
        """Where graphs are asked for: one of the whole attack, one of the gradient (several processes: not)."""
        self.craft, self.differentiate = self._craft, self._differentiate
        if self.graphed and self.parts == 1:
            self.craft = engine.Captured(self._craft)
            if self.world.size == 1:
                self.differentiate = engine.Captured(self._differentiate, state=(self.model,))

    def __call__(
        self, x: Tensor, y: Tensor, generator: torch.Generator, lr: float, epochs_done: float
    ) -> tuple[Tensor, Tensor]:
        """One step on a batch x (n, c, h, w), y (n,); returns our part's summed loss and number of mistakes."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        eps = objectives.radius(self.recipe, epochs_done)
        start = objectives.draws(x, self.recipe, eps, generator)
        mine, weight = self.world.part(len(x))
        x, y, start = x[mine], y[mine], None if start is None else start[mine]
        if self.graphed:  # captured work reads them from the device, so that they may change
            eps, weight = (torch.full((), value, device=self.device) for value in (eps, weight))
        while (found := self._gradients_in_memory(x, y, start, eps, weight)) is None:
            self._halve(x, y)
        self.optimizer.step()
        self.world.average(self.model.buffers())
        return found

    def _gradients_in_memory(self, *batch) -> tuple[Tensor, Tensor] | None:
        """`_gradients`, or None out of memory; the error is gone then, and the tensors its traceback held."""
        try:
            return self._gradients(*batch)
        except torch.OutOfMemoryError:
            return None

    def _gradients(self, x: Tensor, y: Tensor, start: Tensor | None, eps, weight) -> tuple[Tensor, Tensor]:
        """Leave the batch's gradient in the weights' .grad."""
        if self.parts > 1:
            return self._in_parts(x, y, start, eps, weight)
        crafted = x if start is None else self.craft(x, y, start, eps)
        *found, gradients = self.differentiate(x, crafted.contiguous(memory_format=self.format), y, weight)
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # a replayed graph writes gradients, but does not say where
        return tuple(found)

    def _craft(self, x: Tensor, y: Tensor, start: Tensor, eps: float | Tensor) -> Tensor:
        return objectives.craft(self.prepared, x, y, start, self.recipe, eps)

    def _differentiate(
        self, x: Tensor, crafted: Tensor, y: Tensor, weight: float | Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        self.optimizer.zero_grad(set_to_none=True)
        with self._worst_weights([(x, crafted, y)], weight):
            total, wrong = self._backward(x, crafted, y, weight)
        return total, wrong, [parameter.grad for parameter in self.model.parameters()]

    def _in_parts(self, x: Tensor, y: Tensor, start: Tensor | None, eps, weight) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        parts = min(self.parts, len(x))
        starts = [None] * parts if start is None else start.tensor_split(parts)
        batches = []
        for px, py, pstart in zip(x.tensor_split(parts), y.tensor_split(parts), starts, strict=True):
            crafted = px if pstart is None else self._craft(px, py, pstart, eps)
            batches.append((px, crafted.contiguous(memory_format=self.format), py))
        found = []
        with self._worst_weights(batches, weight):
            for i, (px, crafted, py) in enumerate(batches):
                share = self.world.size > 1 and i < parts - 1  # processes exchange gradients once, at the last part
                with self.network.no_sync() if share else nullcontext():
                    found.append(self._backward(px, crafted, py, weight * len(px) / len(x)))
        return sum(total for total, _ in found), sum(wrong for _, wrong in found)

    def _backward(self, x: Tensor, crafted: Tensor, y: Tensor, weight: float | Tensor) -> tuple[Tensor, Tensor]:
        with engine.autocast(self.device, self.precision):
            value, logits = objectives.loss(self.network, x, crafted, y, self.recipe)
        (value * weight).backward()
        return value.detach() * len(y), (logits.argmax(1) != y).sum()

    def _worst_weights(
        self, batches: list[tuple[Tensor, Tensor, Tensor]], weight: float | Tensor
    ) -> AbstractContextManager:
        """Around the backward passes: adversarially perturbed weights, if the recipe has them."""
        if not self.recipe.awp:
            return nullcontext()
        total, images = None, sum(len(y) for _, _, y in batches)
        for x, crafted, y in batches:
            with engine.autocast(self.device, self.precision):
                part = [g * (weight * len(y) / images) for g in awp.ascent(self.model, crafted, y, x, self.recipe)]
            total = part if total is None else [a + b for a, b in zip(total, part, strict=True)]
        self.world.average(total)
        return awp.moved(self.model, total, self.recipe.awp)

    def _halve(self, x: Tensor, y: Tensor) -> None:
        """Out of memory: go on in twice as many parts, once; then stop and say what would fit."""
        self.optimizer.zero_grad(set_to_none=True)
        size = -(-len(x) // self.parts)
        _free()
        if self.halved or size == 1:
            fits = self._what_fits(x, y, size)
            raise TrainingStopped(
                f"{self.recipe.id}: {size} images at a time do not fit into the memory of {self.device}; "
                + (f"{fits} would: use micro_batches={-(-len(x) // fits)}." if fits else "not even one does.")
            )
        self.halved, self.parts = True, self.parts * 2
        self._capture()
        log.warning(
            "%s: out of memory with %d images at a time; the batch of %d goes on in %d parts (batch norm sees "
            "each part by itself)", self.recipe.id, size, len(x), self.parts,
        )  # fmt: skip

    def _what_fits(self, x: Tensor, y: Tensor, size: int) -> int:
        """The largest half, quarter, … of `size` images whose gradient can be computed; 0 if none can."""
        while size := size // 2:
            try:
                self._backward(x[:size], x[:size].contiguous(memory_format=self.format), y[:size], 1.0)
                return size
            except torch.OutOfMemoryError:
                _free()
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        return 0


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
