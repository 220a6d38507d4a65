"""Images moved by a little, and what every measurement of smoothness checks first."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from arlib.attacks import checks
from arlib.attacks import steps as parts
from arlib.errors import InputError


def signs(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """x with ± radius on every pixel, clamped to [0, 1]."""
    coins = torch.randint(
        2, x.shape, generator=generator, device=generator.device, dtype=torch.int8
    )
    return torch.where(coins.to(x.device) > 0, x + radius, x - radius).clamp_(0, 1)


def uniform(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    return parts.LinfBall(x, radius).start(generator)


def of_layer(normaliser: Mapping[str, float], layer: str) -> float:
    if layer not in normaliser:
        raise InputError(
            f"normaliser has no value for layer {layer}; it has {', '.join(normaliser) or 'none'}."
        )
    return float(normaliser[layer])


def check(f: nn.Module, x: Tensor, radius: float = 0.0) -> None:
    """Refuse images or a radius that cannot be used, before work starts."""
    if not 0 <= radius <= 1:
        raise InputError(
            f"radius is {radius}; allowed: 0 to 1, in units of [0, 1] pixels (strength 4 is 4/255)."
        )
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    # there are no logits to look at
    checks.check(f, lambda image: image.new_zeros(1, 2), x, labels)
