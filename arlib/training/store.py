"""The files of one training: a checkpoint that is whole or not there, weights,
history, provenance.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from arlib import __version__, files
from arlib.errors import InputError, RecordError
from arlib.training.arm import Arm, described
from arlib.training.recipe import Recipe

if TYPE_CHECKING:  # how far a training came is told without them
    import torch
    from torch import nn

    from arlib.engine import Machine

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Checkpoint:
    """A training after `epoch` whole epochs."""

    epoch: int
    history: list[dict]
    collapsed: str
    model: dict[str, torch.Tensor]
    best: dict[str, torch.Tensor]
    momentum: dict[str, torch.Tensor]
    average: dict[str, torch.Tensor]
    precision: str = ""
    """What it was trained in so far; empty in checkpoints of before this was kept."""
    helper: str = ""
    """SHA-256 of the weights that label hat's helper images."""


def write_checkpoint(folder: Path, recipe: Recipe, checkpoint: Checkpoint) -> None:
    """One file, so that weights, momentum and history can never be of different epochs."""
    groups = {
        "model": checkpoint.model,
        "best": checkpoint.best,
        "momentum": checkpoint.momentum,
        "average": checkpoint.average,
    }
    tensors = {
        f"{group}|{name}": value for group, part in groups.items() for name, value in part.items()
    }
    described = {
        "epoch": checkpoint.epoch,
        "history": checkpoint.history,
        "collapsed": checkpoint.collapsed,
        "recipe": recipe.to_dict(),
    }
    described |= {"precision": checkpoint.precision, "helper": checkpoint.helper}
    files.write_tensors(folder / CHECKPOINT, tensors, {"arlib": json.dumps(described)})


def read_checkpoint(folder: Path, recipe: Recipe) -> Checkpoint | None:
    """The checkpoint in the folder, None if there is none;
    `InputError` if it is of another recipe.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    tensors, described = files.read_tensors(path), files.read_described(path, "arlib")
    if described["recipe"] != recipe.to_dict():
        raise InputError(
            f"{folder} holds the training of {described['recipe']}, not of {recipe.to_dict()}. "
            "Give another folder."
        )
    groups = {"model": {}, "best": {}, "momentum": {}, "average": {}}
    for key, value in tensors.items():
        group, _, name = key.partition("|")
        groups[group][name] = value
    return Checkpoint(
        described["epoch"],
        described["history"],
        described["collapsed"],
        **groups,
        precision=described.get("precision", ""),
        helper=described.get("helper", ""),
    )


def write_weights(
    folder: Path, which: str, recipe: Recipe | Arm, state: dict[str, torch.Tensor]
) -> None:
    files.write_tensors(
        folder / f"{which}.safetensors", state, {"recipe": json.dumps(recipe.to_dict())}
    )


def write_finished(
    folder: Path,
    recipe: Recipe,
    last: nn.Module,
    best: nn.Module,
    history: list[dict],
    provenance: dict,
) -> None:
    """Weights, history and provenance of a finished training;
    `recipe.json` last, as the sign of the end.
    """
    import pandas as pd

    write_weights(folder, "last", recipe, last.state_dict())
    write_weights(folder, "best", recipe, best.state_dict())
    files.write_text(folder / "history.csv", pd.DataFrame(history).to_csv(index=False))
    files.write_json(folder / "provenance.json", provenance)
    files.write_json(folder / "recipe.json", recipe.to_dict())


def load_model(
    folder: str | Path, which: str = "last", device: str | torch.device = "cpu"
) -> nn.Module:
    """A trained network in eval mode: its last, best or epoch-N weights.

    Raises `RecordError` for weights that are missing, damaged or of another network.
    """
    path = Path(folder) / f"{which}.safetensors"
    state = files.read_tensors(path)
    return model_from(described(files.read_described(path, "recipe")), state, device, path)


def model_from(
    recipe: Recipe | Arm,
    state: dict,
    device: str | torch.device = "cpu",
    path: object = "weights",
) -> nn.Module:
    """The recipe's network with these weights (half precision is widened), in eval mode; an arm's
    has no batch norm.

    Raises `RecordError`, naming `path`, for weights of another network and for such as no training
    ends with.
    """
    from arlib import models

    model = models.build(recipe.model, recipe.dataset, recipe.width)
    if isinstance(recipe, Arm):
        from arlib.training.plain import without_batchnorm

        model = without_batchnorm(model.eval())
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise RecordError(f"{path} does not hold the weights of {recipe.id}: {error}") from error
    for name, value in model.state_dict().items():
        if value.is_floating_point() != state[name].is_floating_point():
            raise RecordError(
                f"{path} holds {name} as {state[name].dtype}; weights are floating-point numbers."
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise RecordError(
                f"{path} is damaged: {name} has values that are not finite. Compute the run again."
            )
    return model.to(device).eval()


def provenance(machine: Machine) -> dict:
    """Where and with what a training ran."""
    import torch

    device = machine.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    versions = {
        "arlib": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    return versions | {
        "device": device.type,
        "device_name": name,
        "threads": torch.get_num_threads(),
        "precision": machine.precision,
    }
