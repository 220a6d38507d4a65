"""Measuring one trained network: which parts there are, in which order, and what is already there."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from arlib import data, engine, files, training
from arlib.measure import quantities as q
from arlib.measure.job import COLUMNS, Found, Job
from arlib.measure.parts import Parts
from arlib.measure.settings import Settings


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
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Measure the checkpoints of a finished training.

    The last one in full; the validation-best one by its outputs and attacks; of a standard training
    (eps = 0) also each epoch-N.safetensors by what the matched-fit control needs.

    Args:
        run_folder: holds last.safetensors, best.safetensors, epoch-N.safetensors.
        settings: by default `Settings()`.
        part_folder: where finished parts are kept; a measurement interrupted there goes on. A part of
            other weights, settings or recipe is measured again; a damaged one too, and the log names it.

    Returns: rows (checkpoint, split, statistic, layer, setting, n, value), with `rows.attrs["seconds"]`
    (checkpoint/part → seconds) and `rows.attrs["warnings"]` (list of "checkpoint/part: message");
    and arrays of the last checkpoint: quantiles|operator|layer, margin|train, margin|test,
    correct|test, max_softmax|test, robust|test (under APGD-CE + T), instance_margin|test, normaliser.

    The same weights give the same numbers on the same machine with the same number of threads.
    Raises `InputError` for a missing data set or device, `RecordError` for missing or damaged weights.
    """
    settings, run_folder = settings or Settings(), Path(run_folder)
    dataset = data.load(recipe.dataset, data_root, device=device)
    checkpoints = {which: files.sha256(_weights(run_folder, which)) for which in _checkpoints(run_folder, recipe)}
    total = sum(len(plan(which, recipe, settings)) for which in checkpoints)
    done: dict[str, Found] = {}
    with tqdm(total=total, disable=not progress, desc=recipe.id) as bar:
        for which, weights in checkpoints.items():
            parts = Parts(part_folder and Path(part_folder) / which, weights, recipe)
            same = which == "best" and weights == checkpoints["last"]  # the very file: not measured twice
            model = training.load_model(run_folder, which, engine.device(device))
            job = Job(model, dataset, training.trained_split(recipe, dataset), recipe, settings)
            for part in plan(which, recipe, settings):
                bar.set_postfix_str(f"{which} {part.name}")
                known = done.get(f"last/{part.name}") if same and part.name != "strong" else None
                done[f"{which}/{part.name}"] = known or _part(job, parts, part)
                bar.update()
    return _rows(done), {
        key: value for name, f in done.items() if name[:5] == "last/" for key, value in f.arrays.items()
    }


def plan(which: str, recipe: training.Recipe, settings: Settings) -> list[Part]:
    """The parts of a checkpoint in order: later ones may use arrays of earlier ones."""
    uses = partial(_uses, settings)
    first = Part("outputs", q.outputs, uses())
    robust = Part("robust", q.robust_errors, uses("robust_radius", "robust_images"))
    if which.startswith("epoch-"):
        return [Part("along", q.along, uses("feature_radius", "along_images", *FLIPS, "flip_images_main"))]
    if which == "best":
        strong = [_strong(settings, settings.strong_images_best)] if settings.strong_images_best else []
        return [first, robust, *strong]
    images = settings.strong(recipe.seed)
    instance = uses("robust_radius", "instance_images", "instance_steps") | {"strong": images}
    crossed = settings.cross_images and recipe.seed == 0 and recipe.strength in settings.cross_strengths
    cross = [Part("cross", q.cross_checks, uses("robust_radius", "cross_images") | {"strong": images})]
    return [
        first,
        Part("spectra", q.spectra_of_layers, uses("bn_images", "zeros")),
        Part("features", q.feature_changes, uses("feature_radius", "feature_images")),
        Part("adversarial", q.adversarial_changes, uses("feature_radius", "feature_images", "adversarial_images")),
        Part("jacobian", q.jacobians, uses("feature_images", "jacobian_images")),
        robust,
        *(_flips(settings, strength) for strength in settings.flip_radii),
        _strong(settings, images),
        Part("instance", q.instance_margins, instance),
        *(cross if crossed else []),
    ]


FLIPS = ("flip_main", "flip_draws")


def _flips(settings: Settings, strength: float) -> Part:
    images = "flip_images_main" if strength == settings.flip_main else "flip_images"
    return Part(
        settings.name("flips", strength),
        partial(q.flips, strength=strength),
        _uses(settings, "flip_draws", images) | {"radius": strength},
    )


def _strong(settings: Settings, images: int) -> Part:
    uses = _uses(settings, "robust_radius") | {"images": images}
    return Part("strong", partial(q.strong_error, images=images), uses)


def _uses(settings: Settings, *names: str) -> dict:
    """The settings that decide a part's numbers: those every part has, and the ones named."""
    return {name: settings.to_dict()[name] for name in ("seed", "batch_size", "radius_scale", *names)}


def _checkpoints(run_folder: Path, recipe: training.Recipe) -> list[str]:
    kept = run_folder.glob("epoch-*.safetensors") if recipe.eps == 0 else ()
    return ["last", "best", *sorted((path.stem for path in kept), key=lambda name: int(name.removeprefix("epoch-")))]


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
