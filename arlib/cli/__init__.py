"""The `arlib` command: it spells the science, `arlib study run cifar10-resnet56
--time-budget 9m`.
"""

from arlib.cli.options import seconds
from arlib.cli.program import main

__all__ = ["main", "seconds"]
