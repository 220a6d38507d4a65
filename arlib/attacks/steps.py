"""What every attack is made of: a ball to stay in, a step, a random start, a loss, an input gradient.

Losses are per image and maximised; they are summed, never averaged, so that an image's gradient
does not depend on its batch. Images are fp32 (or fp64) whatever the network computes in, logits
and losses at least fp32, so neither the projection nor the loss rounds in half precision.
Nothing here waits for the device.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arlib.errors import InputError, one_of

NORMS = ("linf", "l2")
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, k), labels (n,) -> (n,)


def per_image(values: Tensor | float, x: Tensor) -> Tensor | float:
    """Shape (n,) values so that they broadcast over images x (n, …); a plain number stays one."""
    return values.view(-1, *[1] * (x.ndim - 1)) if isinstance(values, Tensor) and values.ndim else values


def norms(delta: Tensor, norm: str) -> Tensor:
    """The linf or l2 norm of each image's perturbation. delta: (n, …) -> (n,)."""
    return torch.linalg.vector_norm(delta.flatten(1), math.inf if norm == "linf" else 2, dim=1)


class LinfBall:
    """All images within eps of x in every pixel, and within `clip`. eps: number or (n,)."""

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] = (0.0, 1.0)):
        self.x, self.clip, self.eps = x, clip, per_image(eps, x)
        self.low = (x - self.eps).clamp_(min=clip[0])
        self.high = (x + self.eps).clamp_(max=clip[1])

    def project(self, z: Tensor) -> Tensor:
        return z.clamp(self.low, self.high)

    def ascend(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The steepest step of length `size` (a number or (n,)), projected."""
        return (z + per_image(size, z) * gradient.sign()).clamp_(self.low, self.high)

    def start(self, generator: torch.Generator) -> Tensor:
        """Uniform in the cube, then clipped to the allowed pixel range."""
        u = torch.rand(self.x.shape, generator=generator, device=generator.device, dtype=self.x.dtype)
        return self.project(self.x + self.eps * (2 * u.to(self.x.device) - 1))


class L2Ball:
    """All images within Euclidean distance eps of x, and within `clip`. eps: number or (n,)."""

    def __init__(self, x: Tensor, eps: float | Tensor, clip: tuple[float, float] = (0.0, 1.0)):
        self.x, self.clip, self.eps = x, clip, per_image(eps, x)

    def project(self, z: Tensor) -> Tensor:
        """Onto the ball, then into the pixel range; the second only brings it nearer to x."""
        delta = z - self.x
        length = per_image(norms(delta, "l2"), z).clamp_min(torch.finfo(z.dtype).tiny)
        return (self.x + delta * (self.eps / length).clamp_max(1.0)).clamp_(*self.clip)

    def ascend(self, z: Tensor, gradient: Tensor, size: float | Tensor) -> Tensor:
        """The steepest step of length `size` (a number or (n,)), projected."""
        return self.project(z + per_image(size, z) * unit(gradient))

    def start(self, generator: torch.Generator) -> Tensor:
        """Uniform in the ball, then clipped to the allowed pixel range."""
        n, options = len(self.x), {"generator": generator, "device": generator.device, "dtype": self.x.dtype}
        direction = unit(torch.randn(self.x.shape, **options)).to(self.x.device)
        radius = torch.rand(n, **options).pow_(1 / self.x[0].numel()).to(self.x.device)
        return self.project(self.x + self.eps * per_image(radius, self.x) * direction)


def unit(gradient: Tensor) -> Tensor:
    """Each image's gradient at Euclidean length 1; all-zero gradients stay zero. (n, …) -> (n, …)."""
    tiny = torch.finfo(gradient.dtype).tiny
    largest = per_image(norms(gradient, "linf"), gradient)
    scaled = gradient / largest.clamp_min(tiny)  # first: the square of a small gradient underflows
    return scaled / per_image(norms(scaled, "l2"), gradient).clamp_min(tiny)


BALLS = {"linf": LinfBall, "l2": L2Ball}


def random_start(
    x: Tensor,
    *,
    eps: float | Tensor,
    generator: torch.Generator,
    norm: str = "linf",
    clip: tuple[float, float] = (0.0, 1.0),
) -> Tensor:
    """Each image moved uniformly in its own ball, clipped to the pixel range. x: (n, …) -> (n, …)."""
    return BALLS[norm](x, eps, clip).start(generator)


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest other logit minus the label's: positive exactly where the image is misclassified."""
    other = logits.scatter(1, y[:, None], -math.inf).amax(1)
    return other - logits.gather(1, y[:, None])[:, 0]


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6): the margin loss free of logit scale; ≥ 3 classes."""
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + 1e-12)


LOSSES: dict[str, Loss] = {"ce": cross_entropy, "margin": margin, "dlr": dlr}


def objective(name: str, targeted: bool = False) -> Loss:
    """The loss to maximise; a targeted attack gets `y` as the label to reach, so the sign turns."""
    loss = LOSSES[name]
    return (lambda logits, y: -loss(logits, y)) if targeted else loss


def hit(logits: Tensor, y: Tensor, targeted: bool = False) -> Tensor:
    """Where the attack has what it wants: another label than y, or, targeted, y itself. (n,) bool."""
    return (logits.argmax(1) == y) == targeted


def forward_of(f: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """`f` taking fp32 images and giving logits of at least fp32, whatever precision it computes in."""
    parameter = next(iter(f.parameters()), None) if isinstance(f, nn.Module) else None
    half = parameter.dtype if parameter is not None and parameter.dtype in (torch.bfloat16, torch.float16) else None

    def forward(x: Tensor) -> Tensor:
        logits = f(x if half is None else x.to(half))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    return forward


def input_gradient(f: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, loss: Loss) -> tuple[Tensor, Tensor, Tensor]:
    """One forward and one backward pass to the input: gradient (n, …), logits (n, k), losses (n,)."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        logits = f(x)
        losses = loss(logits, y)
    (gradient,) = torch.autograd.grad(losses.sum(), x)
    return gradient, logits.detach(), losses.detach()


