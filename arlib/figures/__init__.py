"""Every figure of the book: tidy tables in, a matplotlib figure with alt text (`fig.alt`) out.

An AR strength has one colour and one marker in all of them. Seeds are thin lines or points around
their mean. `records` is `Study.records()`, `arrays` what `collect(study)` returns. Figures are not
known to pyplot, so there is nothing to close and nothing is shown twice.
"""

from arlib.figures.benchmarks import growth, speeds
from arlib.figures.compared import compared
from arlib.figures.distances import linear_margins, margin_against_distance, shared_margins, two_margins
from arlib.figures.gaps import gap_by_scale, gap_curves
from arlib.figures.images import (
    collect,
    margin_distribution,
    margin_distributions,
    margin_quantiles,
    reliability,
    survival,
)
from arlib.figures.layers import (
    change_per_block,
    feature_change,
    feature_gain,
    jacobian,
    operators,
    spectra,
    spread_per_layer,
)
from arlib.figures.live import ImageRow, ascent_paths, image_grid
from arlib.figures.maps import change_by_radius, estimates, ratio_by_band, readings, symbol
from arlib.figures.nets import (
    attack_ladder,
    confidence,
    cross_entropy,
    errors,
    flip_rates,
    four_effects,
    margin_medians,
    matched_fit,
    robust_errors,
    training_curves,
    verdict_strip,
)
from arlib.figures.style import Picture, alt, colour, marker

__all__ = [
    "ImageRow",
    "Picture",
    "alt",
    "ascent_paths",
    "attack_ladder",
    "change_by_radius",
    "change_per_block",
    "collect",
    "colour",
    "compared",
    "confidence",
    "cross_entropy",
    "errors",
    "estimates",
    "feature_change",
    "feature_gain",
    "flip_rates",
    "four_effects",
    "gap_by_scale",
    "gap_curves",
    "growth",
    "image_grid",
    "jacobian",
    "linear_margins",
    "margin_against_distance",
    "margin_distribution",
    "margin_distributions",
    "margin_medians",
    "margin_quantiles",
    "marker",
    "matched_fit",
    "operators",
    "ratio_by_band",
    "readings",
    "reliability",
    "robust_errors",
    "shared_margins",
    "spectra",
    "speeds",
    "spread_per_layer",
    "survival",
    "symbol",
    "training_curves",
    "two_margins",
    "verdict_strip",
]
