"""Small tables of text for the chapters:
record tables in, a DataFrame of words and rounded numbers out.

Of networks (`runs`), of their layers (`layers`), and of what the benchmarks measured
(`benchmarks`).
"""

from arlib.tables.first import first_page
from arlib.tables.layers import layer_rule, operators, scale_and_shape, unevenness
from arlib.tables.runs import (
    accuracies,
    by_seed,
    cost,
    cross_checks,
    gaps,
    instance_margins,
    interval,
    margin_factors,
    matched,
    robust_gap,
    sensitivity,
    training_time,
    under_attack,
)
from arlib.tables.text import markdown

__all__ = [
    "accuracies",
    "by_seed",
    "cost",
    "cross_checks",
    "first_page",
    "gaps",
    "instance_margins",
    "interval",
    "layer_rule",
    "margin_factors",
    "markdown",
    "matched",
    "operators",
    "robust_gap",
    "scale_and_shape",
    "sensitivity",
    "training_time",
    "under_attack",
    "unevenness",
]
