"""What is measured of each model:
one function per part, rows (claim, quantity, setting, layer, n, value, low, high).
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from scipy import stats
from torch import Tensor, nn

from arlib import attacks, confidence, engine, margins, smoothness, spectra
from arlib.smoothness import layers as inner

BATCH = 250


@dataclass(frozen=True)
class Quantity:
    """A number that models are compared by."""

    claim: str
    label: str
    expected: int = 0
    """The way the paper expects it to go with robustness: 1 up, −1 down, 0 nothing claimed."""
    percent: bool = False


QUANTITIES = {
    "error": Quantity("C1", "natural error", 1, percent=True),
    "ce": Quantity("C1", "natural cross-entropy"),
    "max_softmax": Quantity("C3", "mean max-softmax", -1),
    "overconfidence": Quantity("C3", "mean max-softmax − accuracy", -1),
    "ece": Quantity("C3", "expected calibration error"),
    "median_abs_margin": Quantity("C4", "median |m|, output margin", -1),
    "median_abs_margin_scalefree": Quantity("C4", "median |m|/R", -1),
    "instance_margin": Quantity("C4", "median instance margin × 255, images that all get right"),
    "feature_change": Quantity("C5", "feature change, random signs, median over layers", -1),
    "feature_gain": Quantity("C5", "gain of each layer, median over layers", -1),
    "sv_std": Quantity("C6", "std of singular values, raw weights, median over layers", -1),
    "sv_std_over_mean": Quantity("C6", "std/mean, raw weights", -1),
    "applied_std_over_mean": Quantity("C6", "std/mean, batch norm folded", -1),
    "jacobian_uniformity": Quantity(
        "C6", "σ_max / (‖J‖_F/√rank) at the images, median over layers", -1
    ),
    "flip_pgd": Quantity("C7", "flips under PGD", -1, percent=True),
    "flip_sign": Quantity("C7", "flips under random signs", -1, percent=True),
    "robust_accuracy": Quantity("–", "accuracy under APGD-CE and targeted APGD", 1, percent=True),
}


@dataclass
class Subject:
    """One model and what it is measured on."""

    name: str
    model: nn.Module | Callable
    x: Tensor
    y: Tensor
    settings: "Settings"
    classes: int = 0
    known_by: list = field(default_factory=list)
    """What tells this model and these images from others, in a file of finished parts."""
    rows: list[dict] = field(default_factory=list)

    def add(
        self, quantity: str, value: float, n: int, low: float = math.nan, high: float = math.nan, *,
        setting: str = "", layer: str = "",
    ) -> None:  # fmt: skip
        numbers = {"n": int(n), "value": float(value), "low": float(low), "high": float(high)}
        self.rows.append({"quantity": quantity, "setting": setting, "layer": layer} | numbers)

    def generator(self) -> torch.Generator:
        return torch.Generator(self.x.device).manual_seed(self.settings.seed)


@dataclass(frozen=True)
class Settings:
    """Radii in pixel units; numbers of images are the first so many, at most all."""

    eps: tuple[float, ...] = (2 / 255, 4 / 255, 8 / 255)
    radius: float = 4 / 255
    layers: tuple[str, ...] | None = None
    feature_images: int = 1000
    flip_images: int = 500
    jacobian_images: int = 16
    robust_images: int = 200
    instance_images: int = 100
    seed: int = 0


@torch.no_grad()
def outputs(subject: Subject, logits) -> None:
    """Error, loss, confidence, calibration and output margins on all images."""
    with engine.frozen(subject.model) as f:
        forward = attacks.steps.forward_of(f, logits)
        z = torch.cat([forward(part) for part in subject.x.split(BATCH)])
    y, n = subject.y, len(subject.y)
    wrong = int((z.argmax(1) != y).sum())
    subject.add("error", wrong / n, n, *attacks.wilson(wrong, n))
    sure = confidence.max_softmax(z)
    right = (z.argmax(1) == y).double()
    for quantity, values in (
        ("ce", confidence.cross_entropy(z, y)),
        ("max_softmax", sure),
        ("overconfidence", sure - right),
    ):  # fmt: skip
        subject.add(quantity, *_mean(values))
    subject.add("ece", confidence.ece(z, y, bins=min(15, n)), n)
    margin, scale = margins.output(z, y).double().abs(), margins.logit_scale(z)
    subject.add("median_abs_margin", *_median(margin))
    if scale > 0:
        subject.add("median_abs_margin_scalefree", *_median(margins.scale_free(margin, scale)))


def features(subject: Subject, logits) -> None:
    """Random feature changes of the layers, and each layer's gain."""
    settings = subject.settings
    x = subject.x[: settings.feature_images]
    options = {
        "radius": settings.radius,
        "generator": subject.generator(),
        "layers": _watched(subject),
    }
    frame = smoothness.feature_change(subject.model, x, **options)
    for row in frame.itertuples():
        subject.add("feature_change", row.change, row.n, layer=row.layer)
        if row.gain == row.gain:
            subject.add("feature_gain", row.gain, row.n, layer=row.layer)
    subject.add("feature_change", frame["change"].median(), len(x))
    if frame["gain"].notna().any():
        subject.add("feature_gain", frame["gain"].median(), len(x))


