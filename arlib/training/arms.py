"""Computing an arm: from two finished networks to a third, with what was imposed and how well.

Everything acts on networks without batch norm (see `plain`). After each round of the images a
checkpoint is written, and an arm that was stopped goes on from it bit for bit.
"""

import json
import logging
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from arlib import data, files, margins, models, smoothness
from arlib.engine import Machine
from arlib.errors import InputError, TrainingStopped
from arlib.sources import source
from arlib.training import store
from arlib.training.arm import Arm
from arlib.training.imposed import Imposition, between, spectra_of, takes_a_spectrum
from arlib.training.loop import FEW, generator, trained_split
from arlib.training.plain import plain
from arlib.training.smoothed import smoothed
from arlib.training.tuning import Loss, Standing, Tuning, adversarial, matched, natural, tune

log = logging.getLogger(__name__)
EARLY = ("stem", "blocks.0.", "blocks.1.", "blocks.2.")
AT_FIRST, BETWEEN, AT_LAST = 4, 2, 6  # alternating projections of one imposition
FIRST_WEIGHTS = (100.0, 10_000.0)  # of the penalty: where bisection begins
TOLERANCE = 0.1  # on the log of the smoothness that is to be matched
TRIALS = 8
PENALTY_STEPS = 3  # of PGD inside the penalty of smooth-adv
NOISE, CHANGES = 17, 18  # purposes of random numbers, beside those of `loop`
RECORDED = "imposed.json"
_TRIALS = "trials.json"


@dataclass
class ArmRun:
    """A computed arm. imposed: rows (statistic, layer, setting, n, value) of what was imposed."""

    arm: Arm
    model: nn.Module
    history: pd.DataFrame
    imposed: list[dict] = field(default_factory=list)
    provenance: dict = field(default_factory=dict)
    finished: bool = True


class _TimeIsUp(Exception):
    """No further round is to be begun."""


def train_arm(
    machine: Machine,
    arm: Arm,
    start: nn.Module,
    tied: nn.Module | None = None,
    *,
    folder: str | Path | None = None,
    data_root: str | Path | None = None,
    progress: bool = True,
    time_budget: float | None = None,
) -> ArmRun:
    """Compute one arm on a settled machine, in float32.

    start, tied: the trained networks of `arm.start` and `arm.tied`, with their batch norms.
    folder: where the checkpoint and at the end last.safetensors and imposed.json go; an arm that
    was stopped goes on from there. time_budget: seconds after which no further round of the images
    is begun; the arm then comes back with finished=False.

    Raises `InputError` for a network that is missing or of another shape, and for a folder of
    another arm.
    """
    work = _Work(arm, machine, None if folder is None else Path(folder), data_root, progress)
    work.deadline = None if time_budget is None else time.monotonic() + time_budget
    _refuse_other_shapes(arm, start, tied)
    images = work.data.test.x[:FEW]
    net = plain(start.to(machine.device), images)
    other = None if tied is None else plain(tied.to(machine.device), images)
    provenance = store.provenance(machine) | {"precision": "float32"}
    try:
        net = _compute(work, net, other)
    except _TimeIsUp:
        so_far = pd.DataFrame(work.history)
        return ArmRun(arm, net, so_far, provenance=provenance, finished=False)
    run = ArmRun(arm, net.eval(), pd.DataFrame(work.history), work.rows, provenance)
    if work.folder is not None:
        store.write_weights(work.folder, "last", arm, net.state_dict())
        files.write_json(work.folder / RECORDED, work.rows)
    return run


def _refuse_other_shapes(arm: Arm, start: nn.Module, tied: nn.Module | None) -> None:
    if (tied is None) != (arm.tied is None):
        what = "is missing" if tied is None else "is too many"
        raise InputError(f"{arm.id}: the network that it is tied to {what}.", field="tied")
    if tied is None:
        return
    one, two = (
        {name: tuple(value.shape) for name, value in net.state_dict().items()}
        for net in (start, tied)
    )
    if one != two:
        name = sorted(k for k in one.keys() | two.keys() if one.get(k) != two.get(k))[0]
        raise InputError(
            f"{arm.id}: the network it starts from and the one it is tied to differ in shape "
            f"({name}: {one.get(name)} and {two.get(name)}). Both must be of one kind.",
            field="tied",
        )


def _compute(work: "_Work", net: nn.Module, tied: nn.Module | None) -> nn.Module:
    """The arm's network; what was imposed is noted in `work.rows`."""
    kind = work.arm.kind
    if kind.smooths:
        return _smooth(work, net, tied)
    if kind.imposes == "temperature":
        return _divided(work, net, tied)
    impose = _imposition(work, net, tied) if kind.tied else None
    if kind.imposes == "noise":
        _add_noise(work, net, impose)
        impose = None
    loss = adversarial_of(work.arm) if kind.adversarial else natural
    if kind.trains:
        work.tune(net, loss, impose)
    if impose is not None:
        impose.at_last(net)
        kind_of = work.arm.kind.imposes
        now = spectra_of(net, work.shape, stem=True)
        counts = {name: len(values) for name, values in now.items()}
        for name, residual in impose.residuals.items():
            work.note("imposed_residual", residual, counts[name], layer=name, setting=kind_of)
    return net


