"""What a batch asks of Slurm, checked before anything is submitted."""

import math
import re
from dataclasses import dataclass, field

from arlib.errors import InputError

# options by which the batch itself finds and follows its jobs
OURS = (
    *("array", "chdir", "error", "export", "input", "job-name", "open-mode"),
    *("output", "parsable", "quiet", "test-only", "wait", "wrap"),
)
NAMED = ("partition", "account", "time", "mem", "gpus")


@dataclass(frozen=True)
class Slurm:
    """Options of the jobs of a batch; what is not given is the cluster's default.

    time: seconds that a job may take, all its attempts together; else as many as they can take.
    mem: of a job, like 16G. gpus: of a job, like 1 or a100:2. options: any others of sbatch, by
    their long names; with the value None or "" it is a flag. restarts: how often a job that the
    cluster interrupted (preemption, a node's failure) starts again. detach: leave after
    submitting; the same batch finds its jobs again.
    """

    partition: str | None = None
    account: str | None = None
    time: float | None = None
    mem: str | None = None
    gpus: str | None = None
    options: dict[str, str | None] = field(default_factory=dict)
    restarts: int = 10
    detach: bool = False

    def __post_init__(self):
        if self.mem is not None and not re.fullmatch(r"[1-9]\d*[KMGT]?", self.mem):
            raise InputError(f"mem is {self.mem!r}; write a number and K, M, G or T, like 16G.")
        if self.gpus is not None and not re.fullmatch(r"([\w.-]+:)?[1-9]\d*", self.gpus):
            raise InputError(f"gpus is {self.gpus!r}; write 1, or a type and a number: a100:2.")
        if self.restarts < 0:
            raise InputError(f"restarts is {self.restarts}; allowed: 0 and more.")
        for name in self.options:
            if not re.fullmatch(r"[a-z][a-z0-9-]+", name):
                raise InputError(
                    f"slurm option is {name!r}; write the long name of an option of sbatch without "
                    "dashes before it, like qos=high, or exclusive."
                )
            if name in OURS:
                raise InputError(
                    f"slurm option is {name!r}, which the batch sets itself to find its jobs; "
                    "leave it out."
                )
            if name in NAMED:
                raise InputError(f"slurm option is {name!r}; give it as --{name}.")

    def arguments(self, seconds: float) -> list[str]:
        """The options as sbatch takes them. seconds: that all attempts of a run may take."""
        minutes = math.ceil((self.time or seconds) / 60)
        arguments = [
            f"--{name}={value}"
            for name in NAMED
            if (value := minutes if name == "time" else getattr(self, name)) is not None
        ]
        return arguments + [
            f"--{name}={value}" if value not in (None, "") else f"--{name}"
            for name, value in self.options.items()
        ]
