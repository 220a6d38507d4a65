"""What no attack can use is refused before any work, with one message."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib.errors import InputError, one_of

NORMS = ("linf", "l2")


@torch.no_grad()
def check(
    model: nn.Module,
    forward: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor | None = None,
    norm: str = "linf",
    clip: tuple[float, float] = (0.0, 1.0),
    **counts: int,
) -> int:
    """Check an attack's input; return the number of classes (two images are classified for that).

    Raises `InputError` for an unknown norm; images that are no batch, empty, not fp32 or fp64, outside
    `clip`, or on another device than labels or model; labels not one int64 an image, or out of range;
    eps outside the range; a count (steps, restarts, …) below 1.
    """
    one_of("norm", norm, NORMS)
    _check_images(model, x, y, clip)
    if eps is not None:
        _check_eps(eps, norm, x)
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed.")
    return _check_labels(forward(x[:2]), y)  # two: a batch norm in training mode refuses one


def _check_images(model: nn.Module, x: Tensor, y: Tensor, clip: tuple[float, float]) -> None:
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"images have shape {tuple(x.shape)}; a batch (n, …) of at least one image is needed.")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {x.dtype}; give float32 or float64 (a half-precision model is fine with those).")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(
            f"labels are {y.dtype} of shape {tuple(y.shape)}; one int64 label for each of {len(x)} images."
        )
    parameter = next(iter(model.parameters()), None)
    places = {str(tensor.device) for tensor in (x, y, parameter) if tensor is not None}
    if len(places) > 1:
        raise InputError(f"images, labels and model are on different devices ({', '.join(sorted(places))}); move them.")
    low, high = torch.stack(torch.aminmax(x)).tolist()  # waits for the device once
    if not (low >= clip[0] and high <= clip[1]):
        raise InputError(
            f"images go from {low:.4g} to {high:.4g}, outside {list(clip)}. "
            "Give pixels in that range and make the normalisation the model's first layer."
        )


def _check_labels(logits: Tensor, y: Tensor) -> int:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(
            f"the model returns shape {tuple(logits.shape)} for {min(2, len(y))} images; (n, classes) is needed."
        )
    classes, (low, high) = logits.shape[1], torch.stack(torch.aminmax(y)).tolist()
    if low < 0 or high >= classes:
        raise InputError(f"labels go from {low} to {high}, but the model has classes 0 to {classes - 1}.")
    return classes


def _check_eps(eps: float | Tensor, norm: str, x: Tensor) -> None:
    if isinstance(eps, Tensor) and eps.ndim and eps.shape != x.shape[:1]:
        raise InputError(f"eps has shape {tuple(eps.shape)}; give a number or one for each of the {len(x)} images.")
    low, high = (float(eps.min()), float(eps.max())) if isinstance(eps, Tensor) else (eps, eps)
    limit = 1.0 if norm == "linf" else math.sqrt(x[0].numel())
    if not (low >= 0 and high <= limit):
        raise InputError(
            f"eps is {high if high > limit else low:.4g}; allowed for {norm}: 0 to {limit:.4g}, in units of [0, 1] "
            "pixels (AR strength 8 is eps=8/255)."
        )
