"""The user's model and process, left as they were found:
one helper for everything that borrows a model.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

_CONTAINERS = (list, dict, set, deque)
# What torch keeps in a module's dictionary: saved and put back by name, or changed by nobody here.
_TORCHS = {"_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"}


@contextmanager
def left_as_found(model: nn.Module | Callable, *, rng: bool = True) -> Iterator[None]:
    """Whatever happens inside, also an exception, the model and the random state end as they began.

    Put back: training modes module by module, requires_grad flags, buffers (power-iteration vectors
    and counters too), attributes that the forward pass sets (`self.feat = x`) with the content of
    lists and dictionaries, and (unless rng=False) the random generators of torch, numpy and Python.
    """
    modules = list(model.modules()) if isinstance(model, nn.Module) else []
    modes = [(module, module.training) for module in modules]
    flags = [(p, p.requires_grad) for p in model.parameters()] if modules else []
    # a scripted module keeps its state in C++, where these dictionaries do not reach
    plain = [module for module in modules if not isinstance(module, torch.jit.ScriptModule)]
    buffers = [
        (m, name, b, None if b is None else b.clone())
        for m in plain
        for name, b in m._buffers.items()
    ]
    attributes = [(module, _attributes(module)) for module in plain]
    drawn = _random_state() if rng else None
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)
        for module, before in attributes:
            _put_back(module, before)
        for module, name, buffer, value in buffers:
            _restore(module, name, buffer, value)
        if drawn is not None:
            _set_random_state(drawn)


def _attributes(module: nn.Module) -> dict[str, tuple[object, object]]:
    """Name → the attribute itself and, of a container, what is in it."""
    mine = {
        name: value
        for name, value in module.__dict__.items()
        if name not in _TORCHS and "_hooks" not in name
    }
    return {
        name: (value, value.copy() if type(value) in _CONTAINERS else None)
        for name, value in mine.items()
    }


def _put_back(module: nn.Module, before: dict[str, tuple[object, object]]) -> None:
    for name in [*_attributes(module)]:
        if name not in before:
            del module.__dict__[name]
    for name, (value, content) in before.items():
        module.__dict__[name] = value
        if content is not None and _differs(value, content):
            value.clear()
            value.extend(content) if isinstance(value, list | deque) else value.update(content)


def _differs(value, content) -> bool:
    """Whether a container was changed;
    by identity of what is in it, since tensors do not compare to one bool.
    """
    if len(value) != len(content):
        return True
    if isinstance(value, dict):
        return any(name not in value or value[name] is not one for name, one in content.items())
    if isinstance(value, set):
        return value != content
    return any(a is not b for a, b in zip(value, content, strict=True))


@torch.no_grad()
def _restore(
    module: nn.Module, name: str, buffer: torch.Tensor | None, value: torch.Tensor | None
) -> None:
    module._buffers[name] = buffer
    if buffer is not None and not _same(buffer, value):
        buffer.copy_(value)


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    # NaN counts as equal to NaN: that buffer was not changed
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _random_state() -> tuple:
    cuda = (
        torch.cuda.get_rng_state_all()
        # asking would start CUDA in a process that has not used it
        if torch.cuda.is_available() and torch.cuda.is_initialized()
        else None
    )
    return torch.get_rng_state(), cuda, random.getstate(), np.random.get_state()


def _set_random_state(state: tuple) -> None:
    cpu, cuda, python, numpy = state
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state_all(cuda)
    random.setstate(python)
    np.random.set_state(numpy)
