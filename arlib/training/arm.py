"""An arm of an intervention: a finished network trained on with one thing imposed. What determines
it, and the run id that names it for good.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Annotated

from arlib.errors import InputError, one_of
from arlib.fields import COUNT, POSITIVE, Choice, Range, check_all
from arlib.training.recipe import Recipe

STANDARD, ROBUST, OTHER = "standard", "robust", "other standard"  # the networks of a study
SPECTRA = ("quantiles", "frobenius", "spread")  # what `spectra.impose` can give a layer


@dataclass(frozen=True)
class Kind:
    """What an arm does with its network.

    start: the network it begins with, which also says on which images it goes on: a robust one on
    adversarial images. tied: the network that it takes something from. imposes: one of `SPECTRA`,
    "noise", "smooth", "smooth-adv", "temperature", or "" for nothing. share: how far on the way
    from the start's spectra to the tied network's, on the log scale. early: only stem and first
    three blocks. trains: whether it is trained on at all.
    """

    title: str
    start: str = STANDARD
    tied: str = ""
    imposes: str = ""
    share: float = 1.0
    early: bool = False
    trains: bool = True

    @property
    def adversarial(self) -> bool:
        return self.start == ROBUST

    @property
    def spectral(self) -> bool:
        return self.imposes in SPECTRA

    @property
    def smooths(self) -> bool:
        """Whether it is a search for the weight of a penalty, with a training for each trial."""
        return self.imposes.startswith("smooth")


def _spectra(title: str, imposes: str = "quantiles", **options) -> Kind:
    return Kind(title, **({"tied": ROBUST, "imposes": imposes} | options))


KINDS: dict[str, Kind] = {
    "s": Kind("S′: trained on"),
    "a": Kind("A′: robust, trained on", ROBUST),
    "d": _spectra("D: robust spectra"),
    "d-scale": _spectra("D-scale: robust norms", "frobenius"),
    "d-spread": _spectra("D-spread: robust std/mean", "spread"),
    "d-early": _spectra("D-early: stem and 3 blocks", early=True),
    "d-at-once": _spectra("D at once: not trained on", trains=False),
    "noise": _spectra("Noise: as large as D’s change", "noise"),
    "rescue": _spectra("Rescue: robust, standard spectra", start=ROBUST, tied=STANDARD),
    "dose-minus-1": _spectra("dose −1", share=-1.0),
    "dose-minus-half": _spectra("dose −½", share=-0.5),
    "dose-half": _spectra("dose ½", share=0.5),
    "smooth": _spectra("Smooth: robust feature changes", "smooth"),
    "smooth-adv": _spectra("Smooth-adv: the same, adversarial", "smooth-adv"),
    "temperature": _spectra("Temperature: robust median |m|", "temperature", trains=False),
    "other": _spectra("Other: another seed’s spectra", tied=OTHER),
}


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One arm. Only fields that are not at their default enter the id, as with `Recipe`.

    It stands where a recipe does: what a recipe says of data, strength and seed is its start's.
    """

    arm: Annotated[str, Choice(KINDS)]
    """Which arm it is, of `KINDS`."""
    start: Recipe
    """The network it begins with."""
    tied: Recipe | None = None
    """The network whose spectra, feature changes or margins it is to have."""
    epochs: Annotated[int, COUNT] = 2
    """Passes over the training images."""
    lr: Annotated[float, POSITIVE] = 0.01
    """The first learning rate; it falls linearly to 0."""
    batch_size: Annotated[int, COUNT] = 64
    every: Annotated[int, COUNT] = 40
    """Steps between two projections onto the wanted spectra."""
    radius: Annotated[float, Range(0, 1, above=True, note="in [0, 1] pixel units")] = 4 / 255
    """smooth, smooth-adv: of the feature changes."""
    images: Annotated[int, Range(2)] = 1000
    """smooth, smooth-adv: test images on which feature changes are compared."""

    def __post_init__(self):
        check_all(self)
        self._refuse_odd_networks()

    def _refuse_odd_networks(self) -> None:
        kind = self.kind
        if bool(kind.tied) != (self.tied is not None):
            wanted = (
                f"needs a network that it is tied to ({kind.tied})" if kind.tied else "has none"
            )
            raise InputError(f"The arm {self.arm} {wanted}.", field="tied")
        pairs = [("start", kind.start, self.start)]
        pairs += [("tied", kind.tied, self.tied)] if self.tied else []
        for name, role, recipe in pairs:
            if (role == ROBUST) != bool(recipe.eps):
                raise InputError(
                    f"{name} of the arm {self.arm} is of AR strength {recipe.strength:g}; a "
                    f"{role} network is needed.",
                    field=name,
                )
        same = ("dataset", "model", "width")
        if self.tied and any(getattr(self.tied, n) != getattr(self.start, n) for n in same):
            raise InputError(
                f"The arm {self.arm} starts from {self.start.id} and is tied to {self.tied.id}, "
                "networks of another data set or shape. Both must be of one kind.",
                field="tied",
            )

    kind = property(lambda self: KINDS[self.arm])
    helper = ""  # takes no labels from another network
    dataset = property(lambda self: self.start.dataset)
    model = property(lambda self: self.start.model)
    width = property(lambda self: self.start.width)
    train_images = property(lambda self: self.start.train_images)
    eps = property(lambda self: self.start.eps)
    strength = property(lambda self: self.start.strength)
    seed = property(lambda self: self.start.seed)

    @property
    def sources(self) -> tuple[Recipe, ...]:
        """The runs whose weights it needs."""
        return (self.start,) if self.tied is None else (self.start, self.tied)

    @property
    def id(self) -> str:
        """Readable slug and 8 hexadecimal digits of the SHA-256 of the non-default fields."""
        canonical = json.dumps(
            self.to_dict(), sort_keys=True, separators=(",", ":"), allow_nan=False
        )
        digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
        return f"{self.dataset}-{self.model}-{self.arm}-s{self.seed}-{digest}"

    def to_dict(self) -> dict:
        """Every field that is not at its default; recipes as theirs."""
        values = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.default is MISSING or getattr(self, f.name) != f.default
        }
        return {k: v.to_dict() if isinstance(v, Recipe) else v for k, v in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping) -> "Arm":
        """The arm that `to_dict` described; `InputError` names an unknown or missing field."""
        for name in values:
            one_of("field of an arm", name, _DESCRIBED)
        if missing := {"arm", "start"} - values.keys():
            raise InputError(f"an arm needs {' and '.join(sorted(missing))}.")
        of = {
            name: Recipe.from_dict(value) if name in ("start", "tied") else value
            for name, value in values.items()
        }
        return cls(**of)


_DESCRIBED = tuple(field.name for field in fields(Arm))


def described(values: Mapping) -> Recipe | Arm:
    """What a record or a weights file says its run was: a recipe's training, or an arm."""
    return Arm.from_dict(values) if "arm" in values else Recipe.from_dict(values)
