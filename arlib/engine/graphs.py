"""CUDA graphs: work recorded once and replayed as one launch.
On other devices everything runs as written.

A ResNet-56 of 16 to 64 channels leaves a large GPU waiting for the CPU that launches its hundreds
of small kernels; replaying a graph launches them all at once.

No number of the book rests on this file: the modes "graphed" and "compiled+graphed" are used only
where they are asked for by name, and nothing recorded was computed in them. Shown, with imitated
graphs on a CPU (tests/test_engine_graphs.py): a step and an attack read nothing that a later replay
overwrites, and rely on no Python that a replay does not run. Not shown by any record: that a graph
is faster, or that it trains equal networks. The tests marked `gpu` ask a real device for the same
logits, gradients and attacks as without graphs; they skip themselves where there is none.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn

log = logging.getLogger(__name__)
WARM_UP = 3  # passes before a capture, on a stream of their own, as torch asks for
SHAPES = 4  # shapes of images for which a network keeps graphs; others run eagerly


class Captured:
    """A function of tensors, recorded at its first call and replayed at the next ones
    of the same shapes.

    Other shapes (the last batch of an epoch), and devices without graphs, run the function itself.
    A replay runs no Python: whatever the function makes and others read must be among the tensors
    it returns, which are overwritten by the next replay. The function must not wait for the device,
    nor draw random numbers; `state`: modules whose buffers it changes, put back after the warm-up.
    """

    def __init__(self, function: Callable[..., object], state: tuple[nn.Module, ...] = ()):
        self.function, self.state, self.graph, self.refused = function, state, None, False
        self.shapes: list | None = None

    def __call__(self, *tensors: torch.Tensor) -> object:
        if not has_graphs(tensors[0]) or self.refused:
            return self.function(*tensors)
        if self.shapes is None:
            self._capture(tensors)
        if self.refused or self.shapes != _shapes(tensors):
            return self.function(*tensors)
        for mine, theirs in zip(self.inputs, tensors, strict=True):
            mine.copy_(theirs)
        self.graph.replay()
        return self.outputs

    def _capture(self, tensors: tuple[torch.Tensor, ...]) -> None:
        self.shapes, self.inputs = _shapes(tensors), [tensor.clone() for tensor in tensors]
        buffers = [buffer for module in self.state for buffer in module.buffers()]
        before = [buffer.clone() for buffer in buffers]
        side, now = torch.cuda.Stream(), torch.cuda.current_stream()
        try:
            side.wait_stream(now)
            with torch.cuda.stream(side):
                for _ in range(WARM_UP):
                    self.function(*self.inputs)
            now.wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.outputs = self.function(*self.inputs)
        except torch.OutOfMemoryError:
            # nothing is wrong with the graph: a later call, with more memory free, may try again
            self.shapes = None
            raise
        except RuntimeError as error:
            self.refused = True
            log.warning(
                "a CUDA graph could not be captured (%s); it runs eagerly",
                str(error).splitlines()[0],
            )
        finally:
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)


def has_graphs(tensor: torch.Tensor) -> bool:
    """Whether work on this tensor can be recorded:
    the device has graphs, and none is being recorded now.
    """
    return tensor.is_cuda and not torch.cuda.is_current_stream_capturing()


def _shapes(tensors: tuple[torch.Tensor, ...]) -> list:
    return [(tensor.shape, tensor.dtype, tensor.stride()) for tensor in tensors]


def graphed_module(
    run: Callable[[torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor], torch.Tensor]:
    """`run` with a graph of its forward and one of its backward pass for each
    of the first few shapes of images.

    Logits and input gradients are copied out of the graphs, which write the next ones into the same
    memory.
    """
    graphs: dict[tuple, Callable] = {}

    def function(x: torch.Tensor) -> torch.Tensor:
        """`run` as no module: of a module torch would replace the forward, for all shapes."""
        return run(x)

    def forward(x: torch.Tensor) -> torch.Tensor:
        key = (x.shape, x.dtype)
        if not x.requires_grad or not has_graphs(x):
            return run(x)
        if key not in graphs and len(graphs) < SHAPES:
            sample = torch.rand_like(x, requires_grad=True)
            graphs[key] = torch.cuda.make_graphed_callables(
                function, (sample,), num_warmup_iters=WARM_UP
            )
        return graphs[key](_OwnGradient.apply(x)).clone() if key in graphs else run(x)

    return forward


class _OwnGradient(torch.autograd.Function):
    """The same images; on the way back, a gradient of its own."""

    @staticmethod
    def forward(ctx, x: torch.Tensor) -> torch.Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient.clone()
