"""Exact singular values against matrices built index by index,
real convolutions and known answers.
"""

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from arlib import spectra
from arlib.errors import InputError
from arlib.spectra.blocks import gram, in_threads
from arlib.spectra.conv import dense_blocks
from arlib.spectra.geometry import geometry
from arlib.spectra.grams import Correlations, worthwhile
from arlib.spectra.symbol import Symbol
from arlib.spectra.together import each_cyclic

KERNEL = torch.tensor([[2.0, 7, -1], [1, 3, -8], [5, -3, 1]]).view(1, 1, 3, 3)
CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


def read(position, n, mode):
    """The input row under a padded position, or None for a zero: written apart from the library."""
    if 0 <= position < n:
        return position
    if mode == "circular":
        return position % n
    if mode == "replicate":
        return 0 if position < 0 else n - 1
    if mode == "reflect":
        return -position if position < 0 else 2 * (n - 1) - position
    return None


def looped_matrix(weight, size, out, stride, dilation, low, groups, mode):
    """The operator's matrix, entry by entry."""
    c_out, per_group, *kernel = weight.shape
    matrix = np.zeros((c_out, *out, per_group * groups, *size))
    for o, c, position, tap in itertools.product(
        range(c_out),
        range(per_group),
        itertools.product(*map(range, out)),
        itertools.product(*map(range, kernel)),
    ):
        inputs = [
            read(s * i + d * a - p, n, mode)
            for i, a, s, d, p, n in zip(position, tap, stride, dilation, low, size, strict=True)
        ]
        if None not in inputs:
            channel = o // (c_out // groups) * per_group + c
            matrix[(o, *position, channel, *inputs)] += weight[(o, c, *tap)].item()
    return matrix.reshape(c_out * math.prod(out), -1)


def close(values, matrix, tolerance=1e-10):
    expected = np.linalg.svd(matrix, compute_uv=False)
    assert len(values) == min(matrix.shape)
    assert np.abs(values.double().numpy() - expected).max() <= tolerance * max(expected[0], 1e-300)


@st.composite
def circular_layers(draw):
    """Any circular convolution small enough for the loops:
    wrap-around, n odd, even and 1, stride or not.
    """
    dims = draw(st.sampled_from([1, 2, 2, 2, 3]))
    most = {1: 9, 2: 6, 3: 3}[dims]

    def each(low, high):
        return tuple(draw(st.integers(low, high)) for _ in range(dims))

    groups = draw(st.sampled_from([1, 1, 2, 3]))
    shape = (
        groups * draw(st.integers(1, 3)),
        draw(st.integers(1, 3)),
        *each(1, {1: 5, 2: 4, 3: 2}[dims]),
    )
    weight = torch.randn(
        shape,
        generator=torch.Generator().manual_seed(draw(st.integers(0, 99))),
        dtype=torch.float64,
    )
    return weight, each(1, most), each(1, 3), each(1, 3), groups


