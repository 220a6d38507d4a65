"""Attacks: how far a network's answers hold inside a ball, and how surely we know.

`pgd`, `fgsm`, `apgd`, `square`, `minimum_norm` take (model, x, y, *, eps, …) and return adversarial
images; `evaluate` gives the worst case over several of them with intervals and doubts. `perturb`
and `random_start` are the bare loop for training.
"""

from arlib.attacks.apgd import apgd
from arlib.attacks.evaluate import Evaluation, TrustWarning, evaluate, wilson
from arlib.attacks.minimum_norm import distance, longest, minimum_norm
from arlib.attacks.pgd import fgsm, perturb, pgd
from arlib.attacks.square import square
from arlib.attacks.steps import Streams, random_start

__all__ = [
    "Evaluation",
    "Streams",
    "TrustWarning",
    "apgd",
    "distance",
    "evaluate",
    "fgsm",
    "longest",
    "minimum_norm",
    "perturb",
    "pgd",
    "random_start",
    "square",
    "wilson",
]
