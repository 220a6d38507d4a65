"""What attacks on one checkpoint find:
each function takes a `Job` and gives back an `Outcome`.
"""

import numpy as np
import torch
from torch import Tensor

from arlib import attacks, margins, smoothness
from arlib.measure.job import Job, Outcome, reads

STRONG, CROSS = ("apgd-ce", "apgd-t"), ("pgd-50x10", "square")
# instance margins are checked where the strong attack's error lies between: else there is no check
SPAN = (0.1, 0.9)
BOUND_RADII = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)  # of q(v), times radius_scale


@reads("flip_draws", "flip_images")
def flips(job: Job, radius: float) -> Outcome:
    """Flip rates at one radius (an AR strength), attacked and random."""
    return _flips_by_all(job, radius, job.settings.flip_images)


@reads("flip_draws", "flip_images_main")
def flips_on_more(job: Job, radius: float) -> Outcome:
    """The same on more images, at the radius by which C7 is decided."""
    return _flips_by_all(job, radius, job.settings.flip_images_main)


def _flips_by_all(job: Job, radius: float, images: int) -> Outcome:
    outcome = Outcome()
    for attack in smoothness.FLIP_ATTACKS:
        add_flips(outcome, job, radius, attack, images)
    return outcome


@reads("flip_draws", "flip_images_main")
def deciding_flips(job: Job, radius: float) -> Outcome:
    """Only the flip rate by which C7 is decided: for controls."""
    outcome = Outcome()
    add_flips(outcome, job, radius, "pgd", job.settings.flip_images_main)
    return outcome


def add_flips(outcome: Outcome, job: Job, radius: float, attack: str, images: int) -> None:
    """One flip rate. radius: an AR strength, to which the settings' scale is applied."""
    settings = job.settings
    x, _ = job.images("test", images)
    rate = smoothness.flip_rate(
        job.prepared,
        x,
        radius=settings.radius(radius),
        attack=attack,
        draws=settings.flip_draws,
        generator=job.generator(f"flips {attack} {radius:g}"),
        batch_size=settings.batch_size,
    )
    outcome.add("flip_rate", rate, len(x), split="test", setting=settings.name(attack, radius))


@reads("robust_radius", "robust_images")
def robust_errors(job: Job) -> Outcome:
    """PGD-10 errors on equally many train and test images,
    at the common and at the trained radius.
    """
    outcome, settings = Outcome(), job.settings
    n = min(settings.robust_images, len(job.train), len(job.data.test))
    common = settings.radius(settings.robust_radius)
    for split in ("train", "test"):
        x, y = job.images(split, n)
        # a set: where the common radius is the trained one, one attack serves both
        errors = {eps: _pgd_error(job, x, y, eps) for eps in {common, job.recipe.eps}}
        outcome.add(
            "robust_error",
            errors[common],
            n,
            split=split,
            setting=settings.name("pgd-10", settings.robust_radius),
        )
        outcome.add(
            "robust_error", errors[job.recipe.eps], n, split=split, setting="pgd-10@trained"
        )
    return outcome


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


@reads("robust_radius", "knob_images")
def knob_error(job: Job) -> Outcome:
    """Error under PGD-20 on validation images, by which the knob of a front is chosen."""
    outcome, settings = Outcome(), job.settings
    x, y = job.images("val", settings.knob_images)
    options = {"seed": settings.seed, "batch_size": settings.batch_size, "attacks": ("pgd-20",)}
    radius = settings.radius(settings.robust_radius)
    robust = attacks.evaluate(job.prepared, x, y, eps=radius, **options).robust
    setting = settings.name("pgd-20", settings.robust_radius)
    outcome.add("robust_error", 1 - robust.mean(), len(x), split="val", setting=setting)
    return outcome


