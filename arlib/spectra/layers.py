"""The layers of a model that have a spectrum, and the map each of them sees.

Map sizes come from one forward pass on a zero image in eval mode, so nothing is guessed from
attributes; modes and hooks are left as found.
"""

from dataclasses import dataclass, replace

import torch
from torch import nn

from arlib.errors import InputError
from arlib.spectra.conv import checked
from arlib.spectra.geometry import Geometry, _check_fits, _each

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
SHORTCUTS = ("shortcut", "downsample", "skip", "proj_shortcut")


@dataclass(frozen=True)
class Layer:
    """One linear map of a model: its weight as a matrix (out, in) or a convolution (c_out, c_in/g, *kernel).

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
        """Whether claims count it: kernels wider than 1, not the first convolution, not on a shortcut."""
        if self.built is None or max(self.built.kernel) == 1 or self.stem:
            return False
        return not any(word in self.name for word in SHORTCUTS)


def find(model: nn.Module, input_shape: tuple[int, ...], sizes: dict | None = None) -> list[Layer]:
    """Every convolution, transposed convolution, linear layer and attention projection, in module order.

    input_shape: (c, *map) of one image. sizes: map sizes by layer name, for layers that the forward
    pass does not show (input map; output map of a transposed one); None leaves the layer out.
    Raises `InputError` naming each layer whose map is unknown or not the same at every call.
    """
    for name, module in model.named_modules():
        _check_weights(name, module)
    seen = _maps(model, input_shape)
    _check_known(model, seen, sizes or {})
    maps = {name: next(iter(found)) for name, found in seen.items() if found} | (sizes or {})
    first = next((name for name, found in seen.items() if found), None)  # in the order of the forward pass
    layers = []
    for name, module in model.named_modules():
        if isinstance(module, CONVOLUTIONS + TRANSPOSED):
            if maps[name] is not None:
                layers.append(replace(_convolution(name, module, maps[name]), stem=name == first))
        elif isinstance(module, nn.MultiheadAttention):
            layers.extend(_attention(name, module))
        elif isinstance(module, nn.Linear):
            layers.append(Layer(name, "linear", module.weight))
    return layers


def _check_weights(name: str, module: nn.Module) -> None:
    """Raise `InputError` naming the layer whose weights have no real spectrum, before anything runs."""
    weights = getattr(module, "weight", None)
    if "quantized" in type(module).__module__ and weights is not None:
        raise InputError(f"Layer {name} is quantised ({type(module).__name__}); give the floating-point model.")
    if isinstance(weights, nn.parameter.UninitializedParameter):
        raise InputError(f"Layer {name} has no weights yet (a lazy module); run the model once on an image first.")
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED, nn.Linear)):
        checked(weights, torch.float64, f"Layer {name}")


def _maps(model: nn.Module, input_shape: tuple[int, ...]) -> dict[str, set[tuple[int, ...]]]:
    """Map sizes that each convolution saw, in the order of the forward pass (uncalled ones last)."""
    seen: dict[str, set] = {}
    modes = [(module, module.training) for module in model.modules()]
    handles = []

    def watch(name, module):
        def hook(_, inputs, output):
            tensor = output if isinstance(module, TRANSPOSED) else inputs[0]
            seen.setdefault(name, set()).add(tuple(tensor.shape[2:]))

        return hook

    try:
        model.eval()
        for name, module in model.named_modules():
            if isinstance(module, CONVOLUTIONS + TRANSPOSED):
                handles.append(module.register_forward_hook(watch(name, module)))
        _forward(model, input_shape)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return seen


def _forward(model: nn.Module, input_shape: tuple[int, ...]) -> None:
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    image = torch.zeros(1, *input_shape, dtype=like.dtype, device=like.device)
    try:
        with torch.no_grad():
            model(image)
    except Exception as error:
        raise InputError(f"The model does not run on input_shape={tuple(input_shape)}: {error}") from error


def _check_known(model: nn.Module, seen: dict[str, set], sizes: dict) -> None:
    for name, module in model.named_modules():
        if not isinstance(module, CONVOLUTIONS + TRANSPOSED) or name in sizes:
            continue
        if len(seen.get(name, ())) != 1:
            why = f"sees maps of {sorted(seen[name])}" if name in seen else "is not called in a forward pass"
            raise InputError(
                f"Layer {name} {why}, so its map is unknown. Give it by sizes={{{name!r}: (h, w)}}, or None to skip it."
            )


def _convolution(name: str, module: nn.Module, size: tuple[int, ...]) -> Layer:
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
    _check_fits(built)
    transposed = isinstance(module, TRANSPOSED)
    return Layer(name, f"{'transposed ' if transposed else ''}conv{dims}d", module.weight, built)


def _padding(module: nn.Module) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if not isinstance(module.padding, str):
        return tuple(module.padding), tuple(module.padding)
    if module.padding == "valid":
        return (0,) * len(module.kernel_size), (0,) * len(module.kernel_size)
    total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    return tuple(t // 2 for t in total), tuple(t - t // 2 for t in total)


def _attention(name: str, module: nn.MultiheadAttention) -> list[Layer]:
    """q, k and v: three blocks of rows of one matrix, unless their widths differ. (out_proj is a Linear.)"""
    if module.in_proj_weight is None:
        parts = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    else:
        parts = module.in_proj_weight.chunk(3)
    return [Layer(f"{name}.{letter}", "attention", part) for letter, part in zip("qkv", parts, strict=True)]
