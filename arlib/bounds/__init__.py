"""What can be proved of a network, beside what attacks find: a chain of norms from the image to the
logits (`chain`), the radius it certifies (`certified`), and the generalization bound that the
theory of robust learning builds on margins (`generalization`).

An instance margin found by attack is an upper bound of the distance to the boundary; `certified`
is a lower bound. The truth lies between, and how far the two are apart says how much the chain
gives away.
"""

from arlib.bounds.chain import Chain, certified, chain
from arlib.bounds.theory import covering_term, generalization

__all__ = ["Chain", "certified", "chain", "covering_term", "generalization"]
