"""The sentence below figures and tables says what the numbers bear, and no more."""

import numpy as np
import pandas as pd
import pytest
import synthetic

from arlib import claims
from arlib.claims import DIFFERENCE, FACTOR, SHARE, directions, move, moves, of_runs
from arlib.claims.moves import NO_PAIR
from arlib.claims.values import clean, values


def runs(by_strength: dict) -> pd.Series:
    """{strength: values of seeds 0, 1, …} as values by (seed, strength)."""
    return of_runs(
        {(s, seed): v for s, values in by_strength.items() for seed, v in enumerate(values)}
    )


def test_a_move_is_the_t_interval_of_what_each_seed_changes():
    one = move(runs({0.0: [0.1, 0.2, 0.3], 8.0: [0.3, 0.5, 0.7]}), SHARE)
    assert (one.strength, one.seeds, one.sign) == (8.0, 3, 1)
    assert (one.at_zero, one.at_end) == pytest.approx((0.2, 0.5))
    assert one.change == pytest.approx(claims.t_interval([0.2, 0.3, 0.4]))


def test_factors_are_compared_as_logarithms_and_levels_are_geometric():
    one = move(runs({0.0: [1.0, 4.0], 8.0: [2.0, 8.0]}), FACTOR)
    assert (one.at_zero, one.at_end) == pytest.approx((2, 4))
    assert np.exp(one.change.mean) == pytest.approx(2)
    told = moves({"gain": (runs({0.0: [1.0, 4.0], 8.0: [2.0, 8.0]}), FACTOR)})
    assert told.startswith("From AR strength 0 to 8, 2 seeds [95 % interval]: gain rises from 2 to")
    assert "(× 2 [2, 2])" in told


def test_layers_are_compared_one_by_one_before_the_median():
    index = pd.MultiIndex.from_tuples(
        [(0, 0.0), (0, 8.0), (1, 0.0), (1, 8.0)], names=["seed", "strength"]
    )
    wide = pd.DataFrame([[1, 10, 100], [2, 5, 400], [1, 10, 100], [2, 5, 400]], index=index)
    # factors 2, ½ and 4: their median is 2; the medians themselves fall from 10 to 5
    assert np.exp(move(wide.astype(float), FACTOR).change.mean) == pytest.approx(2)


def test_the_sentence_claims_no_way_that_the_interval_does_not_bear():
    unclear = {0.0: [0.1, 0.2, 0.3], 8.0: [0.2, 0.1, 0.4]}
    assert "does not clearly move, 20.0 % to 23.3 %" in moves({"error": (runs(unclear), SHARE)})
    one = moves({"error": (runs({0.0: [0.1], 8.0: [0.2]}), SHARE)})
    assert one == "From AR strength 0 to 8, one seed: error goes from 10.0 % to 20.0 %."
    assert move(runs({0.0: [0.1], 8.0: [0.2]}), SHARE).sign == 0


def test_seeds_without_their_own_strength_0_do_not_count():
    some = of_runs({(0.0, 0): 1.0, (8.0, 1): 5.0, (4.0, 0): 2.0})
    assert move(some, DIFFERENCE)[:4] == (4.0, 1, 1.0, 2.0)
    for nothing in ({(8.0, 0): 1.0}, {(0.0, 0): 1.0}, {(0.0, 0): 1.0, (8.0, 1): 2.0}):
        assert move(of_runs(nothing), DIFFERENCE) is None
        assert moves({"x": (of_runs(nothing), DIFFERENCE)}) == NO_PAIR
    assert move(of_runs({0.0: 0.0, 8.0: 2.0}), FACTOR) is None  # no factor from 0


def test_numbers_of_other_seeds_have_a_sentence_of_their_own():
    told = moves(
        {
            "a": (runs({0.0: [1, 2], 8.0: [3, 4]}), DIFFERENCE),
            "b": (runs({0.0: [1], 4.0: [0]}), DIFFERENCE),
        }
    )
    assert told.count("From AR strength 0 to") == 2 and told.endswith("b goes from 1 to 0.")
    assert "−" in moves({"b": (runs({0.0: [1, 1], 8.0: [0, 0.5]}), DIFFERENCE)})


def test_directions_are_grouped():
    rising, falling = runs({0.0: [1, 1], 8.0: [2, 2.1]}), runs({0.0: [2, 2.1], 8.0: [1, 1]})
    flat = runs({0.0: [1, 2], 8.0: [2, 1]})
    named = {"a": rising, "b": falling, "c": flat, "d": rising}
    told = directions({name: (values_, DIFFERENCE) for name, values_ in named.items()})
    assert told == "rises (a; d), falls (b), not clear (c)"
    assert directions({}) == ""


def test_effects_are_those_of_the_verdicts():
    """The same numbers as `claims.decide` has, on made-up records."""
    records = synthetic.records(rng=3)
    rows = claims.decide(records).set_index("claim")
    for claim in ("C1", "C4", "C5", "C6"):
        statistic = claims.CLAIMS[claim].primary.at(claims.Config())
        numbers = values(clean(records), statistic)
        one = move(numbers, claims.kind_of(statistic))
        assert one.change == pytest.approx(tuple(rows.loc[claim, ["effect", "low", "high"]]))
