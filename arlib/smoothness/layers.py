"""Outputs of inner layers as a network of its own: images in, the named layers' outputs out.

Only the part of the network that those layers need is run, so an attack on an early block costs
what that block costs; and the part is a network like any other, so batch norms fold into it.
"""

import torch
from torch import Tensor, fx, nn

from arlib import engine, models
from arlib.errors import InputError, one_of


def layer_names(model: nn.Module, layers: list[str] | None = None) -> list[str]:
    """The layers to look at: those given (checked), else residual blocks of our nets,
    else every Conv and Linear.

    Raises `InputError` for a name the model does not have, an empty list, or nothing to look at.
    """
    model = source_of(model)
    known = [name for name, _ in model.named_modules() if name]
    for name in layers or []:
        one_of("layer", name, known)
    fallback = [name for name, module in model.named_modules() if name and _is_layer(module)]
    chosen = list(layers) if layers is not None else models.block_names(model) or fallback
    if not chosen or len(set(chosen)) < len(chosen):
        raise InputError(
            f"layers are {chosen}; give different names of modules, of "
            f"{', '.join(known) or 'none here'}."
        )
    return chosen


def _is_layer(module: nn.Module) -> bool:
    """A convolution or linear layer that
    is called (attention only reads the weight of its last projection).
    """
    unused = nn.modules.linear.NonDynamicallyQuantizableLinear
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
        and type(module) is not unused
    )


def with_other_rows(model: nn.Module, x: Tensor, layers: list[str]) -> list[str]:
    """Those of the layers whose output does not have one row per image:
    windows of attention, say, or positions.
    """
    with torch.no_grad():
        outputs = prepare(model, layers)(x)
    return [name for name, h in zip(layers, outputs, strict=True) if not h.ndim or len(h) != len(x)]


def check_rows(layers: list[str], outputs: tuple[Tensor, ...], n: int) -> None:
    """Raise `InputError` naming the layers whose outputs do not have n rows, one per image."""
    others = [
        f"{name} {tuple(h.shape)}" for name, h in zip(layers, outputs, strict=True) if len(h) != n
    ]
    if others:
        raise InputError(
            f"of {n} images the outputs of these layers do not have {n} rows, one an image: "
            f"{', '.join(others[:3])}{' …' if len(others) > 3 else ''}. Give layers=, without "
            "those."
        )


def prepare(model: nn.Module, layers: list[str]) -> engine.Prepared:
    """A prepared network x -> tuple of the layers' outputs at their first call, in the order given.

    Nothing behind the last of the layers is run. Where torch.fx cannot follow the model, or what it
    gives is not what the layers give (see `engine.Prepared`), the model runs as it is and is left
    at the last layer. The model itself is neither changed nor shared.

    Raises `InputError` for a layer that is never called, or whose output is not one tensor.
    """
    model = source_of(model)
    watched = _Watched(model, layers)
    with engine.left_as_found(model):
        part = _traced(model, layers)
    if part is None:
        return engine.Prepared(watched, "plain", subject=model)
    return engine.Prepared(part, "folded", truth=watched, subject=model)


def prepare_input(model: nn.Module, layer: str) -> nn.Module:
    """A network x -> the first tensor that the layer is given at its first call, in eval mode.

    Raises `InputError`, when it is run, for a layer that is never called or takes anything but one
    tensor.
    """
    model = source_of(model)
    return engine.Prepared(_Fed(model, layer), "plain", subject=model)


def source_of(model: nn.Module) -> nn.Module:
    """The network that a prepared one was made
    from (inlining loses the names of its blocks), else the model.

    Raises `InputError` for what has no named layers: a function, a TorchScript program.
    """
    model = engine.unwrapped(model._source[0] if isinstance(model, engine.Prepared) else model)
    if not isinstance(model, nn.Module) or isinstance(model, torch.jit.ScriptModule):
        raise InputError(
            f"the model is a {type(model).__name__}, without layers to look at; give a torch "
            "module."
        )
    return model


class _Recorder(fx.Tracer):
    """A tracer that remembers what each module gave back at its first call."""

    def __init__(self):
        super().__init__()
        self.outputs: dict[str, object] = {}

    def call_module(self, m, forward, args, kwargs):
        value = super().call_module(m, forward, args, kwargs)
        self.outputs.setdefault(self.path_of_module(m), value)
        return value


def _traced(model: nn.Module, layers: list[str]) -> fx.GraphModule | None:
    """The graph up to the layers, sharing the model's modules; None where tracing fails."""
    tracer = _Recorder()
    try:
        graph = tracer.trace(model.eval())
    except Exception:  # fx raises whatever the traced code raises on a symbolic value
        return None
    # never called, or inside a module that fx does not enter
    if any(name not in tracer.outputs for name in layers):
        return None
    outputs = [_checked(tracer.outputs[name], name, fx.Proxy).node for name in layers]
    (end,) = [node for node in graph.nodes if node.op == "output"]
    end.args = (tuple(outputs),)
    # backwards: what only fed an erased node has lost its readers by then
    for node in reversed(graph.nodes):
        if not node.users and node.op not in ("output", "placeholder"):
            graph.erase_node(node)
    for node in set(outputs):
        if len(node.users) > 1:  # a later layer may write over it in place
            with graph.inserting_after(node):
                copy = graph.call_method("clone", (node,))
            end.replace_input_with(node, copy)
    return fx.GraphModule(model, graph)


class _Reached(Exception):
    """The last of the watched layers has been run."""


class _Watched(nn.Module):
    """The same by hooks, for models that torch.fx cannot follow."""

    def __init__(self, model: nn.Module, layers: list[str]):
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        seen: dict[str, Tensor] = {}

        def keep(name: str, value: object) -> None:
            if name not in seen:
                # cloned: what comes after the layer may write over it in place
                seen[name] = _checked(value, name, torch.Tensor).clone()
            if len(seen) == len(self.layers):
                raise _Reached

        modules = [(name, self.model.get_submodule(name)) for name in self.layers]
        hooks = [
            m.register_forward_hook(lambda _, __, value, name=name: keep(name, value))
            for name, m in modules
        ]
        try:
            self.model(x)
        except _Reached:
            return tuple(seen[name] for name in self.layers)
        finally:
            for hook in hooks:
                hook.remove()
        missing = [name for name in self.layers if name not in seen]
        raise InputError(
            f"layers {', '.join(missing)} are never called in the forward pass; leave them out."
        )


class _Fed(nn.Module):
    """The input of one layer, by a hook."""

    def __init__(self, model: nn.Module, layer: str):
        super().__init__()
        self.model, self.layer = model, layer

    def forward(self, x: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def keep(_, given: tuple) -> None:
            if len(given) != 1 or not isinstance(given[0], Tensor):
                kinds = ", ".join(type(value).__name__ for value in given)
                raise InputError(
                    f"layer {self.layer} takes ({kinds}), not one tensor; choose a layer inside it."
                )
            seen.append(given[0].clone())
            raise _Reached

        hook = self.model.get_submodule(self.layer).register_forward_pre_hook(keep)
        try:
            self.model(x)
        except _Reached:
            return seen[0]
        finally:
            hook.remove()
        raise InputError(f"layer {self.layer} is never called in the forward pass; leave it out.")


def _checked(value: object, name: str, kind: type):
    if value is None:
        raise InputError(f"layer {name} is never called in the forward pass; leave it out.")
    if not isinstance(value, kind):
        raise InputError(
            f"layer {name} gives back a {type(value).__name__}, not one tensor; choose a layer "
            "inside it."
        )
    return value
