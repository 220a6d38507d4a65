"""Every figure of the book: tidy tables in, a matplotlib figure with alt text (`fig.alt`) out.

An AR strength has one colour and one marker in all of them. Seeds are thin lines or points around
their mean. `records` is `Study.records()`, `arrays` what `collect(study)` returns. Figures are not
known to pyplot, so there is nothing to close and nothing is shown twice.
"""

from arlib.figures.association import association
from arlib.figures.attacks import ImageRow, ascent_paths, attack_ladder, image_grid, survival
from arlib.figures.benchmarks import growth, speeds
from arlib.figures.bound import (
    bound_curves,
    bound_terms,
    covering,
    proved_by_layer,
    proved_distances,
    q_by_strength,
    q_curves,
    two_points,
)
from arlib.figures.boundary import pictures, walked, walks
from arlib.figures.chips import Chips
from arlib.figures.compared import compared
from arlib.figures.dark import dark_png, darkened
from arlib.figures.gentler import front_heights, fronts, pairs_and_front, slope_plane
from arlib.figures.intro import distances, forest, four_effects, three_distances
from arlib.figures.margins import (
    confidence,
    linear_margins,
    margin_against_distance,
    margin_distribution,
    margin_distributions,
    margin_medians,
    margin_quantiles,
    reliability,
    shared_margins,
    two_margins,
)
from arlib.figures.mechanism import causal_graph, doses, dumbbells, weights_and_features
from arlib.figures.regularization import cross_entropy, errors, gap_by_scale, gap_curves
from arlib.figures.shared import collect
from arlib.figures.singular_values import (
    concentration,
    estimates,
    operators,
    readings,
    spectra,
    spectra_ratios,
    spread_per_layer,
    symbol,
)
from arlib.figures.smoothing import (
    change_by_radius,
    change_per_block,
    feature_change,
    feature_gain,
    flip_rates,
    jacobian,
    ratio_by_band,
)
from arlib.figures.style import Picture, alt, colour, if_drawn, live, marker
from arlib.figures.training import accuracies, robust_errors, training_curves
from arlib.figures.verdicts import matched_fit, residuals, sensitivities, verdict_strip

__all__ = [
    "Chips",
    "ImageRow",
    "Picture",
    "accuracies",
    "alt",
    "ascent_paths",
    "association",
    "attack_ladder",
    "bound_curves",
    "bound_terms",
    "causal_graph",
    "change_by_radius",
    "change_per_block",
    "collect",
    "colour",
    "compared",
    "concentration",
    "confidence",
    "covering",
    "cross_entropy",
    "dark_png",
    "darkened",
    "distances",
    "doses",
    "dumbbells",
    "errors",
    "estimates",
    "feature_change",
    "feature_gain",
    "flip_rates",
    "forest",
    "four_effects",
    "front_heights",
    "fronts",
    "gap_by_scale",
    "gap_curves",
    "growth",
    "if_drawn",
    "image_grid",
    "jacobian",
    "linear_margins",
    "live",
    "margin_against_distance",
    "margin_distribution",
    "margin_distributions",
    "margin_medians",
    "margin_quantiles",
    "marker",
    "matched_fit",
    "operators",
    "pairs_and_front",
    "pictures",
    "proved_by_layer",
    "proved_distances",
    "q_by_strength",
    "q_curves",
    "ratio_by_band",
    "readings",
    "reliability",
    "residuals",
    "robust_errors",
    "sensitivities",
    "shared_margins",
    "slope_plane",
    "spectra",
    "spectra_ratios",
    "speeds",
    "spread_per_layer",
    "survival",
    "symbol",
    "three_distances",
    "training_curves",
    "two_margins",
    "two_points",
    "verdict_strip",
    "walked",
    "walks",
    "weights_and_features",
]
