"""Attacks by the names that stand in tables and study files:
"pgd-50x10", "apgd-ce", "apgd-t", "square", …
"""

import re
from dataclasses import dataclass

from torch import Tensor

from arlib.attacks.apgd import apgd_restarts
from arlib.attacks.losses import Goal, check_loss
from arlib.attacks.pgd import pgd_restarts
from arlib.attacks.square import search
from arlib.attacks.steps import Ball, Best, Forward, Streams
from arlib.errors import InputError, one_of

APGD_LOSSES = {
    "apgd-ce": "ce",
    "apgd-dlr": "dlr",
    "apgd-margin": "margin",
    "apgd-t": "dlr-targeted",
    "apgd-margin-t": "margin-targeted",
}
EXAMPLES = ("fgsm", "pgd-10", "pgd-20", "pgd-50x10", *APGD_LOSSES, "square")
# as in AutoAttack's standard version, so that numbers compare with published ones
APGD_STEPS, TARGETS, SQUARE_QUERIES = 100, 9, 5000
STRONG = ("apgd-ce", "apgd-t")  # what robust accuracy is measured with unless told otherwise
_PGD = re.compile(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?")


def strong(classes: int) -> tuple[str, ...]:
    """The strong attacks on a model of so many classes: the loss of "apgd-t" needs four."""
    return STRONG if classes >= 4 else ("apgd-ce", "apgd-margin-t")


@dataclass(frozen=True)
class Named:
    """One attack as an evaluation runs it:
    until an image is misclassified, by the image's own random stream.

    "fgsm" takes its step from the image itself; "pgd-50x10" is 50 steps of eps / 4 from 10 uniform
    random starts on cross-entropy; "apgd-…" 100 steps (targeted ones for each of the 9 likeliest
    wrong classes); "square" 5,000 queries.
    """

    name: str

    def __post_init__(self) -> None:
        if not _PGD.fullmatch(self.name):
            one_of("attack", self.name, EXAMPLES)

    @property
    def black_box(self) -> bool:
        return self.name == "square"

    def check(self, classes: int, shape: tuple[int, ...], norm: str) -> None:
        """Raise `InputError` where this attack cannot be run on such a model and images."""
        if self.name == "apgd-t" and classes < 4:
            raise InputError(
                "attack is 'apgd-t', whose loss needs at least 4 classes; this model has "
                f"{classes}. Use 'apgd-margin-t' instead."
            )
        check_loss(APGD_LOSSES.get(self.name, "ce"), classes)
        if self.black_box and (norm != "linf" or len(shape) != 4):
            raise InputError(
                f"attack is 'square', which is for linf and images (n, c, h, w); got {norm}, "
                f"{shape}."
            )

    def run(self, forward: Forward, ball: Ball, y: Tensor, streams: Streams) -> Best:
        """Attack all images of `ball`."""
        if self.black_box:
            return search(forward, ball, Goal(y, "margin"), SQUARE_QUERIES, streams)
        if self.name in APGD_LOSSES:
            goal, options = (
                Goal(y, APGD_LOSSES[self.name]),
                {"steps": APGD_STEPS, "targets": TARGETS},
            )
            return apgd_restarts(
                forward, ball, goal, **options, restarts=1, generator=streams, early_stop=True
            )
        if self.name == "fgsm":
            steps, restarts, size, generator = 1, 1, ball.eps, None
        else:
            steps, restarts = (int(number or 1) for number in _PGD.fullmatch(self.name).groups())
            size, generator = ball.eps / 4, streams
        options = {"steps": steps, "step_size": size, "restarts": restarts, "generator": generator}
        return pgd_restarts(forward, ball, Goal(y), **options, early_stop=True)
