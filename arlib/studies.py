"""Studies: named grids of recipes, what is recorded of them, what is missing, and running it.

A study is a file `studies/NAME.yml`. `load(name)` gives its runs and their records as tables;
`study.run()` computes what is missing, shared by as many processes as are started on it.
"""

import json
import logging
import time
from dataclasses import dataclass, field, fields
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from arlib import data, engine, files, launch, records, runner, studyfile, training, workers
from arlib.errors import InputError, RecordError, one_of
from arlib.measure import Settings
from arlib.records import Places, Record
from arlib.studyfile import Entry

log = logging.getLogger(__name__)
KEYS = ["run", "strength", "seed", "variant"]


def names(store: str | Path | None = None) -> list[str]:
    """The names of all studies that can be loaded."""
    return sorted({path.stem for folder in records.places(store).studies for path in folder.glob("*.yml")})


def load(name: str | Path, store: str | Path | None = None) -> "Study":
    """The study `name`, or the one in a given `.yml` file.

    store: where runs are computed and finished (an absolute path); by default `ARLIB_STORE`, else the
    checkout's `runs/`. Study files are looked up in the store, the checkout's `studies/`, the shipped copy.

    Raises `InputError` for an unknown name or a study file with a mistake in it.
    """
    places = records.places(store)
    if str(name).endswith((".yml", ".yaml")):
        found = [Path(name).expanduser().resolve()]
        if not found[0].is_file():
            raise InputError(f"study is {str(name)!r}; there is no such file.")
    else:
        one_of("study", name, names(store))
        found = [folder / f"{name}.yml" for folder in places.studies if (folder / f"{name}.yml").is_file()]
    return Study(studyfile.parse(found[0]), places)


