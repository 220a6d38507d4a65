"""The quantities of one checkpoint:
each function takes a `Job` and gives back an `Outcome`.
"""

import copy

import numpy as np
import torch
from torch import Tensor, nn

from arlib import confidence, margins, smoothness, spectra
from arlib.measure.attacked import add_flips
from arlib.measure.job import Job, Outcome, reads
from arlib.smoothness.layers import layer_names

SPECTRUM = {
    "sv_std": "std",
    "sv_std_over_mean": "std_over_mean",
    "sv_mean": "mean",
    "sv_max": "max",
    "sv_min": "min",
    "effective_rank": "effective_rank",
    "stable_rank": "stable_rank",
    "condition": "condition",
    "dead_channels": "dead_channels",
}


@reads()
def outputs(job: Job) -> Outcome:
    """Errors, losses, confidence and output margins on train, validation and test images."""
    outcome, logits = (
        Outcome(),
        {name: job.logits(job.split(name)) for name in ("train", "val", "test")},
    )
    scale = margins.logit_scale(logits["test"])
    temperature = confidence.temperature(logits["val"], job.data.val.y)
    outcome.add("temperature", temperature, len(job.data.val), split="val")
    outcome.add("logit_scale", scale, len(job.data.test), split="test")
    for name, z in logits.items():
        for statistic, value in _of_outputs(z, job.split(name).y, scale, temperature).items():
            outcome.add(statistic, value, len(z), split=name)
    for name in ("train", "test"):
        outcome.arrays[f"margin|{name}"] = _half(margins.output(logits[name], job.split(name).y))
    outcome.arrays["correct|test"] = (logits["test"].argmax(1) == job.data.test.y).cpu().numpy()
    outcome.arrays["max_softmax|test"] = _half(confidence.max_softmax(logits["test"]))
    return outcome


def _of_outputs(
    z: Tensor, y: Tensor, scale: float = 1.0, temperature: float = 1.0
) -> dict[str, float]:
    """Statistics of one split's logits z (n, classes);
    scale is the net's R, temperature its temperature.
    """
    margin, predicted = margins.output(z, y).double(), z.argmax(1)
    median = margin.abs().quantile(0.5)
    return {
        "error": (predicted != y).double().mean(),
        "ce": confidence.cross_entropy(z, y).mean(),
        "ce_scaled": confidence.cross_entropy(z.double() / temperature, y).mean(),
        "max_softmax": confidence.max_softmax(z).mean(),
        "entropy": confidence.entropy(z).mean(),
        "ece": confidence.ece(z, y, bins=min(15, len(y))),
        "overconfidence": confidence.overconfidence(z, y),
        "overconfidence_scaled": confidence.overconfidence(z.double() / temperature, y),
        "median_margin": margin.quantile(0.5),
        "median_abs_margin": median,
        "median_abs_margin_scalefree": margins.scale_free(median, scale)
        if scale > 0
        else torch.nan,
        "share_largest_class": torch.bincount(predicted).max() / len(y),
    }


# with batch norm folded after its statistics were taken on natural images
NATURAL = "circular+bn-natural"


@reads("bn_images", "zeros")
def spectra_of_layers(job: Job) -> Outcome:
    """Spectrum statistics of every layer for each operator, 201 quantiles,
    and which layers are counted.
    """
    outcome, shape = Outcome(), job.data.shape
    runs = {"circular": {}, "circular+bn": {"fold_bn": True}, "reshaped": {"operator": "reshaped"}}
    runs |= {"zeros": {"operator": "as-built"}} if job.settings.zeros else {}
    frames = {setting: spectra.of(job.model, shape, **options) for setting, options in runs.items()}
    frames[NATURAL] = _natural_spectra(job, job.model)
    for setting, frame in frames.items():
        _add_spectra(outcome, frame, setting)
        _add_quantiles(outcome, frame, setting)
    _add_counted(outcome, frames["circular"])
    return outcome


