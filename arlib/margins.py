"""Distances to the decision boundary:
in the output (margins of logits) and in the image (by attack).
"""

import math
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from arlib import attacks, engine
from arlib.attacks import losses
from arlib.attacks import steps as parts
from arlib.attacks.checks import check
from arlib.attacks.spelling import answered
from arlib.confidence import check_logits
from arlib.errors import InputError


def output(logits: Tensor, y: Tensor) -> Tensor:
    """Output margin m(x) = logit of the true class − largest other logit.
    (n, classes), (n,) -> (n,).

    Positive exactly where the prediction is right; invariant to a shift of an image's logits.
    Raises `InputError` for shapes or labels that do not fit.
    """
    check_logits(logits, y)
    return -losses.margin(logits, y)


def logit_scale(logits: Tensor) -> float:
    """R, one number per network: the root of the mean over images and classes
    of the squared centred logits.

    Centred: minus each image's mean over classes, so R is invariant to per-image shifts. Take it on
    the test images.
    """
    check_logits(logits)
    logits = logits.double()
    return float((logits - logits.mean(1, keepdim=True)).square().mean().sqrt())


def scale_free(margins: Tensor, scale: float) -> Tensor:
    """m/R: margins (n,) in units of the net's logit scale,
    which multiplying all logits leaves alone.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise InputError(
            f"scale is {scale}; a logit scale above 0 is needed (0: the logits are all equal)."
        )
    return margins / scale


@answered
def instance(
    model: nn.Module,
    x: Tensor | Dataset | DataLoader,
    y: Tensor | None = None,
    *,
    norm: str = "linf",
    halvings: int = 8,
    steps: int = 20,
    cap: float | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 250,
    progress: bool = False,
) -> Tensor:
    """Instance margin: an upper bound of the distance from each image
    to the nearest misclassified one.

    Per image the smallest perturbation that two attacks find: a minimum-norm attack, and from there
    a bisection of the radius: `halvings` times Auto-PGD on the margin loss (`steps` steps, random
    start) at half way between the largest radius that held and the smallest that did not.

    Args:
        model, x, y: any network, images (n, …) in [0, 1], true labels (n,). x may also be a data
            set of (image, label), or its loader, without y: images are then read when they are
            needed (`engine.Streamed`).
        norm: "linf" or "l2". cap: the value where nothing is found; by default the longest way
            inside the pixel range, 1 for linf and √pixels for l2. clip, logits: as in
            `attacks.pgd`.
        generator: of the random starts; by default seed 0.

    Returns: (n,) distances in the units of the pixels, dtype of x; 0 for wrong predictions.
    Raises: `InputError` for unusable images, labels or settings.

    A linear network whose boundary is ¼ away in every pixel; the second image is wrong:

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> net[1].weight.data = torch.tensor([[1.0] * 4, [-1.0] * 4])
    >>> net[1].bias.data = torch.tensor([-1.0, 1.0])
    >>> x, y = torch.full((2, 1, 2, 2), 0.5), torch.tensor([0, 1])
    >>> instance(net, x, y).round(decimals=3).tolist()
    [0.25, 0.0]
    """
    options = {"norm": norm, "halvings": halvings, "steps": steps, "cap": cap, "clip": clip}
    options |= {"generator": generator, "batch_size": batch_size, "progress": progress}
    x, y = engine.streamed(model, x, y)
    # laid out at once, and the images dropped: small results would pin freed memory between them
    values, done = None, 0
    for distances, _ in _in_batches(model, x, y, logits=logits, **options):
        values = distances.new_empty(len(x)) if values is None else values
        values[done : done + len(distances)] = distances
        done += len(distances)
    return values


@answered
def nearest(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    halvings: int = 8,
    steps: int = 20,
    cap: float | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 250,
    progress: bool = False,
) -> tuple[Tensor, Tensor]:
    """Instance margins (n,), and the misclassified images (n, …) at which they were found.

    An image that is wrong already, or for which nothing was found, stands there unchanged.
    Arguments and errors: as in `instance`.
    """
    options = {"norm": norm, "halvings": halvings, "steps": steps, "cap": cap, "clip": clip}
    options |= {"generator": generator, "batch_size": batch_size, "progress": progress}
    values, images = zip(*_in_batches(model, x, y, logits=logits, **options), strict=True)
    return torch.cat(values), torch.cat(images)


def _in_batches(
    model, x, y, *, norm, halvings, steps, cap, clip, logits, generator, batch_size, progress
) -> Iterator[tuple[Tensor, Tensor]]:
    """What `nearest` gives, of one batch after the other."""
    with parts.opened(model, x, y, logits) as (f, forward, x, y):
        check(model, forward, x, y, norm=norm, clip=clip, halvings=halvings, steps=steps)
        cap = attacks.longest(norm, x, clip) if cap is None else cap
        options = {"norm": norm, "clip": clip, "logits": logits}
        # attacks run on a copy (f); what they find counts if it fools the model itself
        itself = parts.itself_of(f, forward, logits)
        generator = parts.default_generator(generator, x)
        with tqdm(total=len(x), disable=not progress, desc="instance margins") as bar:
            for images, labels in zip(x.split(batch_size), y.split(batch_size), strict=True):
                there = images, labels, halvings, steps, cap, generator, options
                yield _nearest(f, forward, itself, *there)
                bar.update(len(images))


def _nearest(
    f,
    forward,
    itself,
    x: Tensor,
    y: Tensor,
    halvings: int,
    count: int,
    cap: float,
    generator,
    options: dict,
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        z = itself(x)
        right = (z.argmax(1) == y) & losses.finite(z)
    values, images = torch.zeros(len(x), dtype=x.dtype, device=x.device), x.clone()
    x, y = x[right], y[right]
    if not len(x):
        return values, images
    norm = options["norm"]
    nearest = attacks.minimum_norm(f, x, y, **options)
    high = _distance(itself, x, nearest, y, norm, cap)
    low = torch.zeros_like(high)
    for _ in range(halvings):
        middle = (low + high) / 2
        search = {"steps": count, "loss": "margin", "generator": generator, "early_stop": True}
        candidate = attacks.apgd(f, x, y, eps=middle, **search, **options)
        reached = _distance(itself, x, candidate, y, norm, math.inf)
        if itself is not forward:
            copy_only = (reached == math.inf) & _hits(forward, candidate, y)
            if copy_only.any():  # once more, on the model itself
                few, labels, inside = x[copy_only], y[copy_only], middle[copy_only]
                again = attacks.apgd(f.itself, few, labels, eps=inside, **search, **options)
                candidate[copy_only] = again
                reached = _distance(itself, x, candidate, y, norm, math.inf)
        hit = reached < math.inf
        nearest = torch.where(parts.per_image(hit, x), candidate, nearest)
        # the attack may arrive well inside its ball, or a rounding outside of it
        low, high = (
            torch.where(hit, low, middle),
            torch.where(hit, torch.minimum(reached, middle), high),
        )
    values[right], images[right] = high, nearest
    return values, images


@torch.no_grad()
def _distance(forward, x: Tensor, x_adv: Tensor, y: Tensor, norm: str, otherwise: float) -> Tensor:
    """Distance from x to x_adv where that is misclassified, else `otherwise`."""
    return torch.where(_hits(forward, x_adv, y), parts.norms(x_adv - x, norm), otherwise)


@torch.no_grad()
def _hits(forward, x_adv: Tensor, y: Tensor) -> Tensor:
    return losses.Goal(y, "margin").hits(forward(x_adv))


def accepted(
    values: Tensor, robust_errors: Mapping[float, float], tolerance: float = 0.005
) -> bool:
    """Whether instance margins `values` (n,) may be used:
    they must not miss what a strong attack finds.

    robust_errors: per radius in the units of `values`, the share of the *same* images misclassified
    under APGD-CE + targeted APGD. For each radius the share of values ≤ radius has to reach that
    error minus `tolerance` (half a point).
    """
    if not robust_errors:
        raise InputError(
            "robust_errors is empty; give the robust error of a strong attack at one radius at "
            "least."
        )

    def share(radius: float) -> float:
        return float((values <= radius + 1e-6).double().mean())  # 1e-6: fp32 pixels

    return all(share(radius) >= error - tolerance for radius, error in robust_errors.items())
