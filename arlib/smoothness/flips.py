"""How often a small change of the image changes the prediction."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from arlib import attacks, engine
from arlib.attacks import steps as parts
from arlib.attacks.spelling import answered
from arlib.errors import InputError, one_of
from arlib.smoothness.moved import check, signs, uniform

FLIP_ATTACKS = ("pgd", "uniform", "sign")


@answered
def flip_rate(
    model: nn.Module,
    x: Tensor,
    *,
    radius: float,
    attack: str = "pgd",
    steps: int = 20,
    draws: int = 10,
    logits: Callable[[object], Tensor] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 250,
) -> float:
    """Share of images x (n, …), right or wrong, whose predicted class changes within `radius` of x.

    "pgd": cross-entropy PGD against the predicted class (`steps` steps of radius / 4 from a uniform
    random start); an image counts as soon as any iterate flips it. "uniform": δ uniform in the
    cube; "sign": δ = ± radius; both: share of flips over `draws` draws per image. logits: as in
    `attacks.pgd`.

    Raises `InputError` for an unknown attack, a radius outside 0 … 1, draws or steps < 1, unusable
    images.
    """
    one_of("attack", attack, FLIP_ATTACKS)
    if draws < 1 or steps < 1:
        raise InputError(f"draws is {draws} and steps {steps}; at least 1 is needed.")
    x, _ = engine.images_and_labels(model, x)
    generator, flips = parts.default_generator(generator, x), 0
    with engine.frozen(model) as f:
        forward = parts.forward_of(f, logits)
        check(f, x, radius)
        for part in x.split(batch_size):
            with torch.no_grad():
                y = forward(part).argmax(1)
            if attack == "pgd":
                options = {
                    "eps": radius,
                    "steps": steps,
                    "generator": generator,
                    "early_stop": True,
                }
                flips += _flips(forward, attacks.pgd(f, part, y, logits=logits, **options), y)
            else:
                move = uniform if attack == "uniform" else signs
                flips += sum(
                    _flips(forward, move(part, radius, generator), y) for _ in range(draws)
                )
    return flips / (len(x) * (1 if attack == "pgd" else draws))


@torch.no_grad()
def _flips(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    return int((f(x).argmax(1) != y).sum())
