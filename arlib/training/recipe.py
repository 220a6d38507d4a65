"""A recipe: everything that determines one training, and the run id that names it for good."""

import hashlib
import json
import math
from dataclasses import MISSING, dataclass, fields

from arlib import models, sources
from arlib.errors import InputError, one_of

SCHEDULES = ("one-cycle", "piecewise")
AUGMENTATIONS = ("none", "crop-flip")
OBJECTIVES = ("adversarial", "trades", "mixed")
ATTACKS = ("pgd", "n-fgsm")
# A field that only one choice reads: set with another choice it would do nothing, and is refused.
_ONLY_FOR = {
    "beta": ("objective", "trades"),
    "mix": ("objective", "mixed"),
    "noise": ("attack", "n-fgsm"),
    "steps": ("attack", "pgd"),
}


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
    """Size of an attack step in pixel units; None is eps / 4 for PGD, eps for N-FGSM."""
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
    objective: str = "adversarial"
    """adversarial (Madry et al. 2018), trades (Zhang et al. 2019), or mixed: natural and adversarial loss."""
    beta: float = 6.0
    """TRADES: weight of the divergence between the answers to natural and adversarial images."""
    mix: float = 0.5
    """mixed: share of the natural loss, 0 to 1."""
    attack: str = "pgd"
    """pgd, or n-fgsm: one step from noise that may leave the ball (de Jorge et al. 2022)."""
    noise: float = 2.0
    """n-fgsm: half-width of the uniform noise, in units of eps."""
    awp: float = 0.0
    """Adversarial weight perturbation: its size relative to each layer's norm (5e-3 in Wu et al. 2020); 0 is off."""
    eps_warmup: float = 0.0
    """Epochs over which eps (and the attack's step) grows linearly from 0; 0 is off."""
    ema: float = 0.0
    """Decay of the average of the weights along training, kept beside them; 0 is off."""

    def __post_init__(self):
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, field.type, getattr(self, field.name)))
        self._check_choices()
        self._check_numbers()

    def _check_choices(self) -> None:
        one_of("dataset", self.dataset, sources.NAMES)
        one_of("model", self.model, models.NAMES)
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("augment", self.augment, (*AUGMENTATIONS, None))
        one_of("objective", self.objective, OBJECTIVES)
        one_of("attack", self.attack, ATTACKS)
        if self.objective == "trades" and self.attack != "pgd":
            raise InputError(f"attack is {self.attack!r}, but trades crafts by PGD on its own loss. Leave attack out.")
        for name, (choice, wanted) in _ONLY_FOR.items():
            value, chosen = getattr(self, name), getattr(self, choice)
            if chosen != wanted and value != type(self).__dataclass_fields__[name].default:
                raise InputError(
                    f"{name} is {value:g}, but has no effect with {choice} {chosen!r}. "
                    f"Leave it out, or set {choice} to {wanted!r}."
                )

    def _check_numbers(self) -> None:
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
        for name, allowed, good in (
            ("beta", "0 or more", self.beta >= 0),
            ("mix", "0 to 1", 0 <= self.mix <= 1),
            ("noise", "0 or more", self.noise >= 0),
            ("awp", "0 <= awp < 1 (5e-3 is usual)", 0 <= self.awp < 1),
            ("eps_warmup", f"0 to the {self.epochs} epochs of the training", 0 <= self.eps_warmup <= self.epochs),
            ("ema", "0 <= ema < 1 (0.999 is usual)", 0 <= self.ema < 1),
        ):
            if not good:
                raise InputError(f"{name} is {getattr(self, name):g}; allowed: {allowed}.")

    @property
    def strength(self) -> float:
        """AR strength: the radius on the 0–255 pixel scale."""
        return round(255 * self.eps, 6)

    @property
    def attack_step(self) -> float:
        """Size of one step of the training attack at full eps, in pixel units."""
        if self.step_size is not None:
            return self.step_size
        return self.eps if self.attack == "n-fgsm" else self.eps / 4

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
            raise InputError(f"a recipe needs a dataset; allowed: {', '.join(sources.NAMES)}.")
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
