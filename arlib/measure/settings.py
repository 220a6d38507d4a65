"""How a network is measured: every number of images and every radius,
checked before work starts.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Annotated

from arlib.errors import InputError, one_of
from arlib.fields import COUNT, FROM_0, POSITIVE, SEED, Range, check_all

REPEATS = Range(1, 10_000)  # of the same on one image
RADIUS = Range(0, above=True, note="an AR strength, 255·ε")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of one measurement;
    the defaults suit one CPU core and CIFAR-10 (minutes a network).

    Radii are AR strengths (255·ε) and are multiplied by `radius_scale`. A number of images means
    the first so many, at most all there are; None is all.
    """

    seed: Annotated[int, SEED] = 0
    """Of every random start, direction and probe;
    the same for every network, so that they are paired.
    """
    batch_size: Annotated[int, COUNT] = 250
    radius_scale: Annotated[float, POSITIVE] = 1.0
    """Multiplies every radius below; 4 on the digits, where ±4/255 moves nothing."""
    feature_radius: Annotated[float, RADIUS] = 4.0
    """Of feature changes, random and adversarial."""
    feature_images: Annotated[int | None, Range(2)] = None
    """Test images for random feature changes and for the normaliser of all feature changes."""
    adversarial_images: Annotated[int, COUNT] = 256
    """Test images for adversarial feature changes."""
    jacobian_images: Annotated[int, COUNT] = 32
    flip_radii: Annotated[tuple[float, ...], RADIUS] = (1.0, 2.0, 4.0, 8.0, 16.0)
    flip_main: Annotated[float, RADIUS] = 4.0
    """The radius (one of flip_radii) with more images,
    at which ε = 0 is also measured along training.
    """
    flip_images_main: Annotated[int, COUNT] = 1000
    flip_images: Annotated[int, COUNT] = 500
    flip_draws: Annotated[int, REPEATS] = 10
    """Random directions per image, for each of uniform and sign."""
    robust_radius: Annotated[float, RADIUS] = 8.0
    """The one radius at which every network is attacked by PGD-10 and APGD-CE + targeted APGD."""
    robust_images: Annotated[int, COUNT] = 1000
    """Test images, and as many training images, for PGD-10."""
    strong_images: Annotated[int, COUNT] = 300
    """Test images for APGD-CE + targeted APGD."""
    strong_images_seed0: Annotated[int | None, COUNT] = None
    """The same for the networks of seed 0; None is strong_images."""
    strong_images_best: Annotated[int, FROM_0] = 0
    """The same for validation-best weights; 0 leaves them out."""
    cross_images: Annotated[int, FROM_0] = 0
    """Test images on which two more attacks, PGD-50 with 10 restarts and Square,
    check the strong one; 0: none.
    """
    cross_strengths: Annotated[tuple[float, ...], FROM_0] = (4.0, 8.0)
    """AR strengths whose network of seed 0 is checked so."""
    instance_images: Annotated[int, COUNT] = 200
    """Test images with instance margins."""
    instance_steps: Annotated[int, REPEATS] = 20
    """Steps of Auto-PGD at each of the 8 halvings of the radius."""
    accept_images: Annotated[int, FROM_0] = 0
    """Test images on which instance margins are compared with the strong attack
    at accept_radii too; 0: none.
    """
    accept_radii: Annotated[tuple[float, ...], RADIUS] = (1.0, 2.0, 4.0)
    bound_images: Annotated[int, FROM_0] = 0
    """Training images, equally many of each class,
    with instance margins for q(v); 0 leaves them out.
    """
    along_images: Annotated[int | None, Range(2)] = 2000
    """Test images for random feature changes along the training of ε = 0."""
    knob_images: Annotated[int, FROM_0] = 0
    """Validation images for PGD-20, by which the knob of a front is chosen; 0: none."""
    bn_images: Annotated[int, COUNT] = 2000
    """Training images on which batch-norm statistics are re-estimated for one
    of the folded spectra.
    """
    zeros: bool = False
    """Also measure spectra with the padding the layers have (slow for large maps)."""

    def __post_init__(self):
        check_all(self)
        radii = [
            (name, getattr(self, name)) for name in ("feature_radius", "robust_radius", "flip_main")
        ]
        radii += [
            (name, value)
            for name in ("flip_radii", "accept_radii")
            for value in getattr(self, name)
        ]
        for name, value in radii:
            if not 0 < value * self.radius_scale <= 255:
                raise InputError(
                    f"{name} × radius_scale is {value * self.radius_scale:g}; allowed: above 0, "
                    "up to 255.",
                    field=name,
                )
        if self.flip_main not in self.flip_radii or len(set(self.flip_radii)) < len(
            self.flip_radii
        ):
            raise InputError(
                f"flip_radii is {list(self.flip_radii)}; needed: different radii, with flip_main, "
                f"{self.flip_main:g}.",
                field="flip_radii",
            )
        if self.robust_radius in self.accept_radii or len(set(self.accept_radii)) < len(
            self.accept_radii
        ):
            raise InputError(
                f"accept_radii is {list(self.accept_radii)}; needed: different radii other than "
                f"robust_radius, {self.robust_radius:g}, at which the strong attack is run anyway.",
                field="accept_radii",
            )
        if self.accept_images > self.instance_images:
            raise InputError(
                f"accept_images is {self.accept_images}; allowed: up to instance_images, "
                f"{self.instance_images}.",
                field="accept_images",
            )
        if not self.accept_images and self.instance_images > self.strong_images:
            raise InputError(
                f"instance_images is {self.instance_images}; allowed: up to strong_images, "
                f"{self.strong_images}, since instance margins are checked against the strong "
                "attack on the same images.",
                field="instance_images",
            )
        for name, allowed in (
            ("instance_images", self.strong(0)),
            ("cross_images", self.strong(0)),
        ):
            if getattr(self, name) > allowed and not (
                name == "instance_images" and self.accept_images
            ):
                raise InputError(
                    f"{name} is {getattr(self, name)}; allowed: up to {allowed}, the images that "
                    "the strong attack is run on for seed 0, with which it is compared.",
                    field=name,
                )

    def radius(self, strength: float) -> float:
        """A radius of these settings in [0, 1] pixel units."""
        return strength * self.radius_scale / 255

    def strong(self, seed: int) -> int:
        """Test images for the strong attack on the last weights of a network of this seed."""
        return (
            self.strong_images_seed0
            if seed == 0 and self.strong_images_seed0
            else self.strong_images
        )

    def name(self, kind: str, strength: float) -> str:
        """The `setting` of a row: kind@radius, in AR strength with the scale applied."""
        return f"{kind}@{strength * self.radius_scale:g}"

    def to_dict(self) -> dict:
        """All settings as plain numbers and lists, for a record."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping) -> "Settings":
        """Settings from a mapping as a study file has it;
        `InputError` names an unknown key or a bad value.
        """
        for name in values:
            one_of("measure setting", name, [field.name for field in fields(cls)])
        return cls(**values)
