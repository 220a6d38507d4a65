"""The walk: from an image in the direction in which each network is nearest to a mistake.

A walk is stored with the bytes of its image and of its direction, so that the page shows, and a
test computes again, exactly the images that the network answered.
"""

import base64
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from arlib import data, files, margins, places, records
from arlib.errors import InputError, RecordError, shown
from arlib.studies import Shelf

FORMAT = 1
STOPS = 41  # distances from 0 to the end of the walk, finer near the image
BEYOND = 1.25  # the walk ends this many times as far away as the farthest boundary
STEPS = 127  # of a direction's entries, which lie between −1 and 1
SCAN, HALVINGS = 200, 30  # how the boundary is looked for along the walk
PER_UNIT = 255  # distances are AR strengths: 255 times those in pixels


def path() -> Path:
    """The record of the walk, in the checkout or as shipped."""
    candidates = [folder / "boundary" / "walk.json" for folder in places.places().records]
    return next((one for one in candidates if one.is_file()), candidates[0])


def read(where: Path | None = None) -> dict:
    """The record of the walk; `RecordError` if it is missing, damaged or of another format."""
    where = where or path()
    content = files.read_json(where, 2**21)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise RecordError(f"{where} is no walk of format {FORMAT}; run: python -m tools.boundary")
    stored = {key: value for key, value in content.items() if key != "checksum"}
    if content.get("checksum") != files.checksum(stored):
        raise RecordError(f"{where} is damaged: its content does not match its checksum.")
    return content


def networks(study: Shelf) -> dict[float, tuple[str, nn.Module]]:
    """AR strength → (run, network), of the first seed of which there are weights of two strengths.

    Raises `InputError` if there is no such seed.
    """
    by_seed: dict[int, dict[float, str]] = {}
    for entry in study.entries:
        folder = None if entry.variant else study.place_of(entry)
        if folder is not None and records.weights_file(folder):
            by_seed.setdefault(entry.recipe.seed, {})[entry.recipe.strength] = entry.run
    for _, runs in sorted(by_seed.items()):
        if len(runs) > 1:
            return {s: (run, study.model(run)) for s, run in sorted(runs.items())}
    raise InputError(
        f"study is {study.name!r}, which has weights of two AR strengths of no seed; publish some, "
        "or walk with another study."
    )


def measure(study: Shelf, images: int = 8) -> dict:
    """The walks of all networks with published weights, from a few test images: plain content.

    The images: those with a recorded instance margin, in the order of the test set, one per class,
    which every network answers right. Raises `InputError` where there are none.
    """
    nets = networks(study)
    recorded = {s: study.arrays(run) for s, (run, _) in nets.items()}
    known = {s: arrays["instance_margin|test"] for s, arrays in recorded.items()}
    count = min(map(len, known.values()))
    dataset = data.load(study.recipes[0].dataset, device="cpu")
    test = dataset.test[:count]
    right = np.all([margin[:count] > 0 for margin in known.values()], axis=0)
    # by its class: the first image of each
    first = {int(test.y[i]): int(i) for i in reversed(np.flatnonzero(right))}
    chosen = sorted(first.values())[:images]
    if not chosen:
        raise InputError(f"no recorded test image of {study.name} is right in every network.")
    split = test[chosen]
    walks = {s: list(_walks(model, *split)) for s, (_, model) in nets.items()}
    shown_images = []
    for place, index in enumerate(chosen):
        ways = {s: walks[s][place] for s in nets}
        reach = float(f"{BEYOND * max(way['crossing'] for way in ways.values()):.2g}")
        for strength, way in ways.items():
            way["recorded"] = _number(PER_UNIT * known[strength][index])
            way["margin"] = _number(recorded[strength]["margin|test"][index])
            way |= along(nets[strength][1], *_image(split, place), way["direction"], reach)
        shown_images.append(
            {
                "index": index,
                "label": int(split.y[place]),
                "pixels": _text(split.pixels[place].numpy()),
                "reach": reach,
                "walks": [ways[s] for s in nets],
            }
        )
    content = {
        "format": FORMAT,
        "study": study.name,
        "title": study.title,
        "dataset": dataset.name,
        "seed": next(e.recipe.seed for e in study.entries if e.run == next(iter(nets.values()))[0]),
        "classes": list(dataset.classes),
        "shape": list(dataset.shape),
        "levels": split.levels,
        "stops": STOPS,
        "candidates": count,
        "networks": [
            {
                "strength": strength,
                "run": run,
                "weights": files.sha256(records.weights_file(study.record(run).folder)),
            }
            for strength, (run, _) in nets.items()
        ],
        "images": shown_images,
    }
    return content | {"checksum": files.checksum(content)}


