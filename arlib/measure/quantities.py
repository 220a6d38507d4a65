"""The quantities of one checkpoint: each function takes a `Job` and gives back what it `Found`."""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from arlib import attacks, confidence, features, margins, smoothness, spectra
from arlib.measure.job import Found, Job

SPECTRUM = {
    "sv_std": "std", "sv_std_over_mean": "std_over_mean", "sv_mean": "mean", "sv_max": "max", "sv_min": "min",
    "effective_rank": "effective_rank", "stable_rank": "stable_rank", "condition": "condition",
    "dead_channels": "dead_channels",
}  # fmt: skip


def outputs(job: Job) -> Found:
    """Errors, losses, confidence and output margins on train, validation and test images."""
    found, logits = Found(), {name: job.logits(job.split(name)) for name in ("train", "val", "test")}
    scale = margins.logit_scale(logits["test"])
    heat = confidence.temperature(logits["val"], job.data.val.y)
    found.add("temperature", heat, len(job.data.val), split="val")
    found.add("logit_scale", scale, len(job.data.test), split="test")
    for name, z in logits.items():
        for statistic, value in _of_outputs(z, job.split(name).y, scale, heat).items():
            found.add(statistic, value, len(z), split=name)
    for name in ("train", "test"):
        found.arrays[f"margin|{name}"] = _half(margins.output(logits[name], job.split(name).y))
    found.arrays["correct|test"] = (logits["test"].argmax(1) == job.data.test.y).cpu().numpy()
    found.arrays["max_softmax|test"] = _half(confidence.max_softmax(logits["test"]))
    return found


def _of_outputs(z: Tensor, y: Tensor, scale: float = 1.0, heat: float = 1.0) -> dict[str, float]:
    """Statistics of one split's logits z (n, classes); scale is the net's R, heat its temperature."""
    margin, predicted = margins.output(z, y).double(), z.argmax(1)
    median = margin.abs().quantile(0.5)
    return {
        "error": (predicted != y).double().mean(),
        "ce": confidence.cross_entropy(z, y).mean(),
        "ce_scaled": confidence.cross_entropy(z.double() / heat, y).mean(),
        "max_softmax": confidence.max_softmax(z).mean(),
        "entropy": confidence.entropy(z).mean(),
        "ece": confidence.ece(z, y, bins=min(15, len(y))),
        "overconfidence": confidence.overconfidence(z, y),
        "overconfidence_scaled": confidence.overconfidence(z.double() / heat, y),
        "median_margin": margin.quantile(0.5),
        "median_abs_margin": median,
        "median_abs_margin_scalefree": margins.scale_free(median, scale) if scale > 0 else torch.nan,
        "share_largest_class": torch.bincount(predicted).max() / len(y),
    }


def spectra_of_layers(job: Job) -> Found:
    """Spectrum statistics of every layer for each operator, 201 quantiles, and which layers are counted."""
    found, shape = Found(), job.data.shape
    runs = {"circular": {}, "circular+bn": {"fold_bn": True}, "reshaped": {"operator": "reshaped"}}
    runs |= {"zeros": {"operator": "as-built"}} if job.settings.zeros else {}
    for setting, options in runs.items():
        frame = spectra.of(job.model, shape, **options)
        _add_spectra(found, frame, setting)
        for layer, values in frame.attrs["quantiles"].items():
            found.arrays[f"quantiles|{setting}|{layer}"] = values
    for row in frame.itertuples():
        found.add("counted", row.counted, 1, layer=row.layer)
    natural = with_statistics_of(job.model, job.images("train", job.settings.bn_images)[0], job.settings.batch_size)
    _add_spectra(found, spectra.of(natural, shape, fold_bn=True), "circular+bn-natural")
    return found


def _add_spectra(found: Found, frame, setting: str, names: dict[str, str] = SPECTRUM) -> None:
    for row in frame.to_dict("records"):
        for statistic, column in names.items():
            found.add(statistic, row[column], row["count"], layer=row["layer"], setting=setting)


