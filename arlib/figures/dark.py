"""Figures on a dark page: light and dark change places, hues stay.

The book's pages do this in the browser (`invert` and `hue-rotate` in `arbook.css`), so that a
figure is stored once; a README cannot, and gets a second picture. Photographs are left alone.
"""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

INVERT = 0.93  # white becomes a page's dark grey, not black
_LUMINANCE = np.array([0.213, 0.715, 0.072])  # what CSS' hue-rotate keeps


def darkened(rgb: NDArray) -> NDArray:
    """Colours (…, 3) in [0, 1] as CSS' `invert(0.93) hue-rotate(180deg)` shows them."""
    turned = INVERT + (1 - 2 * INVERT) * np.asarray(rgb, float)
    # by half a turn each channel is mirrored at the luminance
    return (2 * (turned @ _LUMINANCE)[..., None] - turned).clip(0, 1)


def dark_png(png: bytes) -> bytes:
    """A figure's PNG for a dark page, as small as the light one."""
    light = Image.open(io.BytesIO(png)).convert("RGB")
    shown = Image.fromarray((255 * darkened(np.asarray(light) / 255)).round().astype(np.uint8))
    small = io.BytesIO()
    shown.quantize(128).save(small, format="png", optimize=True)
    return small.getvalue()
