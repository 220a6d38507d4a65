"""Singular values of every layer of a model, in one table."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import engine
from arlib.errors import InputError, one_of
from arlib.spectra import layers as model_layers
from arlib.spectra.blocks import in_threads, one_core
from arlib.spectra.conv import checked, fits_dense, singular_values_dense
from arlib.spectra.geometry import Geometry, geometry
from arlib.spectra.layers import Layer
from arlib.spectra.stochastic import MEMORY, estimate_convolution, usual_bytes
from arlib.spectra.summary import NAMES, quantiles, statistics
from arlib.spectra.together import each_cyclic

OPERATORS = ("circular", "as-built", "reshaped")
ENDS = tuple(f"{name}_{end}" for name in NAMES[1:] for end in ("low", "high"))
COLUMNS = (
    "layer",
    "kind",
    "shape",
    "size",
    "stride",
    "padding",
    "method",
    *NAMES,
    "dead_channels",
    "folded",
    "counted",
    "note",
    *ENDS,
)
DEAD = 1e-3  # of the layer's median |γ| / √(var + eps)
# rows · columns · min of both: about a second of dense SVD, above it Lanczos is faster
DENSE_WORK = 2**31


def of(
    model: nn.Module,
    input_shape: tuple[int, ...] = (3, 32, 32),
    operator: str = "circular",
    fold_bn: bool = False,
    *,
    sizes: dict | None = None,
    probes: int | None = None,
    tolerance: float = 0.01,
    seed: int = 0,
    memory: int = MEMORY,
    progress: bool = False,
) -> pd.DataFrame:
    """Singular values of every convolution, linear layer and attention projection: a row per layer.

    Args:
        input_shape: (c, *map) of one image; each layer's map comes from a forward pass on zeros.
        operator: "circular" (as if every convolution had circular padding), "as-built" (the padding
            the layer has), "reshaped" (the kernel as a matrix c_out × rest, which is not the
            operator).
        fold_bn: with the eval-mode batch norm that alone reads the convolution's output: its weight
            times γ/√(var + eps). Column `folded` says "yes", or "not foldable".
        sizes: maps by layer name where the forward pass does not show them; None skips the layer.
        probes, tolerance, seed, memory: of the estimates, as in `estimate`.

    Columns: layer, kind, shape (of the weight), size (of the map), stride, padding (treated as),
    method, the statistics of `statistics`, dead_channels (share with |γ|/√(var+eps) below 1e-3 of
    the layer's median; nan without a batch norm), folded, counted (k×k convolutions other than stem
    and shortcuts), note, and for each statistic the ends of its interval, std_low, std_high and so
    on. Methods "frequencies", "dense" and "svd" (of a matrix) are exact: the ends equal the value.
    "lanczos" is an estimate, used where no blocks exist and the matrix is large: its max is a lower
    bound (max_high an upper one), its min an upper bound, its quantiles lie between bounds.
    `frame.attrs["quantiles"]` maps each layer to 201 float32 quantiles,
    `frame.attrs["quantile_bounds"]` each estimated one to their lower and upper bounds.

    The model is left as found. Raises `InputError` naming the layer whose weights are complex,
    quantised or not finite, whose map is unknown, or whose matrix would be too large.

    A kernel that only doubles every pixel has one singular value, 2, sixteen times:

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Conv2d(1, 1, 1, bias=False))
    >>> net[0].weight.data.fill_(2.0)
    tensor([[[[2.]]]])
    >>> of(net, (1, 4, 4))[["layer", "max", "min", "count"]].values.tolist()
    [['0', 2.0, 2.0, 16]]
    """
    one_of("operator", operator, OPERATORS)
    options = {"probes": probes, "tolerance": tolerance, "seed": seed, "memory": memory}
    model = engine.unwrapped(model)
    if not isinstance(model, nn.Module):
        raise InputError(
            f"the model is a {type(model).__name__}; give the torch module that holds the weights."
        )
    with one_core() as threads, engine.left_as_found(model), torch.inference_mode(False):
        model.eval()
        norms = engine.batchnorm_of(model, tuple(input_shape))
        layers = model_layers.find(model, input_shape, sizes)
        bns = [
            model.get_submodule(norms[layer.name]) if layer.name in norms else None
            for layer in layers
        ]
        measured = [
            _folded(model, *pair) if fold_bn else pair[0] for pair in zip(layers, bns, strict=True)
        ]
        spectra = _spectra(measured, operator, options, threads, progress)
    rows, middle, bounds = [], {}, {}
    for layer, bn, spectrum in zip(layers, bns, spectra, strict=True):
        about = {
            "dead_channels": dead_channels(bn),
            "folded": _folded_word(layer, bn) if fold_bn else "no",
        }
        rows.append(_description(layer, operator) | about | spectrum.row())
        middle[layer.name] = spectrum.quantiles
        if spectrum.bounds is not None:
            bounds[layer.name] = spectrum.bounds
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs |= {"quantiles": middle, "quantile_bounds": bounds}
    return frame


@dataclass(frozen=True)
class _Spectrum:
    """What is known of one layer's spectrum: (value, low, high) by statistic."""

    method: str
    count: int
    values: dict[str, tuple[float, float, float]]
    quantiles: np.ndarray
    bounds: tuple[np.ndarray, np.ndarray] | None = None

    @classmethod
    def exact(cls, values: torch.Tensor, method: str) -> "_Spectrum":
        by_name = statistics(values)
        return cls(
            method,
            by_name.pop("count"),
            {name: (v, v, v) for name, v in by_name.items()},
            quantiles(values),
        )

    def row(self) -> dict:
        row = {"method": self.method, "count": self.count}
        for name, (value, low, high) in self.values.items():
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        return row


