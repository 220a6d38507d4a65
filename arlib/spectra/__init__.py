"""Singular values of real layers: of one kernel (`singular_values`) or of every layer of a model (`of`)."""

from arlib.spectra.conv import singular_values
from arlib.spectra.model import of
from arlib.spectra.statistics import quantiles, statistics

__all__ = ["of", "quantiles", "singular_values", "statistics"]
