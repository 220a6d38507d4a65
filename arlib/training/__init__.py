"""Standard and adversarial training from a recipe. What needs torch is loaded on first use."""

import importlib

from arlib.training.recipe import Recipe, learning_rate

_WHERE = {
    "Run": "loop",
    "fastest_precision": "fastest",
    "initial_model": "loop",
    "load_model": "store",
    "model_from": "store",
    "train": "loop",
    "train_on": "loop",
    "trained_split": "loop",
}
__all__ = ["Recipe", "learning_rate", *_WHERE]


def __getattr__(name: str):
    if name in _WHERE:
        return getattr(importlib.import_module(f"arlib.training.{_WHERE[name]}"), name)
    if name in _WHERE.values():
        return importlib.import_module(f"arlib.training.{name}")
    raise AttributeError(f"module 'arlib.training' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
