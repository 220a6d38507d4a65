"""Reading `studies/NAME.yml` strictly:
every mistake is one message with file, line, key and what is allowed.
"""

import dataclasses
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from arlib.errors import InputError, shown
from arlib.fields import SEED, Range
from arlib.measure import Settings
from arlib.studies import arms, fronts, spread
from arlib.studies.document import Document, words_of
from arlib.training import Arm, Recipe, passes

KEYS = (
    "title",
    "purpose",
    "toy",
    "cost",
    "protocol",
    "recipe",
    "grid",
    "controls",
    "fronts",
    "spread",
    "extra",
    "keep_epochs",
    "weights",
    "measure",
    "claims",
)
REQUIRED = ("title", "purpose", "cost", "recipe", "grid")
CLAIMS = ("effect", "feature", "flip_pgd", "flip_sign")
PROTOCOLS = (1, 2)
CONTROL = "control-"  # and its number of epochs: the variant of a control
# A study file speaks of strengths (255·eps), so these fields of a recipe are set through others.
_HIDDEN = ("eps", "step_size", "seed")
RECIPE_KEYS = (
    *(f.name for f in dataclasses.fields(Recipe) if f.name not in _HIDDEN),
    "step",
    "step_ratio",
)
STRENGTH = Range(0, 255, below=True, note="an AR strength, 255·ε")
RADIUS = Range(0, 255, above=True, note="an AR strength, 255·ε")
RUNS = 10_000  # of one study
_SLUG = re.compile(r"[a-z0-9][a-z0-9-]*")
# Of a study: the name of its folders of runs and records, so it must not lead out of them.
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,98}[A-Za-z0-9_-])?")


@dataclass(frozen=True)
class Entry:
    """One run of a study. variant is empty for the runs of the grid, a short slug for extra ones.

    A control is a standard training of the same seed, to the end of a shorter schedule; it is
    measured only in what it is compared in, and so are all runs of a study of fronts or of a
    spread. front: the point of a front that the run is one of; spread: whether it is one of a
    spread.
    """

    recipe: Recipe | Arm
    variant: str = ""
    front: fronts.Point | None = None
    spread: bool = False

    @property
    def control(self) -> bool:
        return self.variant.startswith(CONTROL)

    @property
    def arm(self) -> bool:
        """Whether it starts from another study's run; then its variant is the arm's name."""
        return isinstance(self.recipe, Arm)

    @property
    def slim(self) -> bool:
        """Whether its record has no arrays, and only the numbers it is compared in."""
        return self.control or self.arm or self.spread or self.front is not None

    @property
    def run(self) -> str:
        return self.recipe.id


@dataclass(frozen=True)
class StudyFile:
    """What a study file says, checked and expanded;
    entries in the order in which they should run.
    """

    path: Path
    name: str
    title: str
    purpose: str
    cost: str
    toy: bool
    protocol: int
    entries: tuple[Entry, ...]
    keep_epochs: tuple[int, ...]
    weights: frozenset[str]
    """Runs whose weights are published."""
    settings: Settings
    claims: dict[str, float]
    source: "StudyFile | None" = None
    """The study whose networks the arms of this one start from."""


def is_name(name: str) -> bool:
    """Whether a study can have this name."""
    return _NAME.fullmatch(name) is not None


def parse(path: str | Path, folders: Iterable[Path] = ()) -> StudyFile:
    """Read and check a study file.

    folders: where the study that its arms start from is looked for, after the file's own folder.

    Raises `InputError` naming file, line, key, value and what is allowed: a name that no folder
    should have, unknown or missing keys, wrong types, strengths outside 0 ≤ strength < 255, seeds
    that are no whole numbers, a run listed twice, more than 10,000 runs, an unknown protocol or
    keys of another one, controls that are not shorter or whose seed the grid lacks, fronts of fewer
    than three points, a spread of one value, a helper that is no standard run of the study.
    """
    if not is_name(name := Path(path).stem):
        raise InputError(
            f"the study file {shown(str(path))} would name its study {shown(name)}; allowed: up to "
            "100 letters, digits, dashes, underscores and dots, of which the first is a letter or "
            "a digit and the last no dot. Rename it.",
            field="study",
        )
    document = Document(Path(path))
    # a file that is no mapping is refused below
    if isinstance(document.content, dict) and arms.KEY in document.content:
        return _of_arms(document, Path(path), [Path(path).parent, *folders])
    top = document.mapping((), KEYS, REQUIRED)
    texts = {key: document.typed((key,), str) for key in ("title", "purpose", "cost")}
    toy = document.typed(("toy",), bool) if "toy" in top else False
    protocol = _protocol(document)
    entries = _entries(document)
    return StudyFile(
        Path(path), name, **texts, toy=toy, protocol=protocol, entries=entries,
        keep_epochs=_keep_epochs(document, max(entry.recipe.epochs for entry in entries)),
        weights=_weights(document, entries),
        settings=_settings(document), claims=_claims(document),
    )  # fmt: skip


