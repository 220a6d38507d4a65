"""Slurm's own commands: submit, ask for states, cancel.

Called directly. What is wanted of them is a handful of calls, and of their answers what no
library gives: why a task waits, and how it ended where there is no accounting.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass

from arlib.errors import InputError

PATIENCE = 60.0  # seconds in which a command of Slurm must have answered
ALIVE = (
    *("PENDING", "RUNNING", "SUSPENDED", "COMPLETING", "CONFIGURING", "REQUEUED", "REQUEUE_FED"),
    *("REQUEUE_HOLD", "RESV_DEL_HOLD", "RESIZING", "SIGNALING", "SPECIAL_EXIT", "STAGE_OUT"),
    "STOPPED",
)


class SlurmError(RuntimeError):
    """A command of Slurm failed; says how."""


@dataclass(frozen=True)
class State:
    """What Slurm says of one task of an array."""

    job: str
    task: int
    name: str
    state: str
    why: str

    @property
    def alive(self) -> bool:
        return self.state in ALIVE


def check() -> None:
    """`InputError` where there is no Slurm."""
    if missing := [name for name in ("sbatch", "squeue", "scancel") if not shutil.which(name)]:
        raise InputError(
            f"executor is 'slurm', and here is no {', no '.join(missing)}. Give the command on a "
            "machine from which jobs are submitted, or use --executor local."
        )


def most_tasks() -> int:
    """How many tasks one array may have here."""
    config = _ask("scontrol", "show", "config")
    limits = [
        re.search(r"^MaxArraySize\s*=\s*(\d+)", config, re.MULTILINE),
        re.search(r"^SchedulerParameters\s*=.*\bmax_array_tasks=(\d+)", config, re.MULTILINE),
    ]
    return min([int(limit[1]) for limit in limits if limit] or [1000])


def submit(arguments: list[str], environment: dict[str, str]) -> str:
    """Submit a job; gives its number."""
    return _ask("sbatch", "--parsable", *arguments, env=environment).strip().split(";")[0]


def states(names: list[str]) -> list[State]:
    """What squeue says of the tasks of jobs with these names, also of those that ended lately."""
    form = "%F|%K|%j|%T|%r"
    listing = _ask(
        *("squeue", "--noheader", "--array", "--states=all"),
        *(f"--name={','.join(names)}", f"--format={form}"),
    )
    lines = [line.split("|", 4) for line in listing.splitlines() if line.count("|") >= 4]
    return [
        State(job, int(task), name, state, why)
        for job, task, name, state, why in lines
        if task.isdigit()
    ]


def accounted(names: list[str]) -> list[State]:
    """What the accounting says of them, if the cluster has one."""
    if not shutil.which("sacct"):
        return []
    try:
        listing = _ask(
            *("sacct", "--noheader", "--parsable2", "--allocations"),
            *("--starttime=now-30days", f"--name={','.join(names)}"),
            "--format=JobID,JobName,State",
        )
    except SlurmError:
        return []
    tasks = []
    for line in listing.splitlines():
        number, name, state = (*line.split("|"), "", "")[:3]
        job, _, task = number.partition("_")
        if task.isdigit() and state:
            tasks.append(State(job, int(task), name, state.split()[0], state))
    return tasks


def cancel(jobs: list[str]) -> None:
    """Cancel jobs, or tasks of arrays (12_3)."""
    for first in range(0, len(jobs), 500):  # a command line has an end
        _ask("scancel", *jobs[first : first + 500])


def cancel_named(name: str) -> None:
    """Cancel all jobs of that name, also one whose number was never learnt."""
    _ask("scancel", f"--name={name}")


def own_environment() -> dict[str, str]:
    """Ours, without what Slurm has set for the job in which we may be running ourselves."""
    kept = ("SLURM_CONF", "SLURM_CLUSTERS")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("SLURM") or name in kept
    }


def _ask(*command: str, env: dict[str, str] | None = None) -> str:
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, env=env,
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if ended.returncode:
        errors = (line.partition("error: ")[2] or line for line in ended.stderr.splitlines())
        words = "; ".join(line.strip() for line in errors if line.strip())
        raise SlurmError(f"{command[0]}: {words or f'exit status {ended.returncode}'}")
    return ended.stdout
