"""The layers of a model that have a spectrum, and the map each of them sees.

Map sizes come from one forward pass on a zero image, so nothing is guessed from attributes. A layer
whose class has a forward of its own is read from what it calls there, and compared with that.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from arlib.errors import InputError
from arlib.spectra.calls import CONVOLVING, Call, Pass, listen
from arlib.spectra.conv import checked
from arlib.spectra.geometry import Geometry, _check_fits, _each

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SHORTCUTS = ("shortcut", "downsample", "skip", "proj_shortcut")


@dataclass(frozen=True)
class Layer:
    """One linear map of a model: its weight as a matrix (out, in)
    or a convolution (c_out, c_in/g, *kernel).

    A transposed convolution is the adjoint of a convolution on its output map, which has the same
    singular values: `weight` and `built` describe that convolution.
    """

    name: str
    kind: str
    weight: torch.Tensor
    built: Geometry | None = None
    """As the network has it; None for a matrix."""
    stem: bool = False

    @property
    def counted(self) -> bool:
        """Whether claims count it: kernels wider than 1,
        not the first convolution, not on a shortcut.
        """
        if self.built is None or max(self.built.kernel) == 1 or self.stem:
            return False
        return not any(word in self.name for word in SHORTCUTS)


def find(model: nn.Module, input_shape: tuple[int, ...], sizes: dict | None = None) -> list[Layer]:
    """Every convolution, transposed convolution,
    linear layer and attention projection, in module order.

    Kernels that the forward pass hands to `F.conv2d` and its like follow, by the name of their
    parameter.
    input_shape: (c, *map) of one image. sizes: map sizes by layer name, for layers that the forward
    pass does not show (input map; output map of a transposed one); None leaves the layer out.
    Raises `InputError` naming each layer whose map is unknown or not the same at every call, and
    each whose own forward does something else with its weight than the row would say.
    """
    sizes = sizes or {}
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is a TorchScript program ({type(model).__name__}), which hides its "
            "layers; give the module that it was made from."
        )
    for name, module in model.named_modules():
        _check_weights(name, module)
    heard = _heard(model, input_shape)
    _check_known(model, heard, sizes)
    first = next(
        (name for name in heard.shapes if isinstance(model.get_submodule(name), _ALL)), None
    )
    layers = []
    for name, module in model.named_modules():
        if sizes.get(name, ()) is None:
            continue
        if isinstance(module, _ALL):
            layers.append(
                replace(_convolution(name, module, heard, sizes.get(name)), stem=name == first)
            )
        elif isinstance(module, nn.MultiheadAttention):
            layers.extend(_attention(name, module))
        elif isinstance(module, nn.Linear):
            layers.append(_linear(name, module, heard))
    return layers + _functional(model, heard, sizes)


_ALL = CONVOLUTIONS + TRANSPOSED


def _check_weights(name: str, module: nn.Module) -> None:
    """Raise `InputError` naming the layer whose weights have no real spectrum,
    before anything runs.
    """
    weights = getattr(module, "weight", None)
    if "quantized" in type(module).__module__ and weights is not None:
        raise InputError(
            f"Layer {name} is quantised ({type(module).__name__}); give the floating-point model."
        )
    if isinstance(weights, nn.parameter.UninitializedParameter):
        raise InputError(
            f"Layer {name} has no weights yet (a lazy module); run the model once on an image "
            "first."
        )
    if isinstance(module, (*_ALL, nn.Linear)):
        checked(weights, torch.float64, f"Layer {name}")


def _heard(model: nn.Module, input_shape: tuple[int, ...]) -> Pass:
    """One forward pass on a zero image."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    try:
        return listen(model, image)
    except Exception as error:
        raise InputError(
            f"The model does not run on input_shape={tuple(input_shape)}: {error}"
        ) from error


def _maps(heard: Pass, name: str, transposed: bool) -> set[tuple[int, ...]]:
    """Maps that a layer saw: input maps, of a transposed one output maps."""
    return {tuple(shapes[transposed][2:]) for shapes in heard.shapes.get(name, ())}