@dataclass(frozen=True)
class Study:
    """A study file and the places where its runs are computed and its records lie."""

    file: studyfile.StudyFile
    places: Places = field(default_factory=records.places)

    name = property(lambda self: self.file.name)
    title = property(lambda self: self.file.title)
    purpose = property(lambda self: self.file.purpose)
    cost = property(lambda self: self.file.cost)
    toy = property(lambda self: self.file.toy)
    path = property(lambda self: self.file.path)
    entries = property(lambda self: self.file.entries)
    recipes = property(lambda self: list(self.file.entries))
    protocol = property(lambda self: self.file.protocol)
    keep_epochs = property(lambda self: self.file.keep_epochs)
    settings = property(lambda self: self.file.settings)
    claims = property(lambda self: self.file.claims)
    folder = property(lambda self: self.places.store / self.name)
    work_folder = property(lambda self: self.folder / ".work")
    claims_folder = property(lambda self: self.folder / ".claims")

    def records(self) -> pd.DataFrame:
        """All measurements of all finished runs: one row a number, with run, strength, seed and variant.

        Empty, with the right columns, if nothing is recorded. Raises `RecordError` naming a damaged file.
        """
        empty = pd.DataFrame(columns=[*KEYS, *records.COLUMNS])
        return self._table(lambda record: record.rows, empty)

    def histories(self) -> pd.DataFrame:
        """One row an epoch of every finished run: losses, errors, learning rate, seconds."""
        return self._table(lambda record: record.history, pd.DataFrame(columns=[*KEYS, "epoch"]))

    def record(self, run: str) -> Record:
        """The record of one finished run: its arrays, weights, provenance."""
        one_of("run", run, [entry.run for entry in self.entries])
        folder = self.finished().get(run)
        if folder is None:
            raise InputError(f"{run} is not measured yet; `arlib study run {self.name}` computes what is missing.")
        return self.read(folder)

    def arrays(self, run: str) -> dict[str, np.ndarray]:
        """Per-image margins and quantiles of spectra of one finished run."""
        return self.record(run).arrays()

    def model(self, run: str, device: str = "cpu") -> nn.Module:
        """The trained network of a run (last checkpoint), in eval mode; records keep that of seed 0 only."""
        found, where = self.record(run), engine.device(device)
        return training.model_from(training.Recipe.from_dict(found.recipe), found.weights(), where, found.folder)

    def missing(self, *, afresh: bool = False) -> list[Entry]:
        """Runs with neither a finished run in the store nor (unless afresh) a published record, in running order."""
        done = self.finished(afresh=afresh)
        return [entry for entry in self.entries if entry.run not in done]

    def is_finished(self, entry: Entry) -> bool:
        """Whether the store holds this run, measured with the study's settings."""
        return self._place_of(entry, afresh=True) is not None

    def finished(self, *, afresh: bool = False) -> dict[str, Path]:
        """Folder of each run that is done; the store comes before published records.

        A run measured with other settings than the study file's now is not done: numbers of different n
        are never mixed. If its weights are in the store only the measuring is done again.
        """
        found = {entry.run: self._place_of(entry, afresh=afresh) for entry in self.entries}
        return {run: folder for run, folder in found.items() if folder is not None}

    def status(self) -> pd.DataFrame:
        """One row a run: its state, epochs done, where it was computed, and how long it trained."""
        return pd.DataFrame([self._status(entry) for entry in self.entries])

    def run(
        self, time_budget: float | None = None, jobs: int = 1, device: str = "auto", *, progress: bool = True,
        wait: bool = True, afresh: bool = False, mix: bool = False, mode: str = "auto", precision: str = "float32",
        strict: bool = False, _compute: runner.Compute = runner.compute,
    ) -> pd.DataFrame:  # fmt: skip
        """Compute what is missing and return the status. Call it again to go on; start it twice to share the work.

        time_budget: seconds after which it stops, at an epoch or a measured part. jobs: worker processes.
        wait: stay until runs of other workers are done, ready to take over; afresh: compute also what is
        published as a record; mix: allow another device or precision than the finished runs'. mode, precision,
        strict: how fast the trainings are, see `engine.settle`; precision "auto" is that of the study's runs so
        far, else what is fastest here (`training.fastest_precision`). Networks are measured in float32.

        Raises `InputError` before any work for a missing device, a mixture, or a budget too small for one
        epoch; `TrainingStopped` at the end if trainings stopped by themselves.
        """
        begun = time.monotonic()
        if jobs < 1 or (time_budget is not None and not time_budget > 0):
            raise InputError(f"jobs is {jobs} and time_budget {time_budget}; both must be above 0.")
        where = engine.device(device)
        precision = self._precision(mode, where, afresh=afresh) if precision == "auto" else precision
        mode, precision = engine.settle(mode, precision, where, strict=strict)
        if not mix:
            runner.refuse_mixture(self, device, precision, afresh=afresh)
        if time_budget is not None:
            runner.refuse_small_budget(self, time_budget, afresh=afresh)
        options = {
            "deadline": None if time_budget is None else begun + time_budget,
            "device": str(where), "wait": wait, "afresh": afresh,
        }  # fmt: skip
        fast = {"mode": mode, "precision": precision}
        try:
            if jobs > 1:
                launch.start_workers(self, jobs, **options | {"device": device} | fast)
            else:
                launch.limit_memory(where)
                compute = partial(_compute, **fast) if _compute is runner.compute else _compute
                runner.work(self, progress=progress, compute=compute, **options)
        except KeyboardInterrupt:
            log.warning("Interrupted; %s", runner.how_to_go_on(self))
            raise
        return self.status()

    def publish(self, to: str | Path | None = None) -> list[str]:
        """Copy the finished runs of the store into `records/` of the checkout (or `to`); returns the new ones.

        Runs listed under `weights:` keep theirs. Raises `InputError` for a study of mixed devices or precisions.
        """
        if to is None and records.checkout() is None:
            raise InputError("publish: there is no checkout to publish into; give the records folder as `to`.")
        target = Path(to) if to is not None else records.checkout() / "records"
        found = self.finished(afresh=True)
        self._refuse_mixed_records(found)
        new = []
        for run, folder in found.items():
            if records.publish(folder, target / self.name / run, weights=run in self.file.weights):
                new.append(run)
            if (size := records.size(target / self.name / run)) > records.LIMIT:
                log.warning("%s: %d bytes; a record should have at most %d", run, size, records.LIMIT)
        return new

    def _precision(self, mode: str, where: torch.device, *, afresh: bool) -> str:
        """The precision of the runs that are there, finished or begun; else the fastest one on this machine."""
        for folder in self.finished(afresh=afresh).values():
            return self.read(folder).provenance["precision"]
        for path in sorted(self.work_folder.glob("*/checkpoint.safetensors")):
            if begun := json.loads(files.read_metadata(path)["arlib"]).get("precision"):
                return begun
        recipe = max((entry.recipe for entry in self.entries), key=lambda recipe: recipe.eps)
        dataset = data.load(recipe.dataset, device=where)
        return training.fastest_precision(recipe, dataset, engine.settle(mode, "float32", where)[0], where)

    @cached_property
    def _cache(self) -> dict[tuple, Record]:
        return {}

    def read(self, folder: Path) -> Record:
        """The record in a folder, read and checked once as long as the file does not change."""
        path = folder / "record.json"
        key = (path, path.stat().st_mtime_ns)
        if key not in self._cache:
            self._cache[key] = records.read(folder)
        return self._cache[key]

    def _place_of(self, entry: Entry, *, afresh: bool = False) -> Path | None:
        places = [self.folder] if afresh else [self.folder, *(folder / self.name for folder in self.places.records)]
        folders = (place / entry.run for place in places)
        return next((f for f in folders if records.is_finished(f) and self._fits(entry, f)), None)

    def _table(self, part, empty: pd.DataFrame) -> pd.DataFrame:
        entries = {entry.run: entry for entry in self.entries}
        tables = []
        for run, folder in self.finished().items():
            table = part(self.read(folder)).copy()
            values = (run, entries[run].recipe.strength, entries[run].recipe.seed, entries[run].variant)
            for place, (key, value) in enumerate(zip(KEYS, values, strict=True)):
                table.insert(place, key, value)
            tables.append(table)
        return pd.concat(tables, ignore_index=True) if tables else empty

    def _fits(self, entry: Entry, folder: Path) -> bool:
        """Whether the record in the folder is of this run and was measured with the study's settings."""
        record = self.read(folder)
        if record.recipe != entry.recipe.to_dict():
            raise RecordError(f"{folder / 'record.json'} is of another recipe than {entry.run}. Delete its folder.")
        unknown = set(record.settings) - {f.name for f in fields(Settings)}
        return not unknown and Settings.from_dict(record.settings) == self.settings

    def _refuse_mixed_records(self, found: dict[str, Path]) -> None:
        kinds = {}
        for run, folder in found.items():
            provenance = self.read(folder).provenance
            kinds.setdefault((provenance.get("device"), provenance.get("precision")), run)
        if len(kinds) > 1:
            raise InputError(
                f"{self.name} is a mixture: " + "; ".join(f"{run} on {d} in {p}" for (d, p), run in kinds.items())
                + ". Publish runs of one device and precision; delete the others from the store."
            )  # fmt: skip

    def _status(self, entry: Entry) -> dict:
        row = {"run": entry.run, "strength": entry.recipe.strength, "seed": entry.recipe.seed, "variant": entry.variant}
        try:
            folder = self._place_of(entry)
        except RecordError as error:
            return row | {"state": "damaged", "epochs": "", "minutes": np.nan, "device": "", "note": str(error)}
        if folder is not None:
            record = self.read(folder)
            state = "finished" if folder.parent == self.folder else "recorded"
            minutes = record.history["seconds"].sum() / 60 if "seconds" in record.history else np.nan
            device = " ".join(str(record.provenance.get(key, "")) for key in ("device", "precision"))
            note = record.provenance.get("collapsed", "")
            epochs = f"{len(record.history)}/{entry.recipe.epochs}"
            return row | {"state": state, "epochs": epochs, "minutes": minutes, "device": device, "note": note}
        return row | self._status_of_unfinished(entry)

    def _status_of_unfinished(self, entry: Entry) -> dict:
        history, claim = runner.progress_of(self, entry.run), self.claims_folder / f"{entry.run}.json"
        done = 0 if history is None else len(history)
        running = claim.exists() and not workers.void(claim)
        holder = workers.read(claim) if running else None
        state = "running" if running else "begun" if history is not None else "missing"
        note = f"process {holder['pid']} on {holder['host'].split()[0]}" if holder else ""
        minutes = history["seconds"].sum() / 60 if done else np.nan
        epochs = f"{done}/{entry.recipe.epochs}"
        return {"state": state, "epochs": epochs, "minutes": minutes, "device": "", "note": note}
