"""Any models side by side, by what the book measures for C1 to C7:
a table, a figure, one offline page.
"""

from arlib.report.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
