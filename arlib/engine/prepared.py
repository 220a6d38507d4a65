"""Networks prepared for crafting and measuring:
eval mode, gradients to the input only, made fast.
"""

import copy
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from arlib.engine import trust
from arlib.engine.folding import (
    BATCHNORMS,
    CONVOLUTIONS,
    foldable_pairs,
    folded_weight,
    has_hooks,
    trace,
    without_batchnorm,
)
from arlib.engine.given import dtype_of
from arlib.engine.graphs import graphed_module
from arlib.engine.machine import MODES, Machine, why_not_compiled
from arlib.engine.untouched import left_as_found
from arlib.errors import InputError, one_of

# what autocast would run in half precision, cast once instead of at each pass
_IN_HALF = (*CONVOLUTIONS, nn.Linear)
# models whose doubt was told, which happens once; weak, so that none is kept alive
_warned: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


class Prepared(nn.Module):
    """A network for crafting and measuring:
    eval mode, no weight gradients, BN folded where that is exact.

    Takes images and gives what the source gives, whatever precision it computes in. Gradients flow
    to the input only. A copy is compared with the source on the first images it meets, outputs and
    input gradients; if it is not the source, the source itself is used, and that is said once.
    After the source's weights change, `refresh()` copies them in place, so a compiled or captured
    graph stays valid.
    """

    def __init__(
        self, source: nn.Module, mode: str, dtype: torch.dtype | None = None, *,
        lent: bool = False, truth: nn.Module | None = None, subject: nn.Module | None = None,
    ):  # fmt: skip
        """lent: the source is in eval mode and frozen as long as this lives,
        so it need not be copied.

        truth: what to compare with and to fall back to, and subject: what a doubt names; by default
        the source.
        """
        super().__init__()
        # In a list: not a submodule, so never moved or counted with this one.
        self._source, self._truth = [source], [source if truth is None else truth]
        self._subject = [source if subject is None else subject]
        self.mode, self.precision = (
            mode,
            "float32" if dtype is None else str(dtype).removeprefix("torch."),
        )
        self.lent, self.checked, self.copies_input, self.doubt = lent, False, False, ""
        self.takes = dtype_of(source)
        self.attention = any(isinstance(m, nn.MultiheadAttention) for m in source.modules())
        graph = trace(source) if mode != "plain" and _may_fold(source) else None
        self.pairs = (
            [] if graph is None else [(c.target, b.target) for c, b in foldable_pairs(graph)]
        )
        self.module = without_batchnorm(graph) if self.pairs else None if lent else _copy(source)
        if self.module is None:
            self.run = self._source_itself
        else:
            self._make_fast(mode, dtype)
        super().train(False)

    def _make_fast(self, mode: str, dtype: torch.dtype | None) -> None:
        self.module.eval().requires_grad_(False)
        if mode != "plain" and _fits_channels_last(self.module):
            self.module.to(memory_format=torch.channels_last)
        for layer in self.module.modules():
            if dtype is not None and isinstance(layer, _IN_HALF):
                layer.to(dtype)
        run = torch.compile(self.module) if "compiled" in mode else self.module
        self.run = graphed_module(run) if "graphed" in mode else run
        self.copy_weights()

    def forward(self, x: torch.Tensor) -> object:
        if not self.checked:
            self.compare(x)
        x = x.to(self.takes) if self.takes not in (None, x.dtype) and x.is_floating_point() else x
        # the model writes over its input, and the caller's images are not its own
        x = x.clone() if self.copies_input else x
        if x.ndim == 4 and self.mode != "plain":
            x = x.contiguous(memory_format=torch.channels_last)
        if self.precision != "float32":
            with Machine(x.device, precision=self.precision).autocast():
                # losses and differences of logits are not to be taken in half precision
                return self.run(x).float()
        return _without_fast_paths(self.run, x) if self.attention else self.run(x)

    def itself(self, x: torch.Tensor) -> object:
        """The model's own answers: nothing folded, compiled or in half precision.

        They have the last word on what an attack found with the copy, which may be fooled by images
        that do not fool the model.
        """
        x = x.to(self.takes) if self.takes not in (None, x.dtype) and x.is_floating_point() else x
        x = x.clone() if self.copies_input else x
        run = self._source_itself
        return _without_fast_paths(run, x) if self.attention else run(x)

    def _source_itself(self, x: torch.Tensor) -> object:
        truth = self._truth[0]
        if self.lent:
            return truth(x)
        with left_as_found(truth, rng=False):  # a random model draws anew at each pass
            truth.eval().requires_grad_(False)
            return truth(x)

    @torch.no_grad()
    def compare(self, x: torch.Tensor) -> "Prepared":
        """Compare with the source on these images;
        where the two differ, the source is used from then on.

        The first pass does it by itself; before work that must not wait for the device, do it
        beforehand.
        """
        self.checked = True
        if self.module is None:
            self.copies_input = True  # cheaper than to find out whether the source writes over it
            return self
        x = x.detach()
        x = x.to(self.takes) if self.takes is not None and x.is_floating_point() else x
        with self._weights_of_now():
            half = self.precision != "float32"
            why, self.copies_input = trust.why_not(self._truth[0], self._run_as_asked, x, half=half)
        if why:
            self.copies_input = True
            self._fall_back(why)
        return self

    @contextmanager
    def _weights_of_now(self) -> Iterator[None]:
        """Inside it the copy has the source's present weights;
        they may have changed since it was made.
        """
        mine = [*self.module.parameters(), *self.module.buffers()]
        before = [value.clone() for value in mine]
        self.copy_weights()
        try:
            yield
        finally:
            with torch.no_grad():
                for value, old in zip(mine, before, strict=True):
                    value.copy_(old)

    def _run_as_asked(self, x: torch.Tensor) -> object:
        with Machine(x.device, precision=self.precision).autocast():
            return self.run(x)

    def _fall_back(self, why: str) -> None:
        subject, self.doubt = self._subject[0], why
        del self.run, self.module  # modules; what takes their place is none
        self.run, self.module, self.pairs = self._source_itself, None, []
        if subject not in _warned:
            _warned[subject] = True
            warnings.warn(
                f"a prepared copy of {type(subject).__name__} is not the model: {why}. The model "
                "itself is used, "
                "which is slower and right.", stacklevel=4,
            )  # fmt: skip

    def running(self) -> Iterator[nn.Module]:
        """The modules that a pass runs: those of the copy, or of the source where that is used."""
        yield from (self._truth[0] if self.module is None else self.module).modules()

    def train(self, mode: bool = True) -> "Prepared":
        """A prepared network stays in eval mode: folding holds only there."""
        if mode:
            raise RuntimeError(
                "A prepared network stays in eval mode; train the network it was prepared from."
            )
        return self

    def refresh(self) -> "Prepared":
        """Read the source's weights and statistics again, in place,
        and compare anew on the next images.

        A number that Python read from a weight or an attribute while tracing is not read again;
        then the comparison fails, and the source itself is used.
        """
        self.copy_weights()
        self.checked = False
        return self

    @torch.no_grad()
    def copy_weights(self) -> "Prepared":
        """`refresh` without a new comparison:
        for networks whose code reads weights as tensors only.
        """
        if self.module is None:
            return self
        source = self._source[0]
        folded = dict(self.pairs)
        theirs = dict(source.named_parameters(remove_duplicate=False)) | dict(
            source.named_buffers()
        )
        for name, value in [*self.module.named_parameters(), *self.module.named_buffers()]:
            if name.rpartition(".")[0] not in folded and name in theirs:
                value.copy_(theirs[name])
        for conv_name, bn_name in self.pairs:
            mine = self.module.get_submodule(conv_name)
            weight, bias = folded_weight(
                source.get_submodule(conv_name), source.get_submodule(bn_name)
            )
            mine.weight.copy_(weight)
            mine.bias.copy_(bias)
        return self


