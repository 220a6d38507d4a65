"""Attacks: how far a network's answers hold inside a ball, and how surely we know.

`pgd`, `fgsm`, `apgd`: attacks that take (model, x, y, *, eps, …) and return adversarial images.
`perturb` and `random_start` are the bare loop for training.
"""

from arlib.attacks.apgd import apgd
from arlib.attacks.pgd import fgsm, perturb, pgd
from arlib.attacks.steps import Streams, random_start

__all__ = ["Streams", "apgd", "fgsm", "perturb", "pgd", "random_start"]