@pytest.mark.slow
@settings(max_examples=80, deadline=None, derandomize=True)
@given(circular_layers())
def test_circular_equals_the_looped_matrix(layer):
    weight, size, stride, dilation, groups = layer
    out = tuple(math.ceil(n / s) for n, s in zip(size, stride, strict=True))
    matrix = looped_matrix(
        weight, size, out, stride, dilation, (0,) * len(size), groups, "circular"
    )
    close(spectra.singular_values(weight, size, stride, "circular", dilation, groups), matrix)
    close(
        spectra.singular_values(
            weight, size, stride, "circular", dilation, groups, dtype=torch.float32
        ),
        matrix,
        1e-5,
    )


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    circular_layers(),
    st.sampled_from(["zeros", "reflect", "replicate", "valid"]),
    st.integers(0, 2),
)
def test_other_paddings_equal_the_looped_matrix(layer, mode, amount):
    weight, size, stride, dilation, groups = layer
    size = tuple(n + 3 for n in size)[: len(size)]
    amount = 0 if mode == "valid" else amount
    dims = zip(size, weight.shape[2:], stride, dilation, strict=True)
    out = tuple((n + 2 * amount - d * (k - 1) - 1) // s + 1 for n, k, s, d in dims)
    if min(out) < 1 or math.prod(size) > 64:
        return
    matrix = looped_matrix(weight, size, out, stride, dilation, (amount,) * len(size), groups, mode)
    close(
        spectra.singular_values(weight, size, stride, mode, dilation, groups, amount=amount), matrix
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("mode", ["circular", "zeros", "reflect", "replicate", "valid"])
@pytest.mark.parametrize("stride,dilation,groups", [(1, 1, 1), (2, 1, 1), (2, 2, 2), (1, 2, 4)])
def test_dense_matrix_is_what_torch_computes(dims, mode, stride, dilation, groups):
    generator = torch.Generator().manual_seed(dims)
    weight = torch.randn((8, 4 // groups, *(3,) * dims), generator=generator, dtype=torch.float64)
    x = torch.randn((1, 4, *(6, 5, 7)[:dims]), generator=generator, dtype=torch.float64)
    low = 0 if mode == "valid" else dilation
    padded = F.pad(
        x, (low,) * 2 * dims, mode={"zeros": "constant", "valid": "constant"}.get(mode, mode)
    )
    expected = CONV[dims](padded, weight, stride=stride, dilation=dilation, groups=groups)
    shape = geometry(weight, x.shape[2:], stride, mode, dilation, groups)
    assert shape.out == expected.shape[2:]
    matrix = torch.block_diag(*dense_blocks(weight, shape))
    assert torch.allclose((matrix @ x.flatten()).view_as(expected), expected)


def test_known_answer():
    sigma = spectra.singular_values(KERNEL, 20)
    assert sigma.shape == (400,)
    assert (sigma.diff() <= 0).all()
    assert sigma[0].item() == pytest.approx(22.9122134817, abs=1e-9)
    assert sigma.quantile(0.5).item() == pytest.approx(11.3440603722, abs=1e-9)
    assert sigma[-1].item() == pytest.approx(0.1548414175, abs=1e-9)
    assert sigma.square().sum().item() == pytest.approx(65200, abs=1e-7)


def test_a_stride_that_does_not_divide_the_map_is_not_rounded():
    weight = torch.randn(
        4, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    matrix = looped_matrix(weight, (7, 7), (4, 4), (2, 2), (1, 1), (1, 1), 1, "circular")
    values = spectra.singular_values(weight, 7, stride=2)
    close(values, matrix)
    for n in (6, 8):
        assert abs(spectra.singular_values(weight, n, stride=2).std() - values.std()) > 0.05


def test_taps_are_wrapped_not_cropped():
    weight = torch.randn(
        2, 2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    squares = spectra.singular_values(weight, 8, dilation=8).square().sum()
    # every tap reads one pixel
    assert squares == pytest.approx(64 * weight.sum((2, 3)).square().sum().item())
    cropped = torch.linalg.svdvals(torch.fft.fft2(weight, (2, 2)).permute(2, 3, 0, 1)).flatten()
    assert (
        spectra.singular_values(weight, 2) - cropped.sort(descending=True).values
    ).abs().max() > 0.1


def test_circular_largest_value_does_not_bound_zero_padding():
    kernel = torch.tensor([-1.0, 2, -1]).view(1, 1, 3)
    assert spectra.singular_values(kernel, 3)[0].item() == pytest.approx(3.0)
    assert spectra.singular_values(kernel, 3, padding="zeros")[0].item() == pytest.approx(
        2 + math.sqrt(2)
    )
    assert spectra.singular_values(kernel, 3, padding=1)[0].item() == pytest.approx(
        2 + math.sqrt(2)
    )


def test_counts_keep_the_zeros():
    assert len(spectra.singular_values(torch.ones(8, 2, 1, 1), 4)) == 2 * 16
    # 6 outputs, 2·4 input phases
    strided = spectra.singular_values(torch.ones(6, 2, 1, 1), 4, stride=2)
    assert len(strided) == 6 * 4
    assert (strided > 1e-9).sum() == 4


def test_depthwise_and_linear_and_identity():
    depthwise = torch.tensor([2.0, 3.0]).view(2, 1, 1, 1)
    assert spectra.singular_values(depthwise, 3, groups=2).tolist() == [3.0] * 9 + [2.0] * 9
    matrix = torch.diag(torch.tensor([3.0, 1.0, 2.0]))
    assert spectra.singular_values(matrix).tolist() == pytest.approx([3, 2, 1])


def test_weight_is_left_alone_and_dtype_is_given():
    weight = torch.randn(2, 2, 3, 3, requires_grad=True)
    before = weight.detach().clone()
    values = spectra.singular_values(weight.half(), 4)
    assert values.dtype == torch.float64
    assert not values.requires_grad
    assert torch.equal(weight, before)


@pytest.mark.parametrize(
    "change,message",
    [
        ({"weight": torch.full((1, 1, 3, 3), math.nan)}, "NaN"),
        ({"weight": torch.ones(1, 1, 3, 3, dtype=torch.complex64)}, "complex64"),
        ({"weight": torch.ones(1, 1, 3, 3, dtype=torch.int8)}, "int8"),
        ({"weight": torch.ones(2, 0, 3, 3)}, "none of them 0"),
        ({"padding": "circlar"}, "Did you mean 'circular'"),
        ({"size": (4, 4, 4)}, "2 of them"),
        ({"size": None}, "size is None"),
        ({"size": 4.0}, "size is 4.0"),
        ({"stride": 0}, "stride is 0"),
        ({"groups": 2}, "groups is 2"),
        ({"size": 2, "padding": "valid"}, "does not fit"),
        ({"size": 2, "padding": "reflect", "amount": 2}, "larger"),
        ({"size": 512, "padding": "zeros"}, "262144 × 262144"),
        ({"dtype": torch.float16}, "float16"),
    ],
)
def test_bad_input_is_named(change, message):
    with pytest.raises(InputError, match=message):
        spectra.singular_values(**({"weight": KERNEL, "size": 8} | change))


@pytest.mark.parametrize("small", [0.0, 1e-9, 1e-6, 1e-3])
def test_gram_eigenvalues_do_not_blur_small_singular_values(small):
    """A matrix times one 3×3 stencil:
    its singular values times the stencil's symbol, at every frequency.
    """
    generator = torch.Generator().manual_seed(0)
    u, v = (
        torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64)).Q
        for _ in range(2)
    )
    sigma = torch.linspace(1, 2, 12, dtype=torch.float64)
    sigma[0] = small
    stencil = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    exact = (
        torch.outer(torch.fft.fft2(stencil, (8, 8)).abs().flatten(), sigma)
        .flatten()
        .sort(descending=True)
        .values
    )
    weight = torch.einsum("or,r,ri,ab->oiab", u, sigma, v, stencil)
    assert worthwhile(Symbol(weight, geometry(weight, 8)))
    values = spectra.singular_values(weight, 8)
    assert (values - exact).abs().max() <= 1e-10 * exact[0]
    assert (values.square() - exact.square()).abs().max() <= 1e-12 * exact[0] ** 2


@pytest.mark.parametrize(
    "shape,size,stride,dilation,groups",
    [
        ((5, 7, 3, 3), (8, 9), 1, 1, 1),
        ((7, 5, 3, 2), 6, 1, 1, 1),
        ((4, 3, 3, 3), 8, 2, 1, 1),
        ((6, 2, 5), 9, 1, 2, 3),
        ((3, 4, 3, 3), 2, 1, 1, 1),
        ((4, 4, 2, 3, 2), (3, 4, 5), 1, 1, 1),
        ((3, 3, 4, 4), 6, (2, 3), 3, 1),
    ],
)
def test_grams_from_correlations_are_grams_of_blocks(shape, size, stride, dilation, groups):
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    symbol = Symbol(weight, geometry(weight, size, stride, dilation=dilation, groups=groups))
    result, expected = (
        Correlations(symbol).grams(symbol.frequencies),
        gram(symbol.blocks(symbol.frequencies)),
    )
    nearest = min((result - expected).abs().max(), (result - expected.conj()).abs().max())
    assert nearest < 1e-12 * expected.abs().max()


def test_many_layers_are_each_what_they_are_alone(monkeypatch):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    layers = [
        (random(4, 3, 3, 3), 8, 1),
        (random(2, 2, 1, 1), 4, 1),
        (random(4, 3, 3, 3), 8, 2),
        *((random(4, 3, 3, 3), 8, 1) for _ in range(5)),
        (random(4, 3, 3, 3).float(), 8, 1),
    ]
    given = [(weight, geometry(weight, size, stride)) for weight, size, stride in layers]
    alone = [spectra.singular_values(*layer, dtype=layer[0].dtype) for layer in layers]
    for most in (1, 10**5, 10**9):
        monkeypatch.setattr("arlib.spectra.together.STACK_BYTES", most)
        result = each_cyclic(given, lambda values: (values, len(values)))
        for (values, count), expected in zip(result, alone, strict=True):
            assert count == len(expected) and values.dtype == expected.dtype
            assert torch.allclose(
                values, expected, rtol=0, atol=1e-12 if values.dtype == torch.float64 else 1e-5
            )


def test_threads_do_not_change_the_values_and_are_given_back():
    weight, threads = (
        torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0)),
        torch.get_num_threads(),
    )
    one = spectra.singular_values(weight, 9)
    try:
        torch.set_num_threads(3)
        three = spectra.singular_values(weight, 9)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
    assert (one - three).abs().max() < 1e-12


def test_threads_work_alone_and_the_number_is_given_back_after_an_error():
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert in_threads(lambda _: torch.get_num_threads(), range(8)) == [1] * 8
        with pytest.raises(ZeroDivisionError):
            in_threads(lambda n: 1 / n, range(8))
        assert torch.get_num_threads() == 3
        assert in_threads(lambda n: n, [1]) == [1] and in_threads(lambda n: n, []) == []
    finally:
        torch.set_num_threads(threads)


def test_frequencies_in_chunks(monkeypatch):
    weight = torch.randn(4, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    whole = spectra.singular_values(weight, (6, 9))
    monkeypatch.setattr("arlib.spectra.symbol.CHUNK_BYTES", 1)
    assert (spectra.singular_values(weight, (6, 9)) - whole).abs().max() < 1e-12
