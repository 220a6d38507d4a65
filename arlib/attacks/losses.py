"""The losses attacks climb, one number per image, and when an attack has what it wants."""

import math
from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor

from arlib.errors import InputError


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the label's: positive exactly where the image is misclassified."""
    other = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return other - _at(logits, y)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio: a margin free
    of logit scale (Croce & Hein 2020, eq. 6); ≥ 3 classes.
    """
    top = logits.topk(3, dim=1).values
    # 1e-12 as in the authors' code: three equal logits would divide by 0
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


def margin_to(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The target's logit minus the label's."""
    return _at(logits, target) - _at(logits, y)


def dlr_to(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """The targeted form of `dlr` (Croce & Hein 2020, eq. 7); ≥ 4 classes."""
    top = logits.topk(4, dim=1).values
    return margin_to(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + 1e-12)


def finite(logits: Tensor) -> Tensor:
    """Which images have an answer at all: all logits finite. (n, k) -> (n,) bool."""
    return logits.isfinite().all(1)


def _at(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.gather(1, labels[:, None])[:, 0]


PLAIN = {"ce": cross_entropy, "margin": margin, "dlr": dlr}
TO_TARGET = {"dlr-targeted": dlr_to, "margin-targeted": margin_to}
_LEAST_CLASSES = {"dlr": 3, "dlr-targeted": 4}


@dataclass(frozen=True)
class Goal:
    """What an attack wants of each image: the loss it climbs, and whether it has arrived.

    y: the labels to leave or, with `targeted`, the labels to reach (the sign of the loss turns).
    target: for the losses to a target, the class to move towards while any wrong answer counts.
    """

    y: Tensor
    loss: str = "ce"
    targeted: bool = False
    target: Tensor | None = None

    def losses(self, logits: Tensor) -> Tensor:
        """What is maximised, (n,)."""
        if self.target is not None:
            return TO_TARGET[self.loss](logits, self.y, self.target)
        losses = PLAIN[self.loss](logits, self.y)
        return -losses if self.targeted else losses

    def hits(self, logits: Tensor) -> Tensor:
        """Where the attack has succeeded, (n,) bool;
        logits that are not finite are no answer, so no success.
        """
        return ((logits.argmax(1) == self.y) == self.targeted) & finite(logits)

    def take(self, index: Tensor) -> "Goal":
        return replace(
            self, y=self.y[index], target=None if self.target is None else self.target[index]
        )


def check_loss(loss: str, classes: int, targeted: bool = False) -> None:
    """Raise `InputError` where a loss is not defined:
    DLR divides by a difference of sorted logits.
    """
    least = _LEAST_CLASSES.get(loss, 2)
    if classes < least:
        instead = "margin-targeted" if loss == "dlr-targeted" else "margin"
        raise InputError(
            f"loss is {loss!r}, whose denominator needs at least {least} classes; this model has "
            f"{classes}. Use loss={instead!r}."
        )
    if targeted and loss not in ("ce", "margin"):
        raise InputError(
            f"loss is {loss!r} with targeted=True; towards labels you choose, use 'ce' or 'margin'."
        )
