"""arlib: what adversarial robustness does to a neural network, measured.

Attacks, spectra, margins and smoothness of any torch model; training, studies and
verdicts for the book around them. Modules load on first use: `from arlib import spectra`.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from arlib.models import with_normalization
    from arlib.report import compare

__version__ = "0.1.0"
__all__ = [
    "attacks",
    "batch",
    "bounds",
    "claims",
    "compare",
    "confidence",
    "data",
    "engine",
    "figures",
    "margins",
    "measure",
    "models",
    "notebook",
    "records",
    "report",
    "smoothness",
    "spectra",
    "studies",
    "training",
    "widgets",
    "with_normalization",
]

# what people call first, and where it lives
_FUNCTIONS = {"compare": "report", "with_normalization": "models"}


def __getattr__(name: str) -> object:
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"arlib.{_FUNCTIONS[name]}"), name)
    if name in __all__:
        return importlib.import_module(f"arlib.{name}")
    raise AttributeError(f"module 'arlib' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
