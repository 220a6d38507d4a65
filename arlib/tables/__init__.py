"""Small tables of text for the chapters:
record tables in, a DataFrame of words and rounded numbers out.

Of networks (`runs`), of their layers (`layers`), of what the rules say of them (`verdicts`), and
of what the benchmarks measured (`benchmarks`).
"""

from arlib.tables.association import associations
from arlib.tables.bound import (
    crossings,
    gap_correlations,
    images_needed,
    lowest_bounds,
    proved,
)
from arlib.tables.first import first_page
from arlib.tables.gentler import fronts, heights
from arlib.tables.layers import layer_rule, operators, scale_and_shape, unevenness
from arlib.tables.mechanism import arms, manipulations, shares, slopes
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
    measuring,
    readings,
    robust_gap,
    sensitivity,
    training_time,
    under_attack,
)
from arlib.tables.text import markdown, with_finding
from arlib.tables.verdicts import after_the_fact

__all__ = [
    "accuracies",
    "after_the_fact",
    "arms",
    "associations",
    "by_seed",
    "cost",
    "cross_checks",
    "crossings",
    "first_page",
    "fronts",
    "gap_correlations",
    "gaps",
    "heights",
    "images_needed",
    "instance_margins",
    "interval",
    "layer_rule",
    "lowest_bounds",
    "manipulations",
    "margin_factors",
    "markdown",
    "matched",
    "measuring",
    "operators",
    "proved",
    "readings",
    "robust_gap",
    "scale_and_shape",
    "sensitivity",
    "shares",
    "slopes",
    "training_time",
    "under_attack",
    "unevenness",
    "with_finding",
]