@torch.no_grad()
def with_statistics_of(model: nn.Module, x: Tensor, batch_size: int) -> nn.Module:
    """A copy of the model whose batch-norm statistics are the averages over batches of x (n, c, h, w).

    The running statistics of an adversarially trained network come from adversarial images; folded
    spectra are also looked at with those of natural ones.
    """
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.reset_running_stats()
            module.momentum = None  # a plain average over batches
            module.train()
    for part in x.split(batch_size):
        model(part)
    return model.eval()


def feature_changes(job: Job) -> Found:
    """Random feature changes of every block; their normalisers serve the adversarial ones and the Jacobians."""
    return _random_changes(job, job.settings.feature_images)


def _random_changes(job: Job, images: int | None) -> Found:
    found, settings = Found(), job.settings
    x, _ = job.images("test", images)
    options = {"radius": settings.radius(settings.feature_radius), "generator": job.generator("features")}
    frame = smoothness.feature_change(job.model, x, batch_size=settings.batch_size, **options)
    _add_changes(found, frame, settings.name("random", settings.feature_radius))
    found.arrays["normaliser"] = frame["normaliser"].to_numpy()
    return found


def adversarial_changes(job: Job) -> Found:
    found, settings = Found(), job.settings
    x, _ = job.images("test", settings.adversarial_images)
    frame = smoothness.feature_change(
        job.model,
        x,
        radius=settings.radius(settings.feature_radius),
        direction="adversarial",
        normaliser=_normaliser(job),
        generator=job.generator("adversarial"),
        batch_size=min(settings.batch_size, 128),
    )
    _add_changes(found, frame, settings.name("adversarial", settings.feature_radius))
    return found


def _add_changes(found: Found, frame, setting: str) -> None:
    for row in frame.itertuples():
        found.add("feature_change", row.change, row.n, split="test", layer=row.layer, setting=setting)
        if row.Index:  # the first block has none before it
            found.add("feature_gain", row.gain, row.n, split="test", layer=row.layer, setting=setting)


def _normaliser(job: Job) -> dict[str, float]:
    return dict(zip(features.layer_names(job.model), job.arrays["normaliser"].tolist(), strict=True))


def jacobians(job: Job) -> Found:
    found = Found()
    x, _ = job.images("test", job.settings.jacobian_images)
    frame = smoothness.jacobian(job.model, x, normaliser=_normaliser(job), generator=job.generator("jacobian"))
    for row in frame.itertuples():
        found.add("jacobian_max", row.sigma_max, row.n, split="test", layer=row.layer)
        found.add("jacobian_uniformity", row.uniformity, row.n, split="test", layer=row.layer)
    return found


def flips(job: Job, strength: float) -> Found:
    """Flip rates at one radius, attacked and random."""
    found = Found()
    for attack in smoothness.FLIP_ATTACKS:
        _add_flips(found, job, strength, attack)
    return found


def _add_flips(found: Found, job: Job, strength: float, attack: str) -> None:
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


STRONG, CROSS = ("apgd-ce", "apgd-t"), ("pgd-50x10", "square")


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
    error = 1 - job.arrays["robust|test"][: len(x)].mean()
    accepted = margins.accepted(values, {settings.radius(settings.robust_radius): error})
    found.add("instance_margin_median", values.double().quantile(0.5), len(x), split="test")
    found.add("instance_margin_accepted", accepted, len(x), split="test")
    found.arrays["instance_margin|test"] = values.float().numpy()
    return found


ALONG = {"train": ("error", "ce"), "test": ("error", "max_softmax", "median_abs_margin")}


def along(job: Job) -> Found:
    """What the matched-fit control needs of a checkpoint of standard training: primaries of C2–C7, train ce."""
    found = Found()
    for split, statistics in ALONG.items():
        values = _of_outputs(job.logits(job.split(split)), job.split(split).y)
        for statistic in statistics:
            found.add(statistic, values[statistic], len(job.split(split)), split=split)
    found.rows += [
        r for r in _random_changes(job, job.settings.along_images).rows if r["statistic"] == "feature_change"
    ]
    _add_spectra(found, spectra.of(job.model, job.data.shape), "circular", {"sv_std": "std"})
    _add_flips(found, job, job.settings.flip_main, "pgd")
    return found


def _half(values: Tensor) -> np.ndarray:
    """float16, at most 65504: margins of a diverging network stay finite."""
    return values.clamp(-65504, 65504).cpu().numpy().astype(np.float16)
