"""Cost that grows no faster than the work: counted in operations, which no busy machine changes."""

import os
import time
from collections import Counter
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import synthetic
from test_studies import CPU, TINY, a_study, fake

from arlib import claims, files, places, studies
from arlib.claims import statistics
from arlib.errors import InputError
from arlib.figures import shared
from arlib.studies import budget, lease
from arlib.studies import run as runs
from benchmarks import growth, operations


def of_size(folder, seeds, *, done=True):
    """A study of twice so many runs, finished or not, as a new process finds it."""
    listed = ", ".join(map(str, range(seeds)))
    study = a_study(folder, TINY.replace("seed: [0, 1]", f"seed: [{listed}]"))
    for entry in study.entries if done else ():
        fake(study, entry, study.folder / entry.run, machine=CPU, progress=False, time_left=None)
    return again(study)


def again(study):
    return studies.Study(study.file, places.Places(study.places.store, (), ()))


@pytest.fixture
def sizes(tmp_path):
    """Studies of 6 and of 24 finished runs."""
    return [of_size(tmp_path / f"{seeds}", seeds) for seeds in (3, 12)]


def each(sizes, ask):
    """What is asked of the file system, of one run, in each of the studies."""
    asked = []
    for study in sizes:
        study = again(study)
        with operations.counted() as counter:
            ask(study)
        asked.append(sum(counter.values()) / len(study.entries))
    return asked


@pytest.mark.parametrize(
    "ask",
    [
        studies.Study.status,
        studies.Study.records,
        shared.collect,
        lambda study: [study.record(entry.run) for entry in study.entries],
        lambda study: budget.refuse_small_budget(study, 1e6, afresh=True),
    ],
    ids=["status", "records", "arrays", "record", "budget"],
)
def test_what_is_asked_of_a_study_costs_the_same_for_each_of_its_runs(sizes, ask):
    few, many = each(sizes, ask)
    assert 0 < many <= few


def test_what_was_read_is_not_read_again(sizes):
    study = sizes[0]
    first = study.records()
    with operations.counted() as counter:
        second = study.records()
        study.record(study.entries[3].run)
    assert counter["open"] == 0 and counter["os.stat"] <= 3 * (len(study.entries) + 1)
    pd.testing.assert_frame_equal(first, second)


def test_a_table_that_its_reader_changed_is_whole_the_next_time(sizes):
    study = sizes[0]
    first = study.records()
    first["value"] = 0.0
    first.loc[0, "seed"] = 77
    second = study.records()
    assert (second["value"] == 0.25).all() and 77 not in set(second["seed"])


def test_a_table_is_made_anew_when_a_record_changed(sizes):
    study = sizes[0]
    assert len(study.records()) == 6 and len(study.histories()) == 6
    os.rename(study.folder / study.entries[0].run, study.folder / "away")
    assert len(study.records()) == 5 and len(study.histories()) == 5


def test_a_run_that_is_published_is_read_twice_and_its_record_written_once(sizes, tmp_path):
    read = Counter()
    real = files.sha256
    with mock.patch.object(files, "sha256", lambda path: (read.update([path.name]), real(path))[1]):
        assert len(sizes[0].publish(tmp_path / "records")) == 6
    assert read["arrays.npz"] == 2 * 6


def test_a_pick_costs_the_same_whatever_the_number_of_runs(tmp_path):
    def not_counted(*args, **options):
        with operations.not_counted():
            return fake(*args, **options)

    asked = []
    for seeds in (3, 12):
        study = of_size(tmp_path / f"{seeds}", seeds, done=False)
        with mock.patch.object(runs, "compute", not_counted), operations.counted() as counter:
            assert runs.work(study, runs.Work(CPU, progress=False))
        asked.append(sum(counter.values()) / len(study.entries))
    assert asked[1] <= asked[0] + 1


def test_runs_of_others_are_looked_at_without_the_lock(tmp_path):
    study = of_size(tmp_path / "s", 4, done=False)
    held = [lease.take(study.leases_folder, entry.run) for entry in study.entries[:5]]
    assert all(held)
    queue = runs.Queue(study, runs.Work(CPU, progress=False))
    with mock.patch.object(lease, "locked", side_effect=AssertionError("the lock was taken")):
        assert next(queue.free()) == study.entries[5]


