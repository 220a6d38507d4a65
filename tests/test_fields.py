"""The one checker: types, bounds, what it says, and what it takes from a dataclass."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arlib import fields
from arlib.errors import InputError
from arlib.fields import COUNT, POSITIVE, Choice, Range, check
from arlib.measure import Settings
from arlib.training import Recipe

SHARE = Range(0, 1, below=True, note="a share")


@dataclass(frozen=True)
class Example:
    size: Annotated[int, COUNT] = 1
    """How many."""
    share: Annotated[float | None, SHARE] = None
    radii: Annotated[tuple[float, ...], POSITIVE] = (1.0,)
    kind: Annotated[str, Choice(("one", "two"))] = "one"
    """Which."""

    def __post_init__(self):
        fields.check_all(self)


def test_values_take_the_type_of_their_field():
    example = Example(size=2, share=0, radii=[1, 2.5], kind="two")
    assert example == Example(2, 0.0, (1.0, 2.5), "two")
    assert isinstance(example.share, float) and isinstance(example.radii, tuple)
    assert Example().share is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"size": 0}, "size is 0; allowed: at least 1."),
        ({"size": 1.0}, "size is 1.0; it must be a whole number."),
        ({"size": True}, "size is True; it must be a whole number."),
        ({"share": 1}, "share is 1; allowed: at least 0 and below 1 (a share)."),
        ({"share": math.nan}, "share is nan; it must be a number or None."),
        ({"share": "half"}, "share is 'half'; it must be a number or None."),
        ({"radii": 3}, "radii is 3; it must be a list of numbers."),
        ({"radii": []}, "radii is an empty list; give at least one value."),
        ({"radii": [1, 0]}, "radii is 0; allowed: above 0."),
        ({"radii": [1, False]}, "radii is [1, False]; it must be a list of numbers."),
        ({"kind": "tow"}, "kind is 'tow'; allowed: one, two. Did you mean 'two'?"),
    ],
)
def test_every_refusal_names_field_value_and_what_is_allowed(given, said):
    with pytest.raises(InputError) as refused:
        Example(**given)
    assert str(refused.value) == said and refused.value.field == next(iter(given))


@given(st.floats(allow_nan=True), st.booleans(), st.booleans())
def test_a_range_holds_exactly_its_numbers(value, above, below):
    inside = (value > 0 if above else value >= 0) and (value < 1 if below else value <= 1)
    try:
        assert check("x", value, float, Range(0, 1, above, below)) == value and inside
    except InputError:
        assert not inside


def test_docs_are_the_texts_under_the_fields():
    assert fields.docs(Example) == {"size": "How many.", "kind": "Which."}
    assert fields.docs(Recipe).keys() == Recipe.__dataclass_fields__.keys()
    assert fields.docs(Settings)["flip_draws"].startswith("Random directions")
