"""Auto-PGD: PGD with momentum that halves its own step (Croce & Hein 2020, "Reliable evaluation
…").
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from arlib.attacks.checks import check, radius
from arlib.attacks.losses import PLAIN, TO_TARGET, Goal, check_loss
from arlib.attacks.spelling import answered
from arlib.attacks.steps import (
    BALLS,
    Ball,
    Best,
    Forward,
    Streams,
    ascent,
    default_generator,
    look,
    nhwc,
    opened,
    per_image,
)
from arlib.errors import one_of

LOSSES = (*PLAIN, *TO_TARGET)
# weight of the new step against the last move (section 3 of the paper, as all three here)
MOMENTUM = 0.75
ENOUGH = 0.75  # share of steps since the last checkpoint that must have raised the loss
FIRST, SHRINK, SHORTEST = 0.22, 0.03, 0.06  # checkpoint spacing as shares of all steps
# On one network, of 21 images that 8 steps left and 100 broke, each fell to the target that was the
# nearest of nine after 8; `python -m benchmarks.budgets` asks more networks.
SCOUTED, KEPT = 8, 2


@answered
def apgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor,
    steps: int = 100,
    norm: str = "linf",
    restarts: int = 1,
    loss: str = "ce",
    targeted: bool = False,
    targets: int = 9,
    generator: torch.Generator | Streams | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
    early_stop: bool = False,
    logits: Callable[[object], Tensor] | None = None,
) -> Tensor:
    """Auto-PGD with the worst case kept per image; one forward and backward pass per step.

    Args:
        model, x, y, eps, norm, restarts, targeted, generator, clip, early_stop, logits: as in
            `pgd`.
        loss: "ce", "margin", "dlr" (≥ 3 classes), or "dlr-targeted" (≥ 4 classes) and
            "margin-targeted": these try the `targets` most likely wrong classes in turn, each
            on the images that all before left standing.

    Returns: adversarial images (n, …) within eps of x and within clip.
    Raises: `InputError` as `pgd`, and for a loss that the model has too few classes for.
    """
    one_of("loss", loss, LOSSES)
    with opened(model, x, y, logits) as (_, forward, x, y):
        eps = radius(eps, x)
        counts = {"steps": steps, "restarts": restarts, "targets": targets}
        check_loss(
            loss, check(model, forward, x, y, eps=eps, norm=norm, clip=clip, **counts), targeted
        )
        x = nhwc(x)
        best = apgd_restarts(
            forward,
            BALLS[norm](x, eps, clip),
            Goal(y, loss, targeted),
            steps=steps,
            restarts=restarts,
            targets=targets,
            generator=default_generator(generator, x),
            early_stop=early_stop,
        )
    return best.x.contiguous()


def apgd_restarts(
    forward: Forward,
    ball: Ball,
    goal: Goal,
    *,
    steps: int,
    restarts: int,
    generator: torch.Generator | Streams,
    early_stop: bool,
    targets: int = 9,
) -> Best:
    """Auto-PGD from `restarts` random starts a target, each on the survivors of the last."""
    best, goals = Best(ball.x), [goal]
    if goal.loss in TO_TARGET:
        goals = _towards(goal, _likeliest(forward, ball.x, goal.y, targets))
    _in_turn(forward, ball, goals * restarts, best, steps, generator, early_stop)
    return best


def _in_turn(forward, ball, goals: list[Goal], best: Best, steps, generator, early_stop) -> None:
    """One climb for each goal, on the survivors of the last."""
    for goal in goals:
        start = ball.start(generator)  # for all: one stream, however many survive
        if len(alive := best.survivors()):
            climb(
                forward, ball.take(alive), start[alive], goal.take(alive), best, steps, early_stop
            )


def focused(
    forward: Forward,
    ball: Ball,
    goal: Goal,
    *,
    steps: int,
    generator: torch.Generator | Streams,
    targets: int = 9,
    scouted: int = SCOUTED,
    kept: int = KEPT,
) -> Best:
    """Auto-PGD to the end towards those targets only that a few steps brought nearest.

    Each of the likeliest wrong classes is tried for `scouted` steps. Of what survives, the `kept`
    targets of highest loss get all `steps`, each from a new random start.
    """
    best = Best(ball.x)
    classes = _likeliest(forward, ball.x, goal.y, targets)
    reached = torch.full(classes.shape, -math.inf, dtype=ball.x.dtype, device=ball.x.device)
    for place, to_one in enumerate(_towards(goal, classes)):
        start = ball.start(generator)
        if len(alive := best.survivors()):
            part, seen = ball.take(alive), Best(ball.x[alive])
            climb(forward, part, start[alive], to_one.take(alive), seen, scouted)
            best.update(seen.x, seen.hit, seen.losses)
            reached[alive, place] = seen.losses
    order = reached.topk(min(kept, classes.shape[1]), dim=1).indices
    nearest = _towards(goal, classes.gather(1, order))
    _in_turn(forward, ball, nearest, best, steps, generator, early_stop=True)
    return best


@torch.no_grad()
def _likeliest(forward: Forward, x: Tensor, y: Tensor, targets: int) -> Tensor:
    """The most likely wrong classes of the natural images, likeliest first: (n, targets)."""
    # the label itself at -inf: it can never rank among the targets
    others = forward(x).scatter(1, y[:, None], -math.inf)
    return others.topk(min(targets, others.shape[1] - 1), dim=1).indices


def _towards(goal: Goal, classes: Tensor) -> list[Goal]:
    """One goal for each column of classes."""
    return [Goal(goal.y, goal.loss, target=column) for column in classes.unbind(1)]


def checkpoints(steps: int) -> list[int]:
    """After how many steps the step size is judged (section 3.1)."""
    share, last, points = FIRST, 0.0, []
    while share < 1:
        points.append(math.ceil(round(share * steps, 6)))  # 0.57 · 100 is not quite 57
        share, last = share + max(share - last - SHRINK, SHORTEST), share
    return sorted(set(points))


@dataclass
class _Walk:
    """What Auto-PGD remembers of each image it is working on."""

    x: Tensor
    before: Tensor  # the iterate before x
    gradient: Tensor
    loss: Tensor
    top: Tensor  # the iterate of highest loss
    top_gradient: Tensor
    top_loss: Tensor
    judged_loss: Tensor  # top_loss at the last checkpoint
    size: Tensor
    rises: Tensor  # steps since the last checkpoint that raised the loss
    halved: Tensor  # whether the last checkpoint halved the step

    def take(self, index: Tensor) -> "_Walk":
        return _Walk(**{field.name: getattr(self, field.name)[index] for field in fields(self)})

    def arrive(self, x: Tensor, gradient: Tensor, loss: Tensor) -> None:
        """Note the new iterate's loss and gradient."""
        better = loss > self.top_loss
        pixels = per_image(better, x)
        self.rises = self.rises + (loss > self.loss)
        self.before, self.x, self.gradient, self.loss = self.x, x, gradient, loss
        self.top = torch.where(pixels, x, self.top)
        self.top_gradient = torch.where(pixels, gradient, self.top_gradient)
        self.top_loss = torch.where(better, loss, self.top_loss)

    def judge(self, steps: int) -> None:
        """At a checkpoint: halve the step and return to the top
        where the last steps brought too little.
        """
        # a step halved at the last checkpoint gets one more period before a level top condemns it
        stalled = (self.rises < ENOUGH * steps) | (
            ~self.halved & (self.top_loss <= self.judged_loss)
        )
        pixels = per_image(stalled, self.x)
        self.size = torch.where(stalled, self.size / 2, self.size)
        self.x = torch.where(pixels, self.top, self.x)
        self.gradient = torch.where(pixels, self.top_gradient, self.gradient)
        self.loss = torch.where(stalled, self.top_loss, self.loss)
        self.halved, self.judged_loss, self.rises = (
            stalled,
            self.top_loss,
            torch.zeros_like(self.rises),
        )


