"""A recipe: everything that determines one training, and the run id that names it for good."""

import hashlib
import json
from dataclasses import MISSING, dataclass, fields
from functools import cached_property
from typing import Annotated

from arlib import sources
from arlib.errors import InputError, one_of
from arlib.fields import COUNT, FROM_0, POSITIVE, SEED, Choice, Range, Written, check_all
from arlib.training.extent import refuse_absurd

SCHEDULES = ("one-cycle", "piecewise")
AUGMENTATIONS = ("none", "crop-flip")
OBJECTIVES = ("adversarial", "trades", "mixed", "hat")
# whose attack moves the answer away from that to the natural image, instead of raising the loss
DIVERGENT = ("trades", "hat")
ATTACKS = ("pgd", "n-fgsm")
# A field that only some choices read: set with another it would do nothing, and is refused.
_ONLY_FOR = {
    "beta": ("objective", DIVERGENT),
    "mix": ("objective", ("mixed",)),
    "gamma": ("objective", ("hat",)),
    "helper": ("objective", ("hat",)),
    "noise": ("attack", ("n-fgsm",)),
    "steps": ("attack", ("pgd",)),
}
_STANDARD_RUN = Written(
    r"[a-z0-9]+-resnet\d+-ar0-s\d+-[0-9a-f]{8}",
    "the id of a run of AR strength 0, such as digits-resnet8-ar0-s0-627bced0",
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One training. Every field but `dataset` has a default; only non-default fields enter the id.

    Device, precision, compilation and number of jobs are provenance and stand elsewhere.
    """

    dataset: Annotated[str, Choice(sources.NAMES)]
    """digits, cifar10 or cifar100."""
    model: Annotated[str, Choice(sources.NETWORKS)] = "resnet20"
    """resnet8, 20, 32, 44, 56 or 110."""
    width: Annotated[int, COUNT] = 16
    """Channels of the first stage."""
    eps: Annotated[
        float, Range(0, 1, below=True, note="in [0, 1] pixel units; strength 8 is 8/255")
    ] = 0.0
    """ℓ∞ radius of the training attack, in [0, 1] pixel units; 0 trains on natural examples."""
    steps: Annotated[int, COUNT] = 10
    """PGD steps of the training attack."""
    step_size: Annotated[float | None, POSITIVE] = None
    """Size of an attack step in pixel units; None is eps / 4 for PGD, eps for N-FGSM."""
    train_images: Annotated[int | None, COUNT] = None
    """Train on the first so many training images; None is all."""
    epochs: Annotated[int, COUNT] = 60
    """Passes over the training images."""
    batch_size: Annotated[int, COUNT] = 128
    """Images per optimiser step."""
    lr: Annotated[float, POSITIVE] = 0.1
    """Largest learning rate."""
    schedule: Annotated[str, Choice(SCHEDULES)] = "one-cycle"
    """Of the learning rate: one-cycle or piecewise."""
    momentum: Annotated[float, Range(0, 1, below=True)] = 0.9
    """Of stochastic gradient descent."""
    weight_decay: Annotated[float, FROM_0] = 5e-4
    """Of all weights, batch norm's included."""
    augment: Annotated[str | None, Choice(AUGMENTATIONS)] = None
    """none or crop-flip; None is the data set's own: crop-flip for CIFAR, none for the digits."""
    monitor_images: Annotated[int, COUNT] = 1000
    """Validation images attacked after each epoch; the best weights are chosen on them."""
    seed: Annotated[int, SEED] = 0
    """Initialisation, data order, augmentation and random starts; never the split."""
    objective: Annotated[str, Choice(OBJECTIVES)] = "adversarial"
    """adversarial (Madry et al. 2018), trades (Zhang et al. 2019), hat (Rade & Moosavi-Dezfooli
    2022), or mixed: natural and adversarial loss.
    """
    beta: Annotated[float, FROM_0] = 6.0
    """trades, hat: weight of the divergence between the answers to natural and adversarial images.
    """
    mix: Annotated[float, Range(0, 1)] = 0.5
    """mixed: share of the natural loss, 0 to 1."""
    gamma: Annotated[float, FROM_0] = 0.5
    """hat: weight of the loss on helper images, twice as far away as the adversarial ones."""
    helper: Annotated[str, _STANDARD_RUN] = ""
    """hat: run id of the standard network of the same data set that labels the helper images."""
    attack: Annotated[str, Choice(ATTACKS)] = "pgd"
    """pgd, or n-fgsm: one step from noise that may leave the ball (de Jorge et al. 2022)."""
    noise: Annotated[float, FROM_0] = 2.0
    """n-fgsm: half-width of the uniform noise, in units of eps."""
    awp: Annotated[float, Range(0, 1, below=True, note="5e-3 is usual")] = 0.0
    """Adversarial weight perturbation:
    its size relative to each layer's norm (5e-3 in Wu et al. 2020); 0 is off.
    """
    eps_warmup: Annotated[float, FROM_0] = 0.0
    """Epochs over which eps (and the attack's step) grows linearly from 0; 0 is off."""
    ema: Annotated[float, Range(0, 1, below=True, note="0.999 is usual")] = 0.0
    """Decay of the average of the weights along training, kept beside them; 0 is off."""

    def __post_init__(self):
        check_all(self)
        if self.eps_warmup > self.epochs:
            raise InputError(
                f"eps_warmup is {self.eps_warmup:g}; allowed: 0 to the {self.epochs} epochs of "
                "the training.",
                field="eps_warmup",
            )
        self._refuse_idle()
        self._refuse_strange_helper()
        refuse_absurd(self)

    def _refuse_idle(self) -> None:
        """`InputError` for a field that has no effect with the others."""
        if self.objective in DIVERGENT and self.attack != "pgd":
            raise InputError(
                f"attack is {self.attack!r}, but {self.objective} crafts by PGD on its own loss. "
                "Leave attack out.",
                field="attack",
            )
        for name, (choice, readers) in _ONLY_FOR.items():
            value, chosen = getattr(self, name), getattr(self, choice)
            if chosen not in readers and value != type(self).__dataclass_fields__[name].default:
                given = value if isinstance(value, str) else f"{value:g}"
                raise InputError(
                    f"{name} is {given}, but has no effect with {choice} {chosen!r}. Leave it "
                    f"out, or set {choice} to {' or '.join(map(repr, readers))}.",
                    field=name,
                )

    def _refuse_strange_helper(self) -> None:
        """`InputError` for hat without a labelling network, or with one of another data set."""
        if self.objective == "hat" and not self.helper.startswith(f"{self.dataset}-"):
            raise InputError(
                f"helper is {self.helper!r}, but hat takes the labels of its helper images from a "
                f"standard network of the same data set, {self.dataset}. Give the id of such a "
                "run.",
                field="helper",
            )

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

    @cached_property
    def id(self) -> str:
        """Readable slug and 8 hexadecimal digits of the SHA-256 of the non-default fields."""
        canonical = json.dumps(
            self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-ar{self.strength:g}-s{self.seed}-{digest}"

    def to_dict(self) -> dict:
        """The data set and every field that is not at its default,
        so later fields rename no old run.
        """
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
    piecewise: lr, a tenth after half, a hundredth after three quarters (He et al. 2016, section
    4.2).
    """
    if recipe.schedule == "one-cycle":
        return recipe.lr * min(done / 0.25, (1 - done) / 0.75)
    return recipe.lr * 0.1 ** ((done >= 0.5) + (done >= 0.75))