def nhwc(x: Tensor) -> Tensor:
    """The memory layout that convolutions are fastest in; the values stay."""
    return x.detach().contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x.detach()


def default_generator(generator: torch.Generator | None, x: Tensor) -> torch.Generator:
    """The generator given, else a fresh one with seed 0: a call without one always gives the same."""
    return torch.Generator(x.device).manual_seed(0) if generator is None else generator


@torch.no_grad()
def check(
    model: nn.Module,
    f: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    eps: float | Tensor | None = None,
    norm: str = "linf",
    clip: tuple[float, float] = (0.0, 1.0),
    **positive: int,
) -> int:
    """Refuse what no attack can use, before any work; return the number of classes (one image is classified).

    Raises `InputError` for an unknown norm; x empty, not fp32/fp64, outside `clip` or on another device
    than the model; y not one integer label an image, or out of range; eps outside the range; a count < 1.
    """
    one_of("norm", norm, NORMS)
    _check_images(model, x, y, clip)
    if eps is not None:
        _check_eps(eps, norm, x)
    for name, value in positive.items():
        if value < 1:
            raise InputError(f"{name} is {value}; at least 1 is needed.")
    classes = f(x[:1]).shape[1]
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise InputError(f"labels go from {low} to {high}, but the model has classes 0 to {classes - 1}.")
    return classes


def _check_images(model: nn.Module, x: Tensor, y: Tensor, clip: tuple[float, float]) -> None:
    if x.ndim < 2 or len(x) == 0:
        raise InputError(f"images have shape {tuple(x.shape)}; a batch (n, …) of at least one image is needed.")
    if x.dtype not in (torch.float32, torch.float64):
        raise InputError(f"images are {x.dtype}; give float32 or float64 (a half-precision model is fine with those).")
    if y.shape != x.shape[:1] or y.dtype != torch.int64:
        raise InputError(
            f"labels are {y.dtype} of shape {tuple(y.shape)}; one int64 label for each of {len(x)} images."
        )
    parameter = next(iter(model.parameters()), None)
    places = {str(t.device) for t in (x, y, parameter) if t is not None}
    if len(places) > 1:
        raise InputError(f"images, labels and model are on different devices ({', '.join(sorted(places))}); move them.")
    low, high = float(x.min()), float(x.max())
    if not (low >= clip[0] and high <= clip[1]):
        raise InputError(
            f"images go from {low:.4g} to {high:.4g}, outside {list(clip)}. "
            "Give pixels in that range and make the normalisation the model's first layer."
        )


def _check_eps(eps: float | Tensor, norm: str, x: Tensor) -> None:
    if isinstance(eps, Tensor) and eps.ndim and eps.shape != x.shape[:1]:
        raise InputError(f"eps has shape {tuple(eps.shape)}; give a number or one for each of the {len(x)} images.")
    low, high = (float(eps.min()), float(eps.max())) if isinstance(eps, Tensor) else (eps, eps)
    limit = 1.0 if norm == "linf" else math.sqrt(x[0].numel())
    if not (low >= 0 and high <= limit):
        raise InputError(
            f"eps is {high if high > limit else low:.4g}; allowed for {norm}: 0 to {limit:.4g}, in units of [0, 1] "
            "pixels (AR strength 8 is eps=8/255)."
        )
