"""What a training costs, in passes: one image once through the network, forward or backward.

Methods that are compared at equal epochs are not compared at equal cost. Passes are counted here
instead of seconds, which depend on the machine. Monitoring and measuring are not counted.
"""

from typing import NamedTuple

from arlib import sources
from arlib.training.recipe import DIVERGENT, Recipe


class Passes(NamedTuple):
    """Passes forward and backward of each image in each epoch."""

    forward: int
    backward: int


def of_each_image(recipe: Recipe) -> Passes:
    """How often an image goes through a network in one epoch, with all attacks of the recipe.

    PGD of k steps has k passes in each direction and the gradient of the weights one; TRADES looks
    at the natural image once more; HAT trains on three images, and a standard network labels one.

    >>> of_each_image(Recipe(dataset="cifar10", eps=8 / 255, steps=10))
    Passes(forward=11, backward=11)
    """
    if recipe.eps == 0:
        return Passes(1, 1)
    crafting = 1 if recipe.attack == "n-fgsm" else recipe.steps
    trained_on = {"adversarial": 1, "mixed": 2, "trades": 2, "hat": 3}[recipe.objective]
    labelled = int(recipe.objective == "hat")
    times = 2 if recipe.awp else 1  # the loss is taken once more, to move the weights
    return Passes(
        crafting + int(recipe.objective in DIVERGENT) + times * (trained_on + labelled),
        crafting + times * trained_on,
    )


def of_training(recipe: Recipe) -> int:
    """Passes of the whole training, forward and backward together."""
    images = recipe.train_images or sources.source(recipe.dataset).train
    return images * recipe.epochs * sum(of_each_image(recipe))


def equal_epochs(recipe: Recipe, other: Recipe) -> int:
    """The number of epochs, 1 or more, at which a recipe costs as nearly as it can what `other`
    costs, on the same images.
    """
    return max(1, round(other.epochs * sum(of_each_image(other)) / sum(of_each_image(recipe))))
