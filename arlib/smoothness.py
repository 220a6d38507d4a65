"""How much a small change of the image changes features and predictions.

A change of a layer's output is measured in units of how far apart the outputs of different
images lie, so networks and layers of any scale compare. Every perturbed image x + δ stays
in [0, 1]: δ has ‖δ‖∞ ≤ radius and x + δ is clamped to that range, for random and adversarial δ alike.
"""

import math
from collections.abc import Callable, Iterator, Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from arlib import attacks, engine, features, spectra
from arlib.attacks import steps as parts
from arlib.attacks.checks import check
from arlib.errors import InputError, one_of

DIRECTIONS = ("random", "adversarial")
FLIP_ATTACKS = ("pgd", "uniform", "sign")


@torch.inference_mode(False)
def normalisers(model: nn.Module, x: Tensor, *, layers: list[str] | None = None, batch_size: int = 250) -> dict:
    """Per layer sqrt(½ E‖h(x) − h(x′)‖²) over all pairs of different images of x (n, …).

    Exact, from sums: ½ E‖h − h′‖² = n/(n − 1) · (E‖h‖² − ‖E h‖²). Raises `InputError` for fewer than
    two images, images outside [0, 1], or an unknown layer.
    """
    layers, (x, _) = features.layer_names(model, layers), engine.images_and_labels(model, x)
    f = features.prepare(model, layers)
    _check(f, x)
    if len(x) < 2:
        raise InputError("a normaliser needs at least two different images; give more images, or normaliser={...}.")
    moments = _Moments(len(layers))
    with torch.no_grad():
        for part in x.split(batch_size):
            moments.add(f(part))
    return dict(zip(layers, moments.normalisers(), strict=True))


