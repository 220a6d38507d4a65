"""The `arms:` of a study file: runs that start from the networks of another study."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from arlib.errors import InputError, shown
from arlib.fields import SEED, Range
from arlib.measure import Settings
from arlib.studies.document import Document
from arlib.training import Arm, Recipe
from arlib.training.arm import KINDS, OTHER, ROBUST, STANDARD

KEY = "arms"
KEYS = ("title", "purpose", "toy", "cost", "protocol", KEY, "measure")
REQUIRED = ("title", "purpose", "cost", "protocol", KEY)
OPTIONS = ("epochs", "lr", "batch_size", "every")  # fields of `Arm`, one value for all
LEAST_EPOCHS = 2  # of protocol 2
# What the verdict of C8 is computed from; all else is shown beside it.
DECIDING = ("s", "a", "d", "rescue", "smooth", "other", "noise")


def source_path(document: Document, folders: list[Path]) -> Path:
    """The file of the study that the arms start from."""
    document.mapping((KEY,), ("of", "seed", "kinds", *OPTIONS), ("of", "seed", "kinds"))
    of = document.typed((KEY, "of"), str)
    plain = not set(of) & set("/\\\0") and len(of) <= 100
    paths = [folder / f"{of}.yml" for folder in folders] if plain else []
    for path in paths:
        if path.is_file() and path.resolve() != document.path.resolve():
            return path
    known = sorted({path.stem for folder in folders for path in folder.glob("*.yml")})
    known = [name for name in known if name != document.path.stem]
    raise document.error(
        (KEY, "of"),
        f"is {shown(of)}, a study that is not there; allowed: {', '.join(known[:20]) or 'none'}",
    )


def listed(
    document: Document,
    trained: Mapping[tuple[float, int], Recipe],
    effect: float,
    settings: Settings,
) -> list[Arm]:
    """All arms in the order in which they should run: seed by seed those that the verdict needs,
    then seed by seed the others.

    trained: (strength, seed) → the recipe of a run of the source study. The standard networks are
    of strength 0, the robust ones of the strength that the source's effects are of; another
    standard network is that of the next seed in the list.
    """
    seeds = document.numbers((KEY, "seed"), int, SEED)
    kinds = _kinds(document)
    options = {key: value for key, value in document.get((KEY,)).items() if key in OPTIONS}
    if "epochs" in options:
        document.number((KEY, "epochs"), int, Range(LEAST_EPOCHS, note="passes, by protocol 2"))
    for index, seed in enumerate(seeds):
        for strength in (0.0, effect):
            if (strength, seed) not in trained:
                raise document.error(
                    (KEY, "seed", index),
                    f"is {seed}, and the source has no run of strength {strength:g} and this seed",
                )
    arms = []
    for index, seed in enumerate(seeds):
        networks = {
            STANDARD: trained[0.0, seed],
            ROBUST: trained[effect, seed],
            OTHER: trained[0.0, seeds[(index + 1) % len(seeds)]],
        }
        arms += [_arm(document, name, networks, options, settings) for name in kinds]
    return sorted(arms, key=_decides_nothing)  # a stable sort


def _decides_nothing(arm: Arm) -> bool:
    return arm.arm not in DECIDING


def _kinds(document: Document) -> list[str]:
    kinds = document.typed((KEY, "kinds"), list)
    for index, kind in enumerate(kinds):
        if kind not in KINDS:
            raise document.error(
                (KEY, "kinds", index), f"is {shown(kind)}; allowed: {', '.join(KINDS)}"
            )
        if kinds.index(kind) != index:
            raise document.error((KEY, "kinds", index), f"is {kind} for the second time")
    if not kinds:
        raise document.error((KEY, "kinds"), "is an empty list; give at least one arm")
    if "other" in kinds and len(document.get((KEY, "seed"))) < 2:
        raise document.error((KEY, "kinds"), "has other, which needs a second seed")
    return kinds


def _arm(
    document: Document, name: str, networks: dict[str, Recipe], options: dict, settings: Settings
) -> Arm:
    kind = KINDS[name]
    fields = {"arm": name, "start": networks[kind.start], "tied": networks.get(kind.tied)}
    if kind.trains:
        fields |= options
    if kind.smooths:
        fields["radius"] = settings.radius(settings.feature_radius)
        adversarial = kind.imposes == "smooth-adv"
        images = settings.adversarial_images if adversarial else settings.feature_images
        fields["images"] = images or dataclasses.fields(Arm)[-1].default
    try:
        return Arm(**fields)
    except InputError as error:
        place = (KEY, error.field) if error.field in options else (KEY,)
        raise document.error(place, f"cannot be: {str(error).rstrip('.')}") from None
