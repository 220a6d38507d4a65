"""Attacks: how far a network's answers hold inside a ball, and how surely we know.

`pgd`, `fgsm`: attacks that take (model, x, y, *, eps, …) and return adversarial images.
`perturb` and `random_start` are the bare loop for training.
"""

from arlib.attacks.pgd import fgsm, perturb, pgd
from arlib.attacks.steps import random_start

__all__ = ["fgsm", "perturb", "pgd", "random_start"]
