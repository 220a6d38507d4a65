"""Measuring one trained network: which parts there are, in which order, and what is already there."""

import time
import warnings
from collections.abc import Callable
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

Part = tuple[str, Callable[[Job], Found]]


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

    The last one in full; the validation-best one by its outputs and PGD-10; of a standard training
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
    total = sum(len(plan(which, settings)) for which in checkpoints)
    done: dict[str, Found] = {}
    with tqdm(total=total, disable=not progress, desc=recipe.id) as bar:
        for which, weights in checkpoints.items():
            parts = Parts(part_folder and Path(part_folder) / which, weights, recipe, settings)
            same = which == "best" and weights == checkpoints["last"]  # the very file: not measured twice
            model = training.load_model(run_folder, which, engine.device(device))
            job = Job(model, dataset, training.trained_split(recipe, dataset), recipe, settings)
            for name, compute in plan(which, settings):
                bar.set_postfix_str(f"{which} {name}")
                known = done.get(f"last/{name}") if same else None
                done[f"{which}/{name}"] = known or _part(job, parts, name, compute)
                bar.update()
    return _rows(done), {
        key: value for name, f in done.items() if name[:5] == "last/" for key, value in f.arrays.items()
    }


def plan(which: str, settings: Settings) -> list[Part]:
    """The parts of a checkpoint in order: later ones may use arrays of earlier ones."""
    if which.startswith("epoch-"):
        return [("along", q.along)]
    first, robust = ("outputs", q.outputs), ("robust", q.robust_errors)
    if which == "best":
        return [first, robust]
    radii = [
        (settings.name("flips", strength), partial(q.flips, strength=strength)) for strength in settings.flip_radii
    ]
    features = [("features", q.feature_changes), ("adversarial", q.adversarial_changes), ("jacobian", q.jacobians)]
    return [first, ("spectra", q.spectra_of_layers), *features, robust, *radii,
            ("strong", q.strong_error), ("instance", q.instance_margins)]  # fmt: skip


def _checkpoints(run_folder: Path, recipe: training.Recipe) -> list[str]:
    kept = run_folder.glob("epoch-*.safetensors") if recipe.eps == 0 else ()
    return ["last", "best", *sorted((path.stem for path in kept), key=lambda name: int(name.removeprefix("epoch-")))]


def _weights(run_folder: Path, which: str) -> Path:
    path = run_folder / f"{which}.safetensors"
    if not path.is_file():
        files.read_tensors(path)  # says which file is missing
    return path


def _part(job: Job, parts: Parts, name: str, compute: Callable[[Job], Found]) -> Found:
    """The part from disk, or computed and put there; warnings of the science are kept with it."""
    found = parts.load(name)
    if found is None:
        begun = time.monotonic()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", UserWarning)
            found = compute(job)
        found.warnings += [str(warning.message) for warning in caught]
        found.seconds = round(time.monotonic() - begun, 3)
        parts.save(name, found)
    job.arrays |= found.arrays
    return found


def _rows(done: dict[str, Found]) -> pd.DataFrame:
    rows = [{"checkpoint": name.partition("/")[0]} | row for name, found in done.items() for row in found.rows]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    frame.attrs["seconds"] = {name: found.seconds for name, found in done.items()}
    frame.attrs["warnings"] = [f"{name}: {message}" for name, found in done.items() for message in found.warnings]
    return frame
