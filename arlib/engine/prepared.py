"""Networks prepared for crafting and measuring: eval mode, gradients to the input only, made fast."""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from arlib.engine.devices import MODES, autocast, why_not_compiled
from arlib.engine.folding import BATCHNORMS, CONVOLUTIONS, foldable_pairs, folded_weight, trace, without_batchnorm
from arlib.engine.graphs import graphed_module
from arlib.engine.memory import keep_memory
from arlib.errors import InputError, one_of

_IN_HALF = (*CONVOLUTIONS, nn.Linear)  # what autocast would run in half precision, cast once instead of at each pass


class Prepared(nn.Module):
    """A copy of a network for crafting and measuring: eval mode, no weight gradients, BN folded.

    Takes and gives float32 (or what the source computes in), whatever precision it computes in.
    Gradients flow to the input only. After the source's weights change, `refresh()` copies them
    in place, so a compiled or captured graph stays valid.
    """

    def __init__(self, source: nn.Module, mode: str, dtype: torch.dtype | None = None):
        super().__init__()
        keep_memory()
        self._source = [source]  # in a list: not a submodule, so never moved or counted with this one
        self.mode, self.precision = mode, "float32" if dtype is None else str(dtype).removeprefix("torch.")
        graph = None if mode == "plain" else trace(source)
        self.pairs = [] if graph is None else [(c.target, b.target) for c, b in foldable_pairs(graph)]
        self.module = without_batchnorm(graph) if self.pairs else copy.deepcopy(source)
        self.module.eval().requires_grad_(False)
        if mode != "plain":
            self.module.to(memory_format=torch.channels_last)
        for layer in self.module.modules():
            if dtype is not None and isinstance(layer, _IN_HALF):
                layer.to(dtype)
        run = torch.compile(self.module) if "compiled" in mode else self.module
        self.run = graphed_module(run) if "graphed" in mode else run
        super().train(False)
        self.refresh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.ndim == 4 and self.mode != "plain":
            x = x.contiguous(memory_format=torch.channels_last)
        if self.precision == "float32":
            return self.run(x)
        with autocast(x.device, self.precision):
            return self.run(x).float()

    def train(self, mode: bool = True) -> "Prepared":
        """A prepared network stays in eval mode: folding holds only there."""
        if mode:
            raise RuntimeError("A prepared network stays in eval mode; train the network it was prepared from.")
        return self

    @torch.no_grad()
    def refresh(self) -> "Prepared":
        """Read the source's weights and statistics again, in place."""
        source = self._source[0]
        folded = dict(self.pairs)
        theirs = dict(source.named_parameters()) | dict(source.named_buffers())
        for name, value in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if name.rpartition(".")[0] not in folded and name in theirs:
                value.copy_(theirs[name])
        for conv_name, bn_name in self.pairs:
            mine = self.module.get_submodule(conv_name)
            weight, bias = folded_weight(source.get_submodule(conv_name), source.get_submodule(bn_name))
            mine.weight.copy_(weight)
            mine.bias.copy_(bias)
        return self


def prepare(model: nn.Module, mode: str = "auto", dtype: torch.dtype | None = None) -> Prepared:
    """Prepare a network for many passes; reusable, and never done behind your back by compilation.

    mode: "plain" (a frozen copy, as it is), "folded" (BN folded, channels_last; warns where nothing can be
    folded), "compiled" (folded, then torch.compile), "graphed" or "compiled+graphed" (one CUDA graph for each
    shape of images, CUDA only), "auto" (folded where possible).
    dtype: torch.bfloat16 computes convolutions and products in it, as autocast would; images and logits
    stay float32. By default the network's own.
    """
    one_of("mode", mode, MODES)
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise InputError(f"dtype is {dtype}; allowed: None, torch.float32, torch.bfloat16.")
    if isinstance(model, Prepared):
        return model
    where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if "compiled" in mode and (why := why_not_compiled(where)):
        raise InputError(f"mode is {mode!r}, but {why}. Use {mode.replace('compiled', 'folded').split('+')[0]!r}.")
    prepared = Prepared(model, "folded" if mode == "auto" else mode, None if dtype == torch.float32 else dtype)
    if mode == "folded" and not prepared.pairs:
        warnings.warn("prepare: no batch norm of this network could be folded; it runs as it is.", stacklevel=2)
    return prepared


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The network as attacks use it: eval mode, input gradients only, BN folded where that is exact.

    The model itself ends as it was, module by module. A `Prepared` network is used as it is.
    """
    if isinstance(model, Prepared):
        yield model
        return
    modes = [(module, module.training) for module in model.modules()]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    try:
        model.eval()
        model.requires_grad_(False)
        prepared = _prepared_or_none(model)
        yield model if prepared is None else prepared
    finally:
        for module, training in modes:
            module.training = training
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def _prepared_or_none(model: nn.Module) -> Prepared | None:
    """A folded copy if there is something to fold; hooks, say, would be lost in a copy of the graph."""
    if any(m._forward_hooks or m._forward_pre_hooks for m in model.modules()):
        return None
    if not any(isinstance(m, BATCHNORMS) for m in model.modules()):
        return None
    prepared = Prepared(model, "folded")
    return prepared if prepared.pairs else None
