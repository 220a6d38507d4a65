"""Reasons to distrust a robustness number:
each check returns a sentence, or None where all is well.

The list follows what made published defences look robust that were not (Athalye et al. 2018,
Carlini et al. 2019, the checks of Croce & Hein's AutoAttack), so that an evaluation says so itself.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from arlib import engine
from arlib.attacks.losses import Goal
from arlib.attacks.pgd import pgd_restarts
from arlib.attacks.steps import BALLS, Ball, Forward, Streams, look, nhwc, raw_gradient

SLACK = 0.003  # share of images that two attacks may differ by without meaning anything
# radius at which every image can become plain grey, so that no network can be right on all
HUGE = 0.5
LEFT = 0.05  # share that may be left standing there
STEPS = 20
# of the network on so many images: a random draw seldom comes out equal in all of them
PASSES, FEW = 10, 8


def training_modules(model: nn.Module) -> str | None:
    """A network given in training mode is not what the numbers are about:
    attacks run in eval mode.
    """
    if not isinstance(model, nn.Module):
        return None
    names = [
        name or type(model).__name__ for name, module in model.named_modules() if module.training
    ]
    if names:
        return (
            f"{len(names)} modules were in training mode ({', '.join(names[:3])}, …): the network "
            "was attacked in eval mode. Call model.eval() first if that is meant."
        )


def normalised(x: Tensor, clip: tuple[float, float]) -> str | None:
    """Images that fit the pixel range by chance may still be normalised ones:
    their mean is not that of pixels.
    """
    low, high = float(x.min()), float(x.max())
    wide = clip[1] - clip[0] > 1.5 and clip[0] < 0 < clip[1]
    # pixels on -1 to 1 cannot pass 1.2; normalised black and white lie near ±2
    if wide and abs(float(x.mean())) < 0.25 and low < -1.2 and high > 1.2:
        return (
            "the images look normalised (mean near 0, both signs): then eps is in units of the "
            "standard deviation, another one for each channel. Give pixels, and "
            "arlib.with_normalization(model, mean, std)."
        )


@torch.no_grad()
def behaviour(f: nn.Module, forward: Forward, x: Tensor) -> list[str | None]:
    """What two forward passes of the same images x (a few),
    and one of the first two alone, give away.
    """
    once, alone = forward(x), forward(x[:2])
    doubts, bad = [None] * 4, ~torch.isfinite(once).all(1)
    if bad.any():
        share = float(bad.double().mean())
        return [
            f"the logits of {share:.1%} of the natural images are not finite: such an image "
            "counts as misclassified, and no attack is said to succeed by such an answer. Little "
            "measured here means anything."
        ]
    if any(module.training for module in _inside(f)):
        doubts[0] = (
            "the network puts modules back into training mode in its forward pass; its answers "
            "depend on it."
        )
    scale = float(once.max() - once.min())
    few = forward(x[:FEW])
    # the same few again, not a part of `once`: in a batch of another size sums round otherwise
    if any(float((forward(x[:FEW]) - few).abs().max()) > 1e-3 * scale for _ in range(PASSES)):
        doubts[1] = (
            "two forward passes of the same images differ: a random network needs attacks on its "
            "average answer."
        )
    elif float((once[:2] - alone).abs().max()) > 0.05 * scale:
        doubts[2] = (
            "an image's logits depend on the other images of its batch, as with batch norm in "
            "training mode."
        )
    sums = once.sum(1)
    if float(once.min()) >= 0 and float((sums - 1).abs().max()) < 1e-2:
        doubts[3] = (
            "the network returns probabilities: give logits, or the loss's gradient vanishes "
            "where it is sure."
        )
    return doubts


def _inside(f: nn.Module) -> Iterator[nn.Module]:
    """The modules that run when f does."""
    yield from f.running() if isinstance(f, engine.Prepared) else f.modules()


def gradients(forward: Forward, x: Tensor, y: Tensor) -> list[str | None]:
    """Gradients that lead nowhere: exactly zero, or not numbers."""
    raw = raw_gradient(forward, nhwc(x), Goal(y))
    bad = ~raw.isfinite().flatten(1)
    doubt = None
    if bad.any():
        images, pixels = float(bad.any(1).double().mean()), float(bad.double().mean())
        doubt = (
            f"the gradient is not finite in {pixels:.1%} of the pixels, of {images:.1%} of the "
            "images (a root or a logarithm of a black pixel, 0/0): attacks leave pixels without "
            "a direction where they are."
        )
    return [doubt, _zero_gradients(raw.nan_to_num(nan=0.0))]


def _zero_gradients(gradient: Tensor) -> str | None:
    """Gradients that are exactly zero: half-precision underflow, saturation, or masking."""
    zero = (gradient == 0).flatten(1)
    images, pixels = float(zero.all(1).float().mean()), float(zero.float().mean())
    if images > 0.01 or pixels > 0.25:
        return (
            f"the gradient is exactly zero for {images:.1%} of the images and {pixels:.1%} of the "
            "pixels: gradient attacks are blind there (saturated or non-differentiable parts, "
            "half-precision underflow)."
        )


def near_chance(correct: int, n: int, classes: int) -> str | None:
    """A network that guesses was trained on something else,
    or gets its images or labels in another form.
    """
    # twice chance; of few classes, where that is easily had, a tenth above chance
    if correct / n < min(2 / classes, 1 / classes + 0.1):
        return (
            f"natural accuracy is {correct / n:.1%} ({correct} of {n}), near chance for {classes} "
            "classes: are pixels, normalisation and labels those of the training?"
        )


def stronger_black_box(name: str, eps: float, broken: int, n: int, others: str) -> str | None:
    """A search without gradients should find nothing that gradients do not."""
    if broken > max(1, SLACK * n):
        return (
            f"{name} broke {broken} of {n} images at eps={eps:.4g} that {others} did not: the "
            "gradients mislead (masking), or the attacks are too weak; the robust accuracy is "
            "too high."
        )


@torch.no_grad()
def random_noise(forward: Forward, ball: Ball, y: Tensor, generator: torch.Generator) -> int:
    """How many images one random direction of full length breaks:
    ± eps in every pixel, or on the l2 sphere.
    """
    noise = torch.randn(
        ball.x.shape, generator=generator, device=generator.device, dtype=ball.x.dtype
    )
    moved = ball.ascend(ball.x, noise.to(ball.x.device), ball.eps)  # a step up a random "gradient"
    return int(look(forward, moved, Goal(y))[0].sum())


def does_not_fall(
    forward: Forward,
    x: Tensor,
    y: Tensor,
    norm: str,
    streams: Streams,
    clip: tuple[float, float] = (0.0, 1.0),
) -> str | None:
    """At a radius where every image can become any grey one,
    an attack that works leaves next to nothing.
    """
    eps = HUGE * (clip[1] - clip[0]) * (1.0 if norm == "linf" else math.sqrt(x[0].numel()))
    left = len(x)
    # two losses: cross-entropy has no gradient left where a network is very sure, the margin has
    for loss in ("margin", "ce"):
        options = {
            "steps": STEPS,
            "step_size": eps / 4,
            "restarts": 1,
            "generator": streams,
            "early_stop": True,
        }
        best = pgd_restarts(forward, BALLS[norm](nhwc(x), eps, clip), Goal(y, loss), **options)
        left = min(left, int((~best.hit).sum()))
        if left <= LEFT * len(x):
            return None
    return (
        f"accuracy does not fall to 0 as eps grows: {left} of {len(x)} images withstand PGD at "
        f"{norm} eps={eps:.3g}, where every image can be made plain grey. The gradients are "
        "masked, or the attack is broken."
    )
