"""The smallest perturbation that an attack can find:
an upper bound on the distance to the boundary.

A variant of the fast minimum-norm attack (Pintor et al. 2021): gradient steps on the margin inside
a ball whose radius follows the boundary, shrinking by a factor where the image is misclassified and
growing where it is not. Here the steps are a share of the current radius, so no length has to be
tuned to the data, and the steepest ones of the norm. Half of them go towards the class whose
boundary is nearest for a linear model (as DeepFool ranks them; Moosavi-Dezfooli et al. 2016), half
towards whatever class is likeliest; a bisection on the way back to the image ends it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib import engine
from arlib.attacks.checks import check
from arlib.attacks.losses import Goal, margin_to
from arlib.attacks.spelling import answered
from arlib.attacks.steps import (
    BALLS,
    Forward,
    ascent,
    gradient_of,
    itself_of,
    look,
    nhwc,
    norms,
    opened,
    per_image,
)
from arlib.errors import InputError

STEP = (1.0, 0.01)  # first and last step as a share of the radius
CHANGE = (0.5, 0.001)  # first and last relative change of the radius
HALVINGS = 10  # of the final bisection
CANDIDATES = 9  # classes whose boundaries are compared
# the steepest step of a norm climbs by the dual norm of the gradient
DUAL = {"linf": 1, "l2": 2}


@answered
def minimum_norm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    steps: int = 100,
    norm: str = "linf",
    targeted: bool = False,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """Adversarial images as near to x as found; no random start, so nothing is drawn.

    Args:
        model, x, y, norm, targeted, clip, logits: as in `pgd`. steps: forward and backward passes
            an image.

    Returns: images (n, …), each misclassified (targeted: classified as y) and within clip. An image
        that is so already, or for which nothing was found, comes back unchanged: `distance` tells.
    Raises: `InputError` as `pgd`.
    """
    with opened(model, x, y, logits) as (f, forward, x, y):
        check(model, forward, x, y, norm=norm, clip=clip, steps=steps)
        x, itself = nhwc(x), itself_of(f, forward, logits)
        nearest, missed = _nearest(forward, itself, x, y, steps, norm, targeted, clip)
        if len(missed):  # they fool the copy and not the model: once more, on the model itself
            few, labels, before = x[missed], y[missed], nearest[missed]
            again, _ = _nearest(itself, itself, few, labels, steps, norm, targeted, clip)
            goal = Goal(labels, "margin", targeted)
            nearest[missed] = _shorter(itself, few, before, again, goal, norm)
        return nearest.contiguous()


def _nearest(
    forward: Forward, itself: Forward, x: Tensor, y: Tensor, steps: int, norm: str, targeted: bool,
    clip: tuple[float, float],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The nearest images found with `forward` of those that fool the model itself; and the indices
    of the images for which something was found that does not.
    """
    goals = [Goal(y, "margin", targeted)]
    if not targeted:
        goals.insert(0, Goal(y, "margin-targeted", target=_nearest_class(forward, x, y, norm)))
    nearest, missed = x, torch.zeros(len(x), dtype=torch.bool, device=x.device)
    for part, goal in enumerate(goals):
        # the shares add up to steps, also where it is odd
        share = (steps + part) // len(goals)
        candidate = _search(forward, x, goal, norm, share, clip)
        if itself is not forward:
            missed |= look(forward, candidate, goal)[0] & ~look(itself, candidate, goal)[0]
        nearest = _shorter(itself, x, nearest, candidate, goal, norm)
    return _walk_back(itself, x, nearest, goals[-1]), missed.nonzero()[:, 0]