def _begin(forward: Forward, ball: Ball, x: Tensor, goal: Goal, best: Best) -> _Walk:
    gradient, hits, loss = ascent(forward, x, goal)
    best.update(x, hits, loss)
    # 2 eps is the width of the ball: the first step reaches its far side from anywhere
    size = 2 * torch.as_tensor(ball.eps, dtype=x.dtype, device=x.device).expand(len(x))
    rises, halved = (
        torch.zeros(len(x), device=x.device),
        torch.zeros(len(x), dtype=torch.bool, device=x.device),
    )
    return _Walk(x, x, gradient, loss, x, gradient, loss, loss, size, rises, halved)


def climb(
    forward: Forward,
    ball: Ball,
    start: Tensor,
    goal: Goal,
    best: Best,
    steps: int,
    early_stop: bool = False,
) -> None:
    """Algorithm 1 from `start` inside `ball`; tells `best` every iterate."""
    walk, points, judged = _begin(forward, ball, start, goal, best), set(checkpoints(steps)), 0
    for step in range(1, steps + 1):
        if early_stop and (keep := best.drop(step - 1)) is not None:
            walk, ball, goal = walk.take(keep), ball.take(keep), goal.take(keep)
            if not len(keep):
                return
        ahead = ball.ascend(walk.x, walk.gradient, walk.size)
        if step > 1:
            ahead = ball.project(
                walk.x + MOMENTUM * (ahead - walk.x) + (1 - MOMENTUM) * (walk.x - walk.before)
            )
        # the last iterate needs no gradient: one forward pass says whether it hits
        if step == steps:
            return best.update(ahead, *look(forward, ahead, goal))
        gradient, hits, loss = ascent(forward, ahead, goal)
        best.update(ahead, hits, loss)
        walk.arrive(ahead, gradient, loss)
        if step in points:
            walk.judge(step - judged)
            judged = step