def measured_again(study: Shelf, content: dict) -> Iterator[tuple[dict, dict]]:
    """(stored walk, the same walk by the network as it is now), one pair per image and network.

    Needs the published weights alone: images and directions are in the record.
    """
    models = [study.model(network["run"]) for network in content["networks"]]
    for image in content["images"]:
        x = torch.from_numpy(_array(image["pixels"], content["shape"], np.uint8).copy())
        x, y = x[None].float() / content["levels"], torch.tensor([image["label"]])
        for model, walk in zip(models, image["walks"], strict=True):
            again = along(model, x, y, walk["direction"], image["reach"])
            crossing = _crossing(model, x, y, _direction(walk["direction"], x), walk["nearest"])
            yield walk, again | {"crossing": _number(crossing)}


def gradients(study: Shelf, content: dict) -> dict[float, list[np.ndarray]]:
    """The gradient of the logit lead at each image, of every network:
    {strength: [(h, w, c) per image]}.

    Needs the published weights, as `measured_again` does.
    """
    x = np.stack([_array(one["pixels"], content["shape"], np.uint8) for one in content["images"]])
    y = torch.tensor([one["label"] for one in content["images"]])
    out = {}
    for network in content["networks"]:
        images = (torch.from_numpy(x).float() / content["levels"]).requires_grad_(True)
        lead = margins.output(study.model(network["run"])(images), y)
        (slopes,) = torch.autograd.grad(lead.sum(), images)
        out[network["strength"]] = list(slopes.permute(0, 2, 3, 1).numpy())
    return out


def distances(reach: float, stops: int = STOPS) -> Tensor:
    """The distances of the stops, as AR strengths: squares, so that the first are close."""
    return reach * torch.linspace(0, 1, stops, dtype=torch.float64).square()


def along(model: nn.Module, x: Tensor, y: Tensor, direction: str, reach: float) -> dict:
    """At each stop: logit lead, its slope (logits per 1/255 along the walk), and the answer.

    x: one image (1, c, h, w); direction: as stored.
    """
    t = distances(reach).float().requires_grad_(True)
    logits = model(walked(x, _direction(direction, x), t))
    lead = margins.output(logits, y.expand(len(t)))
    (slope,) = torch.autograd.grad(lead.sum(), t)
    return {
        "lead": list(map(_number, lead.detach())),
        "slope": list(map(_number, slope)),
        "answer": logits.argmax(1).tolist(),
    }


def walked(x: Tensor, direction: Tensor, t: Tensor) -> Tensor:
    """The images at distances t (n,), AR strengths, kept in [0, 1]. x: (1, …) -> (n, …)."""
    return (x + t.view(-1, *[1] * (x.ndim - 1)) / PER_UNIT * direction).clamp(0, 1)


def _walks(model: nn.Module, x: Tensor, y: Tensor) -> Iterator[dict]:
    """For each image the direction of its instance margin, and where the boundary lies on it."""
    values, beyond = margins.nearest(model, x, y)
    for image, label, value, other in zip(x.split(1), y.split(1), values, beyond, strict=True):
        delta = other - image[0]
        steps = (STEPS * delta / delta.abs().max()).round().to(torch.int8)
        direction, nearest = _text(steps.numpy()), _number(PER_UNIT * value)
        crossing = _crossing(model, image, label, _direction(direction, image), nearest)
        yield {"direction": direction, "nearest": nearest, "crossing": _number(crossing)}


@torch.no_grad()
def _crossing(model: nn.Module, x: Tensor, y: Tensor, direction: Tensor, nearest: float) -> float:
    """The first distance on the walk at which the answer is wrong, an AR strength.

    nearest: the instance margin, past which it is looked for a little: the stored direction is
    rounded.
    """

    def wrong(t: Tensor) -> Tensor:
        leads = margins.output(model(walked(x, direction, t)), y.expand(len(t)))
        return leads <= 0

    t = torch.linspace(0, BEYOND * nearest, SCAN + 1)
    hits = wrong(t).nonzero()
    if not len(hits) or not hits[0, 0]:
        raise InputError(f"no boundary was found on a walk to {BEYOND} × {nearest:g}/255.")
    low, high = t[hits[0, 0] - 1], t[hits[0, 0]]
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if wrong(middle[None])[0] else (middle, high)
    return float(high)


def _image(split: data.Split, place: int) -> tuple[Tensor, Tensor]:
    return tuple(split[place : place + 1])


def _direction(text: str, x: Tensor) -> Tensor:
    """A stored direction, (1, c, h, w) with entries from −1 to 1."""
    steps = _array(text, x.shape[1:], np.int8)
    return torch.from_numpy(steps.astype(np.float32))[None] / STEPS


def _text(pixels: np.ndarray) -> str:
    """(c, h, w) bytes as base64, channels last as a canvas has them."""
    return base64.b64encode(np.ascontiguousarray(pixels.transpose(1, 2, 0)).tobytes()).decode()


def _array(text: str, shape, kind: type) -> np.ndarray:
    channels, height, width = shape
    content = base64.b64decode(text, validate=True)
    if len(content) != math.prod(shape):
        raise RecordError(f"an image of the walk has {len(content)} bytes, not {shown(shape)}.")
    return np.frombuffer(content, kind).reshape(height, width, channels).transpose(2, 0, 1)


def _number(value: float) -> float:
    return float(f"{float(value):.5g}")
