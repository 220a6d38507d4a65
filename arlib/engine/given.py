"""What people give and what their models give back: images and labels in, logits out."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass

import numpy as np
import torch
from torch import Tensor, nn

from arlib.errors import InputError

PART = 256  # images, or rows of a weight, that are looked at at one time
LOGITS = ("logits", "out", "output")  # names under which classifiers put them, in this order


def images_and_labels(model: nn.Module | Callable, x, y=None) -> tuple[Tensor, Tensor | None]:
    """Images and labels as tensors that can be differentiated;
    whatever is not one, is left to be refused.

    Arrays become tensors on the model's device; labels may be a list, or whole numbers of any
    width; tensors made in inference mode are copied out of it.
    """
    where = device_of(model)
    x = _out_of_inference(_tensor(x, where))
    if y is None:
        return x, None
    y = _out_of_inference(_tensor(y, where))
    if (
        isinstance(y, Tensor)
        and y.ndim == 1
        and not y.is_floating_point()
        and y.dtype != torch.bool
    ):
        y = y.to(torch.int64)
    return x, y


def _tensor(value, where: torch.device | None):
    if isinstance(value, np.ndarray):
        # from_numpy refuses negative strides, which a mirrored array has
        return torch.from_numpy(np.ascontiguousarray(value)).to(where)
    if isinstance(value, list | tuple) and all(isinstance(one, int | np.integer) for one in value):
        return torch.tensor([int(one) for one in value], device=where)
    return value


def _out_of_inference(value):
    if not isinstance(value, Tensor) or not value.is_inference():
        return value
    # autograd refuses inference tensors; a clone made outside of that mode is an ordinary one
    with torch.inference_mode(False):
        return value.clone()


def device_of(model: nn.Module | Callable) -> torch.device | None:
    """Where a model's first parameter or buffer lies; None where it has none."""
    if not isinstance(model, nn.Module):
        return None
    first = next(iter(model.parameters()), None)
    first = next(iter(model.buffers()), None) if first is None else first
    return None if first is None else first.device


def dtype_of(model: nn.Module | Callable) -> torch.dtype | None:
    """The one floating-point type of a model's parameters; None where it has none, or several."""
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    kinds = {parameter.dtype for parameter in parameters if parameter.is_floating_point()}
    return kinds.pop() if len(kinds) == 1 else None


def logits_of(output: object, pick: Callable[[object], Tensor] | None = None) -> Tensor:
    """The logits (n, classes) in what a classifier returned.

    pick: how to find them. By default a tensor is taken as it is, of a tuple or list the first
    entry, of a mapping, a dataclass or another object what is named logits, out or output. Maps of
    1 × 1 lose those axes. One number per image is the logit of class 1 of 2, as binary classifiers
    give it.

    Raises `InputError` where no tensor is found.
    """
    logits = _logits_in(output) if pick is None else pick(output)
    if not isinstance(logits, Tensor):
        raise InputError(
            f"the model returns {_described(output)}, in which no logits were found; a tensor (n, "
            "classes) is needed. Give logits=, a function that takes them out of what the model "
            "returns."
        )
    if logits.ndim > 2 and all(side == 1 for side in logits.shape[2:]):
        logits = logits.flatten(1)
    if logits.ndim == 1 or (logits.ndim == 2 and logits.shape[1] == 1):
        logits = logits.flatten()
        logits = torch.stack([torch.zeros_like(logits), logits], 1)
    return logits


def _logits_in(output: object) -> object:
    if isinstance(output, Tensor):
        return output
    if isinstance(output, Mapping):
        named = [output[name] for name in LOGITS if name in output]
        named += list(output.values()) if len(output) == 1 else []
    elif isinstance(output, tuple | list) and not hasattr(output, "_fields"):
        named = list(output[:1])
    else:
        named = [
            getattr(output, name)
            for name in LOGITS
            if isinstance(getattr(output, name, None), Tensor)
        ]
        if not named and is_dataclass(output):
            named = [getattr(output, field.name) for field in fields(output)]
        if not named and hasattr(output, "_fields"):
            named = list(output[:1])
    named = [one for one in named if one is not None]
    return _logits_in(named[0]) if named and named[0] is not output else None


def _described(output: object) -> str:
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} of {', '.join(map(str, output)) or 'nothing'}"
    return f"a {type(output).__name__}"


def digest(*tensors: Tensor) -> str:
    """16 hexadecimal digits that tell these tensors, bit for bit, from others."""
    sha = hashlib.sha256()
    for tensor in tensors:
        # type and shape, too: the same bytes may also be another tensor
        sha.update(f"{tensor.dtype}{tuple(tensor.shape)}".encode())
        for part in [tensor] if tensor.ndim == 0 else tensor.detach().split(PART):
            # by parts, and without a copy of what lies in memory in order
            flat = part.detach().cpu().contiguous().reshape(-1)
            sha.update(flat.view(torch.uint8).numpy())
    return sha.hexdigest()[:16]
