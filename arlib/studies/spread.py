"""The part `spread:` of a study file: networks of one strength that differ in other things.

Within one strength adversarial training moves nothing, so what goes together there does so for
other reasons. Every combination of the listed values is trained at every strength and seed of the
grid; the grid's own recipe is one more.
"""

import itertools
import math

from arlib.fields import Range
from arlib.studies.document import Document

SPREAD = "spread-"  # and a number: the variant of a run
# What networks of one strength may differ in. The recipe knows the bounds of each.
KEYS = ("weight_decay", "width", "epochs", "lr", "batch_size", "train_images")
MOST = 1_000  # combinations
_WHOLE = ("width", "epochs", "batch_size", "train_images")


def combinations(document: Document) -> list[dict]:
    """The combinations of the values of `spread:` in order; none without it.

    Raises `InputError` for an unknown key, a key with fewer than two values, a value that stands
    twice, too many combinations, and a file that has fronts or controls, too.
    """
    if "spread" not in document.content:
        return []
    for other in ("fronts", "controls"):
        if other in document.content:
            raise document.error(
                ("spread",), f"and {other} are both given; they are compared in different things, "
                             "so they need a study each")  # fmt: skip
    content = document.mapping(("spread",), KEYS)
    if not content:
        raise document.error(("spread",), f"names nothing; allowed: {', '.join(KEYS)}")
    listed = []
    for key in content:
        values = document.numbers(("spread", key), int if key in _WHOLE else float, Range())
        if len(values) < 2:
            raise document.error(("spread", key), "has one value; a spread needs two or more")
        listed.append([(key, value) for value in values])
    if (many := math.prod(map(len, listed))) > MOST:
        raise document.error(("spread",), f"has {many:,} combinations; allowed: {MOST:,}")
    return [dict(one) for one in itertools.product(*listed)]
