"""Distances to the decision boundary: in the output (margins of logits) and in the image (by attack)."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from arlib import attacks, engine
from arlib.attacks import losses
from arlib.attacks import steps as parts
from arlib.attacks.checks import check
from arlib.confidence import check_logits
from arlib.errors import InputError


def output(logits: Tensor, y: Tensor) -> Tensor:
    """Output margin m(x) = logit of the true class − largest other logit. (n, classes), (n,) -> (n,).

    Positive exactly where the prediction is right; invariant to a shift of an image's logits.
    Raises `InputError` for shapes or labels that do not fit.
    """
    check_logits(logits, y)
    return -losses.margin(logits, y)


def logit_scale(logits: Tensor) -> float:
    """R, one number a net: the root of the mean over images and classes of the squared centred logits.

    Centred: minus each image's mean over classes, so R is invariant to per-image shifts. Take it on
    the test images.
    """
    check_logits(logits)
    logits = logits.double()
    return float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt())


def scale_free(margins: Tensor, scale: float) -> Tensor:
    """m/R: margins (n,) in units of the net's logit scale, which multiplying all logits leaves alone."""
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(f"scale is {scale}; a logit scale above 0 is needed (0: the logits are all equal).")
    return margins / scale


def instance(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    halvings: int = 8,
    steps: int = 20,
    cap: float = 1.0,
    generator: torch.Generator | None = None,
    batch_size: int = 250,
    progress: bool = False,
) -> Tensor:
    """Instance margin: an upper bound of the distance from each image to the nearest misclassified one.

    Per image the smallest perturbation that two attacks find: a minimum-norm attack, and from there
    a bisection of the radius: `halvings` times Auto-PGD on the margin loss (`steps` steps, random
    start) at half way between the largest radius that held and the smallest that did not.

    Args:
        model, x, y: any network, images (n, …) in [0, 1], true labels (n,).
        norm: "linf" or "l2". cap: the value where nothing smaller is found.
        generator: of the random starts; by default seed 0.

    Returns: (n,) distances in [0, 1] pixel units, dtype of x; 0 for wrong predictions, at most `cap`.
    Raises: `InputError` for unusable images, labels or settings.
    """
    generator = parts.default_generator(generator, x)
    found = []
    with engine.frozen(model) as f, tqdm(total=len(x), disable=not progress, desc="instance margins") as bar:
        check(f, f, x, y, norm=norm, halvings=halvings, steps=steps)
        for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
            found.append(_instance(f, images, labels, norm, halvings, steps, cap, generator))
            bar.update(len(images))
    return torch.cat(found)


def _instance(f, x: Tensor, y: Tensor, norm: str, halvings: int, count: int, cap: float, generator) -> Tensor:
    with torch.no_grad():
        right = f(x).argmax(1) == y
    values = torch.zeros(len(x), dtype=x.dtype, device=x.device)
    x, y = x[right], y[right]
    if not len(x):
        return values
    high = _distance(f, x, attacks.minimum_norm(f, x, y, norm=norm), y, norm, cap)
    low = torch.zeros_like(high)
    for _ in range(halvings):
        middle = (low + high) / 2
        options = {"norm": norm, "steps": count, "loss": "margin", "generator": generator, "early_stop": True}
        seen = _distance(f, x, attacks.apgd(f, x, y, eps=middle, **options), y, norm, math.inf)
        hit = seen < math.inf
        low, high = torch.where(hit, low, middle), torch.where(hit, torch.minimum(seen, middle), high)
    values[right] = high
    return values


@torch.no_grad()
def _distance(f, x: Tensor, x_adv: Tensor, y: Tensor, norm: str, otherwise: float) -> Tensor:
    """Distance from x to x_adv where that is misclassified, at most `otherwise`, which also stands elsewhere."""
    found = torch.where(f(x_adv).argmax(1) != y, parts.norms(x_adv - x, norm), otherwise)
    return found.clamp_max(otherwise)


def accepted(values: Tensor, robust_errors: Mapping[float, float], tolerance: float = 0.005) -> bool:
    """Whether instance margins `values` (n,) may be used: they must not miss what a strong attack finds.

    robust_errors: per radius in the units of `values`, the share of the *same* images misclassified
    under APGD-CE + targeted APGD. For each radius the share of values ≤ radius has to reach that
    error minus `tolerance` (half a point).
    """
    if not robust_errors:
        raise InputError("robust_errors is empty; give the robust error of a strong attack at one radius at least.")
    share = lambda radius: float((values <= radius + 1e-6).double().mean())  # 1e-6: fp32 pixels
    return all(share(radius) >= error - tolerance for radius, error in robust_errors.items())
