"""Standard and adversarial training from a recipe. What needs torch is loaded on first use."""

import importlib
from typing import TYPE_CHECKING

from arlib.training.arm import Arm, described
from arlib.training.recipe import Recipe, learning_rate

if TYPE_CHECKING:
    from arlib.training.arms import ArmRun, train_arm
    from arlib.training.fastest import fastest_precision
    from arlib.training.loop import Run, initial_model, train, train_on, trained_split
    from arlib.training.store import load_model, model_from

_WHERE = {
    "ArmRun": "arms",
    "Run": "loop",
    "fastest_precision": "fastest",
    "initial_model": "loop",
    "load_model": "store",
    "model_from": "store",
    "train": "loop",
    "train_arm": "arms",
    "train_on": "loop",
    "trained_split": "loop",
}
__all__ = [
    "Arm",
    "ArmRun",
    "Recipe",
    "Run",
    "described",
    "fastest_precision",
    "initial_model",
    "learning_rate",
    "load_model",
    "model_from",
    "train",
    "train_arm",
    "train_on",
    "trained_split",
]


def __getattr__(name: str) -> object:
    if name in _WHERE:
        return getattr(importlib.import_module(f"arlib.training.{_WHERE[name]}"), name)
    if name in _WHERE.values():
        return importlib.import_module(f"arlib.training.{name}")
    raise AttributeError(f"module 'arlib.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
