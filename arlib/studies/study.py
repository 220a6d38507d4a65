"""Loading a study, computing what is missing of it, and publishing what is finished."""

from __future__ import annotations

import contextlib
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from arlib import files, places, records, training
from arlib.errors import InputError, one_of, shown
from arlib.studies import budget
from arlib.studies.file import is_name, parse
from arlib.studies.shelf import Shelf
from arlib.training import store as training_files

if TYPE_CHECKING:  # only running a study needs them
    import pandas as pd

    from arlib import engine

log = logging.getLogger(__name__)


def names(store: str | Path | None = None) -> list[str]:
    """The names of all studies that can be loaded."""
    return sorted(
        {
            path.stem
            for folder in places.places(store).studies
            for path in folder.glob("*.yml")
            if is_name(path.stem)
        }
    )


def load(name: str | Path, store: str | Path | None = None) -> Study:
    """The study `name`, or the one in a given `.yml` file.

    store: where runs are computed and finished (an absolute path); by default `ARLIB_STORE`, else
    the checkout's `runs/`. Study files are looked up in the store, the checkout's `studies/`, the
    shipped copy.

    Raises `InputError` for an unknown name or a study file with a mistake in it.
    """
    where = places.places(store)
    if str(name).endswith((".yml", ".yaml")):
        path = places.path("study", name).resolve()
        if not path.is_file():
            raise InputError(f"study is {shown(str(name))}; there is no such file.")
        return Study(parse(path, where.studies), where)
    one_of("study", name, names(store))
    candidates = (folder / f"{name}.yml" for folder in where.studies)
    path = next(path for path in candidates if path.is_file())
    return Study(parse(path, where.studies), where)


def interventions(name: str | Path, store: str | Path | None = None) -> list[Study]:
    """The studies whose arms start from the networks of the study `name`; itself if it has arms."""
    given = load(name, store)
    if given.source is not None:
        return [given]
    arms = []
    for other in names(store):
        with contextlib.suppress(InputError):  # a file with a mistake is nobody's intervention
            study = load(other, store)
            arms += [study] if study.source and study.source.name == given.name else []
    return arms


def beside(name: str | Path, store: str | Path | None = None) -> list[Study]:
    """The studies that decide what the study `name` cannot: those whose arms start from its
    networks (C8), and those of fronts on its data set (C9).
    """
    given, fronts = load(name, store), []
    for other in names(store):
        with contextlib.suppress(InputError):
            study = load(other, store)
            same = _datasets(study) == _datasets(given)
            fronts += [study] if study.has_fronts and same else []
    return [one for one in (*interventions(name, store), *fronts) if one.name != given.name]


def _datasets(study: Study) -> set[str]:
    return {recipe.dataset for recipe in study.recipes}


