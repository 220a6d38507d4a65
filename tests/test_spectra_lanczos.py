"""Estimates with error bars: adjoints, exact sums, bounds that are theorems,
and intervals that hold.
"""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from arlib import spectra
from arlib.errors import InputError
from arlib.spectra.conv import dense_blocks
from arlib.spectra.density import quantile_bounds
from arlib.spectra.geometry import MODES, geometry
from arlib.spectra.lanczos import Bidiagonalization, gauss, radau
from arlib.spectra.operator import LinearMap, convolution_map
from arlib.spectra.squares import largest_bound, sum_of_squares
from arlib.spectra.stochastic import estimate_map
from benchmarks.memory import peak


def matrix_map(matrix):
    return LinearMap(*matrix.shape, lambda x: x @ matrix.T, lambda y: y @ matrix)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def layers(draw):
    """Any convolution of one to three dimensions whose matrix is small, in every padding mode."""
    dims = draw(st.sampled_from([1, 2, 2, 3]))

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    size, kernel, dilation = each(3, {1: 9, 2: 6, 3: 4}[dims]), each(1, 3), each(1, 2)
    groups, mode = draw(st.sampled_from([1, 2])), draw(st.sampled_from(MODES))
    amount = tuple(max(d * (k - 1) + 1 - n, draw(st.integers(0, 2)))
                   for n, k, d in zip(size, kernel, dilation, strict=True))  # fmt: skip
    weight = random(
        groups * draw(st.integers(1, 3)),
        draw(st.integers(1, 2)),
        *kernel,
        seed=draw(st.integers(0, 99)),
    )
    return weight, geometry(weight, size, each(1, 3), mode, dilation, groups, amount)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(layers())
def test_products_squares_and_bound_agree_with_the_dense_matrix(layer):
    weight, shape = layer
    matrix, operator = (
        torch.block_diag(*dense_blocks(weight, shape)),
        convolution_map(weight, shape),
    )
    assert (operator.rows, operator.columns) == matrix.shape
    assert torch.allclose(
        operator.apply(torch.eye(operator.columns, dtype=torch.float64)), matrix.T, atol=1e-12
    )
    assert torch.allclose(
        operator.adjoint(torch.eye(operator.rows, dtype=torch.float64)), matrix, atol=1e-12
    )
    assert sum_of_squares(weight, shape) == pytest.approx(
        float(matrix.square().sum()), rel=1e-12, abs=1e-12
    )
    assert largest_bound(weight, shape) >= float(torch.linalg.matrix_norm(matrix, 2)) * (1 - 1e-12)


def test_the_bound_is_close_for_zero_padding_where_the_circular_operator_is_no_bound():
    kernel = torch.tensor([-1.0, 2, -1]).view(1, 1, 3)
    shape = geometry(kernel, 3, padding="zeros")
    exact = spectra.singular_values(kernel, 3, padding="zeros")[0].item()  # 3.414
    assert spectra.singular_values(kernel, 3)[0] < exact < largest_bound(kernel, shape) <= 4
    weight = random(4, 4, 3, 3)
    shape = geometry(weight, 14, padding="zeros")
    assert (
        largest_bound(weight, shape)
        < 1.03 * spectra.singular_values(weight, 14, padding="zeros")[0]
    )


@pytest.mark.parametrize("rows,columns,rank", [(30, 20, 20), (20, 20, 20), (25, 20, 8)])
def test_quadrature_brackets_the_mean_product_at_every_step_and_ends_exact(rows, columns, rank):
    matrix = random(rows, rank) @ random(rank, columns, seed=1)
    start = random(3, columns, seed=2)
    process = Bidiagonalization(matrix_map(matrix), start)
    _, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    weights = (start @ vh.T).square() / start.square().sum(1, keepdim=True)
    exact = (weights * sigma).sum(1)
    for _ in range(columns):
        process.extend(1)
        upper, lower = (
            (w * t).sum(1) for t, w in (gauss(process.bidiagonal()), radau(process.bidiagonal()))
        )
        assert (lower <= exact + 1e-6).all()
        assert (exact <= upper + 1e-6).all()
    assert torch.allclose(upper, exact, atol=1e-6)
    assert torch.allclose(lower, exact, atol=1e-6)
    squares = (gauss(process.bidiagonal())[1] * gauss(process.bidiagonal())[0] ** 2).sum(1)
    assert torch.allclose(squares, (weights * sigma**2).sum(1))


