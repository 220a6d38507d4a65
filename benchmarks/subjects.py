"""What the attack benchmarks attack:
trained networks from the records, on test images they have not seen.

Without CIFAR-10's files the digits stand in; without a trained network of a kind, an untrained one,
whose times are the same and whose accuracies mean nothing (`trained` says so).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from arlib import data, models, studies
from arlib.errors import InputError, RecordError

STUDIES = {
    "resnet8": "digits",
    "resnet20": "cifar10-resnet20-small",
    "resnet56": "cifar10-resnet56",
}
STRENGTHS = {"digits": 32.0, "cifar10": 8.0}  # trained against, and attacked with


@dataclass(frozen=True)
class Subject:
    """One network under attack. x: (n, c, h, w) float32 in [0, 1], y:
    (n,) int64, eps in [0, 1] pixel units.
    """

    network: str
    dataset: str
    model: nn.Module
    x: Tensor
    y: Tensor
    eps: float
    trained: bool

    @property
    def title(self) -> str:
        untrained = "" if self.trained else ", untrained"
        return f"{self.network}, {self.dataset}{untrained}"

    def first(self, n: int) -> "Subject":
        """The same with the first n images."""
        return Subject(
            self.network, self.dataset, self.model, self.x[:n], self.y[:n], self.eps, self.trained
        )


def subjects(names: tuple[str, ...], device: torch.device) -> list[Subject]:
    """The networks of those names; the digits' one alone where CIFAR-10 is not on this machine."""
    try:
        cifar = data.load("cifar10", device="cpu")
    except InputError as reason:
        cifar = None
        if names != ("resnet8",):
            print(f"the digits stand in for CIFAR-10: {reason}", flush=True)
    names = names if cifar is not None else ("resnet8",)
    digits = data.load("digits", device="cpu") if "resnet8" in names else None
    return [_subject(name, digits if name == "resnet8" else cifar, device) for name in names]


def _subject(name: str, dataset: data.Dataset, device: torch.device) -> Subject:
    model, eps = trained(name, STRENGTHS[dataset.name]), STRENGTHS[dataset.name] / 255
    known = model is not None
    if model is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = models.build(name, dataset.name)
    x, y = dataset.test
    return Subject(
        name, dataset.name, model.eval().to(device), x.to(device), y.to(device), eps, known
    )


def trained(name: str, strength: float) -> nn.Module | None:
    """The network of seed 0 trained at that strength, from its study's records;
    None if there is none.
    """
    if name not in STUDIES:
        return None
    study = studies.load(STUDIES[name])
    for entry in study.entries:
        if entry.recipe.strength == strength and entry.recipe.seed == 0 and not entry.variant:
            try:
                return study.model(entry.run)
            except (InputError, RecordError):  # not measured yet, or without its weights
                continue
    return None
