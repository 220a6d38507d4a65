"""What the quantities of one checkpoint are measured on, and the rows they come back in."""

import hashlib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from arlib import data, engine
from arlib.errors import one_of
from arlib.measure.settings import Settings
from arlib.training import Recipe, initial_model

# What every part may read: seeds and batches, and how a radius is scaled and named.
ALWAYS = ("seed", "batch_size", "radius_scale", "radius", "name")
COLUMNS = ("checkpoint", "split", "statistic", "layer", "setting", "n", "value")


@dataclass
class Outcome:
    """The outcome of one part: rows of the record table (checkpoint apart),
    arrays, seconds, warnings.
    """

    rows: list[dict] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    warnings: list[str] = field(default_factory=list)

    def add(
        self,
        statistic: str,
        value: float,
        n: int,
        *,
        split: str = "",
        layer: str = "",
        setting: str = "",
    ) -> None:
        row = {"split": split, "statistic": statistic, "layer": layer, "setting": setting}
        self.rows.append(row | {"n": int(n), "value": float(value)})


class UndeclaredSetting(AttributeError):
    """A part of a measurement read a setting that it had not declared,
    so that it could go stale unseen.
    """


class Reading:
    """The settings as one part sees them: those it has declared, and those every part may read."""

    def __init__(self, settings: Settings, part: str, declared: Collection[str]):
        self._settings, self._part, self._declared = settings, part, {*ALWAYS, *declared}

    def __getattr__(self, name: str):
        if name not in self._declared:
            raise UndeclaredSetting(
                f"the part {self._part!r} reads the setting {name!r}; declare it there by @reads."
            )
        return getattr(self._settings, name)


def reads(*names: str) -> Callable:
    """Declare which settings decide a part's numbers, beside those of `ALWAYS`;
    it can read no others.

    A part is measured again when, and only when, one of them changes.
    """
    for name in names:
        one_of("setting", name, [f.name for f in fields(Settings)])

    def declare(compute: Callable) -> Callable:
        compute.reads = names
        return compute

    return declare


@dataclass
class Job:
    """One checkpoint to measure. train: the images actually trained on; arrays:
    those of its parts so far.
    """

    model: nn.Module
    data: data.Dataset
    train: data.Split
    recipe: Recipe
    settings: Settings | Reading
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    @cached_property
    def start(self) -> nn.Module:
        """The network as it was before training: its recipe's seed makes it again."""
        start = initial_model(self.recipe).to(self.data.test.y.device)
        return start.eval()

    @cached_property
    def prepared(self) -> engine.Prepared:
        return engine.prepare(self.model)

    def images(self, split: str, n: int | None = None) -> tuple[Tensor, Tensor]:
        """The first n images (n, c, h, w) and labels (n,) of train, val or test;
        all if there are fewer.
        """
        return tuple(self.split(split)[:n])

    def split(self, name: str) -> data.Split:
        return self.train if name == "train" else getattr(self.data, name)

    def generator(self, purpose: str) -> torch.Generator:
        """A generator of its own for each purpose, the same for every network."""
        digest = hashlib.sha256(f"{self.settings.seed}|{purpose}".encode()).digest()
        return torch.Generator(self.data.test.y.device).manual_seed(
            int.from_bytes(digest[:6], "big")
        )

    @torch.no_grad()
    def logits(self, split: data.Split) -> Tensor:
        """Logits (n, classes) of a whole split, its images widened batch by batch."""
        size = self.settings.batch_size
        return torch.cat([self.prepared(split[i : i + size].x) for i in range(0, len(split), size)])
