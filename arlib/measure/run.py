"""Measuring one trained network: which parts there are, in which order, and what is already there."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from arlib import data, files, training
from arlib.errors import InputError
from arlib.measure import attacked
from arlib.measure import quantities as q
from arlib.measure.job import COLUMNS, Found, Job
from arlib.measure.parts import Parts
from arlib.measure.settings import Settings

INITIAL = "initial"  # the checkpoint before the first epoch


@dataclass(frozen=True)
class Part:
    """One step of measuring a checkpoint, and the values of the settings it depends on."""

    name: str
    compute: Callable[[Job], Found]
    uses: dict


def measure(
    run_folder: str | Path,
    recipe: training.Recipe,
    settings: Settings | None = None,
    *,
    data_root: str | Path | None = None,
    device: str = "auto",
    progress: bool = True,
    part_folder: str | Path | None = None,
    control: bool = False,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Measure the checkpoints of a finished training.

    The last one in full; the validation-best one by its outputs and attacks; of a standard training
    (eps = 0) also each epoch-N.safetensors by what the matched-fit control needs, and the network it
    started from.

    Args:
        run_folder: holds last.safetensors, best.safetensors, epoch-N.safetensors.
        settings: by default `Settings()`.
        part_folder: where finished parts are kept; a measurement interrupted there goes on. A part of
            other weights, settings or recipe is measured again; a damaged one too, and the log names it.
        control: only the last checkpoint, and only what it is compared in.

    Returns: rows (checkpoint, split, statistic, layer, setting, n, value), with `rows.attrs["seconds"]`
    (checkpoint/part → seconds) and `rows.attrs["warnings"]` (list of "checkpoint/part: message");
    and arrays of the last checkpoint: quantiles|operator|layer, margin|train, margin|test,
    correct|test, max_softmax|test, robust|test (under APGD-CE + T), instance_margin|test and |train, normaliser;
    of the initialisation quantiles|operator@start|layer.

    The same weights give the same numbers on the same machine with the same number of threads.
    Raises `InputError` for a missing data set or device, `RecordError` for missing or damaged weights.
    """
    settings, run_folder = settings or Settings(), Path(run_folder)
    dataset = data.load(recipe.dataset, data_root, device=device)
    if 0 < settings.bound_images < len(dataset.classes):
        raise InputError(
            f"bound_images is {settings.bound_images}; {recipe.dataset} has {len(dataset.classes)} classes, and each "
            f"needs an image: give 0 or at least {len(dataset.classes)}."
        )
    names = ["last"] if control else _checkpoints(run_folder, recipe)
    checkpoints = {which: files.sha256(_weights(run_folder, which)) for which in names}
    if recipe.eps == 0 and not control:  # the networks of a seed all start from this one
        checkpoints[INITIAL] = f"initialisation by torch {torch.__version__}"
    trained = training.trained_split(recipe, dataset)
    total = sum(len(plan(which, recipe, settings, control)) for which in checkpoints)
    done: dict[str, Found] = {}
    with tqdm(total=total, disable=not progress, desc=recipe.id) as bar:
        for which, weights in checkpoints.items():
            parts = Parts(part_folder and Path(part_folder) / which, weights, recipe)
            same = which == "best" and weights == checkpoints["last"]  # the very file: not measured twice
            job = Job(_model(run_folder, which, recipe, dataset), dataset, trained, recipe, settings)
            for part in plan(which, recipe, settings, control):
                bar.set_postfix_str(f"{which} {part.name}")
                known = done.get(f"last/{part.name}") if same and part.name != "strong" else None
                done[f"{which}/{part.name}"] = known or _part(job, parts, part)
                bar.update()
    kept = [found for name, found in done.items() if name.partition("/")[0] in ("last", INITIAL)]
    return _rows(done), {key: value for found in kept for key, value in found.arrays.items()}


def plan(which: str, recipe: training.Recipe, settings: Settings, control: bool = False) -> list[Part]:
    """The parts of a checkpoint in order: later ones may use arrays of earlier ones."""
    uses = partial(_uses, settings)
    first = Part("outputs", q.outputs, uses())
    robust = Part("robust", attacked.robust_errors, uses("robust_radius", "robust_images"))
    features = Part("features", q.feature_changes, uses("feature_radius", "feature_images"))
    jacobian = Part("jacobian", q.jacobians, uses("feature_images", "jacobian_images"))
    start = Part("start", q.distances_from_start, uses())
    if which == INITIAL:
        return [Part("initialisation", q.initialisation, uses("bn_images", "jacobian_images"))]
    if which.startswith("epoch-"):
        return [Part("along", q.along, uses("feature_radius", "along_images", "bn_images", *FLIPS, "flip_images_main"))]
    if which == "best":
        strong = [_strong(settings, settings.strong_images_best)] if settings.strong_images_best else []
        return [first, robust, *strong]
    if control:
        spectra = Part("spectra", q.spectra_to_compare, uses("bn_images"))
        return [first, start, spectra, features, jacobian, _flips(settings, settings.flip_main, only_main=True)]
    return [
        first,
        start,
        Part("spectra", q.spectra_of_layers, uses("bn_images", "zeros")),
        features,
        Part("adversarial", q.adversarial_changes, uses("feature_radius", "feature_images", "adversarial_images")),
        jacobian,
        robust,
        *(_flips(settings, strength) for strength in settings.flip_radii),
        *_of_boundaries(recipe, settings),
    ]


def _of_boundaries(recipe: training.Recipe, settings: Settings) -> list[Part]:
    """Strong attacks, and distances to the boundary, which are checked against them."""
    uses, images = partial(_uses, settings), settings.strong(recipe.seed)
    parts, instance = [_strong(settings, images)], uses("robust_radius", "instance_images", "instance_steps")
    instance |= {"strong": images}
    if settings.accept_images:
        accept = uses("accept_radii", "accept_images")
        parts.append(Part("accept", attacked.strong_errors, accept))
        instance |= accept
    parts.append(Part("instance", attacked.instance_margins, instance))
    if settings.bound_images:
        parts.append(Part("bound", attacked.training_margins, uses("bound_images")))
    if settings.cross_images and recipe.seed == 0 and recipe.strength in settings.cross_strengths:
        crossed = uses("robust_radius", "cross_images") | {"strong": images}
        parts.append(Part("cross", attacked.cross_checks, crossed))
    return parts


FLIPS = ("flip_main", "flip_draws")


def _flips(settings: Settings, strength: float, *, only_main: bool = False) -> Part:
    images = "flip_images_main" if strength == settings.flip_main else "flip_images"
    uses = _uses(settings, "flip_draws", images) | {"radius": strength}
    if only_main:
        return Part("flips", attacked.main_flips, uses)
    return Part(settings.name("flips", strength), partial(attacked.flips, strength=strength), uses)


def _strong(settings: Settings, images: int) -> Part:
    uses = _uses(settings, "robust_radius") | {"images": images}
    return Part("strong", partial(attacked.strong_error, images=images), uses)


def _uses(settings: Settings, *names: str) -> dict:
    """The settings that decide a part's numbers: those every part has, and the ones named."""
    return {name: settings.to_dict()[name] for name in ("seed", "batch_size", "radius_scale", *names)}


def _checkpoints(run_folder: Path, recipe: training.Recipe) -> list[str]:
    kept = run_folder.glob("epoch-*.safetensors") if recipe.eps == 0 else ()
    return ["last", "best", *sorted((path.stem for path in kept), key=lambda name: int(name.removeprefix("epoch-")))]


def _model(run_folder: Path, which: str, recipe: training.Recipe, dataset: data.Dataset) -> nn.Module:
    where = dataset.test.y.device
    if which == INITIAL:
        return training.initial_model(recipe).to(where).eval()
    return training.load_model(run_folder, which, where)


def _weights(run_folder: Path, which: str) -> Path:
    path = run_folder / f"{which}.safetensors"
    if not path.is_file():
        files.read_tensors(path)  # says which file is missing
    return path


def _part(job: Job, parts: Parts, part: Part) -> Found:
    """The part from disk, or computed and put there; warnings of the science are kept with it."""
    found = parts.load(part.name, part.uses)
    if found is None:
        begun = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            found = part.compute(job)
        found.warnings += [str(warning.message) for warning in caught]
        found.seconds = round(time.monotonic() - begun, 3)
        parts.save(part.name, part.uses, found)
    job.arrays |= found.arrays
    return found


def _rows(done: dict[str, Found]) -> pd.DataFrame:
    rows = [{"checkpoint": name.partition("/")[0]} | row for name, found in done.items() for row in found.rows]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["seconds"] = {name: found.seconds for name, found in done.items()}
    frame.attrs["warnings"] = [f"{name}: {message}" for name, found in done.items() for message in found.warnings]
    return frame
