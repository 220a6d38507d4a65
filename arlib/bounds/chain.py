"""A bound of how fast a network's logits can change anywhere, step by step along its graph."""

import math
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from arlib import spectra
from arlib.attacks.checks import check
from arlib.bounds import rules
from arlib.engine import folding, trust
from arlib.engine.untouched import left_as_found
from arlib.errors import InputError, one_of
from arlib.spectra.layers import find

NORMS = ("l2", "linf")


@dataclass(frozen=True)
class Chain:
    """What `chain` found; every slope is an upper bound of a Lipschitz constant in the l2 norm.

    table: one row per step that changes it (layers, sums, scalings, pools), in the network's order:
        step, kind, factor (of that step alone; NaN for a sum), slope (from the image to its
        output).
    slope: from the image to the logits.
    features: from the image to the input of the last linear layer, and `head`, that layer's weight
        (classes, features) in float64; both None where the network does not end in one.
    """

    table: pd.DataFrame
    slope: float
    features: float | None = None
    head: Tensor | None = None


def chain(model: nn.Module, input_shape: tuple[int, ...]) -> Chain:
    """Bound how far logits can move when the image moves by one unit (l2), for any image.

    A layer stretches by at most its largest singular value (of the operator with its padding and
    stride, batch norm folded in); steps in a row multiply, and paths that are summed add:
    a residual block has σ(shortcut) + Π σ(branch). The normalisation inside the network counts too.

    Args:
        model: a network in torch modules whose forward torch.fx can follow; eval mode is meant.
        input_shape: (c, h, w) of one image.

    Raises: `InputError` for a network that cannot be followed, whose trace is not the network, or
        with a step that has no rule; each is named.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
    >>> net[1].weight.data = torch.tensor([[3.0, 0, 0, 0], [0, 4.0, 0, 0]])
    >>> round(chain(net, (1, 2, 2)).slope, 6)
    4.0
    """
    with left_as_found(model):
        model.eval()
        graph = folding.trace(model)
        if graph is None:
            raise InputError(
                f"torch.fx cannot follow the forward pass of {type(model).__name__} (it branches "
                "on its input); no chain of norms can be given."
            )
        first = next(model.parameters(), torch.zeros(()))
        images = torch.rand(
            trust.IMAGES, *input_shape, generator=torch.Generator().manual_seed(0)
        ).to(first.device, first.dtype)
        why, _ = trust.why_not(model, graph, images)
        if why:
            raise InputError(f"The trace of {type(model).__name__} is not the network: {why}.")
        follower = _Follower(graph, _layers(model, graph, input_shape))
        with torch.no_grad():
            follower.run(images[:1])
    return follower.result()


def certified(
    model: nn.Module, x: Tensor, y: Tensor, *, norm: str = "l2", links: Chain | None = None
) -> Tensor:
    """A radius within which no perturbation changes the prediction, proved by the chain of norms.

    For a network that ends in a linear layer, with features' slope L and rows w of that layer:
    min over other classes j of (z_y − z_j) / (L ‖w_y − w_j‖). Otherwise m(x) / (√2 · slope),
    since a difference of two logits moves √2 as fast as the logits.

    Args:
        model, x, y: as in `margins.instance`.
        norm: "linf": the l2 radius divided by √pixels (‖δ‖₂ ≤ √pixels · ‖δ‖∞).
        links: the network's `chain`, if it is there already.

    Returns: (n,) radii in pixel units, in float64, apart from the rounding of the logits; 0 for
        wrong predictions.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2))
    >>> net[1].weight.data = torch.tensor([[1.0] * 4, [-1.0] * 4])
    >>> net[1].bias.data = torch.tensor([-1.0, 1.0])
    >>> certified(net, torch.full((1, 1, 2, 2), 0.5), torch.tensor([0])).round(decimals=3).tolist()
    [0.5]
    """
    one_of("norm", norm, NORMS)
    links = chain(model, tuple(x.shape[1:])) if links is None else links
    with left_as_found(model), torch.no_grad():
        model.eval()
        check(model, model, x, y, norm=norm)
        logits = model(x).double()
    leads = logits.gather(1, y[:, None]) - logits  # (n, classes), 0 at the label
    if links.head is None:
        slopes = torch.full_like(leads, math.sqrt(2) * links.slope)
    else:
        rows = links.head.to(logits.device)
        slopes = links.features * torch.linalg.vector_norm(rows[y][:, None] - rows[None], dim=2)
    # A lead over a class whose row is the label's own never changes.
    radii = torch.where(slopes > 0, leads / slopes, torch.where(leads > 0, math.inf, 0.0))
    radii = radii.scatter(1, y[:, None], math.inf).amin(1).clamp_min(0)
    return radii / (math.sqrt(x[0].numel()) if norm == "linf" else 1.0)


def certified_by_margin(m: Tensor, links: Chain, *, pixels: int, norm: str = "l2") -> Tensor:
    """The same from output margins m (n,) alone, where the other logits are not known: a smaller
    radius than `certified` gives, or the same.

    No logit leads over another by less than m, and none of their differences moves faster than the
    two farthest rows of the last layer say.

    pixels: of one image, all channels. Raises `InputError` for an unknown norm or no pixels.
    """
    one_of("norm", norm, NORMS)
    if pixels < 1:
        raise InputError(f"pixels is {pixels}; at least 1 is needed.", field="pixels")
    slope = math.sqrt(2) * links.slope
    if links.head is not None:
        slope = min(slope, links.features * float(torch.pdist(links.head).max()))
    radii = m.double().clamp_min(0) / slope
    return radii / (math.sqrt(pixels) if norm == "linf" else 1.0)


