"""The one checker: types, bounds, what it says, and what it takes from a dataclass."""

import math
from dataclasses import dataclass
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arlib import fields, models
from arlib.errors import InputError
from arlib.fields import COUNT, POSITIVE, Choice, Range, Written, check
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
    ("given", "message"),
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
def test_every_refusal_names_field_value_and_what_is_allowed(given, message):
    with pytest.raises(InputError) as refused:
        Example(**given)
    assert str(refused.value) == message and refused.value.field == next(iter(given))


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


def test_a_long_value_is_shown_by_its_ends_and_a_number_beyond_all_is_refused():
    for value in ("x" * 10**6, [0] * 10**6, 10**6000, -(10**400)):
        for kind in (bool, float):
            with pytest.raises(InputError, match="size is ") as refused:
                check("size", value, kind)
            assert len(str(refused.value)) < 200
        with pytest.raises(InputError) as refused:
            Choice(("one", "two")).check("size", value)
        assert len(str(refused.value)) < 200
    with pytest.raises(InputError, match=r"size is a number of \d+ bits; allowed"):
        check("size", -(10**6000), int, COUNT)
    Choice(("one", "two")).check("kind", "one")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epochs": 10**12}, "epochs is 1000000000000, with which 1e16 images pass through the"),
        ({"epochs": 10**6000}, "bits, with which"),
        ({"steps": 10**12}, "years on one GPU; allowed: up to 10000."),
        ({"width": 10**9}, "a resnet20 has 1e21 parameters, 1e12 GB; allowed: up to 939."),
        ({"width": 940}, "allowed: up to 939."),
    ],
    ids=["epochs", "digits", "steps", "width", "a little wide"],
)
def test_a_training_that_would_never_end_says_what_it_would_take(given, message):
    with pytest.raises(InputError) as refused:
        Recipe(dataset="digits", **given)
    assert message in str(refused.value) and refused.value.field == next(iter(given))
    assert Recipe(dataset="digits", width=939, epochs=100_000, steps=10_000)


def test_the_parameters_of_a_network_are_counted_about_right():
    for width in (4, 32):
        real = sum(p.numel() for p in models.resnet(20, width=width).parameters())
        assert 63 * 18 * width**2 == pytest.approx(real, rel=0.1)


def test_repeats_of_a_measurement_have_a_limit():
    for name in ("flip_draws", "instance_steps"):
        with pytest.raises(InputError, match=f"{name} is 10{'0' * 11}; allowed: 1 to 10000"):
            Settings(**{name: 10**12})


def test_a_text_of_one_form_is_empty_or_matches_as_a_whole():
    rule = Written(r"run-\d+", "the id of a run, such as run-3")
    for text in ("", "run-12"):
        rule.check("helper", text)
    for text in ("run-", "a run-1", "run-1\n"):
        with pytest.raises(InputError, match="allowed: the id of a run, such as run-3") as error:
            rule.check("helper", text)
        assert error.value.field == "helper"
