"""The standard network that labels HAT's helper images (Rade & Moosavi-Dezfooli 2022).

It is a finished run, named by its id in the recipe, and read with its checks: nothing is trained
with labels of another network than the recipe says.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from arlib import files, records
from arlib.engine import Machine
from arlib.errors import InputError
from arlib.training.recipe import Recipe
from arlib.training.store import model_from


@dataclass(frozen=True)
class Helper:
    """A network in eval mode that only labels, and the hash of its weights."""

    model: nn.Module
    sha256: str


def standard_network(recipe: Recipe, folder: str | Path | None, machine: Machine) -> Helper | None:
    """The network that `recipe.helper` names, from the folder of its run; None if it names none.

    folder: a finished run, a published record with weights, or what `training.train` left. The
    weights are rounded as published ones are, so that the labels are the same from either.

    Raises `InputError` where the run is missing or is another one, `RecordError` for weights that
    do not have the hash of their record.
    """
    if not recipe.helper:
        return None
    file = None if folder is None else records.weights_file(Path(folder))
    if file is None:
        where = "no folder of it was given" if folder is None else f"{folder} holds no weights"
        raise InputError(
            f"{recipe.id} takes labels from the standard network {recipe.helper}, and {where}. "
            "Compute that run first, and keep its weights."
        )
    if records.is_finished(Path(folder)):
        described = records.read(Path(folder)).recipe  # compares the weights with their hash
    else:
        described = files.read_described(file, "recipe")
    standard = Recipe.from_dict(described)
    if standard.id != recipe.helper:
        raise InputError(
            f"{folder} is the run {standard.id}, but {recipe.id} takes its labels from "
            f"{recipe.helper}. Give the folder of that one."
        )
    state = records.halved(files.read_tensors(file))
    model = model_from(standard, state, machine.device, file)
    model = model.requires_grad_(False).to(memory_format=machine.layout)
    return Helper(model, _hash(state))


def _hash(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {tuple(state[name].shape)}".encode())
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()