def adversarial_of(arm: Arm) -> Loss:
    """The loss of the training that the arm's network comes from."""
    recipe = arm.start
    return adversarial(recipe.eps, recipe.steps, recipe.attack_step / recipe.eps)


class _Imposed(Imposition):
    """An imposition with more projections at the first and the last call than between."""

    def during(self, net: nn.Module) -> None:
        self(net)
        self.steps = BETWEEN

    def at_last(self, net: nn.Module) -> None:
        self.steps = AT_LAST
        self(net)


def _imposition(work: "_Work", net: nn.Module, tied: nn.Module) -> _Imposed:
    kind = work.arm.kind
    own, wanted = (spectra_of(one, work.shape, stem=kind.early) for one in (net, tied))
    able = takes_a_spectrum(net, work.shape)
    chosen = [name for name in own if name in able and (not kind.early or name.startswith(EARLY))]
    own, wanted = ({name: spectra[name] for name in chosen} for spectra in (own, wanted))
    imposes = "quantiles" if kind.imposes == "noise" else kind.imposes
    targets = {
        "quantiles": lambda: between(own, wanted, kind.share),
        "frobenius": lambda: {n: [float(v.square().mean().sqrt())] for n, v in wanted.items()},
        "spread": lambda: {n: [float(v.std(correction=0) / v.mean())] for n, v in wanted.items()},
    }[imposes]()
    return _Imposed(net, work.shape, targets, imposes, steps=AT_FIRST, stem=kind.early)


@torch.no_grad()
def _add_noise(work: "_Work", net: nn.Module, impose: _Imposed) -> None:
    """Move each kernel in a random direction, as far as its projection would move it."""
    draw = generator(work.arm.seed, 0, NOISE, "cpu")
    before = {name: net.get_submodule(name).weight.clone() for name in impose.targets}
    impose(net)
    for name, kernel in before.items():
        weight = net.get_submodule(name).weight
        far = (weight - kernel).norm()
        noise = torch.randn(kernel.shape, generator=draw).to(kernel)
        weight.copy_(kernel + noise * far / noise.norm())
        work.note("kernel_change", far / kernel.norm(), kernel.numel(), layer=name)


@torch.no_grad()
def _divided(work: "_Work", net: nn.Module, tied: nn.Module) -> nn.Module:
    """Logits divided by one number: the median |m| on test images becomes the tied network's."""
    x, y = work.data.test
    each = [margins.output(_logits(one, x), y).abs().double() for one in (net, tied)]
    divisor = float(each[0].quantile(0.5) / each[1].quantile(0.5))
    net.classifier.weight.div_(divisor)
    net.classifier.bias.div_(divisor)
    work.note("temperature_divisor", divisor, len(work.data.test))
    return net


