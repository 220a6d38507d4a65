"""How far each layer's output moves when the image moves a little, random or adversarial.

A change is measured in units of how far apart the outputs of different images lie, so networks and
layers of any scale compare.
"""

from collections.abc import Iterator, Mapping

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from arlib import engine
from arlib.attacks import steps as parts
from arlib.attacks.spelling import answered
from arlib.errors import InputError, one_of
from arlib.smoothness import layers as inner
from arlib.smoothness.moved import check, of_layer, signs

DIRECTIONS = ("random", "adversarial")
BYTES = 2**30  # of the outputs of all layers that are in memory at one time


@torch.inference_mode(False)
def normalisers(
    model: nn.Module,
    x: Tensor | Dataset | DataLoader,
    *,
    layers: list[str] | None = None,
    batch_size: int = 250,
) -> dict:
    """Per layer sqrt(½ E‖h(x) − h(x′)‖²) over all pairs of different images of x (n, …).

    Exact, from sums: ½ E‖h − h′‖² = n/(n − 1) · (E‖h‖² − ‖E h‖²). Raises `InputError` for fewer
    than two images, images outside [0, 1], or an unknown layer.
    """
    layers, x = inner.layer_names(model, layers), _images(model, x)
    f = inner.prepare(model, layers)
    check(f, x)
    if len(x) < 2:
        raise InputError(
            "a normaliser needs at least two different images; give more images, or "
            "normaliser={...}."
        )
    moments = _Moments(len(layers))
    with torch.no_grad():
        for part in x.split(_fitting(f, x, batch_size)):
            moments.add(f(part))
    return dict(zip(layers, moments.normalisers(), strict=True))


@answered
@torch.inference_mode(False)
def feature_change(
    model: nn.Module,
    x: Tensor | Dataset | DataLoader,
    *,
    radius: float,
    direction: str = "random",
    layers: list[str] | None = None,
    steps: int = 20,
    normaliser: Mapping[str, float] | None = None,
    generator: torch.Generator | None = None,
    batch_size: int = 128,
    progress: bool = False,
) -> pd.DataFrame:
    """How far each layer's output h moves when the image moves by at most `radius` in every pixel.

    The change of an image is ‖h(x + δ) − h(x)‖ / sqrt(½ E‖h(x) − h(x′)‖²). "random": δ = ± radius,
    a fair coin per pixel. "adversarial": for each layer its own PGD that maximises that layer's
    change (`steps` steps of radius / 4 from a uniform random start), the largest change met on the
    way.

    Args:
        model, x: any network on images (n, …) in [0, 1]; measured in eval mode, left as it was
            found. x may also be a data set of (image, label), or its loader: images are then read
            when they are needed (`engine.Streamed`).
        radius: of δ, in [0, 1] pixel units. layers: module names; by default the residual blocks of
            our networks, else every Conv and Linear output.
        normaliser: per layer, from `normalisers` on more images; by default from x itself (n ≥ 2).
        generator: by default seed 0. batch_size: at most; fewer images at a time where the layers'
            outputs would take more than 1 GiB. progress: show a bar.

    Returns: a row per layer: layer, change (mean over images), gain (change / the change of the row
    above, NaN in the first), n, normaliser. A layer that gives every image the same output has
    change NaN.
    Raises: `InputError` for an unknown direction or layer, a radius outside 0 … 1, unusable images.

    A sum of four pixels moves by at most 4 × 0.1; the two images' sums lie 2 apart:

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 1, bias=False))
    >>> net[1].weight.data.fill_(1.0)
    tensor([[1., 1., 1., 1.]])
    >>> x = torch.tensor([0.25, 0.75]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    >>> changes = feature_change(net, x, radius=0.1, direction="adversarial")
    >>> changes["change"].round(4).tolist() == [round(0.4 / 2**0.5, 4)]
    True
    """
    one_of("direction", direction, DIRECTIONS)
    layers, x = inner.layer_names(model, layers), _images(model, x)
    generator = parts.default_generator(generator, x)
    if normaliser is None and direction == "adversarial":
        normaliser = normalisers(model, x, layers=layers)
    passes = len(x) * (1 if direction == "random" else len(layers))
    with tqdm(total=passes, disable=not progress, desc=f"feature change, {direction}") as bar:
        if direction == "random":
            distances, own = _random_distances(model, x, radius, layers, generator, batch_size, bar)
            normaliser = normaliser or own
        else:
            each = [
                _largest_distances(model, x, radius, name, steps, generator, batch_size, bar)
                for name in layers
            ]
            distances = torch.stack(each, 1)
    scale = torch.tensor([of_layer(normaliser, name) for name in layers], dtype=torch.float64)
    change = distances.mean(0) / torch.where(scale > 0, scale, torch.nan)  # (layers,)
    frame = pd.DataFrame({"layer": layers, "change": change.numpy()})
    frame["gain"] = frame["change"] / frame["change"].shift()
    return frame.assign(n=len(x), normaliser=scale.numpy())


