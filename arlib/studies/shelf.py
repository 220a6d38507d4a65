"""What is there of a study: finished runs, records, runs that were begun. Read only."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from operator import is_
from pathlib import Path
from typing import TYPE_CHECKING

from arlib import files, places, records, training
from arlib.errors import InputError, RecordError, one_of
from arlib.measure import Settings
from arlib.places import Places
from arlib.records import Record
from arlib.studies.file import Entry, StudyFile
from arlib.training import Recipe
from arlib.training.store import CHECKPOINT

if TYPE_CHECKING:  # what there is of a study is listed without them
    import numpy as np
    import pandas as pd
    from torch import nn

KEYS = ["run", "strength", "seed", "variant"]


@dataclass(frozen=True)
class Shelf:
    """A study file, and the places where its runs are computed and its records lie."""

    file: StudyFile
    places: Places = field(default_factory=places.places)

    name = property(lambda self: self.file.name)
    title = property(lambda self: self.file.title)
    purpose = property(lambda self: self.file.purpose)
    cost = property(lambda self: self.file.cost)
    toy = property(lambda self: self.file.toy)
    path = property(lambda self: self.file.path)
    entries = property(lambda self: self.file.entries)
    protocol = property(lambda self: self.file.protocol)
    keep_epochs = property(lambda self: self.file.keep_epochs)
    settings = property(lambda self: self.file.settings)
    claims = property(lambda self: self.file.claims)
    folder = property(lambda self: self.places.store / self.name)
    work_folder = property(lambda self: self.folder / ".work")

    @property
    def recipes(self) -> list[Recipe]:
        """What is trained, in running order."""
        return [entry.recipe for entry in self.entries]

    @property
    def has_fronts(self) -> bool:
        """Whether its runs are points of fronts, by which C9 is decided."""
        return any(entry.front is not None for entry in self.entries)

    @cached_property
    def source(self) -> Shelf | None:
        """The study whose networks its arms start from; None for a study of trainings."""
        return None if self.file.source is None else Shelf(self.file.source, self.places)

    @property
    def leases_folder(self) -> Path:
        """Where it stands who works on what.
        A store of an earlier arlib goes on with its old folder.

        Workers of both versions then see each other.
        """
        former = self.folder / ".claims"
        return former if former.is_dir() else self.folder / ".leases"

    def records(self) -> pd.DataFrame:
        """All measurements of all finished runs:
        one row per number, with run, strength, seed and variant.

        Empty, with the right columns, if nothing is recorded. Raises `RecordError` naming a damaged
        file.
        """
        return self._table("rows", _rows_of)

    def histories(self) -> pd.DataFrame:
        """One row per epoch of every finished run: losses, errors, learning rate, seconds."""
        return self._table("histories", _histories_of)

    def record(self, run: str) -> Record:
        """The record of one finished run: its arrays, weights, provenance."""
        if run not in self._by_run:
            one_of("run", run, list(self._by_run))
        folder = self.place_of(self._by_run[run])
        if folder is None:
            raise InputError(
                f"{run} is not measured yet; `arlib study run {self.name}` computes what is "
                "missing."
            )
        return self.read(folder)

    def arrays(self, run: str) -> dict[str, np.ndarray]:
        """Per-image margins and quantiles of spectra of one finished run."""
        return self.record(run).arrays()

    def model(self, run: str, device: str = "cpu") -> nn.Module:
        """The trained network of a run (last checkpoint), in eval mode; an arm's has no batch norm.

        A finished run of the store has its weights; a record has them if the study publishes them.
        """
        from arlib import engine

        record = self.record(run)
        recipe = training.described(record.recipe)
        return training.model_from(recipe, record.weights(), engine.device(device), record.folder)

    def missing(self, *, afresh: bool = False) -> list[Entry]:
        """Runs with neither a finished run
        in the store nor (unless afresh) a published record, in running order.
        """
        return [entry for entry in self.entries if self.place_of(entry, afresh=afresh) is None]

    def lacking(self, entry: Entry) -> list[str]:
        """Runs of the source study that an arm needs and whose weights are not there."""
        if self.source is None:
            return []
        needed = [Entry(recipe) for recipe in entry.recipe.sources]
        return [one.run for one in needed if not self.source.has_weights(one)]

    def has_weights(self, entry: Entry) -> bool:
        """Whether a run is done and its weights are in the store or among the records."""
        folder = self.place_of(entry)
        return folder is not None and records.weights_file(folder) is not None

    def waits_for(self, entry: Entry) -> str:
        """What an arm waits for, and which command gets it; empty if it can be computed."""
        lacking = self.lacking(entry)
        if not lacking:
            return ""
        command = f"arlib study run {self.source.name}"
        if any(self.source.place_of(Entry(r)) for r in entry.recipe.sources if r.id in lacking):
            command += " --afresh --store FOLDER"  # recorded, but without weights
        return f"waits for the weights of {' and '.join(lacking)}; `{command}` computes them"

    def is_finished(self, entry: Entry) -> bool:
        """Whether the store holds this run, measured with the study's settings."""
        return self.place_of(entry, afresh=True) is not None

    def finished(self, *, afresh: bool = False) -> dict[str, Path]:
        """Folder of each run that is done; the store comes before published records.

        A run measured with other settings than the study file's now is not done: numbers of
        different n are never mixed. If its weights are in the store only the measuring is done
        again.
        """
        folders = {entry.run: self.place_of(entry, afresh=afresh) for entry in self.entries}
        return {run: folder for run, folder in folders.items() if folder is not None}

    def place_of(self, entry: Entry, *, afresh: bool = False) -> Path | None:
        """The folder in which a run is done; None if it is missing. afresh:
        look in the store alone.
        """
        published = () if afresh else (folder / self.name for folder in self.places.records)
        for place in (self.folder, *published):
            folder = place / entry.run
            if records.is_finished(folder) and self._fits(entry, folder):
                return folder
        return None

    def helper_of(self, entry: Entry) -> Path | None:
        """The folder of the finished run that labels for this one, with its weights; None where it
        is missing or there is none.
        """
        places = (self.folder, *(folder / self.name for folder in self.places.records))
        runs = (place / entry.recipe.helper for place in places if entry.recipe.helper)
        return next((run for run in runs if _has_weights(run)), None)

    def read(self, folder: Path) -> Record:
        """The record in a folder, read and checked once as long as the file does not change."""
        path = folder / "record.json"
        key = (path, path.stat().st_mtime_ns)
        if key not in self._cache:
            self._cache[key] = records.read(folder)
        return self._cache[key]

    def history_so_far(self, run: str) -> pd.DataFrame | None:
        """History of a run that somebody has begun in this store; None if nobody has."""
        import pandas as pd

        epochs = self._epochs_so_far(run)
        return None if epochs is None else pd.DataFrame(epochs)

    def _epochs_so_far(self, run: str) -> list[dict] | None:
        """The same as plain numbers, one dictionary an epoch."""
        return _epochs_in(self.left_behind(run))

    def left_behind(self, run: str) -> list[Path]:
        """Work folders of a run, the most advanced last."""
        names = [name for name in _names_in(self.work_folder) if name.startswith(f"{run}@")]
        return self._sorted(names).get(run, [])

    def _all_left_behind(self) -> dict[str, list[Path]]:
        """The same of every run that has any, from one look at the work folder."""
        return self._sorted(_names_in(self.work_folder))

    def _sorted(self, names: list[str]) -> dict[str, list[Path]]:
        by_run: dict[str, list[Path]] = {}
        for name in names:
            folder, (run, at, _) = self.work_folder / name, name.rpartition("@")
            # links lead to folders of somebody else, which nobody should move, fill or delete
            if at and folder.is_dir() and not folder.is_symlink():
                by_run.setdefault(run, []).append(folder)
        return {run: sorted(folders, key=_progress) for run, folders in by_run.items()}

    def leased(self) -> set[str]:
        """Runs on which there is a lease, valid or not."""
        names = _names_in(self.leases_folder)
        return {name.removesuffix(".json") for name in names if name.endswith(".json")}

    def status(self) -> pd.DataFrame:
        """One row per run: its state, epochs done, where it was computed,
        and how long it trained.
        """
        import pandas as pd

        return pd.DataFrame(self.states())

    def states(self) -> list[dict]:
        """The rows of `status`, without pandas."""
        begun, leased = self._all_left_behind(), self.leased()
        return [self._status(entry, begun, leased) for entry in self.entries]

    @cached_property
    def _by_run(self) -> dict[str, Entry]:
        return {entry.run: entry for entry in self.entries}

    @cached_property
    def _cache(self) -> dict[tuple, Record]:
        return {}

    @cached_property
    def _judged(self) -> dict[tuple[str, Path], tuple[Record, bool]]:
        """Whether the record in a folder, as it was read last, fits a run."""
        return {}

    @cached_property
    def _tables(self) -> dict[str, tuple[list[Record], pd.DataFrame]]:
        """Tables of all runs, each with the records that it was made of."""
        return {}

    def _table(self, name: str, make: Callable[[list], pd.DataFrame]) -> pd.DataFrame:
        """A table of all finished runs, made anew only if their records are others than before."""
        places = ((entry, self.place_of(entry)) for entry in self.entries)
        read = [(entry, self.read(folder)) for entry, folder in places if folder is not None]
        made_of = [record for _, record in read]
        known, table = self._tables.get(name, ([], None))
        same = len(known) == len(made_of) and all(map(is_, known, made_of))
        if table is None or not same:
            table = make(read)
            self._tables[name] = made_of, table
        return _own(table)

    def _fits(self, entry: Entry, folder: Path) -> bool:
        """Whether the record in the folder is of this run and was measured
        with the study's settings.
        """
        record = self.read(folder)
        known, fits = self._judged.get((entry.run, folder), (None, False))
        if known is not record:
            fits = self._is_of(record, entry)
            self._judged[entry.run, folder] = record, fits
        return fits

    def _is_of(self, record: Record, entry: Entry) -> bool:
        if record.recipe != entry.recipe.to_dict():
            raise RecordError(
                f"{record.folder / 'record.json'} is of another recipe than {entry.run}. Delete "
                "its folder."
            )
        try:
            return Settings.from_dict(record.settings) == self.settings
        except InputError:  # settings of another arlib: unknown here, or out of today's bounds
            return False

    def _status(self, entry: Entry, begun: dict[str, list[Path]], leased: set[str]) -> dict:
        try:
            folder = self.place_of(entry)
        except RecordError as error:
            damaged = {"state": "damaged", "epochs": "", "minutes": math.nan, "device": ""}
            return _keys(entry) | damaged | {"note": str(error)}
        if folder is None:
            epochs = _epochs_in(begun.get(entry.run, []))
            return _keys(entry) | self._status_of_unfinished(entry, epochs, leased)
        record = self.read(folder)
        device = " ".join(str(record.provenance.get(key, "")) for key in ("device", "precision"))
        return _keys(entry) | {
            "state": "finished" if folder.parent == self.folder else "recorded",
            "epochs": f"{_count(record.epochs)}/{entry.recipe.epochs}",
            "minutes": _minutes(record.epochs.get("seconds")),
            "device": device,
            "note": record.provenance.get("collapsed", ""),
        }

    def _status_of_unfinished(
        self, entry: Entry, epochs: list[dict] | None, leased: set[str]
    ) -> dict:
        from arlib.studies import alive

        path = self.leases_folder / f"{entry.run}.json"
        judgement = alive.judge(path) if entry.run in leased else None
        running = judgement is not None and not judgement.reason
        note = alive.describe(path) if running else ""
        if judgement is not None and judgement.reason:
            note = f"was begun by {alive.describe(path)}: {judgement.reason}"
        begun = "missing" if epochs is None else "begun"
        waits = "" if running else self.waits_for(entry)
        return {
            "state": "running" if running else "waiting" if waits else begun,
            "epochs": f"{len(epochs or ())}/{entry.recipe.epochs}",
            "minutes": _minutes([epoch.get("seconds", math.nan) for epoch in epochs or ()]),
            "device": "",
            "note": waits or note,
        }


