"""A comparison as one page that needs nothing else: no network, no script;
everything from a file is escaped.
"""

import base64
from pathlib import Path

import torch
from jinja2 import Environment, StrictUndefined

from arlib import __version__

TEMPLATE = Path(__file__).with_name("page.html")


def page(comparison) -> str:
    """The page of a `Comparison` as text."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    figure = comparison.figure()
    settings = {
        name: _as_text(value) for name, value in comparison.settings.items() if value is not None
    }
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{', '.join(comparison.models)}: what robustness does",
        images=_images(comparison),
        figure=base64.b64encode(figure._repr_png_()).decode(),
        alt=figure.alt,
        table=comparison.table,
        band=comparison.band,
        cost=comparison.cost,
        doubts=comparison.doubts,
        left_out=comparison.left_out,
        settings=settings,
        versions=f"arlib {__version__}, torch {torch.__version__}",
    )


def _images(comparison) -> str:
    counted = comparison.rows.loc[comparison.rows["quantity"] == "error", "n"]
    return f"{counted.max():,}" if len(counted) else "0"


def _as_text(value: object) -> str:
    if isinstance(value, tuple | list):
        return ", ".join(_as_text(one) for one in value)
    return f"{255 * value:g}/255" if isinstance(value, float) else str(value)
