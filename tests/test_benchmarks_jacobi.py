"""The Jacobi kernel finds the singular values that numpy and mpmath find; on a CPU through Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from arlib import models
from arlib.errors import InputError
from arlib.spectra.geometry import geometry
from arlib.spectra.symbol import Symbol
from benchmarks import jacobi, loops
from benchmarks import spectra as benchmark

ROOT = Path(__file__).parents[1]
needs_triton = pytest.mark.skipif(jacobi.triton is None, reason="Triton 3.3 is not installed")
INTERPRETED = """
import os, sys
os.environ["TRITON_INTERPRET"] = "1"  # read when the kernel is defined
import numpy as np, torch
from benchmarks import jacobi
torch.set_num_threads(1)
blocks, found = np.load(sys.argv[1]), {}
for name in blocks:
    jacobi.SWEEPS = 9 if name == "random" else 30
    found[name] = jacobi.jacobi_values(torch.from_numpy(blocks[name])).numpy()
    if name == "wide":
        found["adjoint"] = jacobi.jacobi_values(torch.from_numpy(blocks[name]).mH).numpy()
np.savez(sys.argv[2], **found)
"""
COMPILED = """
import sys, torch, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from benchmarks import jacobi
for count, length, dtype, pointer in ((64, 128, torch.float64, "*fp64"), (16, 16, torch.float32, "*fp32")):
    constants, options = jacobi._compiled_for(count, length, dtype)
    numbers = dict.fromkeys(("matrices", "count", "length", "per_vector", "per_element"), "i32")
    signature = {"parts": pointer, "values": pointer} | numbers | dict.fromkeys(constants, "constexpr")
    source = ASTSource(jacobi._values, signature, constants)
    print(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"])
"""


def run(script: str, folder: Path, *files: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TRITON_CACHE_DIR": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", script, *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interpreted(blocks: dict[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    np.savez(folder / "blocks.npz", **blocks)
    run(INTERPRETED, folder, folder / "blocks.npz", folder / "values.npz")
    with np.load(folder / "values.npz") as values:
        return dict(values)


def gaussian(*shape: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.normal(size=shape) + 1j * random.normal(size=shape)


def error(found: np.ndarray, blocks: np.ndarray) -> float:
    """max |σ̂ − σ| / σ_max of the worst block; also that shape and dtype are right, and the order descending."""
    exact = np.linalg.svd(blocks.astype(complex), compute_uv=False)
    assert found.shape == exact.shape and found.dtype == blocks.real.dtype
    assert (np.diff(found) <= 0).all()
    return float((np.abs(found - exact) / exact[..., :1]).max())


@pytest.fixture(scope="module")
def cases() -> dict[str, np.ndarray]:
    deficient = np.concatenate([gaussian(2, 8, 3) @ gaussian(2, 3, 8), gaussian(1, 8, 8, seed=1)])
    deficient[2, :, 4:] = deficient[2, :, :4]  # equal columns; and columns, or all but two rows, that are zero
    deficient[2, :, 1] = 0
    few_rows = gaussian(1, 8, 8, seed=2)
    few_rows[:, 2:] = 0
    apart = gaussian(6, 4, 4)
    apart[1] = 0
    apart[2, 3, 1], apart[3, 0, 0] = np.nan, np.inf
    apart[4] *= 1e200
    apart[5] *= 1e-200
    hidden = np.diag([4.0, 2, 3, 1])[None] + 0j  # the first two change places with others before they could meet
    hidden[0, 0, 1] = 1
    close = np.linalg.qr(gaussian(2, 4, 4))[0] + 1e-11 * gaussian(2, 4, 4, seed=1)
    scales = np.array([1e-4, 1, 1e-10, 1e-7, 1e-2])
    return {
        "random": gaussian(2, 16, 16), "wide": gaussian(2, 2, 3, 10), "tall": gaussian(3, 7, 5),
        "many": gaussian(33, 2, 2), "none": gaussian(0, 3, 3), "row": gaussian(3, 1, 4), "column": gaussian(4, 1),
        "graded": gaussian(2, 7, 5) * scales, "deficient": np.concatenate([deficient, few_rows]), "apart": apart,
        "hidden": hidden, "close": close, "single": gaussian(3, 8, 9).astype(np.complex64),
    }  # fmt: skip


@pytest.fixture(scope="module")
def found(cases, tmp_path_factory):
    return interpreted(cases, tmp_path_factory.mktemp("jacobi"))


@needs_triton
@pytest.mark.parametrize("name", ["random", "wide", "tall", "many", "row", "column", "deficient", "hidden", "close"])
def test_values_are_those_of_numpy(found, cases, name):
    assert error(found[name], cases[name]) < 2e-14  # "random" within nine sweeps: else vectors do not end up sorted


@needs_triton
def test_an_adjoint_that_is_only_a_view_has_the_same_values(found):
    assert np.abs(found["adjoint"] - found["wide"]).max() < 1e-13


@needs_triton
def test_single_precision_is_good_to_its_rounding(found, cases):
    assert error(found["single"], cases["single"]) < 3e-6


@needs_triton
def test_small_values_of_graded_columns_are_relatively_accurate(found, cases):
    with mpmath.workdps(40):
        for values, block in zip(found["graded"], cases["graded"], strict=True):
            exact = mpmath.svd_c(mpmath.matrix(block.tolist()), compute_uv=False)
            assert max(abs(float(value / right - 1)) for value, right in zip(values, exact, strict=True)) < 1e-13
            assert values[-1] < 1e-9 * values[0]


@needs_triton
def test_zero_nan_and_infinite_blocks_do_not_disturb_others(found, cases):
    values, blocks = found["apart"], cases["apart"]
    assert (values[1] == 0).all() and np.isnan(values[2:4]).all()
    assert error(values[[0, 4, 5]], blocks[[0, 4, 5]]) < 1e-14
    assert found["none"].shape == (0, 3)


@needs_triton
@pytest.mark.slow
def test_the_largest_number_of_vectors_and_an_odd_one(tmp_path):
    cases = {"most": gaussian(1, 64, 64), "odd": gaussian(1, 40, 35)}
    cases["ill"] = gaussian(1, 32, 2) @ gaussian(1, 2, 32) + 1e-6 * gaussian(1, 32, 32, seed=1)
    values = interpreted(cases, tmp_path)
    assert all(error(values[name], blocks) < 2e-14 for name, blocks in cases.items())


@needs_triton
@pytest.mark.slow
def test_it_compiles_for_a_gpu_where_none_is_and_partners_come_by_shuffles(tmp_path):
    code = run(COMPILED, tmp_path)
    assert code.count(".entry _values") == 2 and code.count(".maxnreg 128") == 2
    assert code.count("shfl.sync.idx") >= 2 * 2 * 2 * 8  # two kernels, steps and splits, real and imaginary, words


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 65, 65), torch.complex64), ((2, 3, 129), torch.complex128), ((0, 3), torch.complex64),
     ((4, 4), torch.float64), ((4,), torch.complex128)],
)  # fmt: skip
def test_what_it_cannot_take_is_refused(shape, dtype):
    with pytest.raises(InputError, match=f"blocks are .*{dtype}"):
        jacobi.jacobi_values(torch.zeros(shape, dtype=dtype))


@needs_triton
@pytest.mark.skipif(bool(os.environ.get("TRITON_INTERPRET")), reason="all kernels are interpreted here")
def test_without_a_gpu_or_triton_it_says_so(monkeypatch):
    with pytest.raises(loops.Missing, match="CUDA"):
        jacobi.jacobi_values(torch.zeros(2, 3, 3, dtype=torch.complex64))
    monkeypatch.setattr(jacobi, "triton", None)
    with pytest.raises(loops.Missing, match="not installed"):
        jacobi.jacobi_values(torch.zeros(2, 3, 3, dtype=torch.complex64))
    assert not benchmark.runs(benchmark.JACOBI, "cuda")


@needs_triton
def test_tables_of_gpus_have_three_methods_that_differ():
    everything = {*benchmark.FULL, *benchmark.ON_GPU}
    assert {label for label in everything if benchmark.runs(label, "cpu")} == set(benchmark.FULL)
    assert everything - {label for label in everything if benchmark.runs(label, "cuda")} == {benchmark.PUBLISHED}


@pytest.mark.parametrize(("channels", "taken"), [(4, True), (70, False)])
def test_layers_too_large_for_the_kernel_are_done_by_svd(monkeypatch, channels, taken):
    shapes = []

    def kernel(blocks):
        shapes.append(blocks.shape[-2:])
        return torch.linalg.svdvals(blocks)

    monkeypatch.setattr(jacobi, "jacobi_values", kernel)
    conv = (benchmark.kernel(channels, "cpu"), (3, 3), (1, 1))
    assert torch.allclose(benchmark.half_jacobi(*conv), benchmark.half(*conv))
    assert set(shapes) == ({(channels, channels)} if taken else set())


def test_on_the_cpu_is_ours():
    convs = [(benchmark.kernel(3, "cpu"), (4, 4), (1, 1)), (benchmark.kernel(2, "cpu"), (6, 4), (2, 2))]
    both = zip(benchmark.ours_on_cpu(convs, None, 4), benchmark.ours(convs, None, 4), strict=True)
    assert all(torch.equal(one, other) for one, other in both)


@pytest.mark.gpu
@needs_triton
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_on_a_gpu_it_finds_the_values_of_resnet56(dtype, most):
    torch.manual_seed(0)
    kinds = {(conv[0].shape, conv[1:]): conv for conv in benchmark.convolutions(models.resnet(56), 32, "cuda")}
    assert len(kinds) > 3
    for weight, size, stride in kinds.values():
        symbol = Symbol(weight.to(dtype), geometry(weight, size, stride))
        blocks = symbol.blocks(symbol.frequencies)
        exact = torch.linalg.svdvals(blocks.to("cpu", torch.complex128))
        errors = (jacobi.jacobi_values(blocks).cpu() - exact).abs().amax(-1) / exact[..., 0]
        assert errors.max() < most, (weight.shape, size, stride)


@pytest.mark.gpu
@needs_triton
def test_on_a_gpu_it_finds_what_the_interpreter_finds(found, cases):
    for name, blocks in cases.items():
        values = jacobi.jacobi_values(torch.from_numpy(blocks).cuda()).cpu().numpy()
        tolerance = 1e-5 if name == "single" else 1e-13
        assert np.allclose(values, found[name], rtol=tolerance, atol=tolerance, equal_nan=True), name