def _check_known(model: nn.Module, heard: Pass, sizes: dict) -> None:
    used = {id(call.weight) for call in heard.calls}
    for name, module in model.named_modules():
        if not isinstance(module, _ALL) or name in sizes:
            continue
        maps = _maps(heard, name, isinstance(module, TRANSPOSED))
        if not maps and id(module.weight) in used:
            continue  # its kernel is read by somebody else's convolution
        if len(maps) != 1:
            why = f"sees maps of {sorted(maps)}" if maps else "is not called in a forward pass"
            raise InputError(
                f"Layer {name} {why}, so its map is unknown. Give it by "
                f"sizes={{{name!r}: (h, w)}}, or None to skip it."
            )


def _is_own(module: nn.Module, kinds: tuple[type, ...]) -> bool:
    """Whether a layer computes what torch's class of its kind does with its attributes."""
    kind = next(kind for kind in kinds if isinstance(module, kind))
    names = [name for name in ("forward", "_conv_forward") if hasattr(kind, name)]
    same = all(getattr(type(module), name) is getattr(kind, name) for name in names)
    return same and not any(name in module.__dict__ for name in names)


def _convolution(name: str, module: nn.Module, heard: Pass, size: tuple[int, ...] | None) -> Layer:
    transposed = isinstance(module, TRANSPOSED)
    maps = _maps(heard, name, transposed)
    if not _is_own(module, _ALL):
        return _as_called(name, module, heard)
    if size is None and not maps:  # called by somebody else
        call = next(call for call in heard.calls if call.weight is module.weight)
        return _of_call(name, call)
    size = next(iter(maps)) if size is None else size
    dims = module.weight.ndim - 2
    low, high = _padding(module)
    built = Geometry(
        kernel=tuple(module.weight.shape[2:]),
        size=_each(f"size of {name}", size, dims),
        stride=tuple(module.stride),
        dilation=tuple(module.dilation),
        low=low,
        high=high,
        mode=module.padding_mode,
        groups=module.groups,
    )
    if transposed and name in heard.shapes:
        built = _of_transposed(built, heard.shapes[name][0][0][2:])
    _check_fits(built)
    return Layer(name, f"{'transposed ' if transposed else ''}conv{dims}d", module.weight, built)


def _of_transposed(built: Geometry, out: tuple[int, ...]) -> Geometry:
    """The convolution whose adjoint it is has the layer's input map as its output;
    rows that nobody reads stay.
    """
    sides = zip(out, built.stride, built.dilation, built.kernel, built.size, built.low, strict=True)
    high = tuple((m - 1) * s + d * (k - 1) + 1 - n - low for m, s, d, k, n, low in sides)
    return replace(built, high=high)


def _as_called(name: str, module: nn.Module, heard: Pass) -> Layer:
    """A layer with a forward of its own: what it called, if that is all it did."""
    calls = [call for call in heard.calls if call.module == name]
    convolutions = [call for call in calls if call.kind in CONVOLVING]
    pads = [call for call in calls if call.kind == "pad"]
    if len(convolutions) == 1 and len(pads) <= 1:
        layer = _of_call(name, convolutions[0], pads[0] if pads else None)
        if layer is not None and _does(module, heard.shapes[name][0][0], _applied(layer)):
            return layer
    raise InputError(_NOT_ITS_OWN.format(name=name, kind=type(module).__name__))


_NOT_ITS_OWN = (
    "Layer {name} ({kind}) has a forward of its own that is no convolution or product with one "
    "weight, so no row could say what it does. Leave it out by sizes={{{name!r}: None}}; "
    "spectra.jacobian measures it at given inputs."
)


def _of_call(name: str, call: Call, pad: Call | None = None) -> Layer | None:
    """A convolution as it was called, with a padding by zeros before it;
    None where that is none.
    """
    dims, options = CONVOLVING.get(call.kind), call.options
    if dims is None:
        return None
    kernel = tuple(call.weight.shape[2:])

    def each(value) -> tuple:
        return tuple(value) if isinstance(value, tuple | list | torch.Size) else (value,) * dims

    stride, dilation = each(options.get("stride", 1)), each(options.get("dilation", 1))
    padding, size = options.get("padding", 0), call.given[2:]
    if isinstance(padding, str):
        total = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        low, high = tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)
    else:
        low = high = each(padding)
    if pad is not None:
        ends = list(pad.options["pad"])
        if (
            len(ends) != 2 * dims
            or pad.options.get("mode", "constant") != "constant"
            or pad.options.get("value")
        ):
            return None
        pairs = [(ends[2 * i], ends[2 * i + 1]) for i in reversed(range(dims))]
        size = pad.given[2:]
        low = tuple(a + one for a, (one, _) in zip(low, pairs, strict=True))
        high = tuple(b + two for b, (_, two) in zip(high, pairs, strict=True))
    built = Geometry(
        kernel, tuple(size), stride, dilation, low, high, "zeros", options.get("groups", 1)
    )
    _check_fits(built)
    return Layer(name, f"conv{dims}d", call.weight, built)