def test_an_exhausted_krylov_space_keeps_its_rule():
    process = Bidiagonalization(
        matrix_map(3 * torch.eye(5, dtype=torch.float64)), random(2, 5)
    ).extend(4)
    theta, weight = gauss(process.bidiagonal())
    assert torch.allclose((weight * theta).sum(1), torch.tensor(3.0, dtype=torch.float64))


def test_quantile_bounds_hold_for_the_measure_they_are_read_off():
    sigma = random(200).abs()
    start = random(1, 200, seed=3)
    process = Bidiagonalization(matrix_map(torch.diag(sigma)), start).extend(12)
    lower, upper = quantile_bounds(gauss(process.bidiagonal()), float(sigma.max()))
    ordered, order = sigma.sort()
    cumulated = (start[0].square() / start.square().sum())[order].cumsum(0)
    levels = torch.linspace(0, 1, 201, dtype=torch.float64)[1:-1]
    exact = ordered[torch.searchsorted(cumulated, levels)].numpy()
    assert (lower[1:-1] <= exact + 1e-9).all()
    assert (exact <= upper[1:-1] + 1e-9).all()
    assert np.median(upper - lower) < 0.4 * float(sigma.max())


@pytest.mark.parametrize(
    "stride,mode", [(1, "zeros"), (2, "zeros"), (1, "reflect"), (1, "replicate"), (2, "circular")]
)
def test_estimates_hold_the_exact_statistics(stride, mode):
    weight = random(8, 6, 3, 3, seed=4)
    exact = spectra.statistics(spectra.singular_values(weight, 13, stride, mode))
    estimated = spectra.estimate(weight, 13, stride, mode, seed=0, confidence=0.999)
    assert estimated.count == exact["count"]
    for name, (value, low, high) in estimated.values.items():
        assert low <= value <= high, name
        assert low * (1 - 1e-5) <= exact[name] <= high * (1 + 1e-5), name
    assert estimated.values["std"][0] == pytest.approx(exact["std"], rel=0.03)
    assert estimated.values["max"][0] == pytest.approx(exact["max"], rel=0.01)
    assert estimated.bracket <= estimated.monte_carlo / 4
    assert (estimated.quantile_bounds[0] <= estimated.quantiles).all()


def test_equal_singular_values_have_no_spread_to_estimate():
    identity = torch.zeros(4, 4, 3, 3)
    identity[range(4), range(4), 1, 1] = 2.0
    estimated = spectra.estimate(identity, 9)
    assert estimated.values["mean"] == pytest.approx((2, 2, 2), rel=1e-6)
    assert estimated.values["std"] == pytest.approx((0, 0, 0), abs=1e-5)
    assert estimated.values["effective_rank"] == pytest.approx((1, 1, 1), abs=1e-6)


def test_a_concentrated_spectrum_is_measured_through_its_spread():
    """std from Σσ²/N − mean² would err by a third here."""
    weight = 0.01 * random(8, 8, 3, 3)
    weight[:, :, 1, 1] += torch.linalg.qr(random(8, 8, seed=1)).Q
    exact = spectra.statistics(spectra.singular_values(weight, 12, padding="zeros"))
    estimated = spectra.estimate(weight, 12)
    assert exact["std_over_mean"] < 0.08
    assert estimated.values["std"][0] == pytest.approx(exact["std"], rel=0.03)


def test_only_the_seed_decides():
    weight, random_state = random(4, 4, 3, 3), torch.get_rng_state()
    one, same, other = (spectra.estimate(weight, 10, seed=seed).values["std"] for seed in (1, 1, 2))
    assert one == same != other
    assert torch.equal(random_state, torch.get_rng_state())


def test_batches_that_memory_splits_give_the_same_estimate(monkeypatch):
    weight = random(4, 4, 3, 3)
    whole = spectra.estimate(weight, 10, probes=9, dtype=torch.float64, tolerance=1.0)
    monkeypatch.setattr("arlib.spectra.stochastic.BUFFER_BYTES", 1)
    split = spectra.estimate(weight, 10, probes=9, dtype=torch.float64, tolerance=1.0)
    assert split.steps == whole.steps
    assert split.values["std"] == pytest.approx(whole.values["std"], rel=1e-9)


