"""The walks of the page "Walk the boundary", all at once: for print, and where no script runs."""

import base64
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from arlib.errors import one_of
from arlib.figures.attacks import two_colours
from arlib.figures.style import NEUTRAL, colour, legend, marker, panels, picture, tiles


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
        _inset(ax, _pixels(image, content))
        if place % 4 == 0:
            ax.set_ylabel("logit lead")
    legend(figure, strengths)
    return figure, (
        f"The logit lead of the true class against the distance from {len(images)} test images, "
        f"each network along its own attack direction, with its boundary marked. {walked(content)}"
    )


@picture
def pictures(
    content: dict,
    gradients: Mapping[float, Sequence[np.ndarray]] | None = None,
    *,
    strengths: Sequence[float] = (),
):
    """The images of the walks as pictures: as they are, and for each network the change that takes
    an image over the boundary, and the image after it with the network's answer.

    content: the record of the walk; gradients: {strength: (h, w, c) of the logit lead at each
    image}, drawn above the changes; strengths: of the networks shown, by default the first and the
    last. Changes and gradients are drawn at their own largest value: their sizes stand below.
    """
    images, names = content["images"], content["classes"]
    trained_at = [network["strength"] for network in content["networks"]]
    strengths = list(strengths) or [trained_at[0], trained_at[-1]]
    for strength in strengths:
        one_of("strengths", strength, trained_at)
    networks = [(trained_at.index(s), content["networks"][trained_at.index(s)]) for s in strengths]
    kinds = 2 + bool(gradients)
    figure, axes, begins = tiles(1 + kinds * len(networks), len(images), tile=0.98)
    for column, image in enumerate(images):
        _tile(axes[0][column], _pixels(image, content))
        axes[0][column].set_title(names[image["label"]], fontsize=9)
        for place, (walk_at, network) in enumerate(networks):
            rows = axes[1 + kinds * place :, column]
            walk = image["walks"][walk_at]
            change = _signed(walk["direction"], content)
            if gradients:
                gradient = gradients[network["strength"]][column]
                _tile(rows[0], two_colours(gradient.sum(2) / np.abs(gradient.sum(2)).max()))
            _tile(rows[kinds - 2], two_colours(change.mean(2) / np.abs(change.mean(2)).max()))
            after = _pixels(image, content) + _just_past(walk) / 255 * change
            _tile(rows[kinds - 1], after.clip(0, 1))
            answer = names[_answer_past(walk, image, content)]
            rows[kinds - 1].set_xlabel(f"{answer}\n{walk['crossing']:.2g}/255", fontsize=9)
    labels = ["image"]
    for _, network in networks:
        at = f"at {network['strength']:g}"
        labels += [f"gradient\n{at}"] * bool(gradients) + [f"change\n{at}", f"after it\n{at}"]
    for row, label in zip(axes, labels, strict=True):
        for column in begins:
            row[column].set_ylabel(label, fontsize=9)
    led = " and ".join(f"{strength:g}" for strength in strengths)
    alt = (
        f"{len(images)} test images, and how networks trained at AR strengths {led} are led to "
        "another answer."
        if len(strengths) > 1
        else f"{len(images)} test images, and how the network trained at AR strength {led} is led "
        "to another answer."
    )
    return figure, alt, walked(content) if len(strengths) > 1 else reached(content, *networks[0])


def _pixels(image: dict, content: dict) -> np.ndarray:
    """(h, w, c) in [0, 1]."""
    channels, height, width = content["shape"]
    raw = np.frombuffer(base64.b64decode(image["pixels"]), np.uint8)
    return raw.reshape(height, width, channels) / content["levels"]


def _signed(direction: str, content: dict) -> np.ndarray:
    """A stored direction, (h, w, c) in [−1, 1]."""
    channels, height, width = content["shape"]
    raw = np.frombuffer(base64.b64decode(direction), np.int8)
    return raw.reshape(height, width, channels) / 127


def _just_past(walk: dict) -> float:
    return 1.02 * walk["crossing"]


def _answer_past(walk: dict, image: dict, content: dict) -> int:
    """The answer at the first stop beyond the boundary."""
    away = image["reach"] * np.linspace(0, 1, content["stops"]) ** 2
    return walk["answer"][int(np.searchsorted(away, walk["crossing"]))]


def _tile(ax, pixels: np.ndarray) -> None:
    ax.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)), interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.grid(False)
    for side in ax.spines.values():
        side.set_visible(False)


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


def reached(content: dict, place: int, network: dict) -> str:
    """One sentence on what the walks of one network show."""
    away = sorted(image["walks"][place]["crossing"] for image in content["images"])
    answers = {_answer_past(image["walks"][place], image, content) for image in content["images"]}
    return (
        f"The network of AR strength {network['strength']:g} gives another answer after "
        f"{away[0]:.2g}/255 to {away[-1]:.2g}/255, the median {np.median(away):.2g}/255; the "
        f"{len(away)} images end in {len(answers)} classes."
    )


def _ratio(content: dict, of: Callable[[dict], float]) -> float:
    """Median over the images of the last network's number over the first's."""
    return float(np.median([of(i["walks"][-1]) / of(i["walks"][0]) for i in content["images"]]))


def _inset(ax, pixels: np.ndarray) -> None:
    inset = ax.inset_axes([0.7, 0.62, 0.36, 0.42])
    inset.imshow(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
    inset.set_axis_off()
