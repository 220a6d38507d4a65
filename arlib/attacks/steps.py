"""What every attack is made of: a ball to stay in, a step, a random start, an input gradient.

Images are fp32 (or fp64) whatever the network computes in, logits and losses at least fp32, so
neither the projection nor the loss rounds in half precision. Nothing here waits for the device.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from arlib import engine
from arlib.attacks.checks import check as check
from arlib.attacks.losses import Goal
from arlib.attacks.losses import cross_entropy as cross_entropy
from arlib.attacks.losses import margin as margin
from arlib.errors import InputError

NO_GRADIENT = (
    "the model has no gradient to its images (no_grad, detach, numpy or a hard decision in its "
    "forward pass), so gradient attacks cannot begin. Remove that, or use what needs none: "
    "attacks.square, or evaluate with "
    'attacks="square".'
)
Forward = Callable[[Tensor], Tensor]  # images (n, …) -> logits (n, k)
# in one pass on a CPU; with more, activations leave its cache (up to 1.3 × the time)
PIXELS_A_CORE = 32 * 32 * 32


def per_image(values: Tensor | float, x: Tensor) -> Tensor | float:
    """Shape (n,) values so that they broadcast over images x (n, …); a plain number stays one."""
    return (
        values.view(-1, *[1] * (x.ndim - 1))
        if isinstance(values, Tensor) and values.ndim == 1
        else values
    )


def take(values: Tensor | float, index: Tensor) -> Tensor | float:
    """The values of the chosen images, where each image has its own."""
    return values[index] if isinstance(values, Tensor) and values.ndim else values


def norms(delta: Tensor, norm: str) -> Tensor:
    """The linf or l2 norm of each image's perturbation. delta: (n, …) -> (n,)."""
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "linf" else 2, dim=1)


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient at Euclidean length 1;
    all-zero gradients stay zero. (n, …) -> (n, …).
    """
    tiny = torch.finfo(gradient.dtype).tiny
    largest = per_image(norms(gradient, "linf"), gradient)
    scaled = gradient / largest.clamp_min(tiny)  # first: the square of a small gradient underflows
    return scaled / per_image(norms(scaled, "l2"), gradient).clamp_min(tiny)


class Streams:
    """One random stream per image: what an image gets depends neither on its batch nor
    on its place in it.

    Takes the place of a `torch.Generator` in every attack here.
    """

    def __init__(self, seed: int, images: Sequence[int], label: str = ""):
        # hashed: as sums, (seed 0, image 1) and (seed 1, image 0) would be one stream
        seeds = [
            hashlib.blake2b(f"{seed}/{label}/{i}".encode(), digest_size=7).digest() for i in images
        ]
        # on the CPU, whose numbers are the same whatever device the images are on
        self.generators = [torch.Generator().manual_seed(int.from_bytes(s, "big")) for s in seeds]


def draw(
    kind: Callable[..., Tensor],
    x: Tensor,
    shape: Sequence[int],
    generator: torch.Generator | Streams,
) -> Tensor:
    """`kind` (torch.rand, torch.randn) of `shape` for each image of x,
    on its device. -> (n, *shape).
    """
    if isinstance(generator, Streams):
        rows = [kind(tuple(shape), generator=g, dtype=x.dtype) for g in generator.generators]
        return torch.stack(rows).to(x.device)
    # drawn where the generator lives, and moved: a CPU generator starts alike on every device
    return kind((len(x), *shape), generator=generator, device=generator.device, dtype=x.dtype).to(
        x.device
    )


class LinfBall:
    """All images within eps of x in every pixel, and within `clip`. eps: number or (n,)."""

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] = (0.0, 1.0)):
        self.x, self.eps, self.clip = x, eps, clip
        self.low = (x - per_image(eps, x)).clamp_(min=clip[0])
        self.high = (x + per_image(eps, x)).clamp_(max=clip[1])

    def take(self, index: Tensor) -> "LinfBall":
        return type(self)(self.x[index], take(self.eps, index), self.clip)

    def project(self, z: Tensor) -> Tensor:
        return z.clamp(self.low, self.high)

    def ascend(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The steepest step of length `size` (a number or (n,)), projected."""
        if isinstance(size, Tensor):
            return (z + per_image(size, z) * gradient.sign()).clamp_(self.low, self.high)
        # the same, one pass less
        return torch.add(z, gradient.sign(), alpha=size).clamp_(self.low, self.high)

    def start(self, generator: torch.Generator | Streams) -> Tensor:
        """Uniform in the cube, then clipped to the allowed pixel range."""
        u = draw(torch.rand, self.x, self.x.shape[1:], generator)
        return self.project(self.x + per_image(self.eps, self.x) * (2 * u - 1))


