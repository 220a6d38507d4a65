"""A GPU imitated on the CPU: tensors that say they lie on "cuda:0",
and errors where a real one would have them.

Memory is tagged. A tensor of tagged memory calls itself a CUDA tensor; what is made from it is
tagged; `.cpu()` gives untagged memory. As on a GPU, an operation on both kinds, or `numpy()` of the
one, is an error. No time, no kernels, no streams: only whether every tensor is where it has to be.
"""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import NoneType
from unittest import mock

import torch
import torch._dynamo
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GPU = torch.device("cuda:0")
aten = torch.ops.aten
# Copies go from one device to another; an index may lie on the CPU.
MOVES = {aten.copy_.default, aten._to_copy.default, aten.set_.source_Tensor}
INDEXED = {
    aten.index.Tensor,
    aten.index_put.default,
    aten.index_put_.default,
    aten._index_put_impl_.default,
}
MIXING = MOVES | INDEXED
Tensor = torch.Tensor


def place(tensor: Tensor) -> bool | None:
    """True on the GPU, False on the CPU,
    None for what torch makes in C++ beside the tensors it works on.
    """
    with torch._C.DisableTorchFunction():
        return getattr(tensor.untyped_storage(), "on_gpu", False)


def tagged(tensor: Tensor) -> bool:
    return place(tensor) is True


def tag(value: object, on_gpu: bool | None = True) -> object:
    with torch._C.DisableTorchFunction():
        for tensor in tree_leaves(value):
            if isinstance(tensor, Tensor):
                tensor.untyped_storage().on_gpu = on_gpu
    return value


class _Operations(TorchDispatchMode):
    """Under autograd too: results of tagged inputs are tagged; inputs of both kinds are refused."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        inputs = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        kinds = {place(t) for t in inputs if t.ndim or tagged(t)} - {None}
        if len(kinds) > 1 and func not in MIXING:
            shapes = [f"{'cuda' if tagged(t) else 'cpu'}{tuple(t.shape)}" for t in inputs]
            raise RuntimeError(
                f"Expected all tensors to be on the same device: {func} of {', '.join(shapes)}"
            )
        result = func(*args, **kwargs)
        if func not in MIXING:
            tag(result, max(kinds or {place(t) for t in inputs} - {None}, default=None))
        elif func in INDEXED or func is aten._to_copy.default:
            tag(result, place(args[0]))
        return result


class _Functions(TorchFunctionMode):
    """What Python asks of tensors and of torch: where they are, moving, making."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func == Tensor.device.__get__:
            return GPU if tagged(args[0]) else func(*args)
        if func == Tensor.is_cuda.__get__:
            return tagged(args[0])
        if func in (Tensor.numpy, Tensor.__array__) and tagged(args[0]):
            raise TypeError(
                "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first."
            )
        if func is Tensor.cpu:
            return _moved(args[0], torch.device("cpu"))
        if func in (Tensor.to, Tensor.cuda):
            return _to(func, args, kwargs)
        where = _device(kwargs.get("device"))
        if where is None:
            result = func(*args, **kwargs)
            leaves = tree_leaves((args, kwargs))
            return (
                result if any(isinstance(leaf, Tensor) for leaf in leaves) else tag(result, False)
            )
        made = func(*args, **kwargs | {"device": "cpu"})
        return tag(made, where.type == "cuda")


def _cloned(memory: torch.UntypedStorage, clone=torch.UntypedStorage.clone) -> torch.UntypedStorage:
    """With its tag, as deepcopy needs it."""
    result = clone(memory)
    result.on_gpu = getattr(memory, "on_gpu", False)
    return result


class _Generator(torch.Generator):
    """Of whatever device is asked for; it draws on the CPU."""

    def __new__(cls, device: str | torch.device = "cpu"):
        return super().__new__(cls, "cpu")


def _device(value: object) -> torch.device | None:
    if isinstance(value, str | torch.device):
        return torch.device(value)
    return None


def _moved(tensor: Tensor, where: torch.device) -> Tensor:
    if tagged(tensor) == (where.type == "cuda"):
        return tensor
    return _Move.apply(tensor, where.type == "cuda")


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, on_gpu):
        ctx.back = not on_gpu
        return tag(tensor.clone(), on_gpu)

    @staticmethod
    def backward(ctx, gradient):
        return tag(gradient.clone(), ctx.back), None


def _to(func, args, kwargs) -> Tensor:
    tensor, rest, where = args[0], list(args[1:]), _device(kwargs.pop("device", None))
    if func is Tensor.cuda:
        return _moved(tensor, GPU)
    if rest and isinstance(rest[0], str | torch.device):
        where, rest = torch.device(rest[0]), rest[1:]
    elif rest and isinstance(rest[0], Tensor):
        where, rest = (GPU if tagged(rest[0]) else torch.device("cpu")), [rest[0].dtype, *rest[1:]]
    rest = [value for value in rest if not isinstance(value, bool | NoneType)]  # non_blocking, copy
    result = Tensor.to(tensor, *rest, **kwargs) if rest or kwargs else tensor
    if result is not tensor:
        tag(result, tagged(tensor))
    return result if where is None else _moved(result, where)


@contextmanager
def gpu() -> Iterator[None]:
    """Inside it "cuda:0" is there. Graphs, compilation and more than one device are not."""
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "imitated",
        "synchronize": None,
        "empty_cache": None,
        "is_current_stream_capturing": False,
        "is_bf16_supported": True,
        "max_memory_reserved": 0,
        "mem_get_info": (math.inf, math.inf),
        "reset_peak_memory_stats": None,
        "max_memory_allocated": 0,
    }
    with ExitStack() as stack:
        for name, value in answers.items():
            stack.enter_context(
                mock.patch.object(torch.cuda, name, lambda *_, value=value, **__: value)
            )
        stack.enter_context(mock.patch.object(torch, "Generator", _Generator))
        stack.enter_context(mock.patch.object(torch.UntypedStorage, "clone", _cloned))
        stack.enter_context(_Operations())
        stack.enter_context(_Functions())
        yield
