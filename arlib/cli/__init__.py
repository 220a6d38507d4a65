"""The `arlib` command: it spells the science, `arlib study run cifar10-resnet56 --time-budget 9m`."""

from arlib.cli.program import app, main
from arlib.cli.options import seconds

__all__ = ["app", "main", "seconds"]
