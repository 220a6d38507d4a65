"""A recipe: everything that determines one training, and the run id that names it for good."""

import hashlib
import json
import math
from dataclasses import MISSING, dataclass, fields

from arlib import data, models
from arlib.errors import InputError, one_of

SCHEDULES = ("one-cycle", "piecewise")
AUGMENTATIONS = ("none", "crop-flip")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training. Every field but `dataset` has a default; only non-default fields enter the id.

    Device, precision, compilation and number of jobs are provenance and stand elsewhere.
    """

    dataset: str
    model: str = "resnet20"
    width: int = 16
    """Channels of the first stage."""
    eps: float = 0.0
    """ℓ∞ radius of the training attack, in [0, 1] pixel units; 0 trains on natural examples."""
    steps: int = 10
    """PGD steps of the training attack."""
    step_size: float | None = None
    """Size of a PGD step in pixel units; None is eps / 4."""
    train_images: int | None = None
    """Train on the first so many training images; None is all."""
    epochs: int = 60
    batch_size: int = 128
    lr: float = 0.1
    """Largest learning rate."""
    schedule: str = "one-cycle"
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: str | None = None
    """None is the data set's own: crop-flip for CIFAR, none for the digits."""
    monitor_images: int = 1000
    """Validation images attacked after each epoch; the best weights are chosen on them."""
    seed: int = 0
    """Initialisation, data order, augmentation and random starts; never the split."""

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.type, getattr(self, field.name)))
        one_of("dataset", self.dataset, data.NAMES)
        one_of("model", self.model, models.NAMES)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("augment", self.augment, (*AUGMENTATIONS, None))
        if not 0 <= self.eps < 1:
            raise InputError(
                f"eps is {self.eps:g}; allowed: 0 <= eps < 1, in [0, 1] pixel units (strength 8 is 8/255)."
            )
        for name in ("width", "steps", "train_images", "epochs", "batch_size", "monitor_images"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("lr", "step_size"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; it must be above 0.")
        if not 0 <= self.momentum < 1 or self.weight_decay < 0 or not 0 <= self.seed < 2**31:
            raise InputError(
                f"momentum {self.momentum}, weight_decay {self.weight_decay}, seed {self.seed}; "
                "allowed: 0 <= momentum < 1, weight_decay >= 0, 0 <= seed < 2**31."
            )

    @property
    def strength(self) -> float:
        """AR strength: the radius on the 0–255 pixel scale."""
        return round(255 * self.eps, 6)

    @property
    def attack_step(self) -> float:
        """Size of one PGD step in pixel units."""
        return self.eps / 4 if self.step_size is None else self.step_size

    @property
    def id(self) -> str:
        """Readable slug and 8 hexadecimal digits of the SHA-256 of the non-default fields."""
        canonical = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-ar{self.strength:g}-s{self.seed}-{digest}"

    def to_dict(self) -> dict:
        """The data set and every field that is not at its default, so later fields rename no old run."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        }

    @classmethod
    def from_dict(cls, values: dict) -> "Recipe":
        """The recipe that `to_dict` described; `InputError` names an unknown field."""
        for name in values:
            one_of("recipe field", name, [field.name for field in fields(cls)])
        if "dataset" not in values:
            raise InputError(f"a recipe needs a dataset; allowed: {', '.join(data.NAMES)}.")
        return cls(**values)


def learning_rate(recipe: Recipe, done: float) -> float:
    """Learning rate when the share `done` of all steps is over.

    one-cycle: linear from 0 to lr over the first quarter, then linear to 0 (Smith & Topin 2019).
    piecewise: lr, a tenth after half, a hundredth after three quarters (He et al. 2016, section 4.2).
    """
    if recipe.schedule == "one-cycle":
        return recipe.lr * min(done / 0.25, (1 - done) / 0.75)
    return recipe.lr * 0.1 ** ((done >= 0.5) + (done >= 0.75))


def _typed(name: str, kind: type, value: object) -> object:
    """`value` as the field's type: whole numbers pass as floats, words and truth values do not."""
    optional = kind not in (str, int, float)
    if optional and value is None:
        return None
    wanted = next(t for t in (str, int, float) if kind is t or (optional and t in kind.__args__))
    good = isinstance(value, (int, float) if wanted is float else wanted) and not isinstance(value, bool)
    if not good or (wanted is float and not math.isfinite(value)):
        raise InputError(f"{name} is {value!r}; it must be {'None or ' if optional else ''}a {wanted.__name__}.")
    return wanted(value)