def flips(subject: Subject, logits) -> None:
    """Share of predictions that change, attacked and at random."""
    settings = subject.settings
    x = subject.x[: settings.flip_images]
    for quantity, attack, radius in (
        ("flip_pgd", "pgd", settings.radius),
        ("flip_sign", "sign", 2 * settings.radius),
    ):
        options = {"attack": attack, "generator": subject.generator(), "logits": logits}
        rate = smoothness.flip_rate(subject.model, x, radius=radius, **options)
        low, high = (
            attacks.wilson(round(rate * len(x)), len(x))
            if attack == "pgd"
            else (math.nan, math.nan)
        )
        subject.add(quantity, rate, len(x), low, high, setting=f"{255 * radius:g}/255")


def singular_values(subject: Subject, logits) -> None:
    """Spectra of the layers, of the weights and with batch norm folded."""
    shape = tuple(subject.x.shape[1:])
    for fold, names in (
        (False, ("sv_std", "sv_std_over_mean")),
        (True, ("", "applied_std_over_mean")),
    ):
        frame = spectra.of(subject.model, shape, fold_bn=fold)
        for name, column in zip(names, ("std", "std_over_mean"), strict=True):
            for row in frame.to_dict("records") if name else ():
                subject.add(name, row[column], row["count"], layer=row["layer"])
            if name:
                counted = frame[frame["counted"]] if frame["counted"].any() else frame
                subject.add(name, counted[column].median(), len(counted))


def jacobians(subject: Subject, logits) -> None:
    """How uniform each layer's Jacobian is at the images."""
    settings = subject.settings
    x = subject.x[: settings.jacobian_images]
    frame = smoothness.jacobian(
        subject.model, x, generator=subject.generator(), layers=_watched(subject)
    )
    for row in frame.itertuples():
        subject.add("jacobian_uniformity", row.uniformity_median, row.n, layer=row.layer)
    subject.add("jacobian_uniformity", frame["uniformity_median"].median(), len(x))


def robustness(subject: Subject, logits) -> None:
    """Accuracy under the strong attack at several radii."""
    settings = subject.settings
    x, y = subject.x[: settings.robust_images], subject.y[: settings.robust_images]
    evaluation = attacks.evaluate(
        subject.model, x, y, eps=settings.eps, logits=logits, seed=settings.seed
    )
    table = evaluation.table[evaluation.table["attack"] == "worst case"]
    for row in table.itertuples():
        subject.add(
            "robust_accuracy",
            row.accuracy,
            row.n,
            row.low,
            row.high,
            setting=f"{255 * row.eps:g}/255",
        )


def distances(subject: Subject, logits) -> None:
    """Instance margins image by image (rows of layer "image N");
    their median is taken over shared images later.
    """
    settings = subject.settings
    x, y = subject.x[: settings.instance_images], subject.y[: settings.instance_images]
    values = margins.instance(subject.model, x, y, generator=subject.generator(), logits=logits)
    for index, value in enumerate(values.tolist()):
        subject.add("instance_margin", 255 * value, 1, layer=f"image {index}")


# In the order of what they cost.
PARTS: dict[str, Callable[[Subject, Callable | None], None]] = {
    "outputs": outputs,
    "features": features,
    "spectra": singular_values,
    "flips": flips,
    "jacobians": jacobians,
    "robustness": robustness,
    "distances": distances,
}


def _watched(subject: Subject) -> list[str] | None:
    """The layers whose outputs are looked at:
    those asked for, else all that have a row per image; others are named.
    """
    if subject.settings.layers is not None:
        return list(subject.settings.layers)
    layers = inner.layer_names(subject.model)
    others = inner.with_other_rows(subject.model, subject.x[:3], layers)
    if others:
        some = ", ".join(others[:3]) + (" …" if len(others) > 3 else "")
        warnings.warn(
            f"{len(others)} of {len(layers)} layers are left out, whose outputs are not one row "
            f"per image: {some}.",
            UserWarning,
            stacklevel=2,
        )
    return [name for name in layers if name not in others]


def _mean(values: Tensor) -> tuple[float, int, float, float]:
    """Mean, n and its 95 % interval over images."""
    values, n = values.double(), len(values)
    half = 1.96 * float(values.std()) / math.sqrt(n) if n > 1 else math.nan
    mean = float(values.mean())
    return mean, n, mean - half, mean + half


def _median(values: Tensor) -> tuple[float, int, float, float]:
    """Median, n and the order statistics between which the true one lies with 95 %,
    whatever the distribution.
    """
    ordered, n = np.sort(values.double().cpu().numpy()), len(values)
    low, high = stats.binom.ppf([0.025, 0.975], n, 0.5).astype(int)
    return (
        float(np.median(ordered)),
        n,
        float(ordered[max(low - 1, 0)]),
        float(ordered[min(high, n - 1)]),
    )
