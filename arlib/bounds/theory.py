"""A generalization bound through margins in the image, for a network that may be wrong on some of
its training images (Xu & Mannor 2012; Sokolić et al. 2017; the pseudo-robust form).

Training images whose label is right everywhere within v form a covering of the data; the others
count as lost. The constants of the covering (C, k) are not known for any data set of photographs,
so what the bound gives is a shape, never a guarantee.
"""

import math

from arlib.errors import InputError


def covering_term(v: float, *, samples: int, classes: int, c: float, k: float) -> float:
    """√(log 2 · |Y| · 2^{k+1} · (C/v)^k / m): what covering a k-dimensional set of images costs.

    v: radius of the covering, in (0, 1), pixel units. samples: m, training images. classes: |Y|.
    c, k: constants of the set of images: at most (C/v)^k balls of radius v cover it.
    Infinite where it exceeds every float. Raises `InputError` for values outside these ranges.
    """
    check_radius(v)
    _positive(samples=samples, classes=classes, c=c, k=k)
    # in logarithms: (C/v)^k leaves the floats at k = 200 already
    log = math.log(math.log(2) * classes / samples) + (k + 1) * math.log(2) + k * math.log(c / v)
    return math.exp(log / 2) if log / 2 < 700 else math.inf


def confidence_term(samples: int, eta: float = 0.05) -> float:
    """√(2 log(1/η) / m): what it costs that the training set was drawn at random."""
    if not 0 < eta < 1:
        raise InputError(f"eta is {eta}; a probability between 0 and 1 is needed.", field="eta")
    _positive(samples=samples)
    return math.sqrt(2 * math.log(1 / eta) / samples)


def generalization(
    q: float,
    v: float,
    *,
    samples: int,
    classes: int,
    c: float,
    k: float,
    eta: float = 0.05,
) -> float:
    """Test error − train error is at most this, with probability 1 − eta over training sets.

    q: share of training images that are not classified right with instance margin ≥ v.
    The rest as in `covering_term`; above 1 the bound says nothing.

    >>> round(generalization(0.1, 0.25, samples=10**6, classes=2, c=0.5, k=1), 4)
    0.1058
    """
    if not 0 <= q <= 1:
        raise InputError(f"q is {q}; a share between 0 and 1 is needed.", field="q")
    covering = covering_term(v, samples=samples, classes=classes, c=c, k=k)
    return q + covering + confidence_term(samples, eta)


def check_radius(v: float) -> None:
    """`InputError` unless v lies between 0 and 1 (pixel units), both left out."""
    if not 0 < v < 1:
        raise InputError(f"v is {v}; a radius between 0 and 1 (pixel units) is needed.", field="v")


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} is {value}; a number above 0 is needed.", field=name)