def _images(model: nn.Module, x) -> Tensor | engine.Streamed:
    x, _ = engine.streamed(model, x)
    return engine.images_and_labels(model, x)[0]


@torch.no_grad()
def _fitting(f: nn.Module, x: Tensor, most: int, times: int = 1) -> int:
    """Images at a time, at most so many, whose outputs, so many times, fit `BYTES`."""
    few = x[:2]  # not one: some networks refuse that
    one = sum(h.numel() * h.element_size() for h in f(few)) // len(few)
    return max(1, min(most, BYTES // max(1, times * one)))


class _Moments:
    """Running sums of ‖h‖² and h of several layers, in float64."""

    def __init__(self, layers: int):
        self.n, self.squares, self.sums = 0, [0.0] * layers, [0.0] * layers

    def add(self, outputs: tuple[Tensor, ...]) -> None:
        self.n += len(outputs[0])
        for index, h in enumerate(outputs):
            # in float64: E‖h‖² and ‖E h‖² nearly cancel where outputs hardly depend on the image
            self.squares[index] += float(parts.norms(h, "l2").double().square().sum())
            self.sums[index] = self.sums[index] + h.sum(0, dtype=torch.float64)

    def normalisers(self) -> list[float]:
        squares = [
            square / self.n - float((total / self.n).square().sum())
            for square, total in self._pairs()
        ]
        # below it: rounding of equal outputs
        floor = [1e-12 * square / self.n for square in self.squares]
        both = zip(squares, floor, strict=True)
        return [(s * self.n / (self.n - 1)) ** 0.5 if s > least else 0.0 for s, least in both]

    def _pairs(self) -> Iterator[tuple[float, Tensor]]:
        return zip(self.squares, self.sums, strict=True)


@torch.no_grad()
def _random_distances(
    model, x: Tensor, radius: float, layers, generator, batch_size, bar
) -> tuple[Tensor, dict]:
    """Distances (n, layers) under ± radius, and the normalisers, which the same passes give."""
    f = inner.prepare(model, layers)
    check(f, x, radius)
    # laid out before: small results between large passes would keep the allocator from reusing them
    moments, done = _Moments(len(layers)), 0
    distances = torch.empty(len(x), len(layers), dtype=torch.float64)
    for part in x.split(_fitting(f, x, batch_size, 2)):
        clean, moved = f(part), f(signs(part, radius, generator))
        inner.check_rows(layers, clean, len(part))
        moments.add(clean)
        pairs = zip(clean, moved, strict=True)
        distances[done : done + len(part)] = torch.stack(
            [parts.norms(b - a, "l2") for a, b in pairs], 1
        )
        done += len(part)
        bar.update(len(part))
    # one image: theirs is needed
    own = dict(zip(layers, moments.normalisers(), strict=True)) if len(x) > 1 else {}
    return distances, own


def _largest_distances(
    model, x: Tensor, radius: float, layer: str, steps: int, generator, batch_size, bar
) -> Tensor:
    """Largest distance (n,) that PGD on the distance itself meets."""
    f = inner.prepare(model, [layer])
    check(f, x, radius)
    distances, done = torch.empty(len(x), dtype=torch.float64), 0

    def forward(z: Tensor) -> Tensor:
        return f(z)[0]

    for part in x.split(_fitting(f, x, batch_size, 4)):  # twice clean, and a gradient
        ball = parts.LinfBall(parts.nhwc(part), radius)
        with torch.no_grad():
            clean = forward(ball.x)
        z, best = (
            ball.start(generator),
            torch.zeros(len(part), dtype=part.dtype, device=part.device),
        )
        for _ in range(steps):
            gradient, _, squares = parts.input_gradient(forward, z, clean, _squared_distance)
            z, best = ball.ascend(z, gradient, radius / 4), torch.maximum(best, squares)
        with torch.no_grad():
            best = torch.maximum(best, _squared_distance(forward(z), clean))
        distances[done : done + len(part)] = best.sqrt()
        done += len(part)
        bar.update(len(part))
    return distances


def _squared_distance(h: Tensor, clean: Tensor) -> Tensor:
    return (h - clean).flatten(1).square().sum(1)
