"""The training loop: epochs, history, best weights, checkpoints that resume bit for bit.

Every epoch draws from generators seeded by (seed, epoch, purpose), so an epoch's randomness
depends on nothing before it, and a training resumed from a checkpoint ends with the bits of
an uninterrupted one (on a CPU, with the same number of threads).
"""

import math
import time
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import attacks, data, engine, models
from arlib.errors import InputError, TrainingStopped
from arlib.training import store
from arlib.training.objectives import loss, training_examples
from arlib.training.recipe import Recipe, learning_rate

BEST_STEPS = 10  # PGD steps of the validation attack that chooses the best weights
EVAL_BATCH = 500
ORDER, NOISE, STARTS, MONITOR = range(4)  # purposes of random numbers


@dataclass
class Run:
    """One trained network: recipe, last and best weights, history, and where it was computed."""

    recipe: Recipe
    model: nn.Module
    best: nn.Module
    history: pd.DataFrame
    provenance: dict = field(default_factory=dict)
    finished: bool = True

    @property
    def collapsed(self) -> str:
        """What was seen when the training stopped early because it had collapsed; else empty."""
        return self.provenance.get("collapsed", "")


def train(
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    data_root: str | Path | None = None,
    device: str = "auto",
    keep_epochs: Iterable[int] = (),
    progress: bool = True,
    time_budget: float | None = None,
) -> Run:
    """Train one network.

    folder: where checkpoints, history and weights go; training goes on from what is there.
    keep_epochs: epochs whose weights are kept as epoch-N.safetensors. time_budget: seconds after
    which no further epoch is begun; the run then comes back with finished=False.

    Raises `InputError` for a folder of another recipe, `RecordError` for a damaged checkpoint,
    `TrainingStopped` when the loss is no longer finite.
    """
    state = _State(recipe, None if folder is None else Path(folder), data_root, device, frozenset(keep_epochs))
    state.resume()
    start = time.monotonic()
    bar = tqdm(
        total=recipe.epochs * state.steps, initial=state.epoch * state.steps, disable=not progress, desc=recipe.id
    )
    with bar:
        while state.epoch < recipe.epochs and not state.collapsed:
            longest = max((row["seconds"] for row in state.history), default=0.0)
            if time_budget is not None and time.monotonic() - start + longest > time_budget:
                break
            state.run_epoch(bar)
            state.checkpoint()
    return state.result()


def trained_split(recipe: Recipe, dataset: data.Dataset) -> data.Split:
    """The images a recipe trains on: all of the training part, or its first `train_images`."""
    if (recipe.train_images or 0) > len(dataset.train):
        raise InputError(
            f"train_images is {recipe.train_images}; {recipe.dataset} has {len(dataset.train)} training images."
        )
    return dataset.train[: recipe.train_images]


def generator(seed: int, epoch: int, purpose: int, device: str | torch.device) -> torch.Generator:
    """A generator of its own for each (seed, epoch, purpose)."""
    return torch.Generator(device).manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + purpose)


