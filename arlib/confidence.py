"""How sure a network is, and whether it is right to be:
softmax confidence, calibration, temperature.

All functions take logits of shape (n, classes) and compute in float64.
"""

import warnings
from functools import partial

import torch
import torch.nn.functional as F

from arlib.errors import InputError

# Inverse temperatures looked at; outside, softmax is one-hot or uniform for any logits of use.
_INVERSE_RANGE = (1e-3, 1e3)


def max_softmax(logits: torch.Tensor) -> torch.Tensor:
    """Largest softmax probability of each image, (n,) float64 in [1/classes, 1]."""
    return _checked(logits).softmax(1).amax(1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each image's softmax in nats, (n,) float64 in [0, log classes]."""
    # entr(0) is 0, where −p log p written out is NaN
    return torch.special.entr(_checked(logits).softmax(1)).sum(1)


def cross_entropy(logits: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """−log softmax of the true class in nats, (n,) float64."""
    logits = _checked(logits, y)
    return F.cross_entropy(logits, y, reduction="none")


def overconfidence(logits: torch.Tensor, y: torch.Tensor) -> float:
    """Signed over-confidence: mean max-softmax − accuracy. Positive: surer than right."""
    logits = _checked(logits, y)
    return float(max_softmax(logits).mean() - (logits.argmax(1) == y).double().mean())


def ece(logits: torch.Tensor, y: torch.Tensor, bins: int = 15) -> float:
    """Expected calibration error over bins of equal mass.

    Images are sorted by max-softmax (ties in the given order) and cut into `bins` groups whose
    sizes differ by at most one; the error is Σ n_b/n · |accuracy_b − confidence_b|.

    Nixon et al. 2019, "Measuring calibration in deep learning", section 3. Raises `InputError`
    for bins < 1 or fewer images than bins.
    """
    logits = _checked(logits, y)
    if not 1 <= bins <= len(y):
        raise InputError(f"bins is {bins}; allowed: 1 to the number of images, {len(y)}.")
    confidence, order = max_softmax(logits).sort(stable=True)
    surplus = confidence - (logits.argmax(1) == y).double()[order]  # (n,)
    return float(sum(part.sum().abs() for part in torch.tensor_split(surplus, bins)) / len(y))


def temperature(logits: torch.Tensor, y: torch.Tensor) -> float:
    """The temperature T that minimises the mean cross-entropy of logits / T.

    Cross-entropy is convex in 1/T, so the root of its derivative, E_softmax[z] − z_y averaged over
    images, is found by bisection. Fit it on validation images, use it on others.

    Guo et al. 2017, "On calibration of modern neural networks", section 4.2. Warns, and returns
    the end of the range 1e-3 … 1e3, where no finite T is best (all right, or worse than chance).
    """
    logits = _checked(logits, y)
    # softmax does not see the shift; without it E z − z_y may be a difference of large numbers
    logits = logits - logits.amax(1, keepdim=True)
    slope = partial(_slope, logits, y)
    low, high = _INVERSE_RANGE
    if slope(low) >= 0 or slope(high) <= 0:
        end = low if slope(low) >= 0 else high
        warnings.warn(
            f"temperature: no finite optimum on these logits; 1/T is held at {end:g}.", stacklevel=2
        )
        return 1 / end
    for _ in range(50):  # halves log(1/T), which starts 14 wide
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return (low * high) ** -0.5


def _slope(logits: torch.Tensor, y: torch.Tensor, inverse: float) -> float:
    expected = ((logits * inverse).softmax(1) * logits).sum(1)  # (n,)
    return float((expected - logits.gather(1, y[:, None])[:, 0]).mean())


def check_logits(logits: torch.Tensor, y: torch.Tensor | None = None) -> None:
    """Raise `InputError` unless logits are finite and (n ≥ 1, classes ≥ 2),
    and y one label in range for each.
    """
    if logits.ndim != 2 or not len(logits) or logits.shape[1] < 2:
        raise InputError(
            f"logits have shape {tuple(logits.shape)}; needed: (n, classes), n ≥ 1, classes ≥ 2."
        )
    if not torch.isfinite(logits).all():
        raise InputError("logits hold NaN or infinity; the network that made them has diverged.")
    if y is None:
        return
    if y.shape != logits.shape[:1] or y.dtype != torch.int64:
        raise InputError(
            f"y is {y.dtype} of shape {tuple(y.shape)}; needed: int64, one for each of "
            f"{len(logits)} rows."
        )
    if y.min() < 0 or y.max() >= logits.shape[1]:
        raise InputError(
            f"labels run from {int(y.min())} to {int(y.max())}; allowed: 0 to "
            f"{logits.shape[1] - 1}."
        )


def _checked(logits: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
    check_logits(logits, y)
    return logits.double()
