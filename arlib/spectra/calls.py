"""What a model's forward pass does with weights:
every convolution and matrix product it calls, as called.

A layer's attributes say what torch's own class would do with them. A subclass may standardise its
weight, pad by itself, or scale; a parent may hand the kernel to `F.conv2d`. So one forward pass is
listened to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

CONVOLVING = {"conv1d": 1, "conv2d": 2, "conv3d": 3}
TRANSPOSING = {"conv_transpose1d": 1, "conv_transpose2d": 2, "conv_transpose3d": 3}
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")


@dataclass(frozen=True)
class Call:
    """One call of a convolution ("conv2d"), a matrix product ("linear") or a padding ("pad")."""

    kind: str
    module: str
    """The module in whose forward it happened, by name."""
    weight: torch.Tensor | None
    given: tuple[int, ...]
    """Shape of what it was applied to."""
    returned: tuple[int, ...]
    options: dict = field(default_factory=dict)


@dataclass
class Pass:
    """One forward pass: shapes that each module was given and returned,
    at each of its calls, and calls in order.
    """

    shapes: dict[str, list[tuple[tuple, tuple]]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)


class _Listening(TorchFunctionMode):
    def __init__(self, heard: Pass):
        super().__init__()
        self.heard, self.inside = heard, [""]

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in CONVOLVING or name in TRANSPOSING or name in ("linear", "pad"):
            self.heard.calls.append(self._call(name, args, kwargs, result))
        return result

    def _call(self, name: str, args: tuple, kwargs: dict, result: torch.Tensor) -> Call:
        if name == "pad":
            names = ("input", "pad", "mode", "value")
        elif name in TRANSPOSING:
            names = (*_NAMES[:5], "output_padding", "groups", "dilation")
        else:
            names = _NAMES
        given = dict(zip(names, args, strict=False)) | kwargs
        x, weight = given.pop("input"), given.pop("weight", None)
        return Call(name, self.inside[-1], weight, tuple(x.shape), tuple(result.shape), given)


@contextmanager
def _followed(model: nn.Module, mode: _Listening) -> Iterator[None]:
    """Inside it, `mode` knows which module is running."""
    handles = []

    def watch(name: str, module: nn.Module) -> None:
        def after(_, inputs, output):
            mode.inside.pop()
            tensors = (
                isinstance(output, torch.Tensor) and inputs and isinstance(inputs[0], torch.Tensor)
            )
            if tensors:
                mode.heard.shapes.setdefault(name, []).append(
                    (tuple(inputs[0].shape), tuple(output.shape))
                )

        handles.append(module.register_forward_pre_hook(lambda *_: mode.inside.append(name)))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        if name:
            watch(name, module)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def listen(model: nn.Module, image: torch.Tensor) -> Pass:
    """One forward pass of the model, which must be in the mode that is meant,
    on a batch of one image.
    """
    heard = Pass()
    mode = _Listening(heard)
    with torch.no_grad(), _followed(model, mode), mode:
        model(image)
    return heard