class _State:
    """Everything that changes while one network trains."""

    def __init__(self, recipe: Recipe, folder: Path | None, data_root, device: str, keep_epochs: frozenset[int]):
        self.recipe, self.folder, self.keep_epochs = recipe, folder, keep_epochs
        self.device = engine.device(device)
        self.data = data.load(recipe.dataset, data_root, device=self.device)
        self.train = trained_split(recipe, self.data)
        self.model = initial_model(recipe, self.data).to(self.device, memory_format=torch.channels_last)
        self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.prepared = engine.prepare(self.model)
        decay = {"lr": recipe.lr, "momentum": recipe.momentum, "weight_decay": recipe.weight_decay}
        self.optimizer = torch.optim.SGD(self.model.parameters(), **decay)
        self.epoch, self.history, self.collapsed = 0, [], ""
        self.steps = math.ceil(len(self.train) / recipe.batch_size)
        self.flips = recipe.augment or data.augmentation(recipe.dataset)

    def _generator(self, purpose: int) -> torch.Generator:
        return generator(self.recipe.seed, self.epoch, purpose, self.device)

    def run_epoch(self, bar: tqdm) -> None:
        begun, total, wrong = time.monotonic(), 0.0, 0
        order, noise, starts = (self._generator(purpose) for purpose in (ORDER, NOISE, STARTS))
        self.model.train()
        shuffled = torch.randperm(len(self.train), generator=order, device=self.device)
        for step, index in enumerate(shuffled.split(self.recipe.batch_size)):
            part = self.train[index]
            x = data.augment(part.x, noise) if self.flips == "crop-flip" else part.x
            value, mistakes = self._step(x, part.y, starts, self.epoch + step / self.steps)
            total, wrong = total + value * len(index), wrong + mistakes
            bar.update()
        training_seconds = time.monotonic() - begun
        self.epoch += 1
        self._finish_epoch(total / len(self.train), wrong / len(self.train), training_seconds, begun)
        bar.set_postfix(val_error=f"{self.history[-1]['val_error']:.3f}")

    def _step(self, x: torch.Tensor, y: torch.Tensor, starts: torch.Generator, epochs_done: float) -> tuple[float, int]:
        """One optimiser step; returns the batch's mean loss and its number of mistakes."""
        rate = learning_rate(self.recipe, epochs_done / self.recipe.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        x = training_examples(self.prepared, x, y, self.recipe, starts)
        value, logits = loss(self.model, x.contiguous(memory_format=torch.channels_last), y)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()
        self.optimizer.step()
        value = value.item()
        if not math.isfinite(value):
            raise TrainingStopped(
                f"{self.recipe.id}: the loss became {value} in epoch {self.epoch + 1} at learning rate {rate:.3g}; "
                f"the epochs before had validation errors {[round(r['val_error'], 3) for r in self.history]}. "
                "Try a smaller lr."
            )
        return value, int((logits.argmax(1) != y).sum())

    def _finish_epoch(self, robust_loss: float, robust_error: float, training_seconds: float, begun: float) -> None:
        self.prepared.refresh()
        monitored = self.recipe.monitor_images
        train_loss, train_error, _ = self._evaluate(self.train[:monitored])
        val_loss, val_error, largest = self._evaluate(self.data.val)
        robust = self._evaluate(self.data.val[:monitored], attacked=True) if self.recipe.eps else (val_loss, val_error)
        row = {"epoch": self.epoch, "lr": learning_rate(self.recipe, (self.epoch - 0.5) / self.recipe.epochs)}
        row |= {"train_loss": train_loss, "train_error": train_error}
        row |= {"train_robust_loss": robust_loss, "train_robust_error": robust_error}
        row |= {"val_loss": val_loss, "val_error": val_error}
        row |= {"val_robust_loss": robust[0], "val_robust_error": robust[1]}
        row |= {"seconds": time.monotonic() - begun, "images_per_second": len(self.train) / training_seconds}
        if row["val_robust_error"] < min((r["val_robust_error"] for r in self.history), default=2.0):
            self.best = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.history.append(row)
        if self.epoch > self.recipe.epochs / 2 and largest > 0.9:
            self.collapsed = f"epoch {self.epoch}: {largest:.0%} of the validation images get one class"
            warnings.warn(f"{self.recipe.id} collapsed and was stopped: {self.collapsed}.", stacklevel=4)

    def _evaluate(self, split: data.Split, attacked: bool = False) -> tuple[float, float, float]:
        """Mean loss, error and share of the most frequent prediction, in eval mode."""
        total, wrong, counts = 0.0, 0, torch.zeros(len(self.data.classes), device=self.device)
        starts = self._generator(MONITOR)
        for begin in range(0, len(split), EVAL_BATCH):
            x, y = split[begin : begin + EVAL_BATCH]
            if attacked:
                x = attacks.pgd(self.prepared, x, y, eps=self.recipe.eps, steps=BEST_STEPS, generator=starts)
            with torch.no_grad():
                value, logits = loss(self.prepared, x, y)
            predicted = logits.argmax(1)
            total, wrong = total + value.item() * len(y), wrong + int((predicted != y).sum())
            counts += torch.bincount(predicted, minlength=len(counts))
        return total / len(split), wrong / len(split), float(counts.max()) / len(split)

    def resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one."""
        if self.folder is None:
            return
        found = store.read_checkpoint(self.folder, self.recipe)
        if found is None:
            return
        self.epoch, self.history, self.collapsed = found.epoch, found.history, found.collapsed
        self.model.load_state_dict(found.model)
        self.best = {name: value.to(self.device) for name, value in found.best.items()}
        for name, parameter in self.model.named_parameters():
            if name in found.momentum:
                buffer = torch.empty_like(parameter).copy_(found.momentum[name])  # keeps channels_last strides
                self.optimizer.state[parameter]["momentum_buffer"] = buffer

    def checkpoint(self) -> None:
        if self.folder is None:
            return
        if self.epoch in self.keep_epochs:
            store.write_weights(self.folder, f"epoch-{self.epoch}", self.recipe, self.model.state_dict())
        momentum = {
            name: self.optimizer.state[parameter]["momentum_buffer"]
            for name, parameter in self.model.named_parameters()
            if parameter in self.optimizer.state
        }
        found = store.Checkpoint(self.epoch, self.history, self.collapsed, self.model.state_dict(), self.best, momentum)
        store.write_checkpoint(self.folder, self.recipe, found)

    def result(self) -> Run:
        finished = self.epoch >= self.recipe.epochs or bool(self.collapsed)
        best = initial_model(self.recipe, self.data).to(self.device)
        best.load_state_dict(self.best)
        provenance = store.provenance(self.device) | ({"collapsed": self.collapsed} if self.collapsed else {})
        run = Run(self.recipe, self.model.eval(), best.eval(), pd.DataFrame(self.history), provenance, finished)
        if self.folder is not None and finished:
            store.write_finished(self.folder, self.recipe, run.model, run.best, self.history, provenance)
        return run


def initial_model(recipe: Recipe, dataset: data.Dataset) -> nn.Module:
    """The untrained network of a recipe; the caller's global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return models.build(recipe.model, dataset, recipe.width)
