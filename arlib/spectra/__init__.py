"""Singular values of real layers:
of one kernel (`singular_values`) or of every layer of a model (`of`).

Where the spectrum is too large to compute, `estimate` gives its statistics with intervals. Of
composed maps, `jacobian` measures a block or a network at given inputs. `impose` and
`spread_penalty` change spectra.
"""

from arlib.spectra.conv import singular_values
from arlib.spectra.impose import Imposed, impose, spread_penalty
from arlib.spectra.jacobians import jacobian, linearised
from arlib.spectra.model import of
from arlib.spectra.stochastic import Estimate, estimate
from arlib.spectra.summary import quantiles, statistics

__all__ = [
    "Estimate",
    "Imposed",
    "estimate",
    "impose",
    "jacobian",
    "linearised",
    "of",
    "quantiles",
    "singular_values",
    "spread_penalty",
    "statistics",
]