@reads("bn_images")
def spectra_to_compare(job: Job) -> Outcome:
    """The two operators by which C6 is decided, without quantiles: for controls."""
    outcome, frame = Outcome(), spectra.of(job.model, job.data.shape)
    _add_spectra(outcome, frame, "circular")
    _add_spectra(outcome, _natural_spectra(job, job.model), NATURAL)
    _add_counted(outcome, frame)
    return outcome


@reads()
def spectra_as_they_are(job: Job) -> Outcome:
    """Spread and rank of each layer of a network without batch norm: for arms."""
    outcome, frame = Outcome(), spectra.of(job.model, job.data.shape)
    _add_spectra(outcome, frame, "circular", SHAPE)
    _add_counted(outcome, frame)
    return outcome


def _natural_spectra(job: Job, model: nn.Module):
    """Of the operators as natural images meet them, see `with_statistics_of`."""
    images, _ = job.images("train", job.settings.bn_images)
    natural = with_statistics_of(model, images, job.settings.batch_size)
    return spectra.of(natural, job.data.shape, fold_bn=True)


@reads()
def distances_from_start(job: Job) -> Outcome:
    """‖W − W₀‖ / ‖W₀‖ of every weight of two or more dimensions, by the layer's name;
    W₀ is the initialisation.
    """
    outcome, start = Outcome(), dict(job.start.named_parameters())
    for name, weight in job.model.named_parameters():
        if weight.ndim > 1:
            before = start[name].detach().double()
            moved = (weight.detach().double() - before).norm() / before.norm()
            outcome.add(
                "distance_from_start", moved, weight.numel(), layer=name.removesuffix(".weight")
            )
    return outcome


@reads("bn_images", "jacobian_images")
def initialisation(job: Job) -> Outcome:
    """Where training starts: spectra and Jacobians of the untrained network,
    whose batch norms know no image yet.
    """
    outcome, shape = Outcome(), job.data.shape
    start = with_statistics_of(
        job.start, job.images("train", job.settings.bn_images)[0], job.settings.batch_size
    )
    for setting, options in {"circular": {}, NATURAL: {"fold_bn": True}}.items():
        frame = spectra.of(start, shape, **options)
        _add_spectra(outcome, frame, setting)
        _add_quantiles(outcome, frame, f"{setting}@start")
    _add_jacobians(outcome, job, start, None)
    return outcome


def _add_spectra(outcome: Outcome, frame, setting: str, names: dict[str, str] = SPECTRUM) -> None:
    for row in frame.to_dict("records"):
        for statistic, column in names.items():
            outcome.add(statistic, row[column], row["count"], layer=row["layer"], setting=setting)


def _add_quantiles(outcome: Outcome, frame, setting: str) -> None:
    for layer, values in frame.attrs["quantiles"].items():
        outcome.arrays[f"quantiles|{setting}|{layer}"] = values


def _add_counted(outcome: Outcome, frame) -> None:
    for row in frame.itertuples():
        outcome.add("counted", row.counted, 1, layer=row.layer)


