"""Tasks handed to Slurm as job arrays, and found again later by any process."""

import contextlib
import shlex
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from arlib import files
from arlib.batch import cluster, local
from arlib.batch.cluster import SlurmError, State
from arlib.batch.exchange import Exchange
from arlib.batch.options import Slurm
from arlib.batch.task import Task
from arlib.errors import InputError

PREFIX = "slurm-"
SCRIPT = """\
#!/bin/sh
# One task of a batch; $1 is the index of this array's first.
exec {command} $(($1 + SLURM_ARRAY_TASK_ID))
"""


@dataclass(frozen=True)
class Submission:
    """A folder of tasks that were handed to Slurm.

    Its jobs are named after it and after the first task of each array, so that they are found
    also where we were killed before we learnt their numbers.
    """

    exchange: Exchange
    tasks: tuple[dict, ...]  # as Task.packed gives them
    size: int  # most tasks of an array
    limit: float  # seconds that a job may take
    begun: float  # when it was submitted

    @classmethod
    def read(cls, folder: Path) -> "Submission":
        exchange = Exchange(folder)
        tasks, how = exchange.read()
        return cls(
            exchange, tuple(tasks), *(how.get(name, 1) for name in ("size", "limit", "begun"))
        )

    @property
    def name(self) -> str:
        return "arlib-" + self.exchange.folder.name.removeprefix(PREFIX)

    @property
    def arrays(self) -> dict[str, int]:
        """Names of the arrays, and the index of the first task of each."""
        return {f"{self.name}-{i}": i for i in range(0, len(self.tasks), self.size)}

    def index(self, state: State) -> int:
        """Which of our tasks Slurm speaks of."""
        return self.arrays[state.name] + state.task

    def submitted(self) -> set[int]:
        """The tasks of which we know that Slurm took them."""
        numbers = (self.exchange.folder / "arrays").glob("*.json")
        return {i for path in numbers for i in self.array(int(path.stem))}

    def array(self, first: int) -> range:
        return range(first, min(first + self.size, len(self.tasks)))

    def log(self, state: State) -> Path:
        return self.exchange.folder / f"{state.job}_{state.task}.log"

    def cancel_all(self) -> None:
        for name in self.arrays:
            cluster.cancel_named(name)


def submit(
    tasks: list[Task], folder: Path, slurm: Slurm, jobs: int, timeout: float, retries: int
) -> Submission:
    """Hand the tasks to Slurm, at most `jobs` at a time.

    Arrays are as large as the cluster allows. Where several are needed, and not all tasks may run
    at a time, one begins when the one before it has ended. Raises `InputError` where sbatch refuses
    any of it; then nothing is left, in Slurm or in the folder.
    """
    seconds = timeout * (retries + 1) + 300
    try:
        size = cluster.most_tasks()
    except SlurmError as error:
        raise InputError(f"Slurm does not answer: {error}. Nothing was submitted.") from error
    if size < 1:
        raise InputError("this cluster allows no job arrays (MaxArraySize is 0); ask its keepers.")
    made = Exchange.create(
        folder / f"{PREFIX}{uuid.uuid4().hex[:8]}", tasks, timeout=timeout, retries=retries,
        restarts=slurm.restarts, size=size, limit=slurm.time or seconds, begun=time.time(),
    )  # fmt: skip
    submission = Submission.read(made.folder)
    try:
        _submit(submission, slurm, jobs, seconds)
    except BaseException as error:
        with contextlib.suppress(SlurmError):
            submission.cancel_all()
        submission.exchange.remove()
        if isinstance(error, SlurmError):
            raise InputError(
                f"Slurm refused the batch, nothing was submitted. {error}. Change the options, or "
                "see `sinfo` for what this cluster has."
            ) from error
        raise
    return submission


def _submit(submission: Submission, slurm: Slurm, jobs: int, seconds: float) -> None:
    folder = submission.exchange.folder
    words = " ".join(shlex.quote(word) for word in local.worker_command(folder))
    files.write_text(folder / "job.sh", SCRIPT.format(command=words))
    environment = local.environment(cluster.own_environment())
    many, before = len(submission.tasks), ""
    for name, first in submission.arrays.items():
        size = len(submission.array(first))
        arguments = [
            *(f"--job-name={name}", f"--array=0-{size - 1}%{min(jobs, size)}"),
            *("--export=ALL", "--requeue", "--open-mode=append", f"--chdir={folder}"),
            *("--output=%A_%a.log", *slurm.arguments(seconds)),
        ]
        if before and jobs < many:
            arguments.append(f"--dependency=afterany:{before}")
        before = cluster.submit([*arguments, str(folder / "job.sh"), str(first)], environment)
        files.write_json(folder / "arrays" / f"{first}.json", {"job": before})


def unfinished(folder: Path) -> Iterator[Submission]:
    """Submissions whose end nobody has seen yet, the oldest first."""
    submissions = [
        Submission.read(path) for path in folder.glob(f"{PREFIX}*") if not (path / "ended").exists()
    ]
    yield from sorted(submissions, key=lambda submission: submission.begun)