@reads("instance_images")
@torch.no_grad()
def slopes(job: Job) -> Outcome:
    """Of test images that are right: the distance v to the nearest wrong answer, by the
    minimum-norm attack, and the slope m/v between image and boundary, in logits per 1/255.
    """
    outcome, settings, size = Outcome(), job.settings, job.settings.batch_size
    x, y = job.images("test", settings.instance_images)
    margin, distance = [], []
    for images, labels in zip(x.split(size), y.split(size), strict=True):
        nearest = attacks.minimum_norm(job.prepared, images, labels)
        distance.append(attacks.distance(job.prepared, images, nearest, labels).clamp_max(1.0))
        margin.append(margins.output(job.prepared(images), labels))
    m, v = torch.cat(margin).double(), torch.cat(distance).double()
    right = (m > 0) & (v > 0)
    m, v = m[right], v[right]
    for statistic, values in (("distance_right", v), ("slope_right", m / (255 * v))):
        median = float(values.median()) if len(values) else float("nan")
        outcome.add(statistic, median, len(values), split="test")
    return outcome


@reads("robust_radius")
def strong_error(job: Job, images: int) -> Outcome:
    """Error under APGD-CE and targeted APGD, the worst of both for each image."""
    outcome, settings = Outcome(), job.settings
    robust = _robust(job, images, STRONG).all(0)
    setting = settings.name("apgd-ce+t", settings.robust_radius)
    outcome.add("robust_error", 1 - robust.mean(), len(robust), split="test", setting=setting)
    outcome.arrays["robust|test"] = robust
    return outcome


@reads("accept_radii", "accept_images")
def strong_errors(job: Job) -> Outcome:
    """The same on fewer images at the other radii where instance margins are checked."""
    outcome, settings = Outcome(), job.settings
    x, y = job.images("test", settings.accept_images)
    radii = sorted(settings.accept_radii)
    options = {"seed": settings.seed, "batch_size": settings.batch_size, "attacks": STRONG}
    robust = attacks.evaluate(
        job.prepared, x, y, eps=[settings.radius(r) for r in radii], **options
    ).robust
    for radius, right in zip(radii, robust, strict=True):
        setting = settings.name("apgd-ce+t", radius)
        outcome.add("robust_error", 1 - right.mean(), len(x), split="test", setting=setting)
        outcome.arrays[f"robust|test@{radius:g}"] = right
    return outcome


def _robust(job: Job, images: int, names: tuple[str, ...], independent: bool = False) -> np.ndarray:
    """(attacks, n) bool: right and not broken by each attack; not independent:
    (1, n), the worst of all.
    """
    x, y = job.images("test", images)
    radius = job.settings.radius(job.settings.robust_radius)
    options = {"seed": job.settings.seed, "batch_size": job.settings.batch_size}
    sets = [(name,) for name in names] if independent else [names]
    outcome = [
        attacks.evaluate(job.prepared, x, y, eps=radius, attacks=some, **options) for some in sets
    ]
    return np.stack([np.asarray(one.robust, dtype=bool).reshape(len(x)) for one in outcome])


@reads("robust_radius", "cross_images")
def cross_checks(job: Job) -> Outcome:
    """Two attacks of other kinds, each alone,
    and what the strong attack and they break together.
    """
    outcome, settings = Outcome(), job.settings
    alone = _robust(job, settings.cross_images, CROSS, independent=True)
    strong = job.arrays["robust|test"][: alone.shape[1]]
    together = ("+".join(("apgd-ce+t", *CROSS)), alone.all(0) & strong)
    for kind, robust in [*zip(CROSS, alone, strict=True), together]:
        setting = settings.name(kind, settings.robust_radius)
        outcome.add("robust_error", 1 - robust.mean(), len(robust), split="test", setting=setting)
    return outcome


@reads("robust_radius", "instance_images", "instance_steps")
def instance_margins(job: Job) -> Outcome:
    """Instance margins, and whether they find what the strong attack finds on the same images."""
    return _checked_margins(job, [job.settings.robust_radius])


