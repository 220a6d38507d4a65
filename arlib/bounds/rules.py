"""By how much one step of a network can stretch distances, in the Euclidean norm.

Every rule gives an upper bound of the Lipschitz constant of the step for images of the size that is
passed through, in eval mode. A step without a rule is refused by name: an unknown step would make
the whole chain prove nothing.
"""

import math
import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib.engine.folding import BATCHNORMS
from arlib.errors import InputError
from arlib.spectra.geometry import geometry
from arlib.spectra.squares import largest_bound

# Eigenvalues are computed in float64: their rounding must not make a bound too small.
ROUNDING = 1 + 1e-9

# Steps that move no two inputs further apart.
CALM_MODULES = (
    nn.Identity,
    nn.ReLU,
    nn.ReLU6,
    nn.Hardtanh,
    nn.Tanh,
    nn.Softplus,
    nn.Flatten,
    nn.Unflatten,
    nn.Dropout,
    nn.Dropout2d,
)
CALM_FUNCTIONS = (
    F.relu,
    torch.relu,
    torch.relu_,
    F.relu6,
    F.hardtanh,
    torch.tanh,
    F.softplus,
    torch.flatten,
    torch.clamp,
    F.dropout,
)
CALM_METHODS = (
    "relu",
    "relu_",
    "tanh",
    "clamp",
    "flatten",
    "view",
    "reshape",
    "contiguous",
    "permute",
    "transpose",
    "squeeze",
    "unsqueeze",
    "double",
    "float",
    "to",
)
# Steps that write their result over their first argument.
IN_PLACE = (operator.iadd, operator.isub, operator.imul, operator.itruediv)
ADDING = (operator.add, operator.iadd, torch.add, operator.sub, operator.isub, torch.sub)
ADDING_METHODS = ("add", "add_", "sub", "sub_")
SCALING = (operator.mul, operator.imul, torch.mul)
DIVIDING = (operator.truediv, operator.itruediv, torch.div)


def matrix(weight: Tensor) -> float:
    """σ_max of a matrix (out, in)."""
    return float(torch.linalg.matrix_norm(weight.detach().double(), 2)) * ROUNDING


def convolution(weight: Tensor, shape) -> float:
    """σ_max of a convolution of geometry `shape`, from above (see `spectra.squares`)."""
    return largest_bound(weight.detach().double(), shape) * ROUNDING


def of_module(module: nn.Module, x: Tensor) -> float | None:
    """Stretch of a module that has no weight matrix, at inputs of x's shape; None: no rule."""
    if isinstance(module, BATCHNORMS):
        return _batchnorm(module)
    if isinstance(module, nn.LeakyReLU):
        return max(1.0, abs(module.negative_slope))
    if isinstance(module, nn.ELU):
        return max(1.0, module.alpha)
    if isinstance(module, nn.Sigmoid):
        return 0.25
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        return _average(
            x,
            module.kernel_size,
            module.stride,
            module.padding,
            module.ceil_mode,
            module.count_include_pad,
            getattr(module, "divisor_override", None),
        )
    if isinstance(module, nn.MaxPool1d | nn.MaxPool2d | nn.MaxPool3d):
        return _maximum(x, module.kernel_size, module.stride, module.dilation)
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
        return _adaptive(x, module.output_size)
    return 1.0 if isinstance(module, CALM_MODULES) else None


def of_call(function: Callable | str, x: Tensor, y: object, args: tuple, kwargs: dict):
    """Stretch of a function, or of a tensor's method by its name, from x to y; None: no rule."""
    if function in CALM_FUNCTIONS or function in CALM_METHODS:
        return 1.0
    if function is operator.getitem:
        return 1.0 if _is_slice(args[1]) else None
    if function is F.pad:
        mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
        return 1.0 if mode == "constant" else None
    if function in (torch.mean, "mean"):
        # the mean of n numbers: each has weight 1/n, and n of them move together by √n
        return math.sqrt(y.numel() / x.numel())
    if function is F.adaptive_avg_pool2d:
        return _adaptive(x, args[1] if len(args) > 1 else kwargs["output_size"])
    if function is F.avg_pool2d:
        usual = {
            "kernel_size": None,
            "stride": None,
            "padding": 0,
            "ceil_mode": False,
            "count_include_pad": True,
            "divisor_override": None,
        }
        given = usual | dict(zip(usual, args[1:], strict=False)) | kwargs
        return _average(x, *(given[name] for name in usual))
    if function is F.max_pool2d:
        names = ("kernel_size", "stride", "padding", "dilation")
        given = dict(zip(names, args[1:], strict=False)) | kwargs
        return _maximum(x, given["kernel_size"], given.get("stride"), given.get("dilation", 1))
    return None


def copies(x: Tensor, y: Tensor) -> float:
    """Stretch of broadcasting x to the size of y: each entry moves so many copies of itself."""
    return math.sqrt(max(1.0, y.numel() / x.numel()))


def scaled_by(factor: object, divided: bool) -> float:
    """Stretch of a product with a constant, or of a quotient by one."""
    size = torch.as_tensor(factor, dtype=torch.float64).abs()
    return float(1 / size.min()) if divided else float(size.max())


def _batchnorm(module: nn.Module) -> float | None:
    """max |γ| / √(var + eps): in eval mode each channel is scaled by itself."""
    if module.running_var is None:
        return None
    gain = 1 / (module.running_var.double() + module.eps).sqrt()
    gain = gain if module.weight is None else gain * module.weight.detach().double().abs()
    return float(gain.max())


def _average(
    x: Tensor, kernel, stride, padding, ceil_mode: bool, padding_counts: bool, divisor: int | None
) -> float:
    """Of an average pool: the convolution of one channel with 1/k everywhere."""
    padded = padding != 0 and any(v for v in (padding if isinstance(padding, tuple) else (1,)))
    if ceil_mode or divisor or (padded and not padding_counts):
        raise InputError(
            "An average pool has ceil_mode, divisor_override or count_include_pad=False; its "
            "windows are not all alike, and there is no rule for it."
        )
    dims = x.ndim - 2
    kernel = (kernel,) * dims if isinstance(kernel, int) else tuple(kernel)
    weight = torch.full((1, 1, *kernel), 1 / math.prod(kernel), dtype=torch.float64)
    return convolution(weight, geometry(weight, tuple(x.shape[2:]), stride or kernel, padding))


def _adaptive(x: Tensor, output) -> float | None:
    """Of an adaptive average pool whose windows do not overlap."""
    sizes = x.shape[2:]
    output = (output,) * len(sizes) if isinstance(output, int) else tuple(output)
    wanted = [n if o is None else o for n, o in zip(sizes, output, strict=True)]
    if any(n % o for n, o in zip(sizes, wanted, strict=True)):
        return None
    return math.sqrt(math.prod(wanted) / math.prod(sizes))


def _maximum(x: Tensor, kernel, stride, dilation) -> float:
    """Of a max pool: a pixel is read by so many windows, and each output follows one pixel."""
    dims = x.ndim - 2
    each = [(v,) * dims if isinstance(v, int) else tuple(v) for v in (kernel, dilation)]
    strides = each[0] if stride is None else (stride,) * dims if isinstance(stride, int) else stride
    windows = (
        k if d > 1 else math.ceil(k / s) for k, d, s in zip(*each, tuple(strides), strict=True)
    )
    return math.sqrt(math.prod(windows))


def _is_slice(index: object) -> bool:
    """Whether an index reads no entry twice."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is Ellipsis or isinstance(part, slice | int) for part in parts)
