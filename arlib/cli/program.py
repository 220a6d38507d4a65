"""`arlib data`, `verdicts`, and the program itself."""

import logging
import traceback
from pathlib import Path
from typing import Annotated

import typer

from arlib import __version__
from arlib.cli import loudness
from arlib.cli.batch import run_batch
from arlib.cli.compare import run_compare
from arlib.cli.loudness import Quiet, Verbose, loud
from arlib.cli.options import Json, Name, Store, existing, stop
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
app.command("batch")(loud(run_batch))


def main() -> None:
    """Entry point: what can be said in one line is said in one line, with exit status 2."""
    loudness.set_up()
    try:
        app()
    except (InputError, RecordError, TrainingStopped) as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error}.")


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

    dataset = data.load(name, root, download, device="cpu")
    where = "embedded in scikit-learn" if name == "digits" else f"in {places.data_root(root)}"
    size = " × ".join(map(str, dataset.shape))
    print(f"{name}, {where}: {len(dataset.classes)} classes, images {size}")
    print(", ".join(f"{part} {len(getattr(dataset, part)):,}" for part in ("train", "val", "test")))


@app.command("verdicts")
@loud
def show_verdicts(name: Name, store: Store = None, as_json: Json = False) -> None:
    """Every claim of the book, decided by the records of one study."""
    from arlib import studies

    study = studies.load(name, existing(store))
    from arlib import claims

    table = claims.verdicts(study)
    if as_json:
        about = {"study": study.name, "toy": study.toy, "protocol": study.protocol}
        print_json(about | {"verdicts": table.drop(columns="study").to_dict("records")})
        return
    print(claims.table(table).to_string())
    if study.toy:
        print("\nThis is a toy study: its verdicts show the method, not the paper's claims.")