def test_a_worker_with_nothing_to_do_looks_less_and_less_often(tmp_path):
    study = of_size(tmp_path / "s", 1, done=False)
    waits, asked = [], []
    held = [lease.take(study.leases_folder, entry.run) for entry in study.entries]

    def sleep(seconds):
        if not held:
            return
        waits.append(seconds)
        asked.append(sum(counter.values()))
        while sum(waits) > 120 and held:  # the others let go
            held.pop().path.unlink()

    with (
        mock.patch.object(runs, "compute", fake),
        mock.patch.object(runs.time, "sleep", sleep),
        operations.counted() as counter,
    ):
        assert runs.work(study, runs.Work(CPU, progress=False))
    assert waits[0] == runs.POLL and waits == sorted(waits) and waits[-1] == runs.LONGEST
    assert len(waits) < 25 and np.diff(asked).max() <= 15 * len(study.entries)


def test_a_pause_does_not_outlast_the_time_budget():
    how = runs.Work(CPU, deadline=time.monotonic() + 3)
    assert runs._pause(0.0, how) == runs.POLL and 2 < runs._pause(100.0, how) <= 3


# ---- claims -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "protocol", "claim"),
    [
        (claims.decide, 1, "C3"),
        (claims.decide, 2, "C6a"),
        (claims.matched_fit, 1, "C6"),
        (claims.shares_left, 2, "C5b"),
    ],
)
def test_one_claim_alone_is_what_it_is_among_all(part, protocol, claim):
    table = synthetic.records(strengths=(0.0, 8.0), epochs=(1, 2), controls=(2, 4))
    config = claims.Config(protocol=protocol)
    whole, alone = part(table, config), part(table, config, only=[claim])
    expected = whole[whole["claim"] == claim].reset_index(drop=True)
    assert len(alone) and len(whole) > len(alone)
    pd.testing.assert_frame_equal(alone, expected, check_exact=True, check_dtype=False)


def test_an_unknown_claim_alone_is_refused():
    with pytest.raises(InputError, match="C99"):
        claims.decide(synthetic.records(), only=["C99"])


def test_the_distribution_of_a_trend_is_that_of_seed_after_seed():
    draw = np.random.default_rng(0)
    for _ in range(60):
        values = draw.integers(0, 3, size=(draw.integers(1, 7), draw.integers(2, 5)))
        ranks = [tuple((2 * statistics.stats.rankdata(row)).astype(int)) for row in values]
        kinds = Counter(tuple(sorted(map(int, row))) for row in ranks)
        one_by_one = Counter({0: 1})
        for row in kinds.elements():
            one_by_one = statistics._convolve(one_by_one, statistics._rank_sums(row))
        assert statistics._distribution(tuple(sorted(kinds.items()))) == one_by_one


def test_a_trend_over_many_seeds_multiplies_few_numbers():
    """Seed after seed it would be the square of their number: 20 million products for 500."""
    with mock.patch.object(statistics, "_convolve", wraps=statistics._convolve) as convolve:
        trend = statistics.page_trend(np.random.default_rng(1).normal(size=(500, 4)))
    assert 0 < trend.p <= 1 and convolve.call_count <= 1


def test_noise_between_many_seeds_is_the_same_some_pairs_at_a_time(monkeypatch):
    frames = [np.random.default_rng(i).normal(size=(12, 5)) for i in range(3)]
    whole = claims.noise_floor(frames), claims.evidence.noise_of_medians(frames)
    monkeypatch.setattr(claims.evidence, "PAIRS", 7)
    assert (claims.noise_floor(frames), claims.evidence.noise_of_medians(frames)) == whole


# ---- the benchmark ----------------------------------------------------------------------------


def test_an_exponent_is_the_slope_between_the_two_largest():
    assert growth.exponent((1, 10, 100), [5.0, 1.0, 100.0]) == pytest.approx(2)


@pytest.mark.slow
def test_the_benchmark_asks_everything_of_each_size_and_number_of_workers():
    table = growth.by_runs((12, 24))
    assert (table[["12 runs", "24 runs"]] > 0).all(axis=None) and table["exponent"].notna().all()
    workers = growth.by_workers((1, 2), (8, 16))
    assert list(workers["workers"]) == [1, 2, 1, 1]
    alone = workers[workers["workers"] == 1].set_index("runs")["file operations a run"]
    assert alone[16] == pytest.approx(alone[8], abs=1)


@pytest.mark.slow
def test_processor_time_of_verdicts_grows_no_faster_than_the_runs():
    """With a wide margin: 30 times the runs, at most 60 times the time beyond what is fixed."""

    def taken(seeds):
        table = synthetic.records(seeds=range(seeds))
        begun = time.process_time()
        claims.decide(table)
        claims.matched_fit(table)
        return time.process_time() - begun

    taken(4)
    few, many = taken(4), taken(120)
    assert many < 60 * few
