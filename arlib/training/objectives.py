"""What a training step minimises: cross-entropy on natural or on adversarial examples.

Adversarial training (Madry et al. 2018, section 2) takes the loss at the worst point that a
PGD attack finds in the ε-ball around each image. The attack sees the network in eval mode,
so crafting neither uses nor moves the batch statistics.
"""

import torch
import torch.nn.functional as F
from torch import nn

from arlib import attacks, engine
from arlib.training.recipe import Recipe


def training_examples(
    prepared: engine.Prepared, x: torch.Tensor, y: torch.Tensor, recipe: Recipe, generator: torch.Generator
) -> torch.Tensor:
    """The images to train on: x itself at eps = 0, else PGD examples around it. x: (n, c, h, w)."""
    if recipe.eps == 0:
        return x
    start = attacks.random_start(x, eps=recipe.eps, generator=generator)
    attack = {"eps": recipe.eps, "steps": recipe.steps, "step_size": recipe.attack_step}
    return attacks.perturb(prepared.refresh(), x, y, start=start, **attack)


def loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy and the logits (n, classes), the network in the mode it is in."""
    logits = model(x)
    return F.cross_entropy(logits.float(), y), logits