class Study(Shelf):
    """A study whose missing runs can be computed, and whose finished ones can be published."""

    def run(
        self,
        time_budget: float | None = None,
        jobs: int = 1,
        device: str = "auto",
        *,
        progress: bool = True,
        wait: bool = True,
        afresh: bool = False,
        mix: bool = False,
        mode: str = "auto",
        precision: str = "float32",
        strict: bool = False,
    ) -> pd.DataFrame:
        """Compute what is missing and return the status. Call it again to go on;
        start it twice to share the work.

        time_budget: seconds after which it stops, at an epoch or a measured part. jobs: worker
        processes.
        wait: stay until runs of other workers are done, ready to take over; afresh: compute also
        what is published as a record; mix: allow another device or precision than the finished
        runs'. mode, precision,
        strict: how fast the trainings are, see `engine.Machine`; precision "auto" is that of the
        study's runs so far, else what is fastest here (`training.fastest_precision`). Networks are
        measured in float32.

        Raises `InputError` before any work for a missing device, a mixture, or a budget too small
        for one epoch; `TrainingStopped` at the end if trainings stopped by themselves.
        """
        from arlib import engine
        from arlib.studies import launch
        from arlib.studies.run import (
            Work,
            how_to_go_on,
            refuse_lacking_helpers,
            refuse_odd_folders,
            work,
        )

        begun = time.monotonic()
        if jobs < 1 or (time_budget is not None and not time_budget > 0):
            raise InputError(f"jobs is {jobs} and time_budget {time_budget}; both must be above 0.")
        where = engine.device(device)
        if precision == "auto":
            precision = self._precision(engine.settle(where, mode), afresh=afresh)
        machine = engine.settle(where, mode, precision, strict=strict)
        refuse_odd_folders(self, self.missing(afresh=afresh))
        refuse_lacking_helpers(self, self.missing(afresh=afresh))
        if self.source is not None:
            self._check_sources(machine, afresh=afresh)
        if not mix:
            self._refuse_mixture(machine, afresh=afresh)
        if time_budget is not None:
            budget.refuse_small_budget(self, time_budget, afresh=afresh)
        how = Work(
            machine,
            deadline=None if time_budget is None else begun + time_budget,
            progress=progress,
            wait=wait,
            afresh=afresh,
        )
        try:
            if jobs > 1:
                launch.start_workers(self, jobs, how, device)
            else:
                launch.limit_memory(where)
                work(self, how)
        except KeyboardInterrupt:
            log.warning("Interrupted; %s", how_to_go_on(self))
            raise
        except OSError:
            log.warning("Stopped; %s", how_to_go_on(self))
            raise
        return self.status()

    def publish(self, to: str | Path | None = None) -> list[str]:
        """Copy the finished runs of the store into `records/` of the checkout (or `to`);
        returns the new ones.

        Runs listed under `weights:` keep theirs. Raises `InputError` for a study of mixed devices
        or precisions.
        """
        if to is None and places.checkout() is None:
            raise InputError(
                "publish: there is no checkout to publish into; give the records folder as `to`."
            )
        target = places.checkout() / "records" if to is None else places.path("to", to)
        finished = self.finished(afresh=True)
        self._refuse_mixed_records(finished)
        new = []
        for run, folder in finished.items():
            if records.publish(folder, target / self.name / run, weights=run in self.file.weights):
                new.append(run)
            if (size := records.size(target / self.name / run)) > records.LIMIT:
                log.warning(
                    "%s: %d bytes; a record should have at most %d", run, size, records.LIMIT
                )
        return new

    def _check_sources(self, machine: engine.Machine, *, afresh: bool) -> None:
        """Before any work: arms are float32, their sources are there and are what their records
        say. Those that wait for a source are named; `InputError` if all do.
        """
        if machine.precision != "float32":
            raise InputError(
                f"precision is {machine.precision!r}; arms are computed in float32. Leave it out.",
                field="precision",
            )
        missing = self.missing(afresh=afresh)
        waiting = {entry.run: self.waits_for(entry) for entry in missing}
        for entry in missing:
            if not waiting[entry.run]:
                for recipe in entry.recipe.sources:
                    self.source.record(recipe.id)  # its checks; read once
        notes = [f"{run} {note}" for run, note in waiting.items() if note]
        if notes and len(notes) == len(missing):
            raise InputError(f"{self.name}: nothing can be computed. {notes[0]}.")
        if notes:
            others = f", and so do {len(notes) - 1} others" if len(notes) > 1 else ""
            log.warning("%s: %s%s", self.name, notes[0], others)

    def _precision(self, machine: engine.Machine, *, afresh: bool) -> str:
        """The precision of the runs that are there, finished or begun;
        else the fastest one on this machine.
        """
        from arlib import data

        for folder in self.finished(afresh=afresh).values():
            return self.read(folder).provenance["precision"]
        for path in sorted(self.work_folder.glob(f"*/{training_files.CHECKPOINT}")):
            if begun := files.read_described(path, "arlib").get("precision"):
                return begun
        recipe = max(self.recipes, key=lambda recipe: recipe.eps)
        dataset = data.load(recipe.dataset, device=machine.device)
        return training.fastest_precision(recipe, dataset, machine)

    def _refuse_mixture(self, machine: engine.Machine, *, afresh: bool) -> None:
        """`InputError` if running here would mix devices or precisions in one study."""
        here = training_files.provenance(machine)
        for run, folder in self.finished(afresh=afresh).items():
            there = self.read(folder).provenance
            for key in ("device", "precision"):
                if there.get(key) != here[key]:
                    raise InputError(
                        f"{self.name}: {run} was computed with {key} {there.get(key)!r}, this "
                        f"would be {here[key]!r}. Numbers of one study should come from one kind "
                        "of machine: choose the same; compute all of it afresh in another store "
                        "(--afresh --store FOLDER); or allow the mixture (--mix)."
                    )

    def _refuse_mixed_records(self, finished: dict[str, Path]) -> None:
        kinds = {}
        for run, folder in finished.items():
            provenance = self.read(folder).provenance
            kinds.setdefault((provenance.get("device"), provenance.get("precision")), run)
        if len(kinds) > 1:
            listed = "; ".join(
                f"{run} on {device} in {precision}" for (device, precision), run in kinds.items()
            )
            raise InputError(
                f"{self.name} is a mixture: {listed}. Publish runs of one device and precision; "
                "delete the others from the store."
            )