@torch.inference_mode(False)
def feature_change(
    model: nn.Module,
    x: Tensor,
    *,
    radius: float,
    direction: str = "random",
    layers: list[str] | None = None,
    steps: int = 20,
    normaliser: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
) -> pd.DataFrame:
    """How far each layer's output h moves when the image moves by at most `radius` in every pixel.

    The change of an image is ‖h(x + δ) − h(x)‖ / sqrt(½ E‖h(x) − h(x′)‖²). "random": δ = ± radius, a
    fair coin a pixel. "adversarial": for each layer its own PGD that maximises that layer's change
    (`steps` steps of radius / 4 from a uniform random start), the largest change met on the way.

    Args:
        model, x: any network on images (n, …) in [0, 1]; measured in eval mode, left as it was found.
        radius: of δ, in [0, 1] pixel units. layers: module names; by default the residual blocks of
            our networks, else every Conv and Linear output.
        normaliser: per layer, from `normalisers` on more images; by default from x itself (n ≥ 2).
        generator: by default seed 0.

    Returns: a row a layer: layer, change (mean over images), gain (change / the change of the row
    above, NaN in the first), n, normaliser. A layer that gives every image the same output has change NaN.
    Raises: `InputError` for an unknown direction or layer, a radius outside 0 … 1, unusable images.
    """
    one_of("direction", direction, DIRECTIONS)
    layers, (x, _) = features.layer_names(model, layers), engine.images_and_labels(model, x)
    generator = parts.default_generator(generator, x)
    if normaliser is None and direction == "adversarial":
        normaliser = normalisers(model, x, layers=layers)
    if direction == "random":
        distances, own = _random_distances(model, x, radius, layers, generator, batch_size)
        normaliser = normaliser or own
    else:
        each = [_largest_distances(model, x, radius, name, steps, generator, batch_size) for name in layers]
        distances = torch.stack(each, 1)
    scale = torch.tensor([_of_layer(normaliser, name) for name in layers], dtype=torch.float64)
    change = distances.mean(0) / torch.where(scale > 0, scale, torch.nan)  # (layers,)
    frame = pd.DataFrame({"layer": layers, "change": change.numpy()})
    frame["gain"] = frame["change"] / frame["change"].shift()
    return frame.assign(n=len(x), normaliser=scale.numpy())


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
    random start); an image counts as soon as any iterate flips it. "uniform": δ uniform in the cube;
    "sign": δ = ± radius; both: share of flips over `draws` draws an image. logits: as in `attacks.pgd`.

    Raises `InputError` for an unknown attack, a radius outside 0 … 1, draws or steps < 1, unusable images.
    """
    one_of("attack", attack, FLIP_ATTACKS)
    if draws < 1 or steps < 1:
        raise InputError(f"draws is {draws} and steps {steps}; at least 1 is needed.")
    x, _ = engine.images_and_labels(model, x)
    generator, flips = parts.default_generator(generator, x), 0
    with engine.frozen(model) as f:
        forward = parts.forward_of(f, logits)
        _check(f, x, radius)
        for part in x.split(batch_size):
            with torch.no_grad():
                y = forward(part).argmax(1)
            if attack == "pgd":
                options = {"eps": radius, "steps": steps, "generator": generator, "early_stop": True}
                flips += _flips(forward, attacks.pgd(f, part, y, logits=logits, **options), y)
            else:
                move = _uniform if attack == "uniform" else _signs
                flips += sum(_flips(forward, move(part, radius, generator), y) for _ in range(draws))
    return flips / (len(x) * (1 if attack == "pgd" else draws))


@torch.inference_mode(False)
def jacobian(
    model: nn.Module,
    x: Tensor,
    *,
    layers: list[str] | None = None,
    of: str = "image",
    steps: int = 30,
    probes: int = 8,
    exact_limit: int = 256,
    normaliser: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 32,
) -> pd.DataFrame:
    """The Jacobian J of each layer's output at each x (n, …): how steep, and how uniform in all directions.

    Args:
        of: "image", J from image to layer output, in units of the layer's normaliser; or "input", of the
            layer by itself, from its own input (as it is at x) to its output, which needs no normaliser.
        steps, probes: of the Golub–Kahan process that gives σ_max (a lower bound) and of the random
            signs that give ‖J‖_F, see `spectra.jacobian`.
        exact_limit: up to this min(inputs, features) the whole J is formed and all is exact.
        normaliser, generator, batch_size: as in `feature_change`.

    Returns: a row a layer: layer; means over images: sigma_max and frobenius (per unit of Euclidean
    distance), uniformity = σ_max / (‖J‖_F / √rank); medians over images: uniformity_median and
    effective_rank_median (a share of the rank; NaN beyond exact_limit); rank, n. The rank is the largest
    possible one, min(inputs, features); uniformity is 1 where all that many singular values are equal,
    √rank where there is one. Images whose J is zero are left out of both uniformities.
    Raises: `InputError` as `feature_change` does, and for a layer that does not take one tensor.
    """
    one_of("of", of, ("image", "input"))
    layers, (x, _) = features.layer_names(model, layers), engine.images_and_labels(model, x)
    if normaliser is None:
        normaliser = normalisers(model, x, layers=layers) if of == "image" else dict.fromkeys(layers, 1.0)
    generator, rows = parts.default_generator(generator, x), []
    draw = lambda: int(torch.randint(2**31, (), generator=generator, device=generator.device))
    for name in layers:
        f, start = _function_of(model, name, of)
        _check(start, x)
        with torch.no_grad():
            starts = [start(part) for part in x.split(batch_size)]
        options = {"exact_limit": exact_limit, "steps": steps, "probes": probes}
        found = pd.concat([spectra.jacobian(f, part, seed=draw(), **options) for part in starts])
        rows.append({"layer": name} | _of_jacobians(found, _of_layer(normaliser, name) or math.nan) | {"n": len(x)})
    return pd.DataFrame(rows)


def _function_of(model: nn.Module, layer: str, of: str) -> tuple[nn.Module, nn.Module]:
    """What is differentiated, and what makes its input from the images."""
    if of == "image":
        f = features.prepare(model, [layer])
        return _First(f), nn.Identity()
    module = features.source_of(model).get_submodule(layer)
    return engine.prepare(module), features.prepare_input(model, layer)


class _First(nn.Module):
    """The first output of a network that gives several."""

    def __init__(self, f: nn.Module):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)[0]


def _of_jacobians(found: pd.DataFrame, scale: float) -> dict[str, float]:
    """Means and medians over images of one layer's Jacobians, a row an image."""
    rank = int(found["count"].iloc[0])
    frobenius = found["sum_of_squares"] ** 0.5
    ratio = (found["max"] * rank**0.5 / frobenius)[frobenius > 0]
    return {
        "sigma_max": found["max"].mean() / scale,
        "frobenius": frobenius.mean() / scale,
        "uniformity": ratio.mean(),
        "uniformity_median": ratio.median(),
        "effective_rank_median": found["effective_rank"].median(),
        "rank": rank,
    }


