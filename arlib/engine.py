"""The machine under the science: devices, and networks prepared for many forward and backward passes.

An attack asks one network for thousands of input gradients in eval mode. There, a batch norm
that alone reads a convolution's output is a scale and a shift, so it folds exactly into the
convolution; with channels_last memory this is about 1.6 times as fast on a CPU.
"""

import copy
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from arlib.errors import InputError, one_of

MODES = ("auto", "plain", "folded", "compiled")
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def device(name: str | torch.device = "auto") -> torch.device:
    """The device meant by `name`: "auto" is the first GPU if there is one, else the CPU.

    Raises `InputError` for an unknown name or a device that this machine does not have.
    """
    if str(name) == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise InputError(f"device is {name!r}; allowed: auto, cpu, cuda, cuda:0, …, mps.") from error
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"device is {str(name)!r}, but torch sees {torch.cuda.device_count()} GPUs here. "
            "Use device='cpu' or 'auto'."
        )
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise InputError("device is 'mps', but torch has no Metal device here. Use device='cpu' or 'auto'.")
    one_of("device", chosen.type, ("cpu", "cuda", "mps"))
    return chosen


def batchnorm_of(model: nn.Module) -> dict[str, str]:
    """Name of each convolution whose output only a batch norm reads → name of that batch norm.

    Found on the graph by torch.fx; empty for a model whose graph cannot be traced. A module that
    the graph calls twice is left out: one folded weight could not serve both calls.
    """
    graph = _trace(model)
    return {} if graph is None else {conv.target: bn.target for conv, bn in _foldable_pairs(graph)}


def folded_weight(conv: nn.Module, bn: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of `bn(conv(x))` in eval mode: γ / √(var + eps) multiplies each output channel."""
    with torch.no_grad():
        return fuse_conv_bn_weights(conv.weight, conv.bias, bn.running_mean, bn.running_var, bn.eps, bn.weight, bn.bias)


class Prepared(nn.Module):
    """A copy of a network for crafting and measuring: eval mode, no weight gradients, BN folded.

    Gradients flow to the input only. After the source's weights change, `refresh()` copies them
    in place, so a compiled or captured graph stays valid.
    """

    def __init__(self, source: nn.Module, mode: str):
        super().__init__()
        self._source = [source]  # in a list: not a submodule, so never moved or counted with this one
        graph = None if mode == "plain" else _trace(source)
        self.pairs = [] if graph is None else [(c.target, b.target) for c, b in _foldable_pairs(graph)]
        self.module = _without_batchnorm(graph) if self.pairs else copy.deepcopy(source)
        self.module.eval().requires_grad_(False)
        self.module.to(memory_format=torch.channels_last)
        self.run = torch.compile(self.module) if mode == "compiled" else self.module
        super().train(False)
        self.refresh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x)

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


def prepare(model: nn.Module, mode: str = "auto") -> Prepared:
    """Prepare a network for many passes; reusable, and never done behind your back by compilation.

    mode: "plain" (a frozen copy), "folded" (BN folded; warns where nothing can be folded),
    "compiled" (folded, then torch.compile), "auto" (folded where possible).
    """
    one_of("mode", mode, MODES)
    if isinstance(model, Prepared):
        return model
    prepared = Prepared(model, mode)
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
    if not any(isinstance(m, _BATCHNORMS) for m in model.modules()):
        return None
    prepared = Prepared(model, "auto")
    return prepared if prepared.pairs else None


def _trace(model: nn.Module) -> fx.GraphModule | None:
    """The graph of the model in eval mode, or None if its control flow hides it from torch.fx."""
    training = [(module, module.training) for module in model.modules()]
    try:
        return fx.symbolic_trace(model.eval())
    except Exception:  # fx raises whatever the traced code raises on a symbolic value
        return None
    finally:
        for module, mode in training:
            module.training = mode


def _foldable_pairs(graph: fx.GraphModule) -> list[tuple[fx.Node, fx.Node]]:
    modules = dict(graph.named_modules())
    calls = Counter(node.target for node in graph.graph.nodes if node.op == "call_module")
    pairs = []
    for bn in graph.graph.nodes:
        conv = bn.args[0] if bn.op == "call_module" and bn.args else None
        if not isinstance(conv, fx.Node) or conv.op != "call_module" or len(conv.users) > 1:
            continue
        kinds = isinstance(modules[conv.target], _CONVOLUTIONS) and isinstance(modules[bn.target], _BATCHNORMS)
        if kinds and calls[conv.target] == calls[bn.target] == 1 and modules[bn.target].running_var is not None:
            pairs.append((conv, bn))
    return pairs


def _without_batchnorm(graph: fx.GraphModule) -> nn.Module:
    """A copy of the graph with each folded batch norm removed and a bias on its convolution."""
    graph = copy.deepcopy(graph)
    for conv, bn in _foldable_pairs(graph):
        module = graph.get_submodule(conv.target)
        module.bias = nn.Parameter(module.weight.new_zeros(module.weight.shape[0]))
        bn.replace_all_uses_with(conv)
        graph.graph.erase_node(bn)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph
