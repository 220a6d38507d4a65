"""Measuring one trained network: which parts there are, in which order,
and what is already there.
"""

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import data, files, training
from arlib.errors import InputError
from arlib.measure import attacked, quantities
from arlib.measure.job import ALWAYS, COLUMNS, Job, Outcome, Reading
from arlib.measure.parts import Parts
from arlib.measure.settings import Settings

log = logging.getLogger(__name__)
INITIAL = "initial"  # the checkpoint before the first epoch


@dataclass(frozen=True)
class Part:
    """One step of measuring a checkpoint, and what decides its numbers."""

    name: str
    compute: Callable[..., Outcome]
    """Declares by `@reads` which settings it reads."""
    given: dict = field(default_factory=dict)
    """What it is called with: a radius, a number of images."""
    rests_on: dict = field(default_factory=dict)
    """Values that decided arrays of earlier parts which this one uses."""

    def uses(self, settings: Settings) -> dict:
        """The values that decide this part's numbers, by name:
        it is measured again when one of them changes.
        """
        values = settings.to_dict()
        always = [name for name in ALWAYS if name in values]
        return (
            {name: values[name] for name in (*always, *self.compute.reads)}
            | self.given
            | self.rests_on
        )

    def measure(self, job: Job) -> Outcome:
        """Compute it; a setting that it reads and has not declared raises `UndeclaredSetting`."""
        whole, job.settings = job.settings, Reading(job.settings, self.name, self.compute.reads)
        try:
            return self.compute(job, **self.given)
        finally:
            job.settings = whole


def measure(
    run_folder: str | Path,
    recipe: training.Recipe | training.Arm,
    settings: Settings | None = None,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    part_folder: str | Path | None = None,
    control: bool = False,
    front: bool = False,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Measure the checkpoints of a finished training.

    The last one in full, of an arm only in what arms are compared in; the validation-best one by
    its outputs and attacks; of a standard training (eps = 0) also each epoch-N.safetensors by what
    the matched-fit control needs, and the network it started from.

    Args:
        run_folder: holds last.safetensors, best.safetensors, epoch-N.safetensors.
        settings: by default `Settings()`.
        part_folder: where finished parts are kept; a measurement interrupted there goes on. A part
            of other weights, settings or recipe is measured again; a damaged one too, and the log
            names it.
        control, front: only the last checkpoint, and only what such a run is compared in.

    Returns: rows (checkpoint, split, statistic, layer, setting, n, value), with
    `rows.attrs["seconds"]` (checkpoint/part → seconds) and `rows.attrs["warnings"]` (list of
    "checkpoint/part: message");
    and arrays of the last checkpoint: quantiles|operator|layer, margin|train, margin|test,
    correct|test, max_softmax|test, robust|test (under APGD-CE + T), instance_margin|test and
    |train, normaliser; of the initialisation quantiles|operator@start|layer.

    The same weights give the same numbers on the same machine with the same number of threads.
    Raises `InputError` for a missing data set or device, `RecordError` for missing or damaged
    weights.
    """
    settings, run_folder = settings or Settings(), Path(run_folder)
    dataset = data.load(recipe.dataset, data_root, device=device)
    if 0 < settings.bound_images < len(dataset.classes):
        raise InputError(
            f"bound_images is {settings.bound_images}; {recipe.dataset} has "
            f"{len(dataset.classes)} classes, and each needs an image: give 0 or at least "
            f"{len(dataset.classes)}."
        )
    slim = control or front
    names = ["last"] if slim else _checkpoints(run_folder, recipe)
    checkpoints = {which: files.sha256(_weights(run_folder, which)) for which in names}
    arm = isinstance(recipe, training.Arm)
    if recipe.eps == 0 and not (slim or arm):  # the networks of a seed all start from this one
        # not a file's hash: it is drawn anew, and another version of torch may draw otherwise
        checkpoints[INITIAL] = f"initialisation by torch {torch.__version__}"
    trained = training.trained_split(recipe, dataset)
    plans = {which: plan(which, recipe, settings, control, front) for which in checkpoints}
    total = sum(map(len, plans.values()))
    done: dict[str, Outcome] = {}
    with tqdm(total=total, disable=not progress, desc=recipe.id) as bar:
        for which, weights in checkpoints.items():
            parts = Parts(part_folder and Path(part_folder) / which, weights, recipe)
            # the very file: not measured twice
            same = which == "best" and weights == checkpoints["last"]
            job = Job(
                _model(run_folder, which, recipe, dataset), dataset, trained, recipe, settings
            )
            for part in plans[which]:
                bar.set_postfix_str(f"{which} {part.name}")
                # not the strong attack: the best weights have images of their own number for it
                known = done.get(f"last/{part.name}") if same and part.name != "strong" else None
                done[f"{which}/{part.name}"] = known or _part(job, parts, part)
                bar.update()
                if not progress:  # a log would be silent for hours
                    log.info("%s: measured %s (%s)", recipe.id, part.name, which)
    kept = [
        outcome for name, outcome in done.items() if name.partition("/")[0] in ("last", INITIAL)
    ]
    return _rows(done), {key: value for outcome in kept for key, value in outcome.arrays.items()}


def plan(
    which: str,
    recipe: training.Recipe | training.Arm,
    settings: Settings,
    control: bool = False,
    front: bool = False,
) -> list[Part]:
    """The parts of a checkpoint in order: later ones may use arrays of earlier ones."""
    outputs = Part("outputs", quantities.outputs)
    robust = Part("robust", attacked.robust_errors)
    start = Part("start", quantities.distances_from_start)
    features = Part("features", quantities.feature_changes)
    jacobian = Part("jacobian", quantities.jacobians)
    flips = Part("flips", attacked.deciding_flips, {"radius": settings.flip_main})
    if isinstance(recipe, training.Arm):
        spectra = Part("spectra", quantities.spectra_as_they_are)
        return [outputs, spectra, features, flips, robust]
    if which == INITIAL:
        return [Part("initialisation", quantities.initialisation)]
    if which.startswith("epoch-"):
        return [Part("along", quantities.along)]
    if which == "best":
        images = settings.strong_images_best
        return [outputs, robust, *([_strong(images)] if images else [])]
    if front:
        images = settings.strong(recipe.seed)
        knob, slopes = Part("knob", attacked.knob_error), Part("slopes", attacked.slopes)
        return [outputs, knob, _strong(images), slopes]
    if control:
        spectra = Part("spectra", quantities.spectra_to_compare)
        return [outputs, start, spectra, features, jacobian, flips]
    return [
        outputs,
        start,
        Part("spectra", quantities.spectra_of_layers),
        features,
        Part("adversarial", quantities.adversarial_changes),
        jacobian,
        robust,
        *(_flips(settings, radius) for radius in settings.flip_radii),
        *_of_boundaries(recipe, settings),
    ]


def _of_boundaries(recipe: training.Recipe, settings: Settings) -> list[Part]:
    """Strong attacks, and distances to the boundary, which are checked against them."""
    images = settings.strong(recipe.seed)
    checked = {"strong": images}
    parts = [_strong(images)]
    if settings.accept_images:
        parts.append(Part("accept", attacked.strong_errors))
        parts.append(Part("instance", attacked.accepted_instance_margins, rests_on=checked))
    else:
        parts.append(Part("instance", attacked.instance_margins, rests_on=checked))
    if settings.bound_images:
        parts.append(Part("bound", attacked.training_margins))
    if settings.cross_images and recipe.seed == 0 and recipe.strength in settings.cross_strengths:
        parts.append(Part("cross", attacked.cross_checks, rests_on=checked))
    return parts


def _flips(settings: Settings, radius: float) -> Part:
    compute = attacked.flips_on_more if radius == settings.flip_main else attacked.flips
    return Part(settings.name("flips", radius), compute, {"radius": radius})


def _strong(images: int) -> Part:
    return Part("strong", attacked.strong_error, {"images": images})


def _checkpoints(run_folder: Path, recipe: training.Recipe | training.Arm) -> list[str]:
    if isinstance(recipe, training.Arm):
        return ["last"]
    kept = run_folder.glob("epoch-*.safetensors") if recipe.eps == 0 else ()
    return [
        "last",
        "best",
        *sorted((path.stem for path in kept), key=lambda name: int(name.removeprefix("epoch-"))),
    ]


def _model(
    run_folder: Path, which: str, recipe: training.Recipe, dataset: data.Dataset
) -> nn.Module:
    where = dataset.test.y.device
    if which == INITIAL:
        return training.initial_model(recipe).to(where).eval()
    return training.load_model(run_folder, which, where)


def _weights(run_folder: Path, which: str) -> Path:
    path = run_folder / f"{which}.safetensors"
    if not path.is_file():
        files.read_tensors(path)  # says which file is missing
    return path


def _part(job: Job, parts: Parts, part: Part) -> Outcome:
    """The part from disk, or computed and put there; warnings of the science are kept with it."""
    uses = part.uses(job.settings)
    outcome = parts.load(part.name, uses)
    if outcome is None:
        begun = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            # whatever filters the caller has: a part's warnings are kept, not raised or dropped
            warnings.simplefilter("always", UserWarning)
            outcome = part.measure(job)
        outcome.warnings += [str(warning.message) for warning in caught]
        outcome.seconds = round(time.monotonic() - begun, 3)
        parts.save(part.name, uses, outcome)
    job.arrays |= outcome.arrays
    return outcome


def _rows(done: dict[str, Outcome]) -> pd.DataFrame:
    rows = [
        {"checkpoint": name.partition("/")[0]} | row
        for name, outcome in done.items()
        for row in outcome.rows
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["seconds"] = {name: outcome.seconds for name, outcome in done.items()}
    frame.attrs["warnings"] = [
        f"{name}: {message}" for name, outcome in done.items() for message in outcome.warnings
    ]
    return frame
