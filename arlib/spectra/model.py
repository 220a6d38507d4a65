"""Singular values of every layer of a model, in one table."""

import math
from dataclasses import replace

import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import engine
from arlib.errors import InputError, one_of
from arlib.spectra import layers as model_layers
from arlib.spectra.conv import checked, singular_values_dense
from arlib.spectra.geometry import Geometry, geometry
from arlib.spectra.layers import Layer
from arlib.spectra.statistics import NAMES, quantiles, statistics
from arlib.spectra.symbol import singular_values_cyclic

OPERATORS = ("circular", "as-built", "reshaped")
COLUMNS = (
    "layer", "kind", "shape", "size", "stride", "padding", "method", *NAMES, "dead_channels", "folded", "counted",
    "note",
)  # fmt: skip
DEAD = 1e-3  # of the layer's median |γ| / √(var + eps)


def of(
    model: nn.Module,
    input_shape: tuple[int, ...] = (3, 32, 32),
    operator: str = "circular",
    fold_bn: bool = False,
    *,
    sizes: dict | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Singular values of every convolution, linear layer and attention projection: a row a layer.

    Args:
        input_shape: (c, *map) of one image; each layer's map comes from a forward pass on zeros.
        operator: "circular" (as if every convolution had circular padding), "as-built" (the padding
            the layer has), "reshaped" (the kernel as a matrix c_out × rest, which is not the operator).
        fold_bn: with the eval-mode batch norm that alone reads the convolution's output: its weight
            times γ/√(var + eps). Column `folded` says "yes", or "not foldable".
        sizes: maps by layer name where the forward pass does not show them; None skips the layer.

    Columns: layer, kind, shape (of the weight), size (of the map), stride, padding (treated as),
    method ("frequencies" and "dense" are exact, so is "svd" of a matrix), the statistics of
    `statistics`, dead_channels (share with |γ|/√(var+eps) below 1e-3 of the layer's median; nan
    without a batch norm), folded, counted (k×k convolutions other than stem and shortcuts), note.
    `frame.attrs["quantiles"]` maps each layer to 201 float32 quantiles.

    The model is left as found. Raises `InputError` naming the layer whose weights are complex,
    quantised or not finite, whose map is unknown, or whose matrix would be too large.
    """
    one_of("operator", operator, OPERATORS)
    norms = engine.batchnorm_of(model)
    rows, found = [], {}
    for layer in tqdm(model_layers.find(model, input_shape, sizes), disable=not progress, desc="spectra"):
        bn = model.get_submodule(norms[layer.name]) if layer.name in norms else None
        folded = _folded(model, layer, bn) if fold_bn else layer
        row, values = _row(folded, operator)
        row |= {"dead_channels": dead_channels(bn), "folded": _folded_word(layer, bn) if fold_bn else "no"}
        rows.append(row)
        found[layer.name] = quantiles(values)
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["quantiles"] = found
    return frame


def _folded(model: nn.Module, layer: Layer, bn: nn.Module | None) -> Layer:
    if bn is None:
        return layer
    return replace(layer, weight=engine.folded_weight(model.get_submodule(layer.name), bn)[0])


def _folded_word(layer: Layer, bn: nn.Module | None) -> str:
    if layer.built is None:
        return "no"
    return "not foldable" if bn is None else "yes"


def dead_channels(bn: nn.Module | None) -> float:
    """Share of channels that a batch norm all but switches off; nan without one or without its scale."""
    if bn is None or bn.weight is None or bn.running_var is None:
        return math.nan
    scale = (bn.weight.detach().abs() / (bn.running_var + bn.eps).sqrt()).double()
    return float((scale < DEAD * scale.median()).double().mean())


def _row(layer: Layer, operator: str) -> tuple[dict, torch.Tensor]:
    shape = None if layer.built is None or operator == "reshaped" else treated_as(layer, operator)
    weight = checked(layer.weight, torch.float64, f"Layer {layer.name}")
    try:
        values, method = spectrum(weight, shape)
    except InputError as error:
        raise InputError(f"Layer {layer.name}: {error}") from error
    row = {
        "layer": layer.name,
        "kind": layer.kind,
        "shape": tuple(layer.weight.shape),
        "size": layer.built.size if layer.built else (),
        "stride": layer.built.stride if layer.built else (),
        "padding": _padding_word(layer, shape, operator),
        "method": method,
        "counted": layer.counted,
        "note": _note(layer, operator),
    }
    return row | statistics(values), values


def treated_as(layer: Layer, operator: str) -> Geometry:
    """The geometry in which a convolution is measured."""
    if operator == "as-built":
        return layer.built
    built = layer.built
    return geometry(layer.weight, built.size, built.stride, "circular", built.dilation, built.groups)


def spectrum(weight: torch.Tensor, shape: Geometry | None) -> tuple[torch.Tensor, str]:
    """All singular values, and the method: "svd" of the flattened kernel without a geometry."""
    if shape is None:
        return torch.linalg.svdvals(weight.flatten(1)), "svd"
    if shape.cyclic:
        return singular_values_cyclic(weight, shape), "frequencies"
    return singular_values_dense(weight, shape), "dense"


def _padding_word(layer: Layer, shape: Geometry | None, operator: str) -> str:
    if layer.built is None:
        return ""
    if shape is None:
        return operator
    return "valid" if shape.mode == "zeros" and not any(shape.low + shape.high) else shape.mode


def _note(layer: Layer, operator: str) -> str:
    """Where the circular operator is another one than a differently padded version of the layer."""
    if layer.built is None or operator != "circular" or layer.built.cyclic:
        return ""
    circular = treated_as(layer, operator)
    if circular.out != layer.built.out:
        return f"circular map {circular.out}, the layer's {layer.built.out}"
    return ""