class _Follower(fx.Interpreter):
    """Runs the graph on one image and keeps, for each node, the slope from the image to it."""

    def __init__(self, graph: fx.GraphModule, layers: dict[str, spectra.layers.Layer]):
        super().__init__(graph)
        self.layers, self.slopes, self.rows = layers, {}, []
        # batch norm is folded where it can be: per layer far tighter than a factor of its own
        self.folded = {conv.target: bn.target for conv, bn in folding.foldable_pairs(graph)}

    def run_node(self, node: fx.Node) -> object:
        value = super().run_node(node)
        self.slopes[node] = self._slope(node, value)
        if node.target in rules.IN_PLACE or _word(node).endswith("_"):
            # written in place: whoever reads the old name reads the new value
            self.slopes[node.args[0]] = self.slopes[node]
        return value

    def result(self) -> Chain:
        (end,) = (node for node in self.module.graph.nodes if node.op == "output")
        last = end.args[0]
        if not isinstance(last, fx.Node):
            raise InputError("The network returns more than one tensor; give one with logits only.")
        table = pd.DataFrame(self.rows, columns=["step", "kind", "factor", "slope"])
        layer = self.layers.get(last.target) if last.op == "call_module" else None
        if layer is None or layer.weight.ndim != 2:
            return Chain(table, self.slopes[last])
        return Chain(
            table, self.slopes[last], self.slopes[last.args[0]], layer.weight.detach().double()
        )

    def _slope(self, node: fx.Node, value: object) -> float:
        if node.op == "placeholder":
            return 1.0
        if node.op == "output":
            return 0.0
        moving = [other for other in _inputs(node) if self.slopes[other] > 0]
        if not moving:
            return 0.0  # a constant of the network
        if not isinstance(value, Tensor):
            return self._of_no_tensor(node, value)
        summed = node.target in rules.ADDING or (
            node.op == "call_method" and node.target in rules.ADDING_METHODS
        )
        if summed:
            return self._sum(node, moving, value)
        if node.target is torch.cat:
            slopes = (self.slopes[other] for other in moving)
            return self._noted(node, "joined", math.nan, math.hypot(*slopes))
        if len(moving) > 1:
            raise InputError(
                f"Step {node.name} ({_word(node)}) joins {len(moving)} moving tensors; there is no "
                "bound of its slope."
            )
        kind, factor = self._factor(node, moving[0], value)
        slope = factor * self.slopes[moving[0]]
        return slope if factor == 1 else self._noted(node, kind, factor, slope)

    def _of_no_tensor(self, node: fx.Node, value: object) -> float:
        """0 for a size, which does not move; parts of a tensor that come as a tuple would."""
        if any(isinstance(leaf, Tensor) for leaf in tree_leaves(value)):
            raise InputError(
                f"Step {node.name} ({_word(node)}) gives several tensors; there is no rule for it."
            )
        return 0.0

    def _sum(self, node: fx.Node, moving: list[fx.Node], value: Tensor) -> float:
        scale = abs(node.kwargs.get("alpha", 1))
        if scale != 1:
            raise InputError(f"Step {node.name} adds with alpha={scale}; there is no rule for it.")
        slopes = [self.slopes[n] * rules.copies(self.env[n], value) for n in moving]
        return slopes[0] if len(slopes) == 1 else self._noted(node, "sum", math.nan, sum(slopes))

    def _noted(self, node: fx.Node, kind: str, factor: float, slope: float) -> float:
        name = node.target if node.op == "call_module" else node.name
        self.rows.append((name, kind, factor, slope))
        return slope

    def _factor(self, node: fx.Node, source: fx.Node, value: Tensor) -> tuple[str, float]:
        x = self.env[source]
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        if node.op == "call_module":
            kind, factor = self._module(node.target, x)
        elif node.target in (*rules.SCALING, *rules.DIVIDING):
            divided = node.target in rules.DIVIDING
            if divided and node.args[1] is source:
                raise InputError(f"Step {node.name} divides by what moves; its slope has no bound.")
            other = args[1] if node.args[0] is source else args[0]
            kind = "scaling"
            factor = rules.scaled_by(other, divided) * rules.copies(x, value)
        else:
            kind, factor = _word(node), rules.of_call(node.target, x, value, args, kwargs)
        if factor is None:
            raise InputError(
                f"Step {node.name} ({_word(node)}) has no bound of its slope; networks of "
                "convolutions, linear layers, batch norm, ReLU-like steps, pools and sums have one."
            )
        return kind, factor

    def _module(self, name: str, x: Tensor) -> tuple[str, float | None]:
        module, layer = self.module.get_submodule(name), self.layers.get(name)
        if name in self.folded.values():
            return "folded", 1.0
        if layer is None:
            return type(module).__name__, rules.of_module(module, x)
        if layer.built is None:
            return "linear", rules.matrix(layer.weight)
        weight = layer.weight
        if name in self.folded:
            bn = self.module.get_submodule(self.folded[name])
            weight, _ = folding.folded_weight(module, bn, torch.float64)
        return "convolution", rules.convolution(weight, layer.built)


def _inputs(node: fx.Node) -> list[fx.Node]:
    """The nodes that a node reads, each as often as it reads it: in x · x both factors move."""
    read = []
    fx.map_arg((node.args, node.kwargs), read.append)
    return read


def _layers(model: nn.Module, graph: fx.GraphModule, input_shape: tuple[int, ...]) -> dict:
    """The layers that the forward pass calls, by name; the others stretch nothing."""
    called = {node.target for node in graph.graph.nodes if node.op == "call_module"}
    idle = {name: None for name, _ in model.named_modules() if name not in called}
    return {layer.name: layer for layer in find(model, input_shape, idle)}


def _word(node: fx.Node) -> str:
    return node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
