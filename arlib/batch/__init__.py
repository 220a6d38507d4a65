"""Chapters × parameters with papermill, each run in processes of its own, here or on Slurm.

    arlib batch margins smoothing --grid study=digits,cifar10-resnet20 --out out --jobs 2
    arlib batch all --executor slurm --jobs 20 --timeout 2h --partition gpu --gpus 1 --mem 16G

papermill runs that share one process fail or hang now and then (papermill issues 511, 711), so
every run is a worker process that guards papermill, its kernel and all they start: at the time
limit, when the batch ends, and when the batch is killed, all of it ends. What is finished is
marked by the hash of chapter and parameters and is not run again. A run that is lost (killed,
out of memory, its node gone) is one row of `summary.csv` with the status `failed` and the reason.

One batch works on a folder of outputs at a time; a second one is refused. On Slurm the runs are
job arrays. Ctrl-C and SIGTERM cancel them; with `--detach`, and when the command is killed, they
go on, and the same command finds them again.

Modules load on first use: workers need neither torch nor pandas.
"""

import importlib

# names that people use, and where they live
_HOME = {
    "parameter_sets": "grid",
    "plan": "grid",
    "Task": "task",
    "run": "runner",
    "run_task": "attempts",
    "Slurm": "options",
}
__all__ = ["Slurm", "Task", "parameter_sets", "plan", "run", "run_task"]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"arlib.batch.{_HOME[name]}"), name)
    raise AttributeError(f"module 'arlib.batch' has no attribute {name!r}")