def _applied(layer: Layer):
    """The row's linear map as a function of a batch."""
    built = layer.built
    if built is None:
        return lambda x: torch.nn.functional.linear(x, layer.weight)
    ends = [end for pair in reversed(list(zip(built.low, built.high, strict=True))) for end in pair]
    convolve = getattr(torch.nn.functional, f"conv{len(built.size)}d")
    options = {"stride": built.stride, "dilation": built.dilation, "groups": built.groups}
    return lambda x: convolve(torch.nn.functional.pad(x, ends), layer.weight, **options)


@torch.no_grad()
def _does(module: nn.Module, shape: tuple[int, ...], linear) -> bool:
    """Whether a module, less its answer to 0, is this linear map:
    asked on two random inputs of different size.
    """
    like = next(module.parameters())
    generator = torch.Generator().manual_seed(0)
    # two sizes: a map that saturates or normalises may look linear at one of them
    for size in (1.0, 30.0):
        x = (size * torch.randn(shape, generator=generator)).to(like)
        mine, theirs = linear(x), module(x) - module(torch.zeros_like(x))
        if mine.shape != theirs.shape or not torch.allclose(
            mine, theirs, rtol=1e-3, atol=1e-3 * float(mine.abs().max())
        ):
            return False
    return True


def _linear(name: str, module: nn.Linear, heard: Pass) -> Layer:
    if (
        _is_own(module, (nn.Linear,))
        or type(module) is nn.modules.linear.NonDynamicallyQuantizableLinear
    ):
        return Layer(name, "linear", module.weight)
    calls = [call for call in heard.calls if call.module == name and call.kind == "linear"]
    layer = Layer(name, "linear", calls[0].weight) if len(calls) == 1 else None
    if layer is None or not _does(module, heard.shapes[name][0][0], _applied(layer)):
        raise InputError(_NOT_ITS_OWN.format(name=name, kind=type(module).__name__))
    return layer


def _functional(model: nn.Module, heard: Pass, sizes: dict) -> list[Layer]:
    """Kernels and matrices that no layer owns, but the forward pass multiplies with."""
    owned = {
        id(p)
        for m in model.modules()
        if isinstance(m, (*_ALL, nn.Linear, nn.MultiheadAttention))
        for p in m.parameters(recurse=False)
    }
    inside = {
        name
        for name, m in model.named_modules()
        if isinstance(m, (*_ALL, nn.Linear, nn.MultiheadAttention))
    }
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers, seen = [], set()
    for call in heard.calls:
        if (
            call.kind == "pad"
            or call.module in inside
            or id(call.weight) in owned
            or id(call.weight) in seen
        ):
            continue
        seen.add(id(call.weight))
        name = names.get(id(call.weight), f"{call.module or type(model).__name__}.{call.kind}")
        if sizes.get(name, ()) is None:
            continue
        maps = {other.given[2:] for other in heard.calls if other.weight is call.weight}
        layer = (
            Layer(name, "linear", call.weight) if call.kind == "linear" else _of_call(name, call)
        )
        if layer is None or len(maps) > 1:
            raise InputError(
                f"{name}: the forward pass calls {call.kind} with it in a way that no row could "
                f"say. Leave it out by sizes={{{name!r}: None}}."
            )
        layers.append(layer)
    return layers


def _padding(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(module.padding, str):
        return tuple(module.padding), tuple(module.padding)
    if module.padding == "valid":
        return (0,) * len(module.kernel_size), (0,) * len(module.kernel_size)
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def _attention(name: str, module: nn.MultiheadAttention) -> list[Layer]:
    """q, k and v: three blocks of rows of one matrix, unless their widths differ.
    (out_proj is a Linear.)
    """
    if module.in_proj_weight is None:
        parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        parts = module.in_proj_weight.chunk(3)
    return [
        Layer(f"{name}.{letter}", "attention", part)
        for letter, part in zip("qkv", parts, strict=True)
    ]
