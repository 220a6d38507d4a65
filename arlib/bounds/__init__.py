"""What can be proved of a network, beside what attacks find: a chain of norms from the image to the
logits (`chain`), the radius it certifies (`certified`), and the generalization bound that the
theory of robust learning builds on margins (`generalization`). `square` is a set of images whose
covering is known, on which that bound can be checked.

An instance margin found by attack is an upper bound of the distance to the boundary; `certified`
is a lower bound. The truth lies between, and how far the two are apart says how much the chain
gives away.
"""

from arlib.bounds import square
from arlib.bounds.chain import Chain, certified, certified_by_margin, chain
from arlib.bounds.theory import check_radius, confidence_term, covering_term, generalization

__all__ = [
    "Chain",
    "certified",
    "certified_by_margin",
    "chain",
    "check_radius",
    "confidence_term",
    "covering_term",
    "generalization",
    "square",
]
