"""The claims of the book and their verdicts: records in, verdicts out; nothing is typed by hand.

The paper: Wen, Li and Jia, "Towards Understanding the Regularization of Adversarial Robustness on
Neural Networks", ICML 2020. One declared primary statistic decides each claim, at most one twin
stands beside it; the unit is the seed. Two protocols live side by side, and each study is judged by
its own: `CLAIMS` are the first's, `claims_of(2)` the second's. `verdicts(study)` is the whole;
`decide` its pure part.
"""

from arlib.claims.association import association, spread_of
from arlib.claims.bound import (
    RADII,
    crossings,
    gap_correlations,
    lowest_bounds,
    q_of,
    training_distances,
)
from arlib.claims.chains import Proved, chains
from arlib.claims.controls import shares_left
from arlib.claims.decide import NOT_MEASURED, decide, judge, verdict
from arlib.claims.declared import CLAIMS, Claim, Config, Statistic
from arlib.claims.evidence import Evidence, gather, noise_floor
from arlib.claims.gentler import Outcome, above_the_front, front_points, height, heights, visible
from arlib.claims.matched import EXPLAINED, matched_fit
from arlib.claims.mechanism import arms_of, arrows, decide_arms, doses, manipulations, shares
from arlib.claims.moves import (
    DIFFERENCE,
    FACTOR,
    SHARE,
    Move,
    directions,
    kind_of,
    move,
    moves,
    of_runs,
)
from arlib.claims.report import (
    after_the_fact,
    combine,
    completed,
    config_of,
    table,
    tested,
    trajectories,
    verdicts,
)
from arlib.claims.second import PARTS, claims_of
from arlib.claims.sensitivity import sensitivity
from arlib.claims.statistics import Interval, Ratio, Trend, fieller, holm, page_trend, t_interval
from arlib.claims.values import collapsed

__all__ = [
    "CLAIMS",
    "DIFFERENCE",
    "EXPLAINED",
    "FACTOR",
    "NOT_MEASURED",
    "PARTS",
    "RADII",
    "SHARE",
    "Claim",
    "Config",
    "Evidence",
    "Interval",
    "Move",
    "Outcome",
    "Proved",
    "Ratio",
    "Statistic",
    "Trend",
    "above_the_front",
    "after_the_fact",
    "arms_of",
    "arrows",
    "association",
    "chains",
    "claims_of",
    "collapsed",
    "combine",
    "completed",
    "config_of",
    "crossings",
    "decide",
    "decide_arms",
    "directions",
    "doses",
    "fieller",
    "front_points",
    "gap_correlations",
    "gather",
    "height",
    "heights",
    "holm",
    "judge",
    "kind_of",
    "lowest_bounds",
    "manipulations",
    "matched_fit",
    "move",
    "moves",
    "noise_floor",
    "of_runs",
    "page_trend",
    "q_of",
    "sensitivity",
    "shares",
    "shares_left",
    "spread_of",
    "t_interval",
    "table",
    "tested",
    "training_distances",
    "trajectories",
    "verdict",
    "verdicts",
    "visible",
]
