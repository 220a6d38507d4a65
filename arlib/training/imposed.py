"""Hold the spectra of a network's layers where they are wanted while it is trained on."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn

from arlib import spectra
from arlib.errors import InputError, one_of
from arlib.spectra.impose import KINDS
from arlib.spectra.layers import Layer, find

LARGEST_RESIDUAL = 0.02  # of a layer whose spectrum counts as imposed


def spectra_of(
    net: nn.Module, input_shape: tuple[int, ...], *, stem: bool = False
) -> dict[str, torch.Tensor]:
    """Singular values (descending, float64) of the circular operator of each counted convolution.

    Counted are those that claims count: kernels wider than 1, neither stem nor shortcut.
    stem: the first convolution, too.
    """
    return {layer.name: _values(layer) for layer in _counted(net, input_shape, stem)}


def takes_a_spectrum(net: nn.Module, input_shape: tuple[int, ...]) -> set[str]:
    """Convolutions that can be given a spectrum: the stride divides their map, and the kernel fits.

    On the small maps of the digits the last block's kernels do not.
    """
    return {
        layer.name
        for layer in _counted(net, input_shape, True)
        if all(
            n % s == 0 and d * (k - 1) < n
            for n, s, d, k in zip(
                layer.built.size,
                layer.built.stride,
                layer.built.dilation,
                layer.built.kernel,
                strict=True,
            )
        )
    }


def between(
    a: Mapping[str, torch.Tensor], b: Mapping[str, torch.Tensor], share: float
) -> dict[str, np.ndarray]:
    """Quantiles, per layer, `share` of the way from spectrum a to spectrum b on the log scale.

    0 is a, 1 is b; below 0 and above 1 lies further out. Raises `InputError` for other layers.
    """
    if a.keys() != b.keys():
        raise InputError(f"The spectra are of other layers: {sorted(a.keys() ^ b.keys())}.")
    floor = 1e-12  # a dead direction stays dead
    logs = [
        {name: np.log(np.maximum(spectra.quantiles(v), floor)) for name, v in given.items()}
        for given in (a, b)
    ]
    return {name: np.exp((1 - share) * logs[0][name] + share * logs[1][name]) for name in a}


class Imposition:
    """Gives layers of a network wanted spectra, in place, as often as it is called.

    targets: per layer what `spectra.impose` takes for `kind`: a spectrum or its quantiles
        ("quantiles"), √(Σσ²/N) ("frobenius"), std/mean ("spread").
    steps: alternating projections of a call.
    stem: whether the first convolution may be given one.
    residuals: per layer ‖σ − wanted‖ / ‖wanted‖ after the last call.

    Raises `InputError` for a layer that the network does not have or count.
    """

    def __init__(
        self,
        net: nn.Module,
        input_shape: tuple[int, ...],
        targets: Mapping[str, object],
        kind: str = "quantiles",
        steps: int = 2,
        stem: bool = False,
    ):
        one_of("kind", kind, KINDS)
        self.kind, self.steps, self.targets = kind, steps, dict(targets)
        self.layers = {layer.name: layer for layer in _counted(net, input_shape, stem)}
        for name in self.targets:
            one_of("layer", name, self.layers)
        self.residuals: dict[str, float] = {}

    @torch.no_grad()
    def __call__(self, net: nn.Module) -> None:
        for name, target in self.targets.items():
            weight, shape = net.get_submodule(name).weight, self.layers[name].built
            imposed = spectra.impose(
                weight.detach(),
                shape.size,
                target,
                kind=self.kind,
                stride=shape.stride,
                dilation=shape.dilation,
                groups=shape.groups,
                steps=self.steps,
            )
            weight.copy_(imposed.weight)
            self.residuals[name] = imposed.residual

    def check(self) -> None:
        """Raise `InputError` naming the layer whose spectrum is not what was wanted."""
        name, residual = max(self.residuals.items(), key=lambda pair: pair[1], default=("", 0.0))
        if residual > LARGEST_RESIDUAL:
            raise InputError(
                f"Layer {name} is {residual:.1%} away from the spectrum it was to have; "
                f"{LARGEST_RESIDUAL:.0%} is allowed. A kernel of its size cannot have it."
            )


def _counted(net: nn.Module, input_shape: tuple[int, ...], stem: bool) -> list[Layer]:
    return [layer for layer in find(net, input_shape) if layer.counted or (stem and layer.stem)]


def _values(layer: Layer) -> torch.Tensor:
    shape = layer.built
    return spectra.singular_values(
        layer.weight.detach(),
        shape.size,
        shape.stride,
        dilation=shape.dilation,
        groups=shape.groups,
    )
