"""arlib: what adversarial robustness does to a neural network, measured.

Attacks, spectra, margins and smoothness of any torch model; training, studies and
verdicts for the book around them. Modules load on first use: `from arlib import spectra`.
"""

import importlib

__version__ = "0.1.0"
__all__ = [
    "attacks",
    "batch",
    "claims",
    "confidence",
    "data",
    "engine",
    "figures",
    "margins",
    "measure",
    "models",
    "notebook",
    "records",
    "smoothness",
    "spectra",
    "studies",
    "training",
    "widgets",
    "with_normalization",
]


def __getattr__(name: str):
    if name == "with_normalization":
        return importlib.import_module("arlib.models").with_normalization
    if name in __all__:
        return importlib.import_module(f"arlib.{name}")
    raise AttributeError(f"module 'arlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
