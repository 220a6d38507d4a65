"""The benchmark of spectra measures what it says: its methods agree, its memory is a call's own."""

import math

import numpy as np
import pytest
import torch

from arlib import models, spectra
from benchmarks import memory
from benchmarks import spectra as benchmark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tables():
    torch.manual_seed(0)
    return benchmark.measure("cpu", tiny=True, rounds=1)


def test_methods_find_the_same_singular_values(tables):
    errors = tables["circular"].set_index("method")["error"]
    assert errors["ours"] < 1e-10 and errors["half, gram"] < 1e-7 and errors["ours, float32"] < 1e-5
    assert errors["power, σ_max"] < 0.05 and errors["gram power, σ_max"] < 0.05
    assert set(tables["circular"]["method"]) == set(benchmark.FULL)


@pytest.mark.parametrize("method", [benchmark.fft_numpy, benchmark.fft_torch, benchmark.half])
def test_what_is_timed_is_the_spectrum(method):
    weight = benchmark.kernel(4, "cpu")
    result = np.sort(np.asarray(method(weight, (6, 5), (1, 1))).ravel())
    assert np.abs(result - np.sort(spectra.singular_values(weight, (6, 5)).numpy())).max() < 1e-12


def test_tables_of_gpus_have_two_methods_that_differ():
    everything = {*benchmark.FULL, *benchmark.ON_GPU}
    assert {label for label in everything if benchmark.runs(label, "cpu")} == set(benchmark.FULL)
    assert everything - {label for label in everything if benchmark.runs(label, "cuda")} == {
        benchmark.PUBLISHED
    }


def test_on_the_cpu_is_ours():
    convs = [
        (benchmark.kernel(3, "cpu"), (4, 4), (1, 1)),
        (benchmark.kernel(2, "cpu"), (6, 4), (2, 2)),
    ]
    both = zip(benchmark.ours_on_cpu(convs, None, 4), benchmark.ours(convs, None, 4), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


def test_zero_padding_and_growth_have_a_row_each(tables):
    assert tables["zero padding"]["half-width"].between(0, 0.05).all()
    assert len(tables["growth"]) == 3 * 3 and (tables["growth"]["wall s"] > 0).all()


def test_layers_of_resnet56_are_all_timed():
    assert len(benchmark.convolutions(models.resnet(56), 32, "cpu")) == 55


def test_memory_is_what_the_call_takes():
    taken = memory.peak(lambda: torch.ones(2**25))  # 128 MiB
    assert math.isnan(taken) or 120 < taken < 160
    again = memory.peak(lambda: torch.ones(2**24))
    assert math.isnan(again) or 60 < again < 90, (
        "what an earlier call freed does not count, nor hide"
    )
