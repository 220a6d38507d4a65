"""Projected gradient ascent on the loss: FGSM (Goodfellow et al. 2015), PGD (Madry et al. 2018)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib import engine
from arlib.attacks import steps as parts
from arlib.errors import InputError, one_of


def perturb(
    f: Callable[[Tensor], Tensor],
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
    """The bare loop of PGD, for training: no checks, no copies of the model, never waits for the device.

    f: images (n, …) -> logits (n, k), already in eval mode with weight gradients off
    (`engine.prepare` or inside `engine.frozen`); otherwise as `pgd`. start: where to begin
    (`random_start(x, …)`), by default at x. Returns the last iterate, channels_last if it is 4-d.
    """
    x = parts.nhwc(x)
    ball, objective, forward = parts.BALLS[norm](x, eps, clip), parts.objective(loss, targeted), parts.forward_of(f)
    step_size = eps / 4 if step_size is None else step_size
    x_adv = x if start is None else parts.nhwc(start)
    for _ in range(steps):
        gradient, _, _ = parts.input_gradient(forward, x_adv, y, objective)
        x_adv = ball.ascend(x_adv, gradient, step_size)
    return x_adv


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
    generator: torch.Generator | None = None,
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Projected gradient descent with the worst case kept per image.

    Of all iterates of all restarts the one returned is misclassified if any is, and then the one
    of highest loss. Restarts are a prefix of the generator's stream: more of them never help the
    model. Only images still classified right are restarted.

    Args:
        model: any network on [0, 1] images; attacked in eval mode, left as it was found.
        x, y: images (n, …) fp32 or fp64, labels (n,) int64 (targeted: the labels to reach).
        eps: radius in [0, 1] pixel units, a number or one an image (n,); step_size: by default eps / 4.
        norm: "linf" or "l2"; loss: "ce", "margin" or "dlr".
        random_start: uniform in the ball, clipped to the pixel range; generator: by default seed 0.

    Returns: adversarial images (n, …) within eps of x and within clip.
    Raises: `InputError` for unusable images, labels or settings (see `steps.check`).
    """
    one_of("loss", loss, parts.LOSSES)
    if restarts > 1 and not random_start:
        raise InputError(f"restarts is {restarts} without a random start: all would be the same. Use restarts=1.")
    with engine.frozen(model) as f:
        forward = parts.forward_of(f)
        classes = parts.check(model, forward, x, y, eps=eps, norm=norm, clip=clip, steps=steps, restarts=restarts)
        check_loss(loss, classes, targeted)
        x, generator = parts.nhwc(x), parts.default_generator(generator, x)
        objective = parts.objective(loss, targeted)
        size = eps / 4 if step_size is None else step_size
        best, alive = None, torch.arange(len(x), device=x.device)
        for _ in range(restarts):
            start = parts.BALLS[norm](x, eps, clip).start(generator) if random_start else x  # all: one stream
            ball = parts.BALLS[norm](x[alive], pick(eps, alive), clip)
            found = climb(forward, ball, start[alive], y[alive], objective, steps, pick(size, alive), targeted)
            best = found if best is None else best.merge(found, alive)
            alive = (~best.hit).nonzero()[:, 0]
            if not len(alive):
                break
    return best.x.contiguous()


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
) -> Tensor:
    """The fast gradient sign method: one step of length eps from x itself (Goodfellow et al. 2015).

    Arguments, result and errors as in `pgd`. What comes back is the step, even where x was the worse.
    """
    one_of("loss", loss, parts.LOSSES)
    with engine.frozen(model) as f:
        classes = parts.check(model, parts.forward_of(f), x, y, eps=eps, norm=norm, clip=clip)
        check_loss(loss, classes, targeted)
        options = {"norm": norm, "loss": loss, "targeted": targeted, "clip": clip}
        return perturb(f, x, y, eps=eps, steps=1, step_size=eps, **options).contiguous()


class Best:
    """The worst input seen for each image: one that hits before one that does not, then higher loss."""

    def __init__(self, x: Tensor, hit: Tensor, losses: Tensor):
        self.x, self.hit, self.losses = x, hit, losses

    def update(self, x: Tensor, hit: Tensor, losses: Tensor) -> "Best":
        better = (hit & ~self.hit) | ((hit == self.hit) & (losses > self.losses))
        self.x = torch.where(parts.per_image(better, x), x, self.x)
        self.hit, self.losses = self.hit | hit, torch.where(better, losses, self.losses)
        return self

    def merge(self, other: "Best", index: Tensor) -> "Best":
        """Take over what `other` found for the images `index` of this one."""
        mine = Best(self.x[index], self.hit[index], self.losses[index]).update(other.x, other.hit, other.losses)
        self.x, self.hit, self.losses = self.x.clone(), self.hit.clone(), self.losses.clone()
        self.x[index], self.hit[index], self.losses[index] = mine.x, mine.hit, mine.losses
        return self


def climb(forward, ball, x_adv: Tensor, y: Tensor, objective, steps: int, size, targeted: bool = False) -> Best:
    """PGD from x_adv inside `ball`; the worst of all iterates, the last of which costs a forward pass."""
    best = None
    for _ in range(steps):
        gradient, logits, losses = parts.input_gradient(forward, x_adv, y, objective)
        seen = (x_adv, parts.hit(logits, y, targeted), losses)
        best = Best(*seen) if best is None else best.update(*seen)
        x_adv = ball.ascend(x_adv, gradient, size)
    with torch.no_grad():
        logits = forward(x_adv)
        return best.update(x_adv, parts.hit(logits, y, targeted), objective(logits, y))


def pick(values: float | Tensor, index: Tensor) -> float | Tensor:
    """The values of the chosen images, where each image has its own."""
    return values[index] if isinstance(values, Tensor) and values.ndim else values


def check_loss(loss: str, classes: int, targeted: bool = False) -> None:
    """DLR divides by the first minus the third largest logit: it needs three, and a label to leave."""
    if loss == "dlr" and classes < 3:
        raise InputError(f"loss is 'dlr', which needs at least 3 classes; this model has {classes}. Use 'margin'.")
    if loss == "dlr" and targeted:
        raise InputError("loss is 'dlr' with targeted=True, which has no bound to climb to. Use 'ce' or 'margin'.")
