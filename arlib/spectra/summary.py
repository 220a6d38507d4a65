"""Statistics of a spectrum: how large it is, and how concentrated.

Over all min(rows, columns) singular values, zeros included. Effective rank: Roy & Vetterli 2007,
exp of the entropy of σ / Σσ. Stable rank: Rudelson & Vershynin 2007, Σσ² / σ_max². Both are
divided by the number of values, so that 1 means "all equal" for any layer.
"""

import math

import numpy as np
import torch

from arlib.errors import InputError

NAMES = (
    "count",
    "max",
    "min",
    "mean",
    "std",
    "std_over_mean",
    "effective_rank",
    "stable_rank",
    "condition",
)
QUANTILES = 201


def statistics(values: torch.Tensor) -> dict[str, float]:
    """Statistics of singular values (n,), in any order; keys are `NAMES`.

    std has ddof 0; condition is the 95th over the 5th percentile (inf where that is 0). Of an
    all-zero operator every ratio is undefined and nan. Raises `InputError` for no values, negative
    or non-finite ones.
    """
    sigma = np.asarray(torch.as_tensor(values).detach().cpu().to(torch.float64))
    if sigma.ndim != 1 or not sigma.size or not np.isfinite(sigma).all() or sigma.min() < 0:
        raise InputError(
            f"values has shape {sigma.shape}; needed: a 1-D tensor of finite numbers ≥ 0, not "
            "empty."
        )
    largest, mean, std = sigma.max(), sigma.mean(), sigma.std()
    sizes = {"count": sigma.size, "max": largest, "min": sigma.min(), "mean": mean, "std": std}
    if largest == 0:
        return {**sizes, **dict.fromkeys(NAMES[5:], math.nan)}
    # 0 log 0 is 0 in an entropy: the zeros add nothing
    p = sigma[sigma > 0] / sigma.sum()
    low, high = _at_levels(sigma, np.array((0.05, 0.95)))
    ranks = np.exp(-(p * np.log(p)).sum()), ((sigma / largest) ** 2).sum()
    ratios = (
        std / mean,
        ranks[0] / sigma.size,
        ranks[1] / sigma.size,
        high / low if low > 0 else math.inf,
    )
    return {
        name: int(v) if name == "count" else float(v)
        for name, v in zip(NAMES, (*sizes.values(), *ratios), strict=True)
    }


def quantiles(values: torch.Tensor) -> np.ndarray:
    """201 evenly spaced quantiles of singular values, float32, ascending:
    first the min, last the max.
    """
    sigma = values.detach().cpu().to(torch.float64).numpy()
    return _at_levels(sigma, np.linspace(0, 1, QUANTILES)).astype(np.float32)


def _at_levels(sigma: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """As np.quantile, which partitions for each level:
    sorting, and better still what is sorted, is cheaper.
    """
    ascending = np.sort(sigma)
    place = levels * (len(sigma) - 1)
    below = np.minimum(place.astype(int), max(len(sigma) - 2, 0))
    above = np.minimum(below + 1, len(sigma) - 1)
    return ascending[below] + (ascending[above] - ascending[below]) * (place - below)
