"""What no attack can use is refused before any work, with one message."""

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from arlib.attacks.spelling import check_norm
from arlib.engine import Streamed, device_of
from arlib.errors import InputError


class TrustWarning(UserWarning):
    """A robustness number that should not be believed as it stands."""


def radius(eps: object, x: Tensor | None) -> float | Tensor:
    """eps as the attacks use it: a plain number, or one per image (n,) in the images' own type.

    Lists and arrays become tensors; what cannot be a radius is an `InputError`.
    """
    try:
        values = eps if isinstance(eps, Tensor) else torch.as_tensor(np.asarray(eps, dtype=float))
    except (TypeError, ValueError):
        raise InputError(
            f"eps is {eps!r}; give a number, such as 8/255, or one for each image."
        ) from None
    if values.ndim == 0:
        return float(values)
    return (
        values.to(x.device, x.dtype) if isinstance(x, Tensor) and x.is_floating_point() else values
    )


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

    Raises `InputError` for an unknown norm; images that are no batch, empty, not fp32 or fp64,
    outside `clip`, or on another device than labels or model; labels not one int64 an image, or out
    of range; eps outside the range; a count (steps, restarts, …) below 1.
    """
    check_norm(norm)
    _check_images(model, x, y, clip)
    if eps is not None:
        _check_eps(eps, norm, x, clip)
    for name, value in counts.items():
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed.")
    return _check_labels(forward(x[:2]), y)  # two: a batch norm in training mode refuses one


def _check_images(model: nn.Module, x: Tensor, y: Tensor, clip: tuple[float, float]) -> None:
    if not isinstance(x, Tensor | Streamed) or not isinstance(y, Tensor):
        kinds = f"{type(x).__name__} and {type(y).__name__}"
        raise InputError(
            f"images and labels are {kinds}; give tensors or numpy arrays (labels: also a list of "
            "numbers)."
        )
    if not clip[0] < clip[1]:
        raise InputError(
            f"clip is {tuple(clip)}; give the lowest and the highest pixel value, such as (0, 1)."
        )
    if x.ndim < 2 or len(x) == 0:
        raise InputError(
            f"images have shape {tuple(x.shape)}; a batch (n, …) of at least one image is needed."
        )
    if x.dtype == torch.uint8:
        raise InputError(
            "images are uint8, on the scale 0 to 255; networks here take [0, 1]. Give x / 255 as "
            "float32, and eps on that scale too (AR strength 8 is 8/255)."
        )
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(
            f"images are {x.dtype}; give float32 or float64 (a half-precision model is fine with "
            "those)."
        )
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(
            f"labels are {y.dtype} of shape {tuple(y.shape)}; one int64 label for each of "
            f"{len(x)} images."
        )
    places = {str(place) for place in (x.device, y.device, device_of(model)) if place is not None}
    if len(places) > 1:
        raise InputError(
            f"images, labels and model are on different devices ({', '.join(sorted(places))}); "
            "move them."
        )
    # of tensors: waits for the device once
    low, high = x.range if isinstance(x, Streamed) else torch.stack(torch.aminmax(x)).tolist()
    if not (low >= clip[0] and high <= clip[1]):
        raise InputError(_outside(low, high, clip))


def _outside(low: float, high: float, clip: tuple[float, float]) -> str:
    """What is likely wrong with images outside the pixel range, and what to do."""
    lowest, highest = clip
    # normalising and undoing it in float32 errs by far less than this; a wrong scale by far more
    slack = 1e-4 * (highest - lowest)
    near = low >= lowest - slack and high <= highest + slack
    ends = f"{low:.9g} to {high:.9g}" if near else f"{low:.4g} to {high:.4g}"
    message = f"images go from {ends}, outside {[float(end) for end in clip]}. "
    if math.isnan(low) or math.isnan(high):
        return message + "Some pixels are not numbers; leave those images out."
    if near:
        return message + f"That is rounding: x.clamp({lowest:g}, {highest:g}) mends it."
    if low >= 0 and 2 < high <= 255 and highest == 1:
        return message + (
            "They look like pixels on the scale 0 to 255: give x / 255, and eps on the scale 0 to "
            "1 (AR strength 8 is 8/255)."
        )
    return message + (
        "They look normalised: give pixels in that range and arlib.with_normalization(model, "
        "mean, std), which makes the normalisation the model's first layer; or clip=(lowest, "
        "highest), and eps in the same units."
    )


def _check_labels(logits: Tensor, y: Tensor) -> int:
    if logits.ndim != 2 or logits.shape[1] < 2:
        raise InputError(
            f"the model returns shape {tuple(logits.shape)} for {min(2, len(y))} images; (n, "
            "classes) is needed."
        )
    classes, (low, high) = logits.shape[1], torch.stack(torch.aminmax(y)).tolist()
    if low < 0 or high >= classes:
        raise InputError(
            f"labels go from {low} to {high}, but the model has classes 0 to {classes - 1}."
        )
    return classes


def _check_eps(eps: float | Tensor, norm: str, x: Tensor, clip: tuple[float, float]) -> None:
    if isinstance(eps, Tensor) and eps.ndim and eps.shape != x.shape[:1]:
        raise InputError(
            f"eps has shape {tuple(eps.shape)}; give a number or one for each of the {len(x)} "
            "images."
        )
    low, high = (float(eps.min()), float(eps.max())) if isinstance(eps, Tensor) else (eps, eps)
    limit = (clip[1] - clip[0]) * (1.0 if norm == "linf" else math.sqrt(x[0].numel()))
    if not (low >= 0 and high <= limit):
        strength = "AR strength 8 is eps=8/255" if tuple(clip) == (0, 1) else "as clip is"
        raise InputError(
            f"eps is {high if high > limit else low:.4g}; allowed for {norm}: 0 to {limit:.4g}, "
            f"in units of [{clip[0]:g}, {clip[1]:g}] pixels ({strength})."
        )