@answered
@torch.no_grad()
def distance(
    model: nn.Module,
    x: Tensor,
    x_adv: Tensor,
    y: Tensor,
    *,
    norm: str = "linf",
    targeted: bool = False,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """The norm of x_adv − x where x_adv is misclassified (targeted: classified as y),
    else infinity. (n,).
    """
    if x.shape != x_adv.shape:
        raise InputError(
            f"the images have shapes {tuple(x.shape)} and {tuple(x_adv.shape)}; they must be the "
            "same."
        )
    x, _ = engine.images_and_labels(model, x)
    with opened(model, x_adv, y, logits) as (_, forward, x_adv, y):
        check(model, forward, x_adv, y, norm=norm, clip=clip)
        hits, _ = look(forward, nhwc(x_adv), Goal(y, "margin", targeted))
    return torch.where(hits, norms(x_adv - x, norm), math.inf)


def longest(norm: str, x: Tensor, clip: tuple[float, float]) -> float:
    """The norm of the longest way between two images of x's shape whose pixels lie in clip."""
    return (clip[1] - clip[0]) * (1.0 if norm == "linf" else math.sqrt(x[0].numel()))


def _search(
    forward: Forward, x: Tensor, goal: Goal, norm: str, steps: int, clip: tuple[float, float]
) -> Tensor:
    """The nearest misclassified iterate; x itself where none is."""
    largest = longest(norm, x, clip)
    nearest, shortest = x, torch.full((len(x),), math.inf, dtype=x.dtype, device=x.device)
    x_adv, radius = x, None
    for step in range(steps):
        gradient, hits, losses = ascent(forward, x_adv, goal)
        losses = losses.to(x.dtype)
        length = norms(x_adv - x, norm)
        closer = hits & (length < shortest)
        nearest, shortest = (
            torch.where(per_image(closer, x), x_adv, nearest),
            torch.where(closer, length, shortest),
        )
        change = _cosine(CHANGE, step, steps)
        if radius is None:
            radius = _to_boundary(gradient, losses, norm)
        else:
            radius = torch.where(
                hits, torch.minimum(radius, shortest) * (1 - change), radius * (1 + change)
            )
        # the range holds nothing further away; where nothing fools it would grow without end
        radius = radius.clamp(max=largest)
        x_adv = BALLS[norm](x, radius, clip).ascend(
            x_adv, gradient, radius * _cosine(STEP, step, steps)
        )
    hits, _ = look(forward, x_adv, goal)
    closer = hits & (norms(x_adv - x, norm) < shortest)
    return torch.where(per_image(closer, x), x_adv, nearest)


def _nearest_class(forward: Forward, x: Tensor, y: Tensor, norm: str) -> Tensor:
    """Of the likeliest other classes,
    the one whose boundary is nearest if the model were linear. (n,).
    """
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = forward(x)
        others = logits.detach().scatter(1, y[:, None], -math.inf)
        # (n, candidates)
        candidates = others.topk(min(CANDIDATES, others.shape[1] - 1), dim=1).indices
        distances = []
        for target in candidates.unbind(1):
            losses = margin_to(logits, y, target)
            # the graph is kept: one forward pass serves all the candidates
            gradient = gradient_of(losses.sum(), x, retain_graph=True).nan_to_num(nan=0.0)
            distances.append(_to_boundary(gradient, losses.detach(), norm))
    nearest = torch.stack(distances, 1).argmin(1, keepdim=True)
    return candidates.gather(1, nearest)[:, 0]


def _shorter(forward: Forward, x: Tensor, a: Tensor, b: Tensor, goal: Goal, norm: str) -> Tensor:
    """Of two candidates per image the nearer one that hits; x where neither does."""
    lengths = [torch.where(look(forward, z, goal)[0], norms(z - x, norm), math.inf) for z in (a, b)]
    return torch.where(per_image(lengths[0] <= lengths[1], x), a, b)


def _to_boundary(gradient: Tensor, losses: Tensor, norm: str) -> Tensor:
    """The distance at which a linear model would change its mind. (n,)."""
    slope = torch.linalg.vector_norm(gradient.flatten(1), DUAL[norm], dim=1)
    return (-losses).clamp_min(0) / slope.clamp_min(torch.finfo(slope.dtype).tiny)


def _walk_back(forward: Forward, x: Tensor, x_adv: Tensor, goal: Goal) -> Tensor:
    """Bisection on the straight line from x_adv (kept where it hits) towards x."""
    low, high = (
        torch.zeros(len(x), dtype=x.dtype, device=x.device),
        torch.ones(len(x), dtype=x.dtype, device=x.device),
    )
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        hits, _ = look(forward, x + per_image(middle, x) * (x_adv - x), goal)
        low, high = torch.where(hits, low, middle), torch.where(hits, middle, high)
    # not x + 1 · (x_adv − x): that may round to another image than the one known to hit
    return torch.where(per_image(high == 1, x), x_adv, x + per_image(high, x) * (x_adv - x))


def _cosine(ends: tuple[float, float], step: int, steps: int) -> float:
    """From the first to the last of `ends` along half a cosine."""
    return ends[1] + (ends[0] - ends[1]) * (1 + math.cos(math.pi * step / steps)) / 2