def _may_fold(source: nn.Module) -> bool:
    """Whether tracing is worth it: there is a batch norm,
    and nothing that a trace would lose for sure.
    """
    modules = list(source.modules())
    return any(isinstance(m, BATCHNORMS) for m in modules) and not any(map(has_hooks, modules))


def _copy(source: nn.Module) -> nn.Module | None:
    """A copy of the model, or None of one
    that cannot be copied (it holds a lock, a generator, an open file).
    """
    try:
        return copy.deepcopy(source)
    except Exception:  # whatever its attributes raise
        return None


def _fits_channels_last(module: nn.Module) -> bool:
    """Whether `Module.to` can change its memory format:
    it would also ask that of 5-d tensors, which have another.
    """
    return not any(p.ndim == 5 for p in (*module.parameters(), *module.buffers()))


def _without_fast_paths(model: Callable, x: torch.Tensor) -> object:
    """Attention as it is written: torch's fast path calls no submodule, and gives other bits."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        return model(x)
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def prepare(model: nn.Module, mode: str = "auto", dtype: torch.dtype | None = None) -> Prepared:
    """Prepare a network for many passes; reusable, and never done behind your back by compilation.

    mode: "plain" (a frozen copy, as it is), "folded" (BN folded, channels_last; warns where nothing
    can be folded), "compiled" (folded, then torch.compile), "graphed" or "compiled+graphed" (one
    CUDA graph for each shape of images, CUDA only), "auto" (folded where possible).
    dtype: torch.bfloat16 computes convolutions and products in it, as autocast would; images and
    logits stay float32. By default the network's own.
    """
    one_of("mode", mode, MODES)
    if dtype not in (None, torch.float32, torch.bfloat16):
        raise InputError(f"dtype is {dtype}; allowed: None, torch.float32, torch.bfloat16.")
    if isinstance(model, Prepared):
        return model
    if not isinstance(model, nn.Module):
        model = Called(model)
    where = next((tensor.device for tensor in model.parameters()), torch.device("cpu"))
    if "compiled" in mode and (why := why_not_compiled(where)):
        raise InputError(
            f"mode is {mode!r}, but {why}. Use "
            f"{mode.replace('compiled', 'folded').split('+')[0]!r}."
        )
    prepared = Prepared(
        model, "folded" if mode == "auto" else mode, None if dtype == torch.float32 else dtype
    )
    if mode == "folded" and not prepared.pairs:
        warnings.warn(
            "prepare: no batch norm of this network could be folded; it runs as it is.",
            stacklevel=2,
        )
    return prepared


class Called(nn.Module):
    """A callable that is no module, as one."""

    def __init__(self, function: Callable):
        super().__init__()
        self.function = [function]  # in a list: a module inside it is none of ours

    def forward(self, x: torch.Tensor) -> object:
        return self.function[0](x)


def unwrapped(model: nn.Module | Callable) -> nn.Module | Callable:
    """The network inside torch's wrappers:
    of DataParallel, of DistributedDataParallel, of torch.compile.
    """
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._orig_mod
        else:
            return model


def batchnorm_of(model: nn.Module, input_shape: tuple[int, ...] | None = None) -> dict[str, str]:
    """Name of each convolution whose output only a batch norm reads → name of that batch norm.

    Found on the graph by torch.fx; empty for a model whose graph cannot be traced. A module that
    the graph calls twice is left out: one folded weight could not serve both calls. With the shape
    of an image the folded network is compared with the model on random ones; where the two differ,
    nothing counts as foldable.
    """
    graph = trace(model) if _may_fold(model) else None
    pairs = {} if graph is None else {conv.target: bn.target for conv, bn in foldable_pairs(graph)}
    if input_shape is None or not pairs:
        return pairs
    with left_as_found(model):
        model.eval().requires_grad_(False)
        folded = Prepared(model, "folded", lent=True)
        like = next(p for p in model.parameters() if p.is_floating_point())
        images = torch.rand(
            trust.IMAGES // 2, *input_shape, generator=torch.Generator().manual_seed(0)
        )
        with torch.no_grad():
            folded(images.to(like))
    return pairs if folded.pairs else {}


@contextmanager
def frozen(model: nn.Module | Callable) -> Iterator[nn.Module]:
    """The network as attacks use it: eval mode, input gradients only,
    BN folded where that is exact.

    The model itself ends as it was (see `left_as_found`), also after an exception, and works where
    the caller has switched gradients off. A `Prepared` network is used as it is.
    """
    if isinstance(model, Prepared):
        with torch.inference_mode(False):
            yield model
        return
    model = unwrapped(model)
    model = model if isinstance(model, nn.Module) else Called(model)
    with left_as_found(model), torch.inference_mode(False):
        model.eval()
        for parameter in model.parameters():  # `requires_grad_` of a scripted module refuses
            parameter.requires_grad_(False)
        yield Prepared(model, "folded", lent=True)