def _logits(net: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([net(part) for part in x.split(250)])


def _smooth(work: "_Work", net: nn.Module, tied: nn.Module) -> nn.Module:
    """The network trained on with the penalty at which its features move as the tied one's do.

    Where no weight matches, the nearest that was tried is taken, and the rows say how far off it
    is.
    """
    arm, blocks = work.arm, models.block_names(net)
    direction = "adversarial" if arm.kind.imposes == "smooth-adv" else "random"
    steps = PENALTY_STEPS if direction == "adversarial" else 0
    target, first = work.change(tied, direction), net.state_dict()
    first = {name: value.clone() for name, value in first.items()}

    def at(weight: float) -> float:
        known = work.trial(weight)
        if known is not None:
            return known
        net.load_state_dict(first)
        try:
            work.tune(net, smoothed(blocks, weight, arm.radius, steps=steps), weight=weight)
            value = work.change(net, direction)
        except TrainingStopped as error:
            log.info("%s: weight %.3g: %s", arm.id, weight, error)
            value = 0.0  # far too strong
        work.keep_trial(weight, value if math.isfinite(value) else 0.0)
        return work.trials[-1][1]

    low, high = FIRST_WEIGHTS
    options = {"low": low, "high": high, "tolerance": TOLERANCE, "trials": TRIALS}
    try:
        weight, _ = matched(at, target, **options)
    except InputError as error:
        log.warning("%s: %s The nearest one is kept.", arm.id, error)
        usable = [pair for pair in work.trials if pair[1] > 0] or work.trials
        weight = min(usable, key=lambda pair: abs(math.log(max(pair[1], 1e-9) / target)))[0]
    value = at(weight)
    if work.trained_at != weight:  # stopped since, or not the last that was tried
        net.load_state_dict(first)
        work.tune(net, smoothed(blocks, weight, arm.radius, steps=steps), weight=weight)
    setting = f"{direction}@{255 * arm.radius:g}"
    for statistic, number in {
        "matched_target": target, "matched_value": value, "penalty_weight": weight,
    }.items():  # fmt: skip
        work.note(statistic, number, arm.images, setting=setting)
    work.note("trials", len(work.trials), arm.images, setting=setting)
    return net


class _Work:
    """One arm in its folder: its checkpoint, its history, its trials, its time."""

    def __init__(self, arm: Arm, machine: Machine, folder: Path | None, data_root, progress: bool):
        self.arm, self.machine, self.folder, self.progress = arm, machine, folder, progress
        self.data = data.load(arm.dataset, data_root, device=machine.device)
        self.train, self.shape = trained_split(arm, self.data), self.data.shape
        self.how = Tuning(epochs=arm.epochs, lr=arm.lr, batch_size=arm.batch_size, every=arm.every)
        self.history: list[dict] = []
        self.rows: list[dict] = []
        self.deadline: float | None = None
        self.trained_at: float | None = None
        """The penalty's weight at which the network was trained last in this process."""
        path = None if folder is None else folder / _TRIALS
        self.trials = files.read_json(path) if path is not None and path.exists() else []

    def note(self, statistic: str, value, n: int, *, layer: str = "", setting: str = "") -> None:
        row = {"split": "", "statistic": statistic, "layer": layer, "setting": setting}
        self.rows.append(row | {"n": int(n), "value": float(value)})

    def change(self, net: nn.Module, direction: str) -> float:
        """How far features move, median over the blocks: the statistic that is matched."""
        x = self.data.test[: self.arm.images].x
        table = smoothness.feature_change(
            net,
            x,
            radius=self.arm.radius,
            direction=direction,
            generator=generator(0, 0, CHANGES, x.device),
        )
        return float(table["change"].median())

    def trial(self, weight: float) -> float | None:
        return next((value for known, value in self.trials if known == weight), None)

    def keep_trial(self, weight: float, value: float) -> None:
        self.trials.append([weight, value])
        log.info("%s: weight %.4g gives %.4g", self.arm.id, weight, value)
        if self.folder is not None:
            files.write_json(self.folder / _TRIALS, self.trials)

    def tune(
        self,
        net: nn.Module,
        loss: Loss,
        impose: "_Imposed | None" = None,
        weight: float | None = None,
    ) -> None:
        """Train on, from the checkpoint where it is of this training; `_TimeIsUp` where time is."""
        since = self._since(weight)
        if since.step and impose is not None:
            impose.steps = BETWEEN
        begun, steps = time.monotonic(), self.how.steps(len(self.train))
        longest = max((row["seconds"] for row in self.history), default=0.0)
        if since.step < steps and self._too_late(longest):
            raise _TimeIsUp

        def after_round(standing: Standing) -> bool:
            nonlocal begun, longest
            seconds, begun = time.monotonic() - begun, time.monotonic()
            longest = max(longest, seconds)
            losses = standing.losses[sum(row["steps"] for row in self.history) :]
            row = {"epoch": len(self.history) + 1, "train_loss": sum(losses) / len(losses)}
            row |= {"steps": len(losses), "seconds": round(seconds, 3)}
            self.history.append(row | ({} if weight is None else {"penalty_weight": weight}))
            self._checkpoint(standing, weight)
            if not self.progress:
                epoch = f"{len(self.history)}/{self.arm.epochs}"
                log.info("%s: epoch %s, loss %.4g", self.arm.id, epoch, row["train_loss"])
            return standing.step >= steps or not self._too_late(longest)

        flips = self.arm.start.augment or source(self.arm.dataset).augmentation
        options = {"augment": flips == "crop-flip", "progress": self.progress}
        options |= {"loss": loss, "since": since, "after_round": after_round}
        during = None if impose is None else impose.during
        losses = tune(net, self.train, self.how, seed=self.arm.seed, impose=during, **options)
        if len(losses) < steps:
            raise _TimeIsUp
        self.trained_at = weight

    def _too_late(self, needed: float) -> bool:
        return self.deadline is not None and time.monotonic() + needed > self.deadline

    def _checkpoint(self, standing: Standing, weight: float | None) -> None:
        if self.folder is None:
            return
        described = {
            "arm": self.arm.to_dict(),
            "history": self.history,
            "step": standing.step,
            "losses": standing.losses,
            "weight": weight,
            "precision": "float32",
        }
        files.write_tensors(
            self.folder / store.CHECKPOINT, standing.tensors, {"arlib": json.dumps(described)}
        )

    def _since(self, weight: float | None) -> Standing:
        """Where the folder's checkpoint stands, if it is of this training; else the beginning."""
        self.history = []
        path = None if self.folder is None else self.folder / store.CHECKPOINT
        if path is None or not path.exists():
            return Standing()
        described = files.read_described(path, "arlib")
        if described.get("arm") != self.arm.to_dict():
            raise InputError(f"{self.folder} holds another run than {self.arm.id}. Give another.")
        if described["weight"] != weight:
            return Standing()
        self.history = described["history"]
        return Standing(described["step"], described["losses"], files.read_tensors(path))