def _of_arms(document: Document, path: Path, folders: list[Path]) -> StudyFile:
    """A study whose runs start from those of another one; data and claims are that one's."""
    top = document.mapping((), arms.KEYS, arms.REQUIRED)
    texts = {key: document.typed((key,), str) for key in ("title", "purpose", "cost")}
    if _protocol(document) != 2:
        raise document.error((arms.KEY,), "are of protocol 2; write `protocol: 2` above them")
    settings = _settings(document)
    source = parse(arms.source_path(document, folders), folders)
    if source.source is not None:
        place = (arms.KEY, "of")
        raise document.error(place, f"is {source.name}, itself a study of arms; name a study of "
                                    "trainings")  # fmt: skip
    if not source.claims:
        raise document.error((arms.KEY, "of"), f"is {source.name}, which says no claims: strength")
    trained = {
        (entry.recipe.strength, entry.recipe.seed): entry.recipe
        for entry in source.entries
        if not entry.variant
    }
    listed = arms.listed(document, trained, source.claims["effect"], settings)
    return StudyFile(
        path, path.stem, **texts, toy=source.toy or bool(top.get("toy")), protocol=2,
        entries=tuple(Entry(arm, arm.arm) for arm in listed), keep_epochs=(),
        weights=frozenset(), settings=settings, claims=source.claims, source=source,
    )  # fmt: skip


def _protocol(document: Document) -> int:
    """The rules that decide the study's claims, 1 or 2;
    a file without the key is of before there were two.
    """
    if "protocol" not in document.content:
        protocol = 1
    else:
        protocol = document.get(("protocol",))
        if isinstance(protocol, bool) or protocol not in PROTOCOLS:
            allowed = " or ".join(map(str, PROTOCOLS))
            raise document.error(
                ("protocol",),
                f"is {shown(protocol)}; it must be one of them, {allowed}, for the whole study",
            )
    for key in ("controls", "fronts", "spread"):
        if protocol == 1 and key in document.content:
            raise document.error(
                (key,), "are of protocol 2, and this study is of protocol 1; do not mix them"
            )
    return protocol


def _entries(document: Document) -> tuple[Entry, ...]:
    """The grid with its controls, seed by seed so that whole seeds complete first,
    then the extra runs.
    """
    shared = document.mapping(("recipe",), RECIPE_KEYS, ("dataset",))
    # its mistakes are the recipe's, not the grid's
    whole = _recipe(document, ("recipe",), shared, strength=8, seed=0)
    document.mapping(("grid",), ("strength", "seed"), ("strength", "seed"))
    strengths = document.numbers(("grid", "strength"), float, STRENGTH)
    seeds = document.numbers(("grid", "seed"), int, SEED)
    shorter, controlled = _controls(document, whole.epochs, strengths, seeds)
    others = fronts.planned(document, STRENGTH)
    varied = spread.combinations(document)
    extra = document.typed(("extra",), list) if "extra" in document.content else []
    runs = len(seeds) * (len(strengths) * (1 + len(varied)) + len(others))
    runs += len(shorter) * len(controlled) + len(extra)
    if runs > RUNS:
        raise document.error(("grid",), f"has {runs:,} runs; allowed: {RUNS:,}, with all else")
    listed: list[tuple[Entry, tuple]] = []
    with_controls = set(controlled)
    for seed in seeds:
        for strength in strengths:
            recipe = _recipe(document, ("grid",), shared, strength=strength, seed=seed)
            own = fronts.Point(fronts.GRID, strength) if others else None
            listed.append((Entry(recipe, front=own, spread=bool(varied)), ("grid",)))
        for number, changed in enumerate(varied, start=1):
            for strength in strengths:
                values = shared | changed
                recipe = _recipe(document, ("spread",), values, strength=strength, seed=seed)
                entry = Entry(recipe, f"{spread.SPREAD}{number}", spread=True)
                listed.append((entry, ("spread",)))
        for epochs in shorter if seed in with_controls else ():
            recipe = _recipe(
                document, ("controls",), shared | {"epochs": epochs}, strength=0, seed=seed
            )
            listed.append((Entry(recipe, f"{CONTROL}{epochs}"), ("controls",)))
        listed += [(_front(document, one, shared, seed), one.place) for one in others]
    listed += [(_extra(document, ("extra", i), shared), ("extra", i)) for i in range(len(extra))]
    seen: dict[str, tuple] = {}
    for entry, place in listed:
        if entry.run in seen:
            raise document.error(
                place, f"lists the run {entry.run} twice, here and as {words_of(seen[entry.run])}"
            )
        seen[entry.run] = place
    _refuse_strange_helpers(document, listed)
    return tuple(entry for entry, _ in listed)


