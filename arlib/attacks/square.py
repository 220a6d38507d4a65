"""The Square attack: random search that never looks at a gradient (Andriushchenko et al. 2020).

Weaker than the gradient attacks where gradients tell the truth; where it is stronger, they lie.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib.attacks.checks import check, radius
from arlib.attacks.losses import PLAIN, Goal, check_loss
from arlib.attacks.spelling import answered
from arlib.attacks.steps import (
    Best,
    Forward,
    LinfBall,
    Streams,
    default_generator,
    draw,
    look,
    nhwc,
    opened,
    per_image,
)
from arlib.errors import InputError, one_of

# of 10,000 queries: when the square's area halves (section 3.2)
HALVINGS = (10, 50, 200, 1000, 2000, 4000, 6000, 8000)
DRAWN_AT_ONCE = 200  # queries whose random numbers are drawn together


@answered
def square(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    queries: int = 5000,
    norm: str = "linf",
    loss: str = "margin",
    targeted: bool = False,
    p_init: float = 0.8,
    generator: torch.Generator | Streams | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """Random squares of ±eps, each kept if it raises the loss;
    work on an image ends when it is misclassified.

    Args:
        model, x, y, eps, loss, targeted, generator, clip, logits: as in `pgd`; x: (n, c, h, w).
        queries: forward passes per image at most; p_init: share of the image the first squares
            cover.

    Returns: adversarial images (n, c, h, w) within eps of x and within clip.
    Raises: `InputError` as `pgd`; for norm="l2", which is not built here; for x that is not 4-d.
    """
    one_of("loss", loss, PLAIN)
    if norm != "linf":
        raise InputError(
            f"norm is {norm!r}; the Square attack here is for linf only. Use apgd for l2."
        )
    if x.ndim != 4:
        raise InputError(
            f"images have shape {tuple(x.shape)}; the Square attack needs (n, c, h, w)."
        )
    if not 0 < p_init <= 1:
        raise InputError(f"p_init is {p_init}; allowed: above 0, at most 1.")
    with opened(model, x, y, logits) as (_, forward, x, y):
        eps = radius(eps, x)
        check_loss(loss, check(model, forward, x, y, eps=eps, clip=clip, queries=queries), targeted)
        x = nhwc(x)
        ball, goal = LinfBall(x, eps, clip), Goal(y, loss, targeted)
        return search(
            forward, ball, goal, queries, default_generator(generator, x), p_init
        ).x.contiguous()


def covered(query: int, queries: int, p_init: float) -> float:
    """Share of the image that the square of a query covers: p_init, halved on schedule."""
    return p_init / 2 ** sum(query * 10_000 > at * queries for at in HALVINGS)


def search(
    forward: Forward,
    ball: LinfBall,
    goal: Goal,
    queries: int,
    generator: torch.Generator | Streams,
    p_init: float = 0.8,
) -> Best:
    """Random search in `ball`: vertical stripes first, then one square a query;
    images that are hit drop out.
    """
    x, (channels, _, width) = ball.x, ball.x.shape[1:]
    best = Best(x)
    best.update(x, *look(forward, x, goal))
    # drawn for all, also for images already hit: no image's draws depend on the others
    stripes = draw(torch.rand, x, (channels, 1, width), generator) < 0.5
    alive = best.survivors()
    if not len(alive):
        return best
    ball, goal = ball.take(alive), goal.take(alive)
    # the stripes are taken whatever their loss: the search begins at a corner of the ball
    x_adv, loss = (
        torch.where(stripes[alive], ball.high, ball.low),
        torch.full_like(best.losses[alive], -torch.inf),
    )
    for query in range(queries):
        # row, column, a sign for each channel; for all images: one stream
        if query % DRAWN_AT_ONCE == 0:
            places = draw(torch.rand, x, (DRAWN_AT_ONCE, 2 + channels), generator)[best.active]
        place, share = places[:, query % DRAWN_AT_ONCE], covered(query, queries, p_init)
        tried = _with_square(x_adv, ball, place, share) if query else x_adv
        hits, new = look(forward, tried, goal)
        best.update(tried, hits, new)
        better = new > loss
        x_adv, loss = (
            torch.where(per_image(better, x_adv), tried, x_adv),
            torch.where(better, new, loss),
        )
        if (keep := best.drop(query)) is not None:
            x_adv, loss, ball, goal, places = (
                x_adv[keep],
                loss[keep],
                ball.take(keep),
                goal.take(keep),
                places[keep],
            )
        if not len(x_adv):
            break
    return best


def _with_square(x_adv: Tensor, ball: LinfBall, place: Tensor, share: float) -> Tensor:
    """Each image with one square set to ±eps, one sign per channel. place:
    (n, 2 + c) uniform in [0, 1).
    """
    height, width = x_adv.shape[2:]
    size = min(max(round((share * height * width) ** 0.5), 1), height, width)
    inside = (
        _window(place[:, 0], height, size)[:, None, :, None]
        & _window(place[:, 1], width, size)[:, None, None, :]
    )
    sign = place[:, 2:, None, None] < 0.5  # (n, c, 1, 1)
    return torch.where(inside, torch.where(sign, ball.high, ball.low), x_adv)


def _window(place: Tensor, length: int, size: int) -> Tensor:
    """`size` neighbours of `length` pixels, anywhere with equal probability.
    (n,) -> (n, length) bool.
    """
    first = (place * (length - size + 1)).floor()[:, None]
    pixel = torch.arange(length, device=place.device)
    return (pixel >= first) & (pixel < first + size)
