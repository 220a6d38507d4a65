"""One optimiser step of a recipe: craft, differentiate, update.
Fast variants are layers on this one path.

What the layers are, by mode and precision, is in `engine.Machine`. A batch may be worked on in
micro-batches and on several processes; its gradient is that of the whole batch, except that batch
norm normalises each part by itself.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from arlib import engine
from arlib.engine import Machine
from arlib.errors import TrainingStopped
from arlib.training import awp, objectives
from arlib.training.distributed import World
from arlib.training.recipe import Recipe


class Step:
    """Crafts and differentiates batches of a recipe;
    calling it is one step, which never waits for a GPU.

    prepared: the network as attacks see it; `refresh()` it before using it outside of a step.
    helper: the standard network that labels hat's helper images, in eval mode.
    """

    def __init__(
        self,
        recipe: Recipe,
        model: nn.Module,
        machine: Machine,
        world: World | None = None,
        helper: nn.Module | None = None,
    ):
        self.recipe, self.model, self.machine = recipe, model, machine
        self.helper = helper
        self.world = world or World()
        self.device = next(model.parameters()).device
        self.prepared = engine.prepare(model, machine.eager_mode, machine.attack_dtype)
        self.optimizer = torch.optim.SGD(
            model.parameters(),
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            fused=self.device.type == "cuda" or None,
        )
        together = self.world.size > 1
        self.network = (
            # no broadcast: after each step all have the average statistics, not the first one's
            DistributedDataParallel(model, broadcast_buffers=False) if together else model
        )
        self._capture()

    def _capture(self) -> None:
        """Where graphs are asked for: one of the whole attack,
        one of the gradient (several processes: not).
        """
        self.craft, self.differentiate = self._craft, self._differentiate
        if self.machine.graphed and self.machine.micro_batches == 1:
            self.craft = engine.Captured(self._craft)
            if self.world.size == 1:
                self.differentiate = engine.Captured(self._differentiate, state=(self.model,))

    def __call__(
        self, x: Tensor, y: Tensor, generator: torch.Generator, lr: float, epochs_done: float
    ) -> tuple[Tensor, Tensor]:
        """One step on a batch x (n, c, h, w), y (n,): our part's summed loss and number of errors.

        A process without images of the batch returns zeros: what it worked on is another's.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        eps = objectives.radius(self.recipe, epochs_done)
        # drawn for the whole batch, then cut: all processes keep the same stream
        start = objectives.draws(x, self.recipe, eps, generator)
        mine, weight = self.world.part(len(x))
        counted = weight > 0
        x, y, start = x[mine], y[mine], None if start is None else start[mine]
        # captured work reads them from the device, so that they may change
        if self.machine.graphed:
            eps, weight = (torch.full((), value, device=self.device) for value in (eps, weight))
        outcome = self._gradients_in_memory(x, y, start, eps, weight)
        if outcome is None:
            self._stop_for_memory(x, y)
        self.optimizer.step()
        self.world.average(self.model.buffers())
        loss, mistakes = outcome
        return (loss, mistakes) if counted else (torch.zeros_like(loss), torch.zeros_like(mistakes))

    def _gradients_in_memory(self, *batch) -> tuple[Tensor, Tensor] | None:
        """`_gradients`, or None out of memory;
        the error is gone then, and the tensors its traceback held.
        """
        try:
            return self._gradients(*batch)
        except torch.OutOfMemoryError:
            return None

    def _gradients(
        self, x: Tensor, y: Tensor, start: Tensor | None, eps, weight
    ) -> tuple[Tensor, Tensor]:
        """Leave the batch's gradient in the weights' .grad."""
        if self.machine.micro_batches > 1:
            return self._in_parts(x, y, start, eps, weight)
        crafted = x if start is None else self.craft(x, y, start, eps)
        crafted = crafted.contiguous(memory_format=self.machine.layout)
        total, wrong, gradients = self.differentiate(x, crafted, y, weight)
        for parameter, gradient in zip(self.model.parameters(), gradients, strict=True):
            parameter.grad = gradient  # a replayed graph writes gradients, but does not say where
        return total, wrong

    def _craft(self, x: Tensor, y: Tensor, start: Tensor, eps: float | Tensor) -> Tensor:
        return objectives.craft(self.prepared, x, y, start, self.recipe, eps)

    def _differentiate(
        self, x: Tensor, crafted: Tensor, y: Tensor, weight: float | Tensor
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        self.optimizer.zero_grad(set_to_none=True)
        with self._worst_weights([(x, crafted, y)], weight):
            total, wrong = self._backward(x, crafted, y, weight)
        return total, wrong, [parameter.grad for parameter in self.model.parameters()]

    def _in_parts(
        self, x: Tensor, y: Tensor, start: Tensor | None, eps, weight
    ) -> tuple[Tensor, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        parts = min(self.machine.micro_batches, len(x))
        starts = [None] * parts if start is None else start.tensor_split(parts)
        batches = []
        for px, py, pstart in zip(
            x.tensor_split(parts), y.tensor_split(parts), starts, strict=True
        ):
            crafted = px if pstart is None else self._craft(px, py, pstart, eps)
            batches.append((px, crafted.contiguous(memory_format=self.machine.layout), py))
        outcomes = []
        with self._worst_weights(batches, weight):
            for i, (px, crafted, py) in enumerate(batches):
                # processes exchange gradients once, at the last part
                share = self.world.size > 1 and i < parts - 1
                with self.network.no_sync() if share else nullcontext():
                    outcomes.append(self._backward(px, crafted, py, weight * len(px) / len(x)))
        return sum(total for total, _ in outcomes), sum(wrong for _, wrong in outcomes)

    def _backward(
        self, x: Tensor, crafted: Tensor, y: Tensor, weight: float | Tensor
    ) -> tuple[Tensor, Tensor]:
        with self.machine.autocast():
            value, logits = objectives.loss(self.network, x, crafted, y, self.recipe, self.helper)
        (value * weight).backward()
        return value.detach() * len(y), (logits.argmax(1) != y).sum()

    def _worst_weights(
        self, batches: list[tuple[Tensor, Tensor, Tensor]], weight: float | Tensor
    ) -> AbstractContextManager:
        """Around the backward passes: adversarially perturbed weights, if the recipe has them."""
        return awp.perturbed(
            self.model,
            batches,
            self.recipe,
            self.machine,
            world=self.world,
            weight=weight,
            helper=self.helper,
        )

    def _stop_for_memory(self, x: Tensor, y: Tensor) -> NoReturn:
        """Stop and say what would fit. Smaller parts are not taken in mid-run:
        batch norm would see other batches.
        """
        self.optimizer.zero_grad(set_to_none=True)
        size = -(-len(x) // self.machine.micro_batches)
        _free()
        fits = self._what_fits(x, y, size)
        if fits:
            advice = f"{fits} would: use micro_batches={-(-len(x) // fits)}, in a folder of its own"
        else:
            advice = "not even one does"
        raise TrainingStopped(
            f"{self.recipe.id}: {size} images at a time do not fit into the memory of "
            f"{self.device}; {advice}."
        )

    def _what_fits(self, x: Tensor, y: Tensor, size: int) -> int:
        """The largest half, quarter, … of `size` images
        whose gradient can be computed; 0 if none can.
        """
        while size := size // 2:
            try:
                self._backward(
                    x[:size], x[:size].contiguous(memory_format=self.machine.layout), y[:size], 1.0
                )
                return size
            except torch.OutOfMemoryError:
                _free()
            finally:
                self.optimizer.zero_grad(set_to_none=True)
        return 0


def _free() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
