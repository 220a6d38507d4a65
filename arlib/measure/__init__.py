"""Everything the book asks of one trained network, measured once and resumably."""

from arlib.measure.run import measure
from arlib.measure.settings import Settings

__all__ = ["Settings", "measure"]