def _front(document: Document, one: fronts.Planned, shared: dict, seed: int) -> Entry:
    """The run of one point of a front and one seed."""
    own = {key: value for key, value in shared.items() if key not in one.without} | one.fields
    if {"step", "step_ratio"} & set(one.fields):
        replaced = {"step", "step_ratio"} - set(one.fields)
        own = {key: value for key, value in own.items() if key not in replaced}
    if own.get("objective") == "hat":  # the standard network of the same seed
        own["helper"] = _recipe(document, ("grid",), shared, strength=0, seed=seed).id
    recipe = _recipe(document, one.place[:2], own, strength=one.strength, seed=seed)
    if one.point.budget == fronts.PASSES:
        like = _recipe(document, ("grid",), shared, strength=one.strength, seed=seed)
        own["epochs"] = passes.equal_epochs(recipe, like)
        recipe = _recipe(document, one.place[:2], own, strength=one.strength, seed=seed)
    return Entry(recipe, one.point.variant, one.point)


def _refuse_strange_helpers(document: Document, listed: list[tuple[Entry, tuple]]) -> None:
    """A run's helper must be a standard run of the same study: its weights are looked for there."""
    standard = {entry.run for entry, _ in listed if not entry.recipe.eps}
    for entry, place in listed:
        if entry.recipe.helper and entry.recipe.helper not in standard:
            raise document.error(
                place,
                f"has the helper {entry.recipe.helper}, no run of strength 0 of this study; it has "
                f"{', '.join(sorted(standard)[:5]) or 'none'}",
            )


def _controls(
    document: Document, epochs: int, strengths: list, seeds: list
) -> tuple[list[int], list[int]]:
    """Epochs of the controls and the seeds that have them: a list of epochs, or epochs and seed."""
    if "controls" not in document.content:
        return [], []
    place, controlled = ("controls",), seeds
    if isinstance(document.get(place), dict):
        document.mapping(place, ("epochs", "seed"), ("epochs",))
        if "seed" in document.get(place):
            controlled = document.numbers((*place, "seed"), int, SEED)
        place = (*place, "epochs")
    if unknown := sorted(set(controlled) - set(seeds)):
        raise document.error(
            ("controls", "seed"),
            f"has {unknown[0]}, a seed that the grid lacks; it has {_listed(seeds)}",
        )
    if 0 not in strengths:
        raise document.error(
            ("controls",), "need the strength 0 in the grid: they are compared with those runs"
        )
    return sorted(document.numbers(place, int, Range(1, epochs, below=True))), controlled


def _weights(document: Document, entries: tuple[Entry, ...]) -> frozenset[str]:
    """Runs that publish weights: those of the given strengths and seeds,
    else all of the grid's first seed.
    """
    grid = [entry for entry in entries if not entry.variant]
    first = document.get(("grid", "seed"))[0]
    if "weights" not in document.content:
        return frozenset(
            entry.run
            for entry in entries
            if entry.recipe.seed == 0 and not (entry.variant and entry.slim) and not entry.spread
        )
    document.mapping(("weights",), ("strength", "seed"), ("strength",))
    strengths = document.numbers(("weights", "strength"), float, STRENGTH)
    seeds = [first]
    if "seed" in document.get(("weights",)):
        seeds = document.numbers(("weights", "seed"), int, SEED)
    for name, values in (("strength", strengths), ("seed", seeds)):
        grid_has = document.get(("grid", name))
        known = set(grid_has)
        for index, value in enumerate(values):
            if value not in known:
                raise document.error(
                    ("weights", name, index),
                    f"is {value:g}, which the grid lacks; it has {_listed(grid_has)}",
                )
    chosen = {(strength, seed) for strength in strengths for seed in seeds}
    return frozenset(
        entry.run for entry in grid if (entry.recipe.strength, entry.recipe.seed) in chosen
    )


