"""Projected gradient ascent on the loss: FGSM (Goodfellow et al. 2015), PGD (Madry et al. 2018)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib.attacks.checks import check, radius
from arlib.attacks.losses import PLAIN, Goal, check_loss
from arlib.attacks.spelling import answered
from arlib.attacks.steps import (
    BALLS,
    Ball,
    Best,
    Forward,
    Streams,
    ascent,
    default_generator,
    forward_of,
    look,
    nhwc,
    opened,
    slope,
    take,
)
from arlib.errors import InputError, one_of


@answered
def perturb(
    f: Forward,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    norm: str = "linf",
    loss: str = "ce",
    targeted: bool = False,
    start: Tensor | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """The bare loop of PGD, for training:
    no checks, no copies of the model, never waits for the device.

    f: images (n, …) -> logits (n, k), already in eval mode with weight gradients off
    (`engine.prepare`, or inside `engine.frozen`); the rest as in `pgd`. start: where to begin
    (`random_start(x, …)`), by default at x. Returns the last iterate, channels_last if it is 4-d.
    """
    x = nhwc(x)
    forward, ball, goal = forward_of(f), BALLS[norm](x, eps, clip), Goal(y, loss, targeted)
    step_size = eps / 4 if step_size is None else step_size
    x_adv = x if start is None else nhwc(start)
    for _ in range(steps):
        gradient, _, _ = slope(forward, x_adv, goal)
        x_adv = ball.ascend(x_adv, gradient, step_size)
    return x_adv


@answered
def pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 10,
    step_size: float | Tensor | None = None,
    norm: str = "linf",
    restarts: int = 1,
    loss: str = "ce",
    targeted: bool = False,
    random_start: bool = True,
    generator: torch.Generator | Streams | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    early_stop: bool = False,
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """Projected gradient descent with the worst case kept per image.

    Of all iterates of all restarts the one returned is misclassified if any is, and then the one
    of highest loss. Restarts are a prefix of the generator's stream: more of them never help the
    model. Only images still classified right are restarted.

    Args:
        model: any network on [0, 1] images, or any callable; attacked in eval mode, left as it was
            found.
        x, y: images (n, …) fp32 or fp64, labels (n,) (targeted: the labels to reach); tensors or
            arrays.
        eps: radius in [0, 1] pixel units, a number or one per image (n,); step_size: by default eps
            / 4.
        clip: the pixel range, here and in eps; logits: how to find the logits in what the model
            returns, see `engine.logits_of`.
        norm: "linf" or "l2"; loss: "ce", "margin" or "dlr".
        random_start: uniform in the ball, clipped to the pixel range.
        generator: a `torch.Generator`, or `Streams` (one per image); by default a fresh one with
            seed 0.
        early_stop: leave an image alone once it is misclassified.

    Returns: adversarial images (n, …) within eps of x and within clip.
    Raises: `InputError` for unusable images, labels or settings (see `checks.check`).

    The distance of a linear network from its boundary is known: here ¼ in every pixel.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> net[1].weight.data = torch.tensor([[1.0] * 4, [-1.0] * 4])
    >>> net[1].bias.data = torch.tensor([-1.0, 1.0])
    >>> x, y = torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])
    >>> [net(pgd(net, x, y, eps=eps)).argmax().item() for eps in (0.24, 0.26)]
    [0, 1]
    """
    one_of("loss", loss, PLAIN)
    if restarts > 1 and not random_start:
        raise InputError(
            f"restarts is {restarts} without a random start: all would be the same. Use restarts=1."
        )
    with opened(model, x, y, logits) as (_, forward, x, y):
        eps = radius(eps, x)
        classes = check(
            model, forward, x, y, eps=eps, norm=norm, clip=clip, steps=steps, restarts=restarts
        )
        check_loss(loss, classes, targeted)
        x = nhwc(x)
        best = pgd_restarts(
            forward,
            BALLS[norm](x, eps, clip),
            Goal(y, loss, targeted),
            steps=steps,
            step_size=eps / 4 if step_size is None else step_size,
            restarts=restarts,
            generator=default_generator(generator, x) if random_start else None,
            early_stop=early_stop,
        )
    return best.x.contiguous()


@answered
def fgsm(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    norm: str = "linf",
    loss: str = "ce",
    targeted: bool = False,
    clip: tuple[float, float] = (0.0, 1.0),
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """The fast gradient sign method: one step of length eps from x itself (Goodfellow et al. 2015).

    Arguments, result and errors as in `pgd`; what comes back is the step, even where x was the
    worse.
    """
    one_of("loss", loss, PLAIN)
    with opened(model, x, y, logits) as (_, forward, x, y):
        eps = radius(eps, x)
        check_loss(loss, check(model, forward, x, y, eps=eps, norm=norm, clip=clip), targeted)
        options = {"norm": norm, "loss": loss, "targeted": targeted, "clip": clip}
        return perturb(forward, x, y, eps=eps, steps=1, step_size=eps, **options).contiguous()


def pgd_restarts(
    forward: Forward,
    ball: Ball,
    goal: Goal,
    *,
    steps: int,
    step_size: float | Tensor,
    restarts: int,
    generator: torch.Generator | Streams | None,
    early_stop: bool,
) -> Best:
    """PGD from `restarts` random starts (from ball.x without a generator),
    each on the survivors of the last.
    """
    best = Best(ball.x)
    for restart in range(restarts):
        # for all: one stream, however many survive
        start = ball.x if generator is None else ball.start(generator)
        if restart == 0:
            climb(forward, ball, start, goal, best, steps, step_size, early_stop)
        elif len(alive := best.survivors()):
            size = take(step_size, alive)
            climb(
                forward,
                ball.take(alive),
                start[alive],
                goal.take(alive),
                best,
                steps,
                size,
                early_stop,
            )
    return best


def climb(
    forward: Forward,
    ball: Ball,
    x_adv: Tensor,
    goal: Goal,
    best: Best,
    steps: int,
    size: float | Tensor,
    early_stop: bool = False,
) -> None:
    """PGD from x_adv inside `ball`; tells `best` every iterate (the last one costs a
    forward pass).
    """
    for step in range(steps):
        gradient, hits, losses = ascent(forward, x_adv, goal)
        best.update(x_adv, hits, losses)
        x_adv = ball.ascend(x_adv, gradient, size)
        if early_stop and (keep := best.drop(step)) is not None:
            x_adv, ball, goal, size = (
                x_adv[keep],
                ball.take(keep),
                goal.take(keep),
                take(size, keep),
            )
            if not len(keep):
                return
    best.update(x_adv, *look(forward, x_adv, goal))
