"""What attacks on one checkpoint find: each function takes a `Job` and gives back what it `Found`."""

import numpy as np
import torch
from torch import Tensor

from arlib import attacks, margins, smoothness
from arlib.measure.job import Found, Job

STRONG, CROSS = ("apgd-ce", "apgd-t"), ("pgd-50x10", "square")
SPAN = (0.1, 0.9)  # instance margins are checked where the strong attack's error lies between: else there is no check
BOUND_RADII = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of q(v), times radius_scale


def flips(job: Job, strength: float) -> Found:
    """Flip rates at one radius, attacked and random."""
    found = Found()
    for attack in smoothness.FLIP_ATTACKS:
        add_flips(found, job, strength, attack)
    return found


def main_flips(job: Job) -> Found:
    """The flip rate by which C7 is decided: for controls."""
    found = Found()
    add_flips(found, job, job.settings.flip_main, "pgd")
    return found


def add_flips(found: Found, job: Job, strength: float, attack: str) -> None:
    settings = job.settings
    x, _ = job.images("test", settings.flip_images_main if strength == settings.flip_main else settings.flip_images)
    options = {"attack": attack, "draws": settings.flip_draws, "batch_size": settings.batch_size}
    generator = job.generator(f"flips {attack} {strength:g}")
    rate = smoothness.flip_rate(job.prepared, x, radius=settings.radius(strength), generator=generator, **options)
    found.add("flip_rate", rate, len(x), split="test", setting=settings.name(attack, strength))


def robust_errors(job: Job) -> Found:
    """PGD-10 errors on equally many train and test images, at the common and at the trained radius."""
    found, settings = Found(), job.settings
    n = min(settings.robust_images, len(job.train), len(job.data.test))
    common = settings.radius(settings.robust_radius)
    for split in ("train", "test"):
        x, y = job.images(split, n)
        errors = {eps: _pgd_error(job, x, y, eps) for eps in {common, job.recipe.eps}}
        found.add(
            "robust_error", errors[common], n, split=split, setting=settings.name("pgd-10", settings.robust_radius)
        )
        found.add("robust_error", errors[job.recipe.eps], n, split=split, setting="pgd-10@trained")
    return found


def _pgd_error(job: Job, x: Tensor, y: Tensor, eps: float) -> float:
    """Share misclassified under PGD-10; at eps = 0 the natural error of the same images."""
    generator, size, wrong = job.generator("pgd-10"), job.settings.batch_size, 0
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        if eps:
            options = {"eps": eps, "steps": 10, "generator": generator, "early_stop": True}
            images = attacks.pgd(job.prepared, images, labels, **options)
        with torch.no_grad():
            wrong += int((job.prepared(images).argmax(1) != labels).sum())
    return wrong / len(y)


def strong_error(job: Job, images: int) -> Found:
    """Error under APGD-CE and targeted APGD, the worst of both for each image."""
    found, settings = Found(), job.settings
    robust = _robust(job, images, STRONG).all(0)
    setting = settings.name("apgd-ce+t", settings.robust_radius)
    found.add("robust_error", 1 - robust.mean(), len(robust), split="test", setting=setting)
    found.arrays["robust|test"] = robust
    return found


def strong_errors(job: Job) -> Found:
    """The same on fewer images at the other radii where instance margins are checked."""
    found, settings = Found(), job.settings
    x, y = job.images("test", settings.accept_images)
    radii = sorted(settings.accept_radii)
    options = {"seed": settings.seed, "batch_size": settings.batch_size, "attacks": STRONG}
    robust = attacks.evaluate(job.prepared, x, y, eps=[settings.radius(r) for r in radii], **options).robust
    for radius, right in zip(radii, robust, strict=True):
        setting = settings.name("apgd-ce+t", radius)
        found.add("robust_error", 1 - right.mean(), len(x), split="test", setting=setting)
        found.arrays[f"robust|test@{radius:g}"] = right
    return found


