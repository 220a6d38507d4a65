"""Computations that are killed and started again end with the same bits; a short form of
`python -m benchmarks.kills`.
"""

import random
import sys

import pytest

from benchmarks import kills

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@linux
@pytest.mark.slow
@pytest.mark.parametrize("scene", kills.SCENES, ids=lambda scene: scene.name)
def test_what_was_killed_ends_as_if_it_never_had_been(scene):
    tally = kills.killed(scene, 3, seed=1)
    assert tally.kills >= 3 and tally.rounds >= 1
    assert (tally.different, tally.failed, tally.orphans) == (0, 0, 0), tally.first


@linux
def test_a_round_that_ends_otherwise_is_counted_and_named():
    def compute(folder):
        with open(folder / "answer", "a") as answer:  # grows with every start
            answer.write("x")

    def left(folder):
        return {"answer": (folder / "answer").read_text()}

    scene = kills.Scene("grows", 1, 1.0, compute, left)
    tally = kills.Tally()
    kills.one_round(scene, 30.0, {"answer": "xx"}, random.Random(0), tally)
    assert (tally.kills, tally.rounds, tally.different, tally.first) == (0, 1, 1, ["answer"])
    kills.one_round(scene, 30.0, {"answer": "x"}, random.Random(0), tally)
    assert (tally.rounds, tally.different) == (2, 1)


@linux
def test_a_start_that_fails_is_counted_with_its_message():
    def compute(folder):
        raise ValueError("no")

    tally = kills.Tally()
    scene = kills.Scene("fails", 1, 1.0, compute, lambda folder: {})
    kills.one_round(scene, 30.0, {}, random.Random(0), tally)
    assert (tally.failed, tally.first) == (1, ["ValueError: no"])
