"""The walks of the page "Walk the boundary", all at once: for print, and where no script runs."""

import base64
from collections.abc import Callable

import numpy as np

from arlib.figures.style import NEUTRAL, colour, legend, marker, panels, picture


@picture
def walks(content: dict):
    """A panel per image: the logit lead of every network along its own direction.

    content: the record of the walk (`boundary.read`); distances are AR strengths.
    """
    images, networks = content["images"], content["networks"]
    strengths = [network["strength"] for network in networks]
    figure, axes = panels(len(images), columns=4, width=10.0, height=2.5)
    for place, (ax, image) in enumerate(zip(axes, images, strict=True)):
        away = image["reach"] * np.linspace(0, 1, content["stops"]) ** 2
        top = max(walk["lead"][0] for walk in image["walks"])
        for strength, walk in zip(strengths, image["walks"], strict=True):
            ax.plot(away, walk["lead"], color=colour(strength))
            ax.plot(walk["crossing"], 0, marker(strength), color=colour(strength), markersize=6)
        ax.axhline(0, color=NEUTRAL, linewidth=0.8)
        ax.set(ylim=(-0.6 * top, 1.15 * top), title=content["classes"][image["label"]])
        ax.set_xlabel("distance (255·ε)")
        _inset(ax, image["pixels"], content)
        if place % 4 == 0:
            ax.set_ylabel("logit lead")
    legend(figure, strengths)
    return figure, (
        f"The logit lead of the true class against the distance from {len(images)} test images, "
        f"each network along its own attack direction, with its boundary marked. {walked(content)}"
    )


def walked(content: dict) -> str:
    """One sentence on what the walks show: the largest strength beside the smallest."""
    first, last = content["networks"][0]["strength"], content["networks"][-1]["strength"]
    lead = _ratio(content, lambda walk: walk["lead"][0])
    distance = _ratio(content, lambda walk: walk["crossing"])
    mean = _ratio(content, lambda walk: walk["lead"][0] / walk["crossing"])
    farther = sum(i["walks"][-1]["crossing"] > i["walks"][0]["crossing"] for i in content["images"])
    return (
        f"At AR strength {last:g} beside {first:g}, medians over these {len(content['images'])} "
        f"images: the lead at the image × {lead:.2g}, the mean slope of the way to the boundary "
        f"× {mean:.2g}, the distance to the boundary × {distance:.2g}; it is farther for "
        f"{farther} of them."
    )


def _ratio(content: dict, of: Callable[[dict], float]) -> float:
    """Median over the images of the last network's number over the first's."""
    return float(np.median([of(i["walks"][-1]) / of(i["walks"][0]) for i in content["images"]]))


def _inset(ax, pixels: str, content: dict) -> None:
    channels, height, width = content["shape"]
    image = np.frombuffer(base64.b64decode(pixels), np.uint8).reshape(height, width, channels)
    inset = ax.inset_axes([0.7, 0.62, 0.36, 0.42])
    inset.imshow(np.broadcast_to(image / content["levels"], (height, width, 3)))
    inset.set_axis_off()
