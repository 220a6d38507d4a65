"""Singular values of composed maps: a block, a branch or a whole network at given inputs.

A network with ReLUs is a different linear map at each input, its Jacobian; products with it and its
transpose cost one or two reverse-mode passes for a whole batch of inputs. What is linear
already (a convolution with its batch norm, a block less its activations) has the same Jacobian
everywhere, so the same function measures composite operators: give any x.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pandas as pd
import torch
from torch import fx, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from arlib import engine
from arlib.errors import InputError
from arlib.spectra.lanczos import Bidiagonalization, gauss
from arlib.spectra.operator import LinearMap
from arlib.spectra.spread import t_half_width
from arlib.spectra.summary import NAMES, statistics

ACTIVATIONS = (
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.PReLU,
    nn.ELU,
    nn.CELU,
    nn.SELU,
    nn.GELU,
    nn.SiLU,
    nn.Mish,
    nn.Softplus,
    nn.Softsign,
    nn.Sigmoid,
    nn.Tanh,
    nn.Hardswish,
    nn.Hardsigmoid,
    nn.Hardtanh,
    nn.Hardshrink,
    nn.Softshrink,
    nn.Tanhshrink,
    nn.LogSigmoid,
    nn.modules.dropout._DropoutNd,
)
_METHODS = ("relu", "sigmoid", "tanh")
_NAMES = (
    "relu",
    "relu_",
    "relu6",
    "leaky_relu",
    "leaky_relu_",
    "prelu",
    "elu",
    "elu_",
    "celu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
    "softsign",
    "sigmoid",
    "tanh",
    "hardswish",
    "hardsigmoid",
    "hardtanh",
    "hardshrink",
    "softshrink",
    "tanhshrink",
    "logsigmoid",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
)
_FUNCTIONS = {
    getattr(place, name)
    for place in (torch, nn.functional)
    for name in _NAMES
    if callable(getattr(place, name, None))
}
COLUMNS = (
    "input",
    "rows",
    "columns",
    "method",
    "sum_of_squares",
    "sum_of_squares_low",
    "sum_of_squares_high",
    *NAMES,
)


@torch.inference_mode(False)
def jacobian(
    function: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    *,
    exact_limit: int = 1024,
    steps: int = 30,
    probes: int = 8,
    seed: int = 0,
) -> pd.DataFrame:
    """Singular values of the Jacobian of a function at each input: one row per input.

    Args:
        function: (b, *input) → (b, *output), each output depending on its own input only; a module
            is measured in eval mode and left as found.
        x: (b, *input), floating point; the computation is in its precision.
        exact_limit: up to this min(rows, columns) the matrix is formed and every statistic is
            exact.
        steps: of Golub–Kahan beyond it, which then gives max (a lower bound) and min (an upper
            bound).
        probes: random signs for the stochastic Σσ² with its 95 % t interval, at least 2.

    Columns: input, rows, columns, method ("exact" or "lanczos"), sum_of_squares with _low and _high
    (equal to it where exact), and the statistics of `statistics`, nan where only extremes are
    known.
    Raises `InputError` for inputs that are not floating point, or outputs that are no batch of b.
    """
    if not x.is_floating_point() or x.ndim < 2 or probes < 2:
        raise InputError(
            f"x is {x.dtype} of shape {tuple(x.shape)}, probes {probes}; needed: float (b, …) and "
            "≥ 2."
        )
    own = engine.dtype_of(function)
    x, _ = engine.images_and_labels(function, x.detach())
    x = x if own is None else x.to(own)
    with _measured(function):
        operator = jacobian_map(function, x)
        rows = (
            _exact(operator, len(x))
            if operator.count <= exact_limit
            else _extremes(operator, x, steps, probes, seed)
        )
    sizes = {"rows": operator.rows, "columns": operator.columns}
    return pd.DataFrame(
        [{"input": i, **sizes, **row} for i, row in enumerate(rows)], columns=list(COLUMNS)
    )


def jacobian_map(function: Callable, x: torch.Tensor) -> LinearMap:
    """The Jacobians at b inputs as one map of (b, columns) → (b, rows):
    row i of a batch meets Jacobian i.
    """
    # Attention is differentiated twice here, which only its plain form can be.
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        x = x.clone().requires_grad_()
        # of a copy: a function that writes over its input may not do so to a leaf
        y = function(x.clone())
        if (
            not isinstance(y, torch.Tensor)
            or y.shape[:1] != x.shape[:1]
            or not y.is_floating_point()
        ):
            raise InputError(
                f"The function's output must be one float tensor (b, …) with b = {len(x)}, as its "
                "input."
            )
        u = torch.zeros_like(y, requires_grad=True)
        if not y.requires_grad:
            raise InputError(
                "The function has no gradient to its input (no_grad, detach or numpy inside it)."
            )
        (pulled,) = torch.autograd.grad(y, x, u, create_graph=True, allow_unused=True)
        if pulled is None:  # Jᵀu, linear in u: its own gradient is J
            raise InputError(
                "The function has no gradient to its input (no_grad, detach or numpy inside it)."
            )

    def apply(v: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(pulled, u, v.view_as(x), retain_graph=True)[0].flatten(1)

    def adjoint(v: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(y, x, v.view_as(y), retain_graph=True)[0].flatten(1)

    return LinearMap(y[0].numel(), x[0].numel(), apply, adjoint, x.dtype, x.device)


def linearised(module: nn.Module) -> fx.GraphModule:
    """A copy of a module in eval mode without its activations and dropout:
    a block as one affine map.

    Its first input decides whether that is what came out: an activation that was overlooked would
    make every singular value wrong.

    Raises `InputError` where torch.fx cannot follow the module's control flow; and, when it is
    first run, for a copy that is not affine, naming what it still calls.
    """
    with engine.left_as_found(module):
        try:
            traced = fx.symbolic_trace(module.eval())
        except Exception as error:  # fx raises whatever the traced code raises on a symbolic value
            raise InputError(f"torch.fx cannot trace {type(module).__name__}: {error}") from error
        traced = copy.deepcopy(traced)
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        called = node.op == "call_module" and isinstance(modules[node.target], ACTIVATIONS)
        named = (node.op == "call_function" and node.target in _FUNCTIONS) or (
            node.op == "call_method" and node.target.rstrip("_") in _METHODS
        )
        if called or named:
            node.replace_all_uses_with(node.args[0])
            traced.graph.erase_node(node)
    traced.recompile()
    left = sorted({str(node.target) for node in traced.graph.nodes if node.op.startswith("call_")})
    _refuse_unless_affine(traced, type(module).__name__, left)
    return traced.eval()


def _refuse_unless_affine(traced: fx.GraphModule, name: str, left: list[str]) -> None:
    """Look at the first input given to it, once: f(x + h) − f(x) must be f(h) − f(0)."""

    def look(_, given: tuple) -> None:
        handle.remove()
        x = given[0].detach()
        h = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x) * (
            x.abs().amax() + 1
        )
        with torch.no_grad():
            moved, own = traced(x + h) - traced(x), traced(h) - traced(torch.zeros_like(x))
        if float((moved - own).abs().max()) > 1e-3 * float(own.abs().max()):
            raise InputError(
                f"{name} without its activations is still not affine: it calls {', '.join(left)}. "
                "Give a part of it, or spectra.jacobian of the module itself at given inputs."
            )

    handle = traced.register_forward_pre_hook(look)


@contextmanager
def _measured(function: Callable) -> Iterator[None]:
    """Eval mode while measuring, if the function is a module, which is left as it was found."""
    with engine.left_as_found(function):
        if isinstance(function, nn.Module) and not isinstance(function, engine.Prepared):
            function.eval()
        yield


def _exact(operator: LinearMap, inputs: int) -> list[dict]:
    """Every statistic of every input, from one product per row or column of the smaller side."""
    small = operator if operator.columns <= operator.rows else operator.transposed
    unit = torch.zeros(inputs, small.columns, dtype=operator.dtype, device=operator.device)
    images = []
    for index in range(small.columns):
        unit[:, index] = 1
        images.append(small.apply(unit).double())
        unit[:, index] = 0
    rows = []
    for matrix in torch.stack(images, 1):  # (smaller side, larger side) for each input
        squares = float(matrix.square().sum())
        ends = {
            "sum_of_squares": squares,
            "sum_of_squares_low": squares,
            "sum_of_squares_high": squares,
        }
        rows.append({"method": "exact"} | ends | statistics(torch.linalg.svdvals(matrix)))
    return rows


def _extremes(
    operator: LinearMap, x: torch.Tensor, steps: int, probes: int, seed: int
) -> list[dict]:
    small = operator if operator.columns <= operator.rows else operator.transposed
    generator = torch.Generator().manual_seed(seed)

    def signs() -> torch.Tensor:
        # ±1, not normal: of all probes with independent entries these scatter least
        bits = torch.randint(0, 2, (len(x), small.columns), generator=generator)
        return (2 * bits - 1).to(x)

    squares = (
        torch.stack([small.apply(signs()).double().square().sum(1) for _ in range(probes)], 1)
        .cpu()
        .numpy()
    )
    theta, weight = gauss(
        Bidiagonalization(small, signs()).extend(min(steps, small.columns)).bidiagonal()
    )
    rows = []
    for samples, t, w in zip(squares, theta, weight, strict=True):
        mean, half = float(samples.mean()), t_half_width(samples, 0.95)
        ends = {"sum_of_squares_low": max(mean - half, 0.0), "sum_of_squares_high": mean + half}
        # nodes without weight come from an exhausted Krylov space and are no singular values
        known = {"count": small.columns, "max": float(t.max()), "min": float(t[w > 1e-12].min())}
        rows.append(
            {"method": "lanczos", "sum_of_squares": mean}
            | ends
            | dict.fromkeys(NAMES, math.nan)
            | known
        )
    return rows