def _extra(document: Document, place: tuple, shared: dict) -> Entry:
    required = ("strength", "seed", "variant")
    values = document.mapping(place, (*required, *RECIPE_KEYS), required)
    strength = document.number((*place, "strength"), float, STRENGTH)
    seed = document.number((*place, "seed"), int, SEED)
    variant = values["variant"]
    if not isinstance(variant, str) or not _SLUG.fullmatch(variant):
        raise document.error(
            (*place, "variant"), f"is {shown(variant)}; allowed: small letters, digits and dashes"
        )
    names = ((CONTROL, "controls"), (fronts.FRONT, "fronts"), (spread.SPREAD, "spread"))
    for prefix, key in names:
        if variant.startswith(prefix):
            raise document.error(
                (*place, "variant"),
                f"is {shown(variant)}; names with {prefix!r} are for those of `{key}:`",
            )
    changed = {key: value for key, value in values.items() if key in RECIPE_KEYS}
    if {"step", "step_ratio"} & set(changed):  # one way of giving the step replaces the other
        shared = {key: value for key, value in shared.items() if key not in ("step", "step_ratio")}
    return Entry(_recipe(document, place, shared | changed, strength=strength, seed=seed), variant)


def _recipe(
    document: Document, place: tuple, values: dict, *, strength: float, seed: int
) -> Recipe:
    fields = {key: value for key, value in values.items() if key not in ("step", "step_ratio")}
    for key in ("step", "step_ratio"):
        if key in document.get(place):
            document.number((*place, key), float, RADIUS)
    if "step" in values and "step_ratio" in values:
        raise document.error((*place, "step"), "and step_ratio are both given; keep one")
    if "step" in values and strength:
        fields["step_size"] = values["step"] / 255
    if "step_ratio" in values and strength:
        fields["step_size"] = values["step_ratio"] * strength / 255
    try:
        return Recipe.from_dict(fields | {"eps": strength / 255, "seed": seed})
    except InputError as error:
        where = (*place, error.field) if error.field in values else place
        raise document.error(where, f"cannot be: {str(error).rstrip('.')}") from None


def _keep_epochs(document: Document, epochs: int) -> tuple[int, ...]:
    if "keep_epochs" not in document.content:
        return ()
    return tuple(sorted(document.numbers(("keep_epochs",), int, Range(1, epochs, below=True))))


def _settings(document: Document) -> Settings:
    names = [field.name for field in dataclasses.fields(Settings)]
    values = document.mapping(("measure",), names) if "measure" in document.content else {}
    if "fronts" in document.content and not values.get("knob_images"):
        raise document.error(
            ("measure",) if "measure" in document.content else (),
            "lacks knob_images, on which the knobs of the fronts are chosen; give at least 1",
        )
    try:
        return Settings.from_dict(values)
    except InputError as error:
        place = ("measure", error.field) if error.field in values else ("measure",)
        raise document.error(place, f"cannot be: {str(error).rstrip('.')}") from None


def _claims(document: Document) -> dict[str, float]:
    """The strengths and radii that the claims compare at;
    `effect` must be trained, and so must 0.
    """
    if "claims" not in document.content:
        return {}
    values = document.mapping(("claims",), CLAIMS, CLAIMS)
    strengths = document.get(("grid", "strength"))
    for key in CLAIMS:
        document.number(("claims", key), float, RADIUS)
    if values["effect"] not in strengths or 0 not in strengths:
        allowed = _listed([strength for strength in strengths if strength])
        message = (
            f"is {values['effect']!r}; it must be a strength of the grid ({allowed}), and so must 0"
        )
        raise document.error(("claims", "effect"), message)
    return values


def _listed(numbers: list) -> str:
    """Numbers in words, of a long list the first ones."""
    first = ", ".join(f"{number:g}" for number in numbers[:20])
    return first if len(numbers) <= 20 else f"{first}, … ({len(numbers)} in all)"
