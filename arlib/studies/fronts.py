"""The part `fronts:` of a study file: ways of training for robustness, each with one knob.

A method is no point but a front: its knob trades natural accuracy for robust accuracy. The grid of
the study is the front of PGD adversarial training, whose knob is the strength; `fronts:` lists the
others with the values of their knob, and those that are trained a second time at equal cost.
"""

from dataclasses import dataclass, field

from arlib.fields import Range
from arlib.studies.document import Document, words_of

GRID = "pgd-at"  # the method of the grid
KNOBS = {GRID: "strength", "trades": "beta", "mixed": "mix", "n-fgsm": "strength", "hat": "gamma"}
METHODS = tuple(method for method in KNOBS if method != GRID)
FRONT = "front-"  # and the method and its value: the variant of a run
EPOCHS, PASSES = "epochs", "passes"  # what a run has as much of as a run of the grid
FEWEST = 3  # points of a front
# What else a method may set; everything that is not here is the grid's, so that nothing but the
# method differs.
_OWN = {"hat": ("beta",), "n-fgsm": ("noise", "step", "step_ratio")}
_CHOSEN_BY = {"n-fgsm": {"attack": "n-fgsm"}}  # the others are objectives
_OF_PGD = ("steps", "step", "step_ratio")  # keys that N-FGSM's single step has no use for


@dataclass(frozen=True)
class Point:
    """One point of a front: a method at one value of its knob.

    budget: "epochs" for as many as the grid's runs have, "passes" for about as many passes through
    the network (`training.passes`).
    """

    method: str
    value: float
    budget: str = EPOCHS

    @property
    def variant(self) -> str:
        """The variant of its runs; empty for those of the grid."""
        if self.method == GRID:
            return ""
        ending = "-passes" if self.budget == PASSES else ""
        return f"{FRONT}{self.method}-{self.value:g}{ending}"


@dataclass(frozen=True)
class Planned:
    """A point, and how its runs differ from those of the grid. place: where the file says so."""

    point: Point
    strength: float
    fields: dict = field(hash=False)
    without: tuple[str, ...]
    """Keys of the shared recipe that do not hold for it."""
    place: tuple


def planned(document: Document, strength: Range) -> list[Planned]:
    """All points of `fronts:`, in the order in which they should run: first at equal epochs.

    Raises `InputError` for an unknown method or key, a knob with fewer than three values, and
    `equal_passes` that are no values of it; the values themselves are checked with the recipe.
    """
    if "fronts" not in document.content:
        return []
    strengths = document.numbers(("grid", "strength"), float, strength)
    if sum(value > 0 for value in strengths) < FEWEST:
        raise document.error(
            ("grid", "strength"),
            f"has fewer than {FEWEST} strengths above 0; the grid is the front of PGD adversarial "
            "training, with which the others are compared",
        )
    methods = document.mapping(("fronts",), METHODS)
    if "hat" in methods and 0 not in strengths:
        raise document.error(
            ("fronts", "hat"),
            "takes labels from the study's standard networks; put the strength 0 into the grid",
        )
    points = [point for method in methods for point in _of_method(document, method, strength)]
    return sorted(points, key=_equal_epochs_first)


def _equal_epochs_first(one: Planned) -> bool:
    return one.point.budget == PASSES


def _of_method(document: Document, method: str, strength: Range) -> list[Planned]:
    place, knob, own = ("fronts", method), KNOBS[method], _OWN.get(method, ())
    allowed = dict.fromkeys(("strength", knob, *own, "equal_passes"))
    content = document.mapping(place, tuple(allowed), ("strength", knob))
    anything = Range()  # the recipe knows the bounds of its fields
    rule = strength if knob == "strength" else anything
    values = _front(document, (*place, knob), rule)
    again = []
    if "equal_passes" in content:
        again = _front(document, (*place, "equal_passes"), anything)
        for index, value in enumerate(again):
            if value not in values:
                raise document.error(
                    (*place, "equal_passes", index),
                    f"is {value:g}, no value of {words_of((*place, knob))}",
                )
    fields = {key: content[key] for key in own if key in content}
    fields |= _CHOSEN_BY.get(method, {"objective": method})
    at = None if knob == "strength" else document.number((*place, "strength"), float, strength)
    return [
        Planned(
            Point(method, value, budget),
            value if at is None else at,
            fields if at is None else fields | {knob: value},
            _OF_PGD if method == "n-fgsm" else (),
            (*place, knob if budget == EPOCHS else "equal_passes"),
        )
        for budget, listed in ((EPOCHS, values), (PASSES, again))
        for value in listed
    ]


def _front(document: Document, place: tuple, rule: Range) -> list:
    values = document.numbers(place, float, rule)
    if len(values) < FEWEST:
        raise document.error(
            place, f"has {len(values)} values; a front needs {FEWEST} points or more"
        )
    return values
