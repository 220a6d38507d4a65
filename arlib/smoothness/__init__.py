"""How much a small change of the image changes features and predictions.

Every perturbed image x + δ stays in [0, 1]: δ has ‖δ‖∞ ≤ radius and x + δ is clamped to that range,
for random and adversarial δ alike. Which layers are looked at, and as what kind of network, is in
`layers`.
"""

from arlib.smoothness.change import DIRECTIONS, feature_change, normalisers
from arlib.smoothness.flips import FLIP_ATTACKS, flip_rate
from arlib.smoothness.jacobian import jacobian

__all__ = ["DIRECTIONS", "FLIP_ATTACKS", "feature_change", "flip_rate", "jacobian", "normalisers"]