@torch.no_grad()
def with_statistics_of(model: nn.Module, x: Tensor, batch_size: int) -> nn.Module:
    """A copy of the model whose batch-norm statistics
    are the averages over batches of x (n, c, h, w).

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


@reads("feature_radius", "feature_images")
def feature_changes(job: Job) -> Outcome:
    """Random feature changes of every block;
    their normalisers serve the adversarial ones and the Jacobians.
    """
    return _random_changes(job, job.settings.feature_images)


def _random_changes(job: Job, images: int | None) -> Outcome:
    outcome, settings = Outcome(), job.settings
    x, _ = job.images("test", images)
    options = {
        "radius": settings.radius(settings.feature_radius),
        "generator": job.generator("features"),
    }
    frame = smoothness.feature_change(job.model, x, batch_size=settings.batch_size, **options)
    _add_changes(outcome, frame, settings.name("random", settings.feature_radius))
    outcome.arrays["normaliser"] = frame["normaliser"].to_numpy()
    return outcome


# the normaliser is of feature_images
@reads("feature_radius", "feature_images", "adversarial_images")
def adversarial_changes(job: Job) -> Outcome:
    """Feature changes under δ that maximise them, in units of the normaliser of the random ones."""
    outcome, settings = Outcome(), job.settings
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
    _add_changes(outcome, frame, settings.name("adversarial", settings.feature_radius))
    return outcome


def _add_changes(outcome: Outcome, frame, setting: str) -> None:
    for row in frame.itertuples():
        outcome.add(
            "feature_change", row.change, row.n, split="test", layer=row.layer, setting=setting
        )
        if row.Index:  # the first block has none before it
            outcome.add(
                "feature_gain", row.gain, row.n, split="test", layer=row.layer, setting=setting
            )


def _normaliser(job: Job) -> dict[str, float]:
    return dict(zip(layer_names(job.model), job.arrays["normaliser"].tolist(), strict=True))


@reads("feature_images", "jacobian_images")
def jacobians(job: Job) -> Outcome:
    """Jacobians at natural test images:
    from the image to each block's output, and of each block by itself.
    """
    outcome = Outcome()
    _add_jacobians(outcome, job, job.model, _normaliser(job))
    return outcome


def _add_jacobians(
    outcome: Outcome, job: Job, model: nn.Module, normaliser: dict[str, float] | None
) -> None:
    """Without a normaliser only the statistics that need none."""
    x, _ = job.images("test", job.settings.jacobian_images)
    layers = layer_names(model)
    options = {
        "generator": job.generator("jacobian"),
        "normaliser": normaliser or dict.fromkeys(layers, 1.0),
    }
    for row in smoothness.jacobian(model, x, **options).itertuples():
        place = {"split": "test", "layer": row.layer}
        if normaliser:
            outcome.add("jacobian_max", row.sigma_max, row.n, **place)
        outcome.add("jacobian_uniformity", row.uniformity, row.n, **place)
        _add_medians(outcome, row, place, "image")
    own = {"generator": job.generator("jacobian by itself"), "of": "input"}
    for row in smoothness.jacobian(model, x, **own).itertuples():
        place = {"split": "test", "layer": row.layer}
        outcome.add("jacobian_max", row.sigma_max, row.n, **place, setting="block")
        _add_medians(outcome, row, place, "block")


def _add_medians(outcome: Outcome, row, place: dict[str, str], setting: str) -> None:
    outcome.add(
        "jacobian_uniformity_median", row.uniformity_median, row.n, **place, setting=setting
    )
    # only where the whole matrix was formed
    if row.effective_rank_median == row.effective_rank_median:
        outcome.add(
            "jacobian_effective_rank", row.effective_rank_median, row.n, **place, setting=setting
        )


ALONG = {"train": ("error", "ce"), "test": ("error", "max_softmax", "median_abs_margin")}
SHAPE = {"sv_std": "std", "sv_std_over_mean": "std_over_mean", "effective_rank": "effective_rank"}


@reads("feature_radius", "along_images", "bn_images", "flip_main", "flip_draws", "flip_images_main")
def along(job: Job) -> Outcome:
    """A checkpoint of standard training:
    the primaries of C2 to C7, train ce, and how far the weights have gone.
    """
    outcome = Outcome()
    for split, statistics in ALONG.items():
        values = _of_outputs(job.logits(job.split(split)), job.split(split).y)
        for statistic in statistics:
            outcome.add(statistic, values[statistic], len(job.split(split)), split=split)
    outcome.rows += [
        r
        for r in _random_changes(job, job.settings.along_images).rows
        if r["statistic"] == "feature_change"
    ]
    _add_spectra(outcome, spectra.of(job.model, job.data.shape), "circular", SHAPE)
    _add_spectra(outcome, _natural_spectra(job, job.model), NATURAL, SHAPE)
    outcome.rows += distances_from_start(job).rows
    add_flips(outcome, job, job.settings.flip_main, "pgd", job.settings.flip_images_main)
    return outcome


def _half(values: Tensor) -> np.ndarray:
    """float16, at most 65504: margins of a diverging network stay finite."""
    return values.clamp(-65504, 65504).cpu().numpy().astype(np.float16)