def _keys(entry: Entry) -> dict:
    """The columns that say which run a row is of."""
    values = (entry.run, entry.recipe.strength, entry.recipe.seed, entry.variant)
    return dict(zip(KEYS, values, strict=True))


def _rows_of(read: list[tuple[Entry, Record]]) -> pd.DataFrame:
    """The measurements of some runs end to end: columns are laid out once, not run by run."""
    import pandas as pd

    columns = [*KEYS, *records.COLUMNS]
    if not read:
        return pd.DataFrame(columns=columns)
    table: dict[str, list] = {name: [] for name in columns}
    for entry, record in read:
        rows = _count(record.measured)
        for name, value in _keys(entry).items():
            table[name] += [value] * rows
        for name in records.COLUMNS:
            table[name] += record.measured[name]
    return pd.DataFrame(table).astype({"n": "int64", "value": "float64"})


def _histories_of(read: list[tuple[Entry, Record]]) -> pd.DataFrame:
    import pandas as pd

    tables = []
    for entry, record in read:
        table = pd.DataFrame(record.epochs)
        for column, (key, value) in enumerate(_keys(entry).items()):
            table.insert(column, key, value)
        tables.append(table)
    return (
        pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=[*KEYS, "epoch"])
    )


def _own(table: pd.DataFrame) -> pd.DataFrame:
    """A table that its reader may change; pandas copies it from version 3 on only then."""
    import pandas as pd

    return table.copy(deep=int(pd.__version__.partition(".")[0]) < 3)


def _has_weights(folder: Path) -> bool:
    return records.is_finished(folder) and records.weights_file(folder) is not None


def _count(columns: dict[str, list]) -> int:
    """The rows of a table that is kept by columns."""
    return len(next(iter(columns.values()), ()))


def _minutes(seconds: list[float] | None) -> float:
    return sum(seconds) / 60 if seconds else math.nan


def _names_in(folder: Path) -> list[str]:
    """What lies in a folder; nothing if there is none."""
    try:
        return os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _epochs_in(folders: list[Path]) -> list[dict] | None:
    """The history in the most advanced of some work folders."""
    for folder in reversed(folders):
        path = folder / CHECKPOINT
        if path.exists():
            return files.read_described(path, "arlib")["history"]
    return None


def _progress(folder: Path) -> tuple[bool, float]:
    checkpoint = folder / CHECKPOINT
    try:
        return True, checkpoint.stat().st_mtime
    except FileNotFoundError:
        return False, 0.0