def _robust(job: Job, images: int, names: tuple[str, ...], independent: bool = False) -> np.ndarray:
    """(attacks, n) bool: right and not broken by each attack; not independent: (1, n), the worst of all."""
    x, y = job.images("test", images)
    radius = job.settings.radius(job.settings.robust_radius)
    options = {"seed": job.settings.seed, "batch_size": job.settings.batch_size}
    sets = [(name,) for name in names] if independent else [names]
    found = [attacks.evaluate(job.prepared, x, y, eps=radius, attacks=some, **options) for some in sets]
    return np.stack([np.asarray(one.robust, dtype=bool).reshape(len(x)) for one in found])


def cross_checks(job: Job) -> Found:
    """Two attacks of other kinds, each alone, and what the strong attack and they break together."""
    found, settings = Found(), job.settings
    alone = _robust(job, settings.cross_images, CROSS, independent=True)
    strong = job.arrays["robust|test"][: alone.shape[1]]
    together = ("+".join(("apgd-ce+t", *CROSS)), alone.all(0) & strong)
    for kind, robust in [*zip(CROSS, alone, strict=True), together]:
        setting = settings.name(kind, settings.robust_radius)
        found.add("robust_error", 1 - robust.mean(), len(robust), split="test", setting=setting)
    return found


def instance_margins(job: Job) -> Found:
    """Instance margins, and whether they find what the strong attack finds on the same images."""
    found, settings = Found(), job.settings
    x, y = job.images("test", settings.instance_images)
    options = {"steps": settings.instance_steps, "batch_size": settings.batch_size}
    values = margins.instance(job.prepared, x, y, generator=job.generator("instance"), **options).cpu()
    found.add("instance_margin_median", values.double().quantile(0.5), len(x), split="test")
    _add_check(found, job, values)
    found.arrays["instance_margin|test"] = values.float().numpy()
    return found


def _add_check(found: Found, job: Job, values: Tensor) -> None:
    """Compare the margins with the strong attack on the same images, at every radius where that says something.

    With `accept_images` those are all its radii at which 10 to 90 % of the images are misclassified; else
    the one common radius.
    """
    settings, robust = job.settings, {job.settings.robust_radius: job.arrays["robust|test"]}
    if settings.accept_images:
        robust |= {radius: job.arrays[f"robust|test@{radius:g}"] for radius in settings.accept_radii}
    robust = {radius: right[: len(values)] for radius, right in sorted(robust.items())}
    told = [
        radius for radius, right in robust.items()
        if not settings.accept_images or SPAN[0] <= 1 - right.mean() <= SPAN[1]
    ]  # fmt: skip
    good = []
    for radius in told:
        right, eps = robust[radius], settings.radius(radius)
        good.append(margins.accepted(values[: len(right)], {eps: 1 - right.mean()}))
        missed = (1 - right.mean()) - float((values[: len(right)] <= eps + 1e-6).double().mean())
        found.add("instance_margin_missed", missed, len(right), split="test", setting=settings.name("linf", radius))
    found.add("instance_margin_accepted", bool(good) and all(good), len(values), split="test")
    found.add("instance_margin_checks", len(good), len(values), split="test")


@torch.no_grad()
def training_margins(job: Job) -> Found:
    """q(v) of the pseudo-robust bound: the share of training images not classified right with margin v or more.

    Equally many images of each class, the first ones; distances by the minimum-norm attack, so q is a
    lower bound; wrong images have distance 0 and are counted, and their share is given beside it.
    """
    found, settings = Found(), job.settings
    chosen = balanced(job.train.y, settings.bound_images)
    x, y = job.train[chosen]
    values = []
    for part, labels in zip(x.split(settings.batch_size), y.split(settings.batch_size), strict=True):
        nearest = attacks.minimum_norm(job.prepared, part, labels)
        values.append(attacks.distance(job.prepared, part, nearest, labels).clamp_max(1.0))
    values = torch.cat(values).cpu()
    for radius in BOUND_RADII:
        share = float((values < settings.radius(radius)).double().mean())
        found.add("q", share, len(values), split="train", setting=settings.name("linf", radius))
    found.add("q_wrong", float((values == 0).double().mean()), len(values), split="train")
    found.arrays["instance_margin|train"] = values.float().numpy()
    return found


def balanced(y: Tensor, images: int) -> Tensor:
    """Indices of the first images // classes labels of each class, in the order of the images."""
    classes = y.unique()
    each = [torch.nonzero(y == label)[: images // len(classes), 0] for label in classes]
    return torch.cat(each).sort().values
