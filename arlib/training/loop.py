"""The training loop: epochs, history, best weights, checkpoints that resume bit for bit.

Every epoch draws from generators seeded by (seed, epoch, purpose), so an epoch's randomness
depends on nothing before it, and a training resumed from a checkpoint ends with the bits of
an uninterrupted one (on a CPU, with the same number of threads). What a step does is in `step`.
"""

import logging
import math
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import attacks, data, engine, models
from arlib.engine import Machine
from arlib.errors import InputError, TrainingStopped
from arlib.sources import source
from arlib.training import distributed, store
from arlib.training.averaging import Average
from arlib.training.distributed import World
from arlib.training.helper import Helper, standard_network
from arlib.training.objectives import catastrophic, cross_entropy, examples, radius
from arlib.training.recipe import Recipe, learning_rate
from arlib.training.step import Step

log = logging.getLogger(__name__)
BEST_STEPS = 10  # PGD steps of the validation attack that chooses the best weights
EVAL_BATCH = 500
# training images on which the copy that is attacked is compared with the network,
# before the first step
FEW = 8
Attack = Callable[[torch.Tensor, torch.Tensor, torch.Generator], torch.Tensor]
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
    mode: str = "auto",
    precision: str = "float32",
    strict: bool = False,
    micro_batches: int = 1,
    helper: str | Path | None = None,
) -> Run:
    """Train one network; under `torchrun` on all its processes together.

    folder: where checkpoints, history and weights go; training goes on from what is there.
    keep_epochs: epochs whose weights are kept as epoch-N.safetensors. time_budget: seconds after
    which no further epoch is begun; the run then comes back with finished=False.
    mode, precision, strict: how fast, see `engine.Machine`; provenance, not part of the recipe.
    precision "auto" times on this machine those that were shown to give equivalent results, and
    takes the fastest.
    micro_batches: parts in which a batch is worked on, to save memory; batch norm sees each by
    itself.
    helper: folder of the finished run that the recipe of objective hat names.

    Raises `InputError` for a folder of another recipe or precision and for a helper that is missing
    or another run; `RecordError` for a damaged checkpoint; `TrainingStopped` when the loss is no
    longer finite, memory does not suffice or a process is lost.
    """
    where = engine.device(distributed.own_device(device))
    if precision == "auto":
        precision = _precision_here(engine.settle(where, mode), recipe, folder, data_root)
    machine = engine.settle(where, mode, precision, micro_batches, strict=strict)
    options = {"data_root": data_root, "keep_epochs": keep_epochs, "progress": progress}
    options["helper"] = helper
    return train_on(machine, recipe, folder=folder, time_budget=time_budget, **options)


def train_on(
    machine: Machine,
    recipe: Recipe,
    *,
    folder: str | Path | None = None,
    data_root: str | Path | None = None,
    keep_epochs: Iterable[int] = (),
    progress: bool = True,
    time_budget: float | None = None,
    helper: str | Path | None = None,
) -> Run:
    """`train` on a settled machine."""
    labels = standard_network(recipe, helper, machine)
    joined = distributed.joined(machine.device)
    with joined as world, distributed.explained(world, recipe.id), engine.fastest_kernels():
        folder = None if folder is None else Path(folder)
        state = _State(recipe, machine, world, folder, data_root, frozenset(keep_epochs), labels)
        state.resume()
        _run(state, progress and world.first, time_budget)
        return state.result()


def _precision_here(machine: Machine, recipe: Recipe, folder, data_root) -> str:
    """The one that a training was begun in,
    else the fastest here of those that give equivalent results.
    """
    from arlib.training.fastest import fastest_precision  # it needs this module

    if (processes := World.launched().size) > 1:
        raise InputError(
            f"precision is 'auto', which times one process; {processes} work together here. Name "
            "one."
        )
    begun = None if folder is None else store.read_checkpoint(Path(folder), recipe)
    if begun is not None and begun.precision:
        return begun.precision
    return fastest_precision(
        recipe, data.load(recipe.dataset, data_root, device=machine.device), machine
    )


