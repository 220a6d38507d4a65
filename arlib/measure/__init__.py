"""Everything the book asks of one trained network, measured once and resumably."""

from typing import TYPE_CHECKING

from arlib.measure.settings import Settings

if TYPE_CHECKING:
    from arlib.measure.run import measure

__all__ = ["Settings", "measure"]


def __getattr__(name: str) -> object:
    """`measure` is loaded on first use: study files are read with `Settings` alone."""
    if name == "measure":
        from arlib.measure.run import measure

        return measure
    raise AttributeError(f"module 'arlib.measure' has no attribute {name!r}")