@reads("robust_radius", "instance_images", "instance_steps", "accept_radii", "accept_images")
def accepted_instance_margins(job: Job) -> Outcome:
    """The same, checked at all radii at which the strong attack breaks 10 to 90 % of the images."""
    robust = _strong_outcomes(job)
    broken = {radius: 1 - right.mean() for radius, right in robust.items()}
    return _checked_margins(
        job, [radius for radius in sorted(broken) if SPAN[0] <= broken[radius] <= SPAN[1]]
    )


def _strong_outcomes(job: Job) -> dict[float, np.ndarray]:
    """{radius: which images withstand the strong attack},
    no more of them than have instance margins.
    """
    settings, arrays = job.settings, job.arrays
    outcomes = {settings.robust_radius: arrays["robust|test"]}
    for key, right in arrays.items():
        kind, at, radius = key.partition("@")
        if kind == "robust|test" and at:
            outcomes[float(radius)] = right
    return {radius: right[: settings.instance_images] for radius, right in outcomes.items()}


def _checked_margins(job: Job, radii: list[float]) -> Outcome:
    outcome, settings = Outcome(), job.settings
    x, y = job.images("test", settings.instance_images)
    options = {"steps": settings.instance_steps, "batch_size": settings.batch_size}
    values = margins.instance(
        job.prepared, x, y, generator=job.generator("instance"), **options
    ).cpu()
    outcome.add("instance_margin_median", values.double().quantile(0.5), len(x), split="test")
    _add_check(outcome, job, values, radii)
    outcome.arrays["instance_margin|test"] = values.float().numpy()
    return outcome


def _add_check(outcome: Outcome, job: Job, values: Tensor, radii: list[float]) -> None:
    """Compare the margins with the strong attack on the same images, at these radii."""
    settings, robust, accepted = job.settings, _strong_outcomes(job), []
    for radius in radii:
        right, eps = robust[radius], settings.radius(radius)
        broken, shared = 1 - right.mean(), values[: len(right)]
        accepted.append(margins.accepted(shared, {eps: broken}))
        missed = broken - float((shared <= eps + 1e-6).double().mean())
        outcome.add(
            "instance_margin_missed",
            missed,
            len(right),
            split="test",
            setting=settings.name("linf", radius),
        )
    outcome.add(
        "instance_margin_accepted", bool(accepted) and all(accepted), len(values), split="test"
    )
    outcome.add("instance_margin_checks", len(accepted), len(values), split="test")


@reads("bound_images")
@torch.no_grad()
def training_margins(job: Job) -> Outcome:
    """q(v) of the pseudo-robust bound:
    the share of training images not classified right with margin v or more.

    Equally many images of each class, the first ones; distances by the minimum-norm attack, so q is
    a lower bound; wrong images have distance 0 and are counted, and their share is given beside it.
    """
    outcome, settings = Outcome(), job.settings
    chosen = balanced(job.train.y, settings.bound_images)
    x, y = job.train[chosen]
    values = []
    for part, labels in zip(
        x.split(settings.batch_size), y.split(settings.batch_size), strict=True
    ):
        nearest = attacks.minimum_norm(job.prepared, part, labels)
        values.append(attacks.distance(job.prepared, part, nearest, labels).clamp_max(1.0))
    values = torch.cat(values).cpu()
    for radius in BOUND_RADII:
        share = float((values < settings.radius(radius)).double().mean())
        outcome.add("q", share, len(values), split="train", setting=settings.name("linf", radius))
    outcome.add("q_wrong", float((values == 0).double().mean()), len(values), split="train")
    outcome.arrays["instance_margin|train"] = values.float().numpy()
    return outcome


def balanced(y: Tensor, images: int) -> Tensor:
    """Indices of the first images // classes labels of each class, in the order of the images."""
    classes = y.unique()
    each = [torch.nonzero(y == label)[: images // len(classes), 0] for label in classes]
    return torch.cat(each).sort().values