def _run(state: "_State", progress: bool, time_budget: float | None) -> None:
    """Epochs until the end, a collapse, or too little time for another one."""
    start, epochs = time.monotonic(), state.recipe.epochs
    bar = tqdm(
        total=epochs * state.steps,
        initial=state.epoch * state.steps,
        disable=not progress,
        desc=state.recipe.id,
    )
    with bar:
        while state.epoch < epochs and not state.collapsed:
            longest = max((row["seconds"] for row in state.history), default=0.0)
            if state.out_of_time(time_budget, time.monotonic() - start + longest):
                break
            state.run_epoch(bar)
            state.checkpoint()
            if state.world.first and not progress:  # a log would be silent for hours
                log.info("%s", state.last_epoch())


def trained_split(recipe: Recipe, dataset: data.Dataset) -> data.Split:
    """The images a recipe trains on: all of the training part, or its first `train_images`."""
    if (recipe.train_images or 0) > len(dataset.train):
        raise InputError(
            f"train_images is {recipe.train_images}; {recipe.dataset} has {len(dataset.train)} "
            "training images."
        )
    return dataset.train[: recipe.train_images]


def generator(seed: int, epoch: int, purpose: int, device: str | torch.device) -> torch.Generator:
    """A generator of its own for each (seed, epoch, purpose)."""
    # no two streams are one while epochs and purposes stay below the factor
    return torch.Generator(device).manual_seed((seed * 1_000_003 + epoch) * 1_000_003 + purpose)


