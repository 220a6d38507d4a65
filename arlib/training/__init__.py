"""Standard and adversarial training from a recipe."""

from arlib.training.fastest import fastest_precision
from arlib.training.loop import Run, initial_model, train, train_on, trained_split
from arlib.training.recipe import Recipe, learning_rate
from arlib.training.store import load_model, model_from

__all__ = [
    "Recipe",
    "Run",
    "fastest_precision",
    "initial_model",
    "learning_rate",
    "load_model",
    "model_from",
    "train",
    "train_on",
    "trained_split",
]