def _spectra(
    layers: list[Layer], operator: str, options: dict, threads: int, progress: bool
) -> list[_Spectrum]:
    """The spectrum of each layer: those with frequency blocks by equal shapes, then the others."""
    weights = [checked(layer.weight, torch.float64, f"Layer {layer.name}") for layer in layers]
    shapes = [_treated_as(layer, operator) for layer in layers]
    cyclic = [shape is not None and shape.cyclic for shape in shapes]
    with tqdm(total=len(layers), disable=not progress, desc="spectra") as bar:

        def counted(spectrum: _Spectrum) -> _Spectrum:
            bar.update()
            return spectrum

        def exact(values: torch.Tensor) -> _Spectrum:
            return counted(_Spectrum.exact(values, "frequencies"))

        def other(index: int) -> _Spectrum:
            # a seed of its own: with shared probes the errors of equal layers would be one error
            its_own = options | {"seed": options["seed"] + index}
            try:
                return counted(_spectrum(weights[index], shapes[index], its_own))
            except InputError as error:
                raise InputError(
                    f"Layer {layers[index].name}: {error} sizes={{{layers[index].name!r}: None}} "
                    "leaves the layer out.",
                    field=error.field,
                ) from None

        by_blocks = [(weights[index], shapes[index]) for index, yes in enumerate(cyclic) if yes]
        exact_ones = iter(each_cyclic(by_blocks, exact, threads))
        others = [index for index, yes in enumerate(cyclic) if not yes]
        alone = any(weight.is_cuda for weight in weights)
        if not alone:  # what is measured side by side is in memory together
            largest = max((_usual_bytes(weights[i], shapes[i]) for i in others), default=1)
            threads = max(1, min(threads, options["memory"] // largest))
        other_ones = iter(in_threads(other, others, 1 if alone else threads))
    return [next(exact_ones if yes else other_ones) for yes in cyclic]


def _spectrum(weight: torch.Tensor, shape: Geometry | None, options: dict) -> _Spectrum:
    """Of a layer without frequency blocks."""
    if shape is None:
        return _Spectrum.exact(torch.linalg.svdvals(weight.flatten(1)), "svd")
    # an operator of zeros has no estimate, since that needs Σσ² > 0
    if _cheap_dense(weight, shape) or not weight.any():
        return _Spectrum.exact(singular_values_dense(weight, shape), "dense")
    estimate = estimate_convolution(weight, shape, **options)
    return _Spectrum(
        "lanczos", estimate.count, estimate.values, estimate.quantiles, estimate.quantile_bounds
    )


def _usual_bytes(weight: torch.Tensor, shape: Geometry | None) -> int:
    if shape is None or _cheap_dense(weight, shape):
        return 1
    rows, columns = shape.matrix_shape(weight)
    return usual_bytes(rows + columns)


def _cheap_dense(weight: torch.Tensor, shape: Geometry) -> bool:
    rows, columns = (side // shape.groups for side in shape.matrix_shape(weight))
    return (
        fits_dense(weight, shape)
        and shape.groups * rows * columns * min(rows, columns) <= DENSE_WORK
    )


def _folded(model: nn.Module, layer: Layer, bn: nn.Module | None) -> Layer:
    if bn is None:
        return layer
    return replace(
        layer, weight=engine.folded_weight(model.get_submodule(layer.name), bn, torch.float64)[0]
    )


def _folded_word(layer: Layer, bn: nn.Module | None) -> str:
    if layer.built is None:
        return "no"
    return "not foldable" if bn is None else "yes"


def dead_channels(bn: nn.Module | None) -> float:
    """Share of channels that a batch norm all but switches off;
    nan without one or without its scale.
    """
    if bn is None or bn.weight is None or bn.running_var is None:
        return math.nan
    scale = (bn.weight.detach().abs() / (bn.running_var + bn.eps).sqrt()).double()
    return float((scale < DEAD * scale.median()).double().mean())


def _description(layer: Layer, operator: str) -> dict:
    built, shape = layer.built, _treated_as(layer, operator)
    return {
        "layer": layer.name,
        "kind": layer.kind,
        "shape": tuple(layer.weight.shape),
        "size": built.size if built else (),
        "stride": built.stride if built else (),
        "padding": _padding_word(layer, shape, operator),
        "counted": layer.counted,
        "note": _note(layer, operator),
    }


def _treated_as(layer: Layer, operator: str) -> Geometry | None:
    """The geometry in which a layer is measured; None for a matrix."""
    built = layer.built
    if built is None or operator == "reshaped":
        return None
    if operator == "as-built":
        return built
    return geometry(
        layer.weight, built.size, built.stride, "circular", built.dilation, built.groups
    )


def _padding_word(layer: Layer, shape: Geometry | None, operator: str) -> str:
    if layer.built is None:
        return ""
    if shape is None:
        return operator
    return "valid" if shape.mode == "zeros" and not any(shape.low + shape.high) else shape.mode


def _note(layer: Layer, operator: str) -> str:
    """Where the circular operator differs from the layer by more than what the padding holds."""
    if layer.built is None or operator != "circular" or layer.built.cyclic:
        return ""
    circular = _treated_as(layer, operator)
    return (
        ""
        if circular.out == layer.built.out
        else f"circular map {circular.out}, the layer's {layer.built.out}"
    )
