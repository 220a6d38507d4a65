"""Attacks by the names that stand in tables and study files:
"pgd-50x10", "apgd-ce", "apgd-t", "square", …
"""

import re
from dataclasses import dataclass

from torch import Tensor

from arlib.attacks.apgd import apgd_restarts, focused
from arlib.attacks.losses import TO_TARGET, Goal, check_loss
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
FOCUSED = "apgd-focused"
EXAMPLES = (
    *("fgsm", "pgd-10", "pgd-20", "pgd-50x10"), *APGD_LOSSES, "apgd-t-25x3", FOCUSED, "square"
)  # fmt: skip
# as in AutoAttack's standard version, so that numbers compare with published ones
APGD_STEPS, TARGETS, SQUARE_QUERIES = 100, 9, 5000
STRONG = ("apgd-ce", "apgd-t")  # what robust accuracy is measured with unless told otherwise
BUDGETS = ("standard", "full")  # sets of attacks with a name
_PGD = re.compile(r"pgd-([1-9]\d*)(?:x([1-9]\d*))?")
# such as "apgd-ce", "apgd-ce-50", "apgd-t-100x3"
_APGD = re.compile(
    rf"({'|'.join(sorted(APGD_LOSSES, key=len, reverse=True))})(?:-([1-9]\d*)(?:x([1-9]\d*))?)?"
)


def strong(classes: int, budget: str = "full") -> tuple[str, ...]:
    """The strong attacks on a model of so many classes: targeted DLR needs four.

    "full": those of the book. "standard": at most a third of the passes; whether its verdicts are
    the same is what `python -m benchmarks.budgets` compares.
    """
    if budget == "standard":
        return ("pgd-10", FOCUSED if classes >= 4 else "apgd-margin-t")
    return STRONG if classes >= 4 else ("apgd-ce", "apgd-margin-t")


@dataclass(frozen=True)
class Named:
    """One attack as an evaluation runs it:
    until an image is misclassified, by the image's own random stream.

    "fgsm" takes its step from the image itself; "pgd-50x10" is 50 steps of eps / 4 from 10 uniform
    random starts on cross-entropy; "apgd-…" 100 steps (targeted ones for each of the 9 likeliest
    wrong classes), "apgd-t-25x3" 25 steps for each of the 3 likeliest; "apgd-focused" 8 steps for
    each of the 9, then 100 for the two that came nearest; "square" 5,000 queries.
    """

    name: str

    def __post_init__(self) -> None:
        known = _PGD.fullmatch(self.name) or self._apgd or self.name == FOCUSED
        # only targeted losses have targets to count
        if not known or (self._apgd and self._apgd[3] and not self._targeted):
            one_of("attack", self.name, EXAMPLES)

    @property
    def _apgd(self) -> re.Match | None:
        return _APGD.fullmatch(self.name)

    @property
    def _loss(self) -> str:
        if self.name == FOCUSED:
            return "dlr-targeted"
        return APGD_LOSSES[self._apgd[1]] if self._apgd else "ce"

    @property
    def _targeted(self) -> bool:
        return self._loss in TO_TARGET

    @property
    def black_box(self) -> bool:
        return self.name == "square"

    def check(self, classes: int, shape: tuple[int, ...], norm: str) -> None:
        """Raise `InputError` where this attack cannot be run on such a model and images."""
        if self._loss == "dlr-targeted" and classes < 4:
            instead = self.name.replace("apgd-t", "apgd-margin-t").replace(FOCUSED, "apgd-margin-t")
            raise InputError(
                f"attack is {self.name!r}, whose loss needs at least 4 classes; this model has "
                f"{classes}. Use {instead!r} instead."
            )
        check_loss(self._loss, classes)
        if self.black_box and (norm != "linf" or len(shape) != 4):
            raise InputError(
                f"attack is 'square', which is for linf and images (n, c, h, w); got {norm}, "
                f"{shape}."
            )

    def run(self, forward: Forward, ball: Ball, y: Tensor, streams: Streams) -> Best:
        """Attack all images of `ball`."""
        if self.black_box:
            return search(forward, ball, Goal(y, "margin"), SQUARE_QUERIES, streams)
        if self.name == FOCUSED:
            options = {"steps": APGD_STEPS, "targets": TARGETS, "generator": streams}
            return focused(forward, ball, Goal(y, self._loss), **options)
        if self._apgd:
            steps, targets = int(self._apgd[2] or APGD_STEPS), int(self._apgd[3] or TARGETS)
            options = {"steps": steps, "targets": targets, "restarts": 1, "generator": streams}
            goal = Goal(y, self._loss)
            return apgd_restarts(forward, ball, goal, **options, early_stop=True)
        if self.name == "fgsm":
            steps, restarts, size, generator = 1, 1, ball.eps, None
        else:
            steps, restarts = (int(number or 1) for number in _PGD.fullmatch(self.name).groups())
            size, generator = ball.eps / 4, streams
        options = {"steps": steps, "step_size": size, "restarts": restarts, "generator": generator}
        return pgd_restarts(forward, ball, Goal(y), **options, early_stop=True)
