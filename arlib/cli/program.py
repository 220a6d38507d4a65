"""`arlib batch`, `data`, `verdicts`, and the program itself."""

import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from arlib import __version__
from arlib.cli import loudness
from arlib.cli.compare import run_compare
from arlib.cli.loudness import Quiet, Verbose, loud
from arlib.cli.options import Json, Name, Store, as_interrupt, existing, seconds, stop
from arlib.cli.output import print_json
from arlib.cli.study import study_app
from arlib.cli.train import train_one, with_fields
from arlib.errors import InputError, RecordError, TrainingStopped
from arlib.sources import NAMES, source

log = logging.getLogger(__name__)
app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help=(
        "What adversarial robustness does to a neural network, measured: studies, chapters, data, "
        "verdicts."
    ),
)  # fmt: skip
app.add_typer(study_app, name="study")
app.command("train")(loud(with_fields(train_one)))
app.command("compare")(loud(run_compare))


def main() -> None:
    """Entry point: what can be said in one line is said in one line, with exit status 2."""
    loudness.set_up()
    try:
        app()
    except (InputError, RecordError, TrainingStopped) as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error}. What was finished is kept; the same command goes on from there.")


def _stop(message: str) -> None:
    if loudness.is_verbose():
        traceback.print_exc()
    stop(message)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"arlib {__version__}")
        raise typer.Exit


@app.callback()
def _for_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version and end."
        ),
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    loudness.say(quiet, verbose)


@app.command("batch")
@loud
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
        str, typer.Option(help="Time limit of one run, e.g. 30m; then its processes are killed.")
    ] = "1h",
    retries: Annotated[
        int, typer.Option(help="How often a failed run is tried again (0, 1 or 2).")
    ] = 2,
    executor: Annotated[
        str,
        typer.Option(
            help="local, or submitit (Slurm where there is one; needs `pip install submitit`)."
        ),
    ] = "local",
) -> None:
    """Run chapters × parameters with papermill, each in processes of its own,
    and collect one table.

    What is finished is skipped when the command is given again; a changed chapter or parameter runs
    anew. Exit status 0 only if every run succeeded.
    """
    from arlib import batch

    signal.signal(signal.SIGTERM, as_interrupt)
    tasks = batch.plan(chapters, batch.parameter_sets(parameter or [], grid or []), out)
    try:
        table = batch.run(
            tasks, jobs=jobs, timeout=seconds(timeout), retries=retries, executor=executor
        )
    except KeyboardInterrupt:
        stop("interrupted; finished chapters are kept, the same command goes on.", 130)
    failed = table[table["status"] == "failed"]
    print(f"{len(table) - len(failed)} of {len(table)} runs succeeded; see {out / 'summary.csv'}.")
    for row in failed.itertuples():
        print(f"failed: {row.output}: {row.reason}", file=sys.stderr)
    raise typer.Exit(1 if len(failed) else 0)


@app.command("data")
@loud
def show_data(
    name: Annotated[str, typer.Argument(help=f"{', '.join(NAMES)}.")],
    download: Annotated[
        bool, typer.Option("--download", help="Fetch the files if they are missing.")
    ] = False,
    root: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the files; default: $ARLIB_DATA, else data/.", resolve_path=True
        ),
    ] = None,
) -> None:
    """Check that a data set is there and whole, and say what is in it."""
    source(name)  # a mistyped name is said at once
    from arlib import data, places

    found = data.load(name, root, download, device="cpu")
    where = "embedded in scikit-learn" if name == "digits" else f"in {places.data_root(root)}"
    print(
        f"{name}, {where}: {len(found.classes)} classes, images {' × '.join(map(str, found.shape))}"
    )
    print(", ".join(f"{part} {len(getattr(found, part)):,}" for part in ("train", "val", "test")))


@app.command("verdicts")
@loud
def show_verdicts(name: Name, store: Store = None, as_json: Json = False) -> None:
    """Every claim of the book, decided by the records of one study."""
    from arlib import studies

    study = studies.load(name, existing(store))
    from arlib import claims

    found = claims.verdicts(study)
    if as_json:
        about = {"study": study.name, "toy": study.toy, "protocol": study.protocol}
        print_json(about | {"verdicts": found.drop(columns="study").to_dict("records")})
        return
    print(claims.table(found).to_string())
    if study.toy:
        print("\nThis is a toy study: its verdicts show the method, not the paper's claims.")
