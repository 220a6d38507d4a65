"""`arlib batch`: chapters × parameters, on this machine or on Slurm."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from arlib.cli.options import as_interrupt, seconds, stop
from arlib.errors import InputError

STILL_RUNNING = 3  # exit status: nothing has failed so far, and not everything has ended


def run_batch(
    chapters: Annotated[
        list[str], typer.Argument(help="Chapters (margins, book/margins.ipynb, …) or `all`.")
    ],
    parameter: Annotated[
        list[str] | None,
        typer.Option("-p", "--parameter", help="name=value, the same in every run."),
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="name=value,value,…; several grids multiply.")
    ] = None,
    out: Annotated[
        Path,
        typer.Option(
            help="Folder of the executed chapters, logs and summary.csv.", resolve_path=True
        ),
    ] = Path("out"),
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    timeout: Annotated[
        str,
        typer.Option(help="Time limit of one attempt, e.g. 30m; then its processes are killed."),
    ] = "1h",
    retries: Annotated[
        int, typer.Option(help="How often a failed run is tried again (0, 1 or 2).")
    ] = 2,
    executor: Annotated[
        str, typer.Option(help="local (this machine), or slurm (job arrays).")
    ] = "local",
    partition: Annotated[str | None, typer.Option(help="Slurm: partition of the jobs.")] = None,
    account: Annotated[str | None, typer.Option(help="Slurm: account that pays.")] = None,
    time: Annotated[
        str | None,
        typer.Option(
            help="Slurm: time limit of a job, e.g. 2h; default: what all attempts of a run take."
        ),
    ] = None,
    mem: Annotated[str | None, typer.Option(help="Slurm: memory of a job, e.g. 16G.")] = None,
    gpus: Annotated[str | None, typer.Option(help="Slurm: GPUs of a job, e.g. 1.")] = None,
    slurm: Annotated[
        list[str] | None,
        typer.Option(help="Slurm: any other option of sbatch, key=value, e.g. qos=high."),
    ] = None,
    restarts: Annotated[
        int | None,
        typer.Option(
            help="Slurm: how often a job starts again that was preempted or lost its node; "
            "default 10.",
        ),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Slurm: leave after submitting; the same command finds the jobs again."
        ),
    ] = False,
) -> None:
    """Run chapters × parameters with papermill, each in processes of its own,
    and collect one table.

    What is finished is skipped when the command is given again; a changed chapter or parameter runs
    anew. On Slurm, Ctrl-C cancels the jobs; where the command is killed they go on, and the same
    command follows them. Exit status 0 only if every run succeeded; 1 if one failed; 3 if none
    failed and some still wait or run on Slurm (--detach).
    """
    from arlib import batch

    signal.signal(signal.SIGTERM, as_interrupt)
    asked = {"partition": partition, "account": account, "mem": mem, "gpus": gpus}
    asked |= {"time": seconds(time), "restarts": restarts, "detach": detach or None}
    asked |= {"options": options_of(slurm or []) or None}
    asked = {name: value for name, value in asked.items() if value is not None}
    if asked and executor != "slurm":
        names = ", ".join(f"--{'slurm' if name == 'options' else name}" for name in asked)
        raise InputError(f"{names}: for --executor slurm only; executor is {executor!r}.")
    tasks = batch.plan(chapters, batch.parameter_sets(parameter or [], grid or []), out)
    try:
        table = batch.run(
            tasks, jobs=jobs, timeout=seconds(timeout), retries=retries, executor=executor,
            on_slurm=batch.Slurm(**asked) if executor == "slurm" else None,
        )  # fmt: skip
    except KeyboardInterrupt:
        stop("interrupted; finished chapters are kept, the same command goes on.", 130)
    failed, waiting = (table[table["status"] == status] for status in ("failed", "waiting"))
    succeeded = len(table) - len(failed) - len(waiting)
    rest = f", {len(waiting)} wait or run" * bool(len(waiting))
    print(f"{succeeded} of {len(table)} runs succeeded{rest}; see {out / 'summary.csv'}.")
    for row in failed.itertuples():
        print(f"failed: {row.output}: {row.reason}", file=sys.stderr)
    raise typer.Exit(1 if len(failed) else STILL_RUNNING if len(waiting) else 0)


def options_of(texts: list[str]) -> dict[str, str | None]:
    """Options of sbatch from texts like `qos=high`, or `exclusive` for a flag."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if name in options:
            raise InputError(f"slurm option {name!r} is given twice; keep one.")
        options[name] = value if equals else None
    return options