class _State:
    """Everything that changes while one network trains."""

    def __init__(
        self,
        recipe: Recipe,
        machine: Machine,
        world: World,
        folder: Path | None,
        data_root: str | Path | None,
        keep_epochs: frozenset[int],
        helper: Helper | None = None,
    ):
        self.recipe, self.machine, self.world = recipe, machine, world
        self.folder, self.keep_epochs, self.helper = folder, keep_epochs, helper
        self.device = machine.device
        self.data = data.load(recipe.dataset, data_root, device=self.device)
        self.train = trained_split(recipe, self.data)
        self.model = initial_model(recipe).to(self.device, memory_format=machine.layout)
        labels = None if helper is None else helper.model
        self.step = Step(recipe, self.model, machine, world, labels)
        self.average = Average(self.model, recipe.ema) if recipe.ema else None
        # what is evaluated and kept
        self.judged = self.model if self.average is None else self.average.module
        # what is told of an epoch is always float32
        attacked = self.average is None and machine.precision == "float32"
        self.step.prepared.compare(self.train[:FEW].x)
        self.prepared = self.step.prepared if attacked else engine.prepare(self.judged)
        self.best = {name: value.clone() for name, value in self.judged.state_dict().items()}
        self.epoch, self.history, self.collapsed = 0, [], ""
        self.steps = math.ceil(len(self.train) / recipe.batch_size)
        self.flips = recipe.augment or source(recipe.dataset).augmentation

    def _generator(self, purpose: int) -> torch.Generator:
        return generator(self.recipe.seed, self.epoch, purpose, self.device)

    def out_of_time(self, budget: float | None, needed: float) -> bool:
        """Whether another epoch would go beyond the budget; all processes say the same."""
        late = torch.tensor([float(budget is not None and needed > budget)], device=self.device)
        self.world.total([late])
        return bool(late)

    def run_epoch(self, bar: tqdm) -> None:
        begun = time.monotonic()
        order, noise, starts = (self._generator(purpose) for purpose in (ORDER, NOISE, STARTS))
        # summed on the device: to read a number at each step is to wait for it
        sums = torch.zeros(2, dtype=torch.float64, device=self.device)  # of losses, of mistakes
        self.model.train()
        shuffled = torch.randperm(len(self.train), generator=order, device=self.device)
        for step, index in enumerate(shuffled.split(self.recipe.batch_size)):
            part, epochs_done = self.train[index], self.epoch + step / self.steps
            x = data.augment(part.x, noise) if self.flips == "crop-flip" else part.x
            rate = learning_rate(self.recipe, epochs_done / self.recipe.epochs)
            loss, wrong = self.step(x, part.y, starts, rate, epochs_done)
            if self.device.type == "cpu":  # a GPU is asked once, after the epoch
                self._refuse_infinite(float(loss), rate)
            sums += torch.stack([loss.double(), wrong.double()])
            if self.average is not None:
                self.average.update(self.model)
            bar.update()
        self.world.total([sums])
        loss, error = (sums / len(self.train)).tolist()
        training_seconds = time.monotonic() - begun
        self._refuse_infinite(loss, rate)
        self.epoch += 1
        self._finish_epoch(loss, error, training_seconds, begun)
        bar.set_postfix(val_error=f"{self.history[-1]['val_error']:.3f}")

    def last_epoch(self) -> str:
        """The last epoch in one line."""
        row = self.history[-1]
        attacked = f", {row['val_robust_error']:.3f} under attack" if self.recipe.eps else ""
        return (
            f"{self.recipe.id}: epoch {self.epoch} of {self.recipe.epochs}, "
            f"validation error {row['val_error']:.3f}{attacked}, {row['seconds']:.0f} s"
        )

    def _refuse_infinite(self, loss: float, rate: float) -> None:
        if not math.isfinite(loss):
            raise TrainingStopped(
                f"{self.recipe.id}: the loss became {loss} in epoch {self.epoch + 1} at learning "
                f"rate {rate:.3g}; the epochs before had validation errors "
                f"{[round(r['val_error'], 3) for r in self.history]}. Try a smaller lr."
            )

    def _finish_epoch(
        self, robust_loss: float, robust_error: float, training_seconds: float, begun: float
    ) -> None:
        self.prepared.copy_weights()
        monitored = self.recipe.monitor_images
        train_loss, train_error, _ = self._evaluate(self.train[:monitored])
        val_loss, val_error, largest = self._evaluate(self.data.val)
        pgd = partial(self._pgd, eps=self.recipe.eps)
        robust = (
            self._evaluate(self.data.val[:monitored], pgd)
            if self.recipe.eps
            else (val_loss, val_error)
        )
        row = {
            "epoch": self.epoch,
            "lr": learning_rate(self.recipe, (self.epoch - 0.5) / self.recipe.epochs),
        }
        row |= {"train_loss": train_loss, "train_error": train_error}
        row |= {"train_robust_loss": robust_loss, "train_robust_error": robust_error}
        row |= {"val_loss": val_loss, "val_error": val_error}
        row |= {"val_robust_loss": robust[0], "val_robust_error": robust[1]}
        if self.recipe.attack == "n-fgsm" and self.recipe.eps:
            row |= self._watch_single_steps(self.train[:monitored])
        row |= {
            "seconds": time.monotonic() - begun,
            "images_per_second": len(self.train) / training_seconds,
        }
        # strictly less: of epochs with equal errors the earliest stays the best
        if row["val_robust_error"] < min(
            (r["val_robust_error"] for r in self.history), default=2.0
        ):
            self.best = {name: value.clone() for name, value in self.judged.state_dict().items()}
        self.history.append(row)
        # not in the first half: a training may begin with one class for all, and still learn
        if self.epoch > self.recipe.epochs / 2 and largest > 0.9:
            self.collapsed = (
                f"epoch {self.epoch}: {largest:.0%} of the validation images get one class"
            )
            warnings.warn(
                f"{self.recipe.id} collapsed and was stopped: {self.collapsed}.", stacklevel=4
            )

    def _watch_single_steps(self, split: data.Split) -> dict[str, float]:
        """Errors on training images under the step trained with and under PGD;
        warns of catastrophic overfitting.
        """
        eps = radius(self.recipe, self.epoch)

        def step(x: torch.Tensor, y: torch.Tensor, starts) -> torch.Tensor:
            return examples(self.prepared, x, y, self.recipe, eps, starts)

        single, many = (
            self._evaluate(split, attack)[1] for attack in (step, partial(self._pgd, eps=eps))
        )
        if catastrophic(single, many):
            warnings.warn(
                f"{self.recipe.id}: catastrophic overfitting in epoch {self.epoch}: error "
                f"{single:.0%} under the single step it trains with, {many:.0%} under "
                f"PGD-{BEST_STEPS}.",
                stacklevel=5,
            )
        return {"train_step_error": single, "train_pgd_error": many}

    def _pgd(
        self, x: torch.Tensor, y: torch.Tensor, starts: torch.Generator, *, eps: float
    ) -> torch.Tensor:
        return attacks.pgd(self.prepared, x, y, eps=eps, steps=BEST_STEPS, generator=starts)

    def _evaluate(
        self, split: data.Split, attack: Attack | None = None
    ) -> tuple[float, float, float]:
        """Mean loss, error and share of the most frequent prediction, in eval mode,
        under an attack or none.
        """
        total, wrong, counts = 0.0, 0, torch.zeros(len(self.data.classes), device=self.device)
        starts = self._generator(MONITOR)
        for begin in range(0, len(split), EVAL_BATCH):
            x, y = split[begin : begin + EVAL_BATCH]
            if attack is not None:
                x = attack(x, y, starts)
            with torch.no_grad():
                value, logits = cross_entropy(self.prepared, x, y)
            predicted = logits.argmax(1)
            total, wrong = total + value.item() * len(y), wrong + int((predicted != y).sum())
            counts += torch.bincount(predicted, minlength=len(counts))
        return total / len(split), wrong / len(split), float(counts.max()) / len(split)

    def resume(self) -> None:
        """Take up the checkpoint in the folder, if there is one."""
        if self.folder is None:
            return
        checkpoint = store.read_checkpoint(self.folder, self.recipe)
        if checkpoint is None:
            return
        if checkpoint.precision not in ("", self.machine.precision):
            raise InputError(
                f"{self.recipe.id}: its {checkpoint.epoch} epochs so far were trained in "
                f"{checkpoint.precision}, this would go on in {self.machine.precision}. One "
                f"training stays one precision: give precision {checkpoint.precision!r}, or "
                "another folder to begin anew."
            )
        if self.helper is not None and checkpoint.helper != self.helper.sha256:
            raise InputError(
                f"{self.recipe.id}: its {checkpoint.epoch} epochs so far had their labels from "
                f"other weights of {self.recipe.helper} (SHA-256 {checkpoint.helper[:16]}…, given "
                f"are {self.helper.sha256[:16]}…). Give those, or another folder to begin anew."
            )
        self.epoch, self.history, self.collapsed = (
            checkpoint.epoch,
            checkpoint.history,
            checkpoint.collapsed,
        )
        self.model.load_state_dict(checkpoint.model)
        self.best = {name: value.to(self.device) for name, value in checkpoint.best.items()}
        for name, parameter in self.model.named_parameters():
            if name in checkpoint.momentum:
                # keeps channels_last strides
                buffer = torch.empty_like(parameter).copy_(checkpoint.momentum[name])
                self.step.optimizer.state[parameter]["momentum_buffer"] = buffer
        if self.average is not None:
            self.average.load_state_dict(checkpoint.average)

    def checkpoint(self) -> None:
        if self.folder is None or not self.world.first:
            return
        if self.epoch in self.keep_epochs:
            store.write_weights(
                self.folder, f"epoch-{self.epoch}", self.recipe, self.judged.state_dict()
            )
        state = self.step.optimizer.state
        momentum = {
            n: state[p]["momentum_buffer"] for n, p in self.model.named_parameters() if p in state
        }
        average = {} if self.average is None else self.average.state_dict()
        weights = self.model.state_dict()
        checkpoint = store.Checkpoint(
            self.epoch,
            self.history,
            self.collapsed,
            weights,
            self.best,
            momentum,
            average,
            self.machine.precision,
            "" if self.helper is None else self.helper.sha256,
        )
        store.write_checkpoint(self.folder, self.recipe, checkpoint)

    def result(self) -> Run:
        finished = self.epoch >= self.recipe.epochs or bool(self.collapsed)
        best = initial_model(self.recipe).to(self.device)
        best.load_state_dict(self.best)
        provenance = store.provenance(self.machine) | {"mode": self.machine.mode}
        provenance |= {"processes": self.world.size} if self.world.size > 1 else {}
        provenance |= (
            {"micro_batches": self.machine.micro_batches} if self.machine.micro_batches > 1 else {}
        )
        provenance |= {} if self.helper is None else {"helper_sha256": self.helper.sha256}
        provenance |= {"collapsed": self.collapsed} if self.collapsed else {}
        run = Run(
            self.recipe,
            self.judged.eval(),
            best.eval(),
            pd.DataFrame(self.history),
            provenance,
            finished,
        )
        if self.folder is not None and finished and self.world.first:
            store.write_finished(
                self.folder, self.recipe, run.model, run.best, self.history, provenance
            )
        return run


def initial_model(recipe: Recipe) -> nn.Module:
    """The untrained network of a recipe; the caller's global random state is left alone."""
    # devices=[]: only the CPU draws here, and to save every GPU's state would start them
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        return models.build(recipe.model, recipe.dataset, recipe.width)