class L2Ball:
    """All images within Euclidean distance eps of x, and within `clip`. eps: number or (n,)."""

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] = (0.0, 1.0)):
        self.x, self.eps, self.clip = x, eps, clip

    def take(self, index: Tensor) -> "L2Ball":
        return type(self)(self.x[index], take(self.eps, index), self.clip)

    def project(self, z: Tensor) -> Tensor:
        """Onto the ball, then into the pixel range; the second only brings it nearer to x."""
        delta = z - self.x
        # at the centre, which has no direction, 0/0 would be NaN
        length = norms(delta, "l2").clamp_min(torch.finfo(z.dtype).tiny)
        return (self.x + delta * per_image((self.eps / length).clamp_max(1.0), z)).clamp_(
            *self.clip
        )

    def ascend(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The steepest step of length `size` (a number or (n,)), projected."""
        return self.project(z + per_image(size, z) * unit(gradient))

    def start(self, generator: torch.Generator | Streams) -> Tensor:
        """Uniform in the ball, then clipped to the allowed pixel range."""
        direction = unit(draw(torch.randn, self.x, self.x.shape[1:], generator))
        # volume grows as r^d: of uniform radii far too many starts would crowd at the centre
        radius = self.eps * draw(torch.rand, self.x, (), generator).pow_(1 / self.x[0].numel())
        return self.project(self.x + per_image(radius, self.x) * direction)


BALLS = {"linf": LinfBall, "l2": L2Ball}
Ball = LinfBall | L2Ball


def random_start(
    x: Tensor,
    *,
    eps: float | Tensor,
    generator: torch.Generator | Streams,
    norm: str = "linf",
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Each image moved uniformly in its own ball, clipped to the pixel range.
    x: (n, …) -> (n, …).
    """
    return BALLS[norm](x, eps, clip).start(generator)


def default_generator(
    generator: torch.Generator | Streams | None, x: Tensor
) -> torch.Generator | Streams:
    """The generator given, else a fresh one with seed 0:
    a call without one always gives the same.
    """
    return torch.Generator(x.device).manual_seed(0) if generator is None else generator


def forward_of(f: Forward, logits: Callable[[object], Tensor] | None = None) -> Forward:
    """`f` taking images of at least fp32 and giving logits (n, k) of at least fp32,
    whatever it computes in.

    logits: how to find them in what the model returns, see `engine.logits_of`.
    """
    # a prepared network casts by itself
    own = None if isinstance(f, engine.Prepared) else engine.dtype_of(f)

    def forward(x: Tensor) -> Tensor:
        return _logits(f(x if own in (None, x.dtype) else x.to(own)), logits)

    return forward


def itself_of(
    f: Forward, forward: Forward, logits: Callable[[object], Tensor] | None = None
) -> Forward:
    """The logits of the model itself, which say whether an attack has succeeded; forward itself
    where that is no copy of the model.

    f: what `opened` gives, with forward; logits: as in `forward_of`.
    """
    if not isinstance(f, engine.Prepared) or f.module is None:
        return forward
    return lambda x: _logits(f.itself(x), logits)


def _logits(answer: object, logits: Callable[[object], Tensor] | None) -> Tensor:
    answers = engine.logits_of(answer, logits)
    return answers.to(torch.promote_types(answers.dtype, torch.float32))


@contextmanager
def opened(model, x, y, logits=None) -> Iterator[tuple[nn.Module, Forward, Tensor, Tensor]]:
    """What every attack begins with: the frozen network, its logits as a function,
    images and labels as tensors.

    Images and labels may be arrays or lists; the model any callable. Nothing is checked yet.
    """
    x, y = engine.images_and_labels(model, x, y)
    with engine.frozen(model) as f:
        yield f, forward_of(f, logits), x, y


def in_parts(x: Tensor, run: Callable[[slice], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """`run` on slices of a batch that fit a CPU's cache, joined; on a GPU on all at once.

    For functions that treat each image by itself. The parts are of nearly equal size, so that none
    is so small that a matrix product rounds in another way.
    """
    most = (
        max(8, PIXELS_A_CORE * torch.get_num_threads() // math.prod(x.shape[2:]))
        if x.ndim == 4
        else len(x)
    )
    if x.device.type != "cpu" or len(x) <= most:
        return run(slice(None))
    size = math.ceil(len(x) / math.ceil(len(x) / most))
    parts = [run(slice(start, start + size)) for start in range(0, len(x), size)]
    return tuple(torch.cat(same) for same in zip(*parts, strict=True))


def input_gradient(
    forward: Forward, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass to the input: gradient (n, …), outputs, losses (n,).

    loss: (outputs, y) -> (n,), y any tensor (n, …). The losses are summed, never averaged: an
    image's gradient does not depend on its batch.
    """
    return in_parts(
        x, lambda part: _gradient(forward, x[part], lambda outputs: loss(outputs, y[part]))
    )


def _gradient(
    forward: Forward, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    gradient, outputs, losses = _raw(forward, x, loss)
    # Where the gradient is not a number (0/0, sqrt on a black pixel) there
    # is no direction: the pixel stays.
    return gradient.nan_to_num(nan=0.0), outputs, losses


def raw_gradient(forward: Forward, x: Tensor, goal: Goal) -> Tensor:
    """The gradient as the model gives it, also where it is not finite. (n, …)."""
    return in_parts(x, lambda part: _raw(forward, x[part], goal.take(part).losses))[0]


def _raw(
    forward: Forward, x: Tensor, loss: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    # a leaf of its own: neither the caller's tensor nor its graph is touched
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        outputs = forward(x)
        losses = loss(outputs)
        total = losses.sum()
    return gradient_of(total, x), outputs.detach(), losses.detach()


def gradient_of(total: Tensor, x: Tensor, retain_graph: bool = False) -> Tensor:
    """The gradient of a number to the images; `InputError` where the model has none."""
    if not total.requires_grad:
        raise InputError(NO_GRADIENT)
    (gradient,) = torch.autograd.grad(total, x, retain_graph=retain_graph, allow_unused=True)
    if gradient is None:
        raise InputError(NO_GRADIENT)
    return gradient


def slope(forward: Forward, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
    """Where to go from x: gradient (n, …) of the goal's loss, logits (n, k), losses (n,)."""
    return in_parts(x, lambda part: _gradient(forward, x[part], goal.take(part).losses))


def ascent(forward: Forward, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor, Tensor]:
    """Where to go from x, and whether that is needed:
    gradient (n, …), hits (n,) bool, losses (n,).
    """
    gradient, logits, losses = slope(forward, x, goal)
    return gradient, goal.hits(logits), losses


@torch.no_grad()
def look(forward: Forward, x: Tensor, goal: Goal) -> tuple[Tensor, Tensor]:
    """One forward pass: hits (n,) bool, losses (n,)."""
    (logits,) = in_parts(x, lambda part: (forward(x[part]),))
    return goal.hits(logits), goal.losses(logits)


def nhwc(x: Tensor) -> Tensor:
    """The memory layout that convolutions are fastest in; the values stay."""
    return x.detach().contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.detach()


def time_to_drop(step: int, device: str) -> bool:
    """Whether to look for images that need no more work; when it is done changes no verdict."""
    # early and often on a CPU, since most images that break do so in the first steps
    return step <= 2 or step % 5 == 0 if device == "cpu" else step % 10 == 2


class Best:
    """The worst input seen for each image:
    one that hits before one that does not, then higher loss.

    Only the `active` images are still worked on; `update` and `drop` speak of those, in order.
    """

    def __init__(self, x: Tensor):
        self.x = x.clone()
        self.hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self.losses = torch.full((len(x),), -math.inf, dtype=x.dtype, device=x.device)
        self.active = slice(None)

    def update(self, x: Tensor, hit: Tensor, losses: Tensor) -> None:
        old, old_losses, losses = (
            self.hit[self.active],
            self.losses[self.active],
            losses.to(self.losses.dtype),
        )
        better = (hit & ~old) | ((hit == old) & (losses > old_losses))
        worst = torch.where(per_image(better, x), x, self.x[self.active])
        losses, hit = torch.where(better, losses, old_losses), hit | old
        if isinstance(self.active, slice):
            self.x, self.losses, self.hit = worst, losses, hit
        else:
            self.x[self.active], self.losses[self.active], self.hit[self.active] = (
                worst,
                losses,
                hit,
            )

    def survivors(self) -> Tensor:
        """Make the images not yet hit the active ones; their indices (waits for the device)."""
        self.active = (~self.hit).nonzero()[:, 0]
        return self.active

    def drop(self, step: int) -> Tensor | None:
        """Now and then, give up active images that are hit:
        which rows to keep, or None to keep all.

        To count them is to wait for the device, so a GPU is asked less often.
        """
        if not time_to_drop(step, self.x.device.type):
            return None
        keep = (~self.hit[self.active]).nonzero()[:, 0]
        before = len(self.hit) if isinstance(self.active, slice) else len(self.active)
        if len(keep) > 0.95 * before:  # not worth the copies
            return None
        self.active = keep if isinstance(self.active, slice) else self.active[keep]
        return keep