def test_probe_by_probe_gives_the_same_estimate():
    """Where the vectors of five probes do not fit; the first ones begin anew with more steps."""
    weight = random(4, 4, 3, 3)
    options = {"probes": 9, "dtype": torch.float64, "tolerance": 1e-3}
    whole = spectra.estimate(weight, 10, **options)
    alone = spectra.estimate(weight, 10, memory=2**18, **options)
    assert alone.steps == whole.steps == 12
    for name, value in whole.values.items():
        assert alone.values[name] == pytest.approx(value, rel=1e-8), name


def test_where_memory_ends_the_steps_the_interval_is_wider_and_still_holds():
    weight, options = random(8, 6, 3, 3, seed=4), {"confidence": 0.999, "probes": 200}
    exact = spectra.statistics(spectra.singular_values(weight, 13, padding="zeros"))
    step = 4 * (8 + 6) * 13**2
    few = spectra.estimate(weight, 13, memory=20 * step, **options)
    many = spectra.estimate(weight, 13, **options)
    assert few.steps == 12 < many.steps and few.bracket > many.bracket
    for name in ("mean", "std", "std_over_mean", "effective_rank"):
        _, low, high = few.values[name]
        assert low <= exact[name] <= high, name


@pytest.mark.slow
def test_memory_is_bounded():
    """The vectors of a step of one probe take 8 MiB, those of ten probes and 12 steps 960."""
    sigma = torch.linspace(0.5, 1, 2**20)
    diagonal = LinearMap(2**20, 2**20, lambda x: x * sigma, lambda x: x * sigma, torch.float32)
    squares, options = float(sigma.square().sum()), {"probes": 8, "max_steps": 12}
    estimate = estimate_map(diagonal, squares, memory=2**27 + 2**25, **options)
    assert estimate.values["mean"][0] == pytest.approx(0.75, rel=1e-3)
    taken = peak(lambda: estimate_map(diagonal, squares, memory=2**27 + 2**25, **options))
    assert math.isnan(taken) or 80 < taken < 1.25 * 160


def test_a_layer_too_large_for_memory_is_refused_by_name(monkeypatch):
    monkeypatch.setattr("arlib.spectra.model.DENSE_WORK", 1)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1))
    message = r"Layer 0: .* 192 × 128 needs at least .* GiB .*Raise memory.* sizes=\{'0': None\}"
    with pytest.raises(InputError, match=message):
        spectra.of(model, (2, 8, 8), "as-built", memory=2**10)


def test_as_built_uses_lanczos_where_the_matrix_is_large(monkeypatch):
    monkeypatch.setattr("arlib.spectra.model.DENSE_WORK", 2**25)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, padding_mode="reflect")
    )
    frame = spectra.of(model, (1, 10, 10), "as-built")
    assert frame.method.tolist() == ["dense", "lanczos"]
    exact = spectra.statistics(spectra.singular_values(model[1].weight, 10, padding="reflect"))
    assert frame.std_low[1] <= exact["std"] <= frame.std_high[1]
    assert frame.std_low[0] == frame["std"][0] == frame.std_high[0]
    assert frame.max_low[1] <= exact["max"] * (1 + 1e-6) <= frame.max_high[1]
    assert list(frame.attrs["quantile_bounds"]) == ["1"]
    assert frame.attrs["quantiles"]["1"].shape == (201,)


@pytest.mark.parametrize(
    "options,message",
    [
        ({"probes": 4}, "at least 8"),
        ({"padding": "same"}, "padding is 'same'"),
        ({"size": -1}, "size"),
    ],
)
def test_bad_input_is_named(options, message):
    with pytest.raises(InputError, match=message):
        spectra.estimate(**({"weight": random(2, 2, 3, 3), "size": 8} | options))


def test_a_map_without_spectrum_is_refused():
    with pytest.raises(InputError, match="Σσ² is 0"):
        estimate_map(matrix_map(torch.zeros(9, 9, dtype=torch.float64)), 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square", "tall", "strided", "near-orthogonal", "rank-deficient"])
def test_intervals_cover(name):
    """A smaller version of benchmarks/spectra_coverage.py: 100 fixed probe sets;
    88 is 3 sd below 95.
    """
    path = Path(__file__).parents[1] / "benchmarks" / "spectra_coverage.py"
    spec = importlib.util.spec_from_file_location("spectra_coverage", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    result = benchmark.coverage(name, 100, probes=8)
    for key in benchmark.STATISTICS:
        assert result[f"holds {key}"] >= 0.88
    assert result["width / exact quadrature"] <= 1.5
    assert math.isfinite(result["half-width of std"])
