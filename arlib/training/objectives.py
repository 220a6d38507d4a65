"""What a training step minimises, and the images it does so on.

- adversarial: cross-entropy at the worst point found in the ε-ball (Madry et al. 2018, section 2).
- trades: cross-entropy on the image, plus β times how far the answer can be moved within the
  ball, as a Kullback–Leibler divergence (Zhang et al. 2019, equation 5).
- mixed: a weighted mean of natural and adversarial cross-entropy (Goodfellow et al. 2015,
  section 6).
- hat: TRADES' two terms, plus γ times the cross-entropy on helper images, which lie twice as far
  away as the adversarial ones and have the label that a standard network gives the latter (Rade &
  Moosavi-Dezfooli 2022, algorithm 1).

An attack step is PGD's, or N-FGSM's single one (de Jorge et al. 2022, section 4). All of them see
the network in eval mode, so crafting neither uses nor moves the batch statistics (TRADES' own code
does the same, N-FGSM's crafts in train mode). At ε = 0 every objective is cross-entropy on natural
images.

Nothing here waits for the device. Random numbers are drawn in `draws` alone, so that `craft` can be
captured or compiled; there ε may be a 0-d tensor, which changes without a new capture.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib import attacks, engine
from arlib.attacks.steps import Forward, LinfBall, draw, forward_of, input_gradient, nhwc
from arlib.training.recipe import DIVERGENT, Recipe

# standard deviation of TRADES' start, in pixel units: at x itself the gradient is 0
TRADES_NOISE = 0.001
HELPER_REACH = 2.0  # helper images, in units of the adversarial change; the authors' code has it
OVERFITTING_GAP = 0.2


def radius(recipe: Recipe, epochs_done: float) -> float:
    """The attack radius after so many epochs:
    eps, reached linearly from 0 over the first `eps_warmup`.
    """
    return (
        recipe.eps * min(1.0, epochs_done / recipe.eps_warmup) if recipe.eps_warmup else recipe.eps
    )


def examples(
    prepared: engine.Prepared,
    x: Tensor,
    y: Tensor,
    recipe: Recipe,
    eps: float | Tensor,
    generator: torch.Generator | attacks.Streams,
) -> Tensor:
    """The images to train on: x itself for a recipe with eps = 0,
    else adversarial ones. x: (n, c, h, w).
    """
    return craft(prepared, x, y, draws(x, recipe, eps, generator), recipe, eps)


def draws(
    x: Tensor, recipe: Recipe, eps: float | Tensor, generator: torch.Generator | attacks.Streams
) -> Tensor | None:
    """Where the attack starts, (n, c, h, w), or None for a recipe without attack.

    PGD: uniform in the ball. N-FGSM: uniform in the cube of half-width noise · eps. Both are
    clipped to the pixel range. TRADES and HAT: normal around x with standard deviation 0.001,
    clipped only by the first step.
    """
    if recipe.eps == 0:
        return None
    if recipe.objective in DIVERGENT:
        return x + TRADES_NOISE * draw(torch.randn, x, x.shape[1:], generator)
    wide = recipe.noise * eps if recipe.attack == "n-fgsm" else eps
    return attacks.random_start(x, eps=wide, generator=generator)


def craft(
    prepared: engine.Prepared,
    x: Tensor,
    y: Tensor,
    start: Tensor | None,
    recipe: Recipe,
    eps: float | Tensor,
) -> Tensor:
    """Adversarial images from `start`, after reading the trained network's present weights.

    eps: today's radius; the attack's step shrinks with it, as in the warm-up of de Jorge et al.
    N-FGSM's result is clipped to the pixel range but not to the ball: up to (noise + 1) · eps away
    from x.
    """
    if start is None:
        return x
    prepared.copy_weights()
    step = recipe.attack_step * (eps / recipe.eps)
    if recipe.objective in DIVERGENT:
        return _most_divergent(prepared, x, start, eps, recipe.steps, step)
    if recipe.attack == "n-fgsm":  # a ball of radius 1 is the whole pixel range
        return attacks.perturb(prepared, x, y, start=start, eps=1.0, steps=1, step_size=step)
    return attacks.perturb(prepared, x, y, start=start, eps=eps, steps=recipe.steps, step_size=step)


def loss(
    model: nn.Module,
    x: Tensor,
    crafted: Tensor,
    y: Tensor,
    recipe: Recipe,
    helper: nn.Module | None = None,
) -> tuple[Tensor, Tensor]:
    """The mean loss to minimise, and the logits (n, classes) of the crafted images.

    The network runs in the mode it is in; trades, mixed and hat pass the natural images through it
    first, then the crafted ones, then hat's helper images, each with batch statistics of their own.
    TRADES' gradient flows through both answers, as in its code; the natural one is computed once
    (there: twice).

    helper: hat's standard network, in eval mode; nothing flows back through it.
    """
    if recipe.objective == "adversarial" or recipe.eps == 0:
        return cross_entropy(model, crafted, y)
    natural, answers = cross_entropy(model, x, y), model(crafted)
    if recipe.objective == "mixed":
        return recipe.mix * natural[0] + (1 - recipe.mix) * F.cross_entropy(
            _at_least_fp32(answers), y
        ), answers
    moved = divergence(_at_least_fp32(answers), _at_least_fp32(natural[1]).log_softmax(1)).mean()
    value = natural[0] + recipe.beta * moved
    if recipe.objective == "hat":
        value = value + recipe.gamma * _helper_loss(model, x, crafted, helper)
    return value, answers


def helper_images(x: Tensor, crafted: Tensor) -> Tensor:
    """x + 2 (crafted − x), like x; not clipped to the pixel range, as in the authors' code."""
    return x + HELPER_REACH * (crafted - x)


