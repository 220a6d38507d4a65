"""Bounds of quantiles from quadrature rules:
Chebyshev, Markov and Stieltjes (Akhiezer 1965, section 2.5).

A Gauss rule with nodes θ_1 < … < θ_k and weights w bounds the distribution function F of the
measure it stands for: Σ_{j<i} w_j ≤ F(θ_i−) and F(θ_i) ≤ Σ_{j≤i} w_j. Averaged over probes these
are bounds of the spectrum's distribution function up to Monte Carlo error, so the quantiles read
off them are bounds, not an interval.
"""

import numpy as np
import torch

from arlib.spectra.summary import QUANTILES


def quantile_bounds(
    rule: tuple[torch.Tensor, torch.Tensor], largest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bounds (201,) of the quantiles;
    nodes and weights are (probes, k), σ ≤ largest.

    Above the last step of the lower distribution function only `largest` bounds a quantile, below
    the first step of the upper one only 0.
    """
    theta, order = rule[0].sort(dim=1)
    weight = rule[1].gather(1, order) / len(theta)
    nodes, by_node = theta.flatten().sort()
    # what the lower F gains at each node
    previous = torch.nn.functional.pad(weight, (1, 0))[:, :-1]
    following = torch.nn.functional.pad(weight, (0, 1))[:, 1:]  # what the upper F gains there
    low_f = previous.flatten()[by_node].cumsum(0).numpy()
    high_f = (weight[:, 0].sum() + following.flatten()[by_node].cumsum(0)).numpy()
    levels = np.linspace(0, 1, QUANTILES)
    upper = np.append(nodes.numpy(), largest)[np.searchsorted(low_f, levels)]
    lower = np.append(nodes.numpy(), nodes[-1])[np.searchsorted(high_f, levels)]
    lower = np.where(levels <= float(weight[:, 0].sum()), 0.0, lower)
    upper[0] = min(upper[0], float(nodes[0]))
    return lower, np.maximum(upper, lower)