class _Moments:
    """Running sums of ‖h‖² and h of several layers, in float64."""

    def __init__(self, layers: int):
        self.n, self.squares, self.sums = 0, [0.0] * layers, [0.0] * layers

    def add(self, outputs: tuple[Tensor, ...]) -> None:
        self.n += len(outputs[0])
        for index, h in enumerate(outputs):
            self.squares[index] += float(parts.norms(h, "l2").double().square().sum())
            self.sums[index] = self.sums[index] + h.sum(0, dtype=torch.float64)

    def normalisers(self) -> list[float]:
        squares = [square / self.n - float((total / self.n).square().sum()) for square, total in self._pairs()]
        floor = [1e-12 * square / self.n for square in self.squares]  # below it: rounding of equal outputs
        both = zip(squares, floor, strict=True)
        return [(s * self.n / (self.n - 1)) ** 0.5 if s > least else 0.0 for s, least in both]

    def _pairs(self) -> Iterator[tuple[float, Tensor]]:
        return zip(self.squares, self.sums, strict=True)


@torch.no_grad()
def _random_distances(model, x: Tensor, radius: float, layers, generator, batch_size) -> tuple[Tensor, dict]:
    """Distances (n, layers) under ± radius, and the normalisers, which the same passes give."""
    f = features.prepare(model, layers)
    _check(f, x, radius)
    moments, rows = _Moments(len(layers)), []
    for part in x.split(batch_size):
        clean, moved = f(part), f(_signs(part, radius, generator))
        features.check_rows(layers, clean, len(part))
        moments.add(clean)
        rows.append(torch.stack([parts.norms(b - a, "l2") for a, b in zip(clean, moved, strict=True)], 1))
    own = dict(zip(layers, moments.normalisers(), strict=True)) if len(x) > 1 else {}  # one image: theirs is needed
    return torch.cat(rows).double().cpu(), own


def _largest_distances(model, x: Tensor, radius: float, layer: str, steps: int, generator, batch_size) -> Tensor:
    """Largest distance (n,) that PGD on the distance itself meets."""
    f = features.prepare(model, [layer])
    _check(f, x, radius)
    forward, found = (lambda z: f(z)[0]), []
    for part in x.split(batch_size):
        ball = parts.LinfBall(parts.nhwc(part), radius)
        with torch.no_grad():
            clean = forward(ball.x)
        z, best = ball.start(generator), torch.zeros(len(part), dtype=part.dtype, device=part.device)
        for _ in range(steps):
            gradient, _, squares = parts.input_gradient(forward, z, clean, _squared_distance)
            z, best = ball.ascend(z, gradient, radius / 4), torch.maximum(best, squares)
        with torch.no_grad():
            best = torch.maximum(best, _squared_distance(forward(z), clean))
        found.append(best.sqrt())
    return torch.cat(found).double().cpu()


def _squared_distance(h: Tensor, clean: Tensor) -> Tensor:
    return (h - clean).flatten(1).square().sum(1)


@torch.no_grad()
def _flips(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> int:
    return int((f(x).argmax(1) != y).sum())


def _signs(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    """x with ± radius on every pixel, clamped to [0, 1]."""
    coins = torch.randint(2, x.shape, generator=generator, device=generator.device, dtype=torch.int8)
    return torch.where(coins.to(x.device) > 0, x + radius, x - radius).clamp_(0, 1)


def _uniform(x: Tensor, radius: float, generator: torch.Generator) -> Tensor:
    return parts.LinfBall(x, radius).start(generator)


def _of_layer(normaliser: Mapping[str, float], layer: str) -> float:
    if layer not in normaliser:
        raise InputError(f"normaliser has no value for layer {layer}; it has {', '.join(normaliser) or 'none'}.")
    return float(normaliser[layer])


def _check(f: nn.Module, x: Tensor, radius: float = 0.0) -> None:
    """Refuse images or a radius that cannot be used, before work starts."""
    if not 0 <= radius <= 1:
        raise InputError(f"radius is {radius}; allowed: 0 to 1, in units of [0, 1] pixels (strength 4 is 4/255).")
    labels = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    check(f, lambda image: image.new_zeros(1, 2), x, labels)  # there are no logits to look at
