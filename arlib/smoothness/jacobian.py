"""Jacobians of inner layers at the data: how steep, and how uniform in all directions."""

import math
from collections.abc import Mapping

import pandas as pd
import torch
from torch import Tensor, nn

from arlib import engine, spectra
from arlib.attacks import steps as parts
from arlib.errors import one_of
from arlib.smoothness import layers as inner
from arlib.smoothness.change import normalisers
from arlib.smoothness.moved import check, of_layer


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
    """The Jacobian J of each layer's output at each x (n, …):
    how steep, and how uniform in all directions.

    Args:
        of: "image", J from image to layer output, in units of the layer's normaliser; or "input",
            of the layer by itself, from its own input (as it is at x) to its output, which needs no
            normaliser.
        steps, probes: of the Golub–Kahan process that gives σ_max (a lower bound) and of the random
            signs that give ‖J‖_F, see `spectra.jacobian`.
        exact_limit: up to this min(inputs, features) the whole J is formed and all is exact.
        normaliser, generator, batch_size: as in `feature_change`.

    Returns: a row per layer: layer; means over images: sigma_max and frobenius (per unit of
    Euclidean distance), uniformity = σ_max / (‖J‖_F / √rank); medians over images:
    uniformity_median and effective_rank_median (a share of the rank; NaN beyond exact_limit); rank,
    n. The rank is the largest possible one, min(inputs, features); uniformity is 1 where all that
    many singular values are equal, √rank where there is one. Images whose J is zero are left out of
    both uniformities.
    Raises: `InputError` as `feature_change` does, and for a layer that does not take one tensor.
    """
    one_of("of", of, ("image", "input"))
    layers, (x, _) = inner.layer_names(model, layers), engine.images_and_labels(model, x)
    if normaliser is None:
        normaliser = (
            normalisers(model, x, layers=layers) if of == "image" else dict.fromkeys(layers, 1.0)
        )
    generator, rows = parts.default_generator(generator, x), []

    # seeds from the one generator: batches draw different probes, and the whole can be repeated
    def draw() -> int:
        return int(torch.randint(2**31, (), generator=generator, device=generator.device))

    for name in layers:
        f, start = _function_of(model, name, of)
        check(start, x)
        with torch.no_grad():
            starts = [start(part) for part in x.split(batch_size)]
        options = {"exact_limit": exact_limit, "steps": steps, "probes": probes}
        jacobians = pd.concat(
            [spectra.jacobian(f, part, seed=draw(), **options) for part in starts]
        )
        rows.append(
            {"layer": name}
            # a layer that answers all images alike has normaliser 0: no scale to give a slope in
            | _of_jacobians(jacobians, of_layer(normaliser, name) or math.nan)
            | {"n": len(x)}
        )
    return pd.DataFrame(rows)


def _function_of(model: nn.Module, layer: str, of: str) -> tuple[nn.Module, nn.Module]:
    """What is differentiated, and what makes its input from the images."""
    if of == "image":
        f = inner.prepare(model, [layer])
        return _First(f), nn.Identity()
    module = inner.source_of(model).get_submodule(layer)
    return engine.prepare(module), inner.prepare_input(model, layer)


class _First(nn.Module):
    """The first output of a network that gives several."""

    def __init__(self, f: nn.Module):
        super().__init__()
        self.f = f

    def forward(self, x: Tensor) -> Tensor:
        return self.f(x)[0]


def _of_jacobians(jacobians: pd.DataFrame, scale: float) -> dict[str, float]:
    """Means and medians over images of one layer's Jacobians, a row per image."""
    rank = int(jacobians["count"].iloc[0])
    frobenius = jacobians["sum_of_squares"] ** 0.5
    ratio = (jacobians["max"] * rank**0.5 / frobenius)[frobenius > 0]
    return {
        "sigma_max": jacobians["max"].mean() / scale,
        "frobenius": frobenius.mean() / scale,
        "uniformity": ratio.mean(),
        "uniformity_median": ratio.median(),
        "effective_rank_median": jacobians["effective_rank"].median(),
        "rank": rank,
    }