def _helper_loss(model: nn.Module, x: Tensor, crafted: Tensor, helper: nn.Module) -> Tensor:
    with torch.no_grad():
        labels = helper(crafted).argmax(1)  # (n,), often not those of the images
    return cross_entropy(model, helper_images(x, crafted), labels)[0]


def cross_entropy(model: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy and the logits (n, classes), the network in the mode it is in."""
    logits = model(x)
    return F.cross_entropy(_at_least_fp32(logits), y), logits


def divergence(logits: Tensor, natural: Tensor) -> Tensor:
    """KL(p ‖ p′) of each image, (n,): natural is log p, logits give p′; both (n, classes)."""
    return F.kl_div(logits.log_softmax(1), natural, log_target=True, reduction="none").sum(1)


def catastrophic(single_step_error: float, pgd_error: float) -> bool:
    """Whether single-step training has overfitted catastrophically:
    it resists its own step and nothing else.

    Both are errors in [0, 1] on the same images and radius, under the single step that training
    uses (or FGSM) and under PGD (10 steps or more). True where PGD's is higher by more than 0.2.
    That the two part, single-step accuracy rising while PGD accuracy falls to 0 within an epoch, is
    how Wong et al. (2020, section 5) and Andriushchenko & Flammarion (2020, section 3) describe it;
    0.2 is the fall of PGD accuracy at which the code of Wong et al. stops. It compares two attacks
    in one epoch instead of one attack in two, so it also sees what has been so from the first
    epoch. While eps warms up, take both at today's eps.
    """
    return pgd_error - single_step_error > OVERFITTING_GAP


def _most_divergent(
    forward: Forward,
    x: Tensor,
    start: Tensor,
    eps: float | Tensor,
    steps: int,
    step: float | Tensor,
) -> Tensor:
    """PGD on KL(p(x) ‖ p(x′)), p(x) computed once (Zhang et al. 2019, algorithm 1)."""
    x, x_adv = nhwc(x), nhwc(start)
    forward, ball = forward_of(forward), LinfBall(x, eps)
    with torch.no_grad():
        natural = forward(x).log_softmax(1)  # (n, classes)
    for _ in range(steps):
        gradient, _, _ = input_gradient(forward, x_adv, natural, divergence)
        x_adv = ball.ascend(x_adv, gradient, step)
    return x_adv


def _at_least_fp32(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
