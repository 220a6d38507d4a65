"""`arlib study …`: what there is, what is missing, running it, publishing it."""

import logging
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from arlib.cli.loudness import bars, loud
from arlib.cli.options import (
    Budget,
    Device,
    Json,
    Mode,
    Name,
    Precision,
    Store,
    Strict,
    as_interrupt,
    existing,
    made_if_new,
    seconds,
)
from arlib.cli.output import print_json, print_table
from arlib.errors import InputError, RecordError

log = logging.getLogger(__name__)
DONE = ("finished", "recorded")
_OF_ARMS = ("epochs", "lr", "batch_size", "every")  # what all trained arms of a study share

study_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help=(
        "Studies: named grids of training runs (studies/NAME.yml), what is recorded of them, and "
        "running the rest."
    ),
)  # fmt: skip


@study_app.command("list")
@loud
def study_list(store: Store = None, as_json: Json = False) -> None:
    """All studies: how many runs each has and how many are recorded."""
    from arlib import studies

    listed, broken = [], []
    for name in studies.names(existing(store)):
        try:
            study = studies.load(name, store)
            done = len(study.entries) - len(study.missing())
        except (InputError, RecordError) as error:
            broken.append(str(error))
            continue
        about = {"name": name, "title": study.title, "toy": study.toy, "done": done}
        listed.append(about | {"runs": len(study.entries), "file": str(study.path)})
        if not as_json:
            print(
                f"{name:26} {done:3d} of {len(study.entries):3d} runs "
                f"recorded{' (toy)' * study.toy}  {study.title}"
            )
    if as_json:
        print_json(listed)
    if broken:
        raise InputError(" ".join(broken))


@study_app.command("show")
@loud
def study_show(name: Name, store: Store = None) -> None:
    """What a study is for, its recipe, its runs,
    what is measured with which n, and what it costs.
    """
    from arlib import studies

    study = studies.load(name, existing(store))
    print(
        f"{study.name}: {study.title}\n\n{study.purpose.strip()}\n\ncost: "
        f"{study.cost.strip()}\nfile: {study.path}"
    )
    if study.source is not None:
        arm = next((e.recipe for e in study.entries if e.recipe.kind.trains), None)
        shared = {} if arm is None else {name: getattr(arm, name) for name in _OF_ARMS}
        print(f"\narms of: {study.source.name}")
    else:
        varied = ("eps", "seed", "step_size")
        shared = {k: v for k, v in study.entries[0].recipe.to_dict().items() if k not in varied}
    print("\nrecipe: " + ", ".join(f"{key} {value}" for key, value in shared.items()))
    for title, values in (("measured", study.settings.to_dict()), ("claims at", study.claims)):
        print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    print(f"\nruns, in running order; store: {study.folder}")
    for entry in study.entries:
        print(f"  {entry.run}{f'  ({entry.variant})' * bool(entry.variant)}")


@study_app.command("status")
@loud
def study_status(name: Name, store: Store = None, as_json: Json = False) -> None:
    """One line per run: recorded, finished in the store, running (by whom), begun,
    missing, or damaged.
    """
    from arlib import studies

    study = studies.load(name, existing(store))
    log.debug("store: %s; records: %s", study.folder, ", ".join(map(str, study.places.records)))
    runs = study.states()
    done = sum(run["state"] in DONE for run in runs)
    if as_json:
        print_json({"study": study.name, "done": done, "runs": [_counted(run) for run in runs]})
        return
    print_table(runs)
    print(f"\n{done} of {len(runs)} runs of {study.name} are done.")


@study_app.command("missing")
@loud
def study_missing(name: Name, store: Store = None) -> None:
    """The runs that are missing, one a line;
    exit status 1 if there are any, so that a shell can loop on it.
    """
    from arlib import studies

    missing = studies.load(name, existing(store)).missing()
    for entry in missing:
        print(entry.run)
    raise typer.Exit(1 if missing else 0)


@study_app.command("run")
@loud
def study_run(
    name: Name,
    time_budget: Budget = None,
    jobs: Annotated[
        int,
        typer.Option(help="Worker processes; each gets its share of the cores (or one GPU each)."),
    ] = 1,
    device: Device = "auto",
    store: Store = None,
    wait: Annotated[
        bool,
        typer.Option(
            help=(
                "Stay until other workers' runs are done, ready to take over the run of one that "
                "dies."
            )
        ),
    ] = True,
    afresh: Annotated[
        bool, typer.Option("--afresh", help="Compute also what is published as a record.")
    ] = False,
    mix: Annotated[
        bool,
        typer.Option("--mix", help="Allow another device or precision than the finished runs'."),
    ] = False,
    mode: Mode = "auto",
    precision: Precision = "float32",
    strict: Strict = False,
    progress: Annotated[
        bool | None,
        typer.Option(help="Progress bars, by default on a terminal; else a line for each epoch."),
    ] = None,
) -> None:
    """Compute what is missing of a study, from wherever it stopped.

    Start it in several terminals, or on several machines with one shared store: they share the
    runs. Ctrl-C, a full disk or a killed process lose at most one epoch; the same command goes on.
    """
    from arlib import studies

    signal.signal(signal.SIGTERM, as_interrupt)
    study, budget = studies.load(name, made_if_new(store)), seconds(time_budget)
    from arlib import engine  # torch takes seconds, which a mistake need not wait for

    engine.keep_memory()
    options = {"progress": bars(progress), "wait": wait, "afresh": afresh, "mix": mix}
    options |= {"mode": mode, "precision": precision, "strict": strict}
    begun = time.monotonic()
    try:
        study.run(budget, jobs, device, **options)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    missing = len(study.missing(afresh=afresh))
    rest = f"{missing} are missing; the same command goes on" if missing else "nothing is missing"
    total = len(study.entries)
    print(
        f"{study.name}: {total - missing} of {total} runs are done after "
        f"{time.monotonic() - begun:.0f} s, {rest}."
    )


@study_app.command("publish")
@loud
def study_publish(
    name: Name,
    store: Store = None,
    to: Annotated[
        Path | None,
        typer.Option(
            help="Folder of records; default: records/ of the checkout.", resolve_path=True
        ),
    ] = None,
) -> None:
    """Copy the finished runs of the store into records/,
    the part of a study that the repository keeps.
    """
    from arlib import studies

    study = studies.load(name, existing(store))
    new = study.publish(to)
    for run in new:
        print(run)
    print(
        f"{len(new)} new records of {study.name}; {len(study.missing())} of {len(study.entries)} "
        "runs are missing."
    )


@study_app.command("use")
@loud
def study_use(name: Name, store: Store = None) -> None:
    """Make the chapters of the book show this study:
    sets `study = "NAME"` in their parameters cells.

    A chapter about fronts keeps a study that has them, and the others one that has none.
    """
    from arlib import chapters, studies

    study, names = studies.load(name, existing(store)), studies.names(existing(store))

    def fits(other: str) -> bool:
        if other not in names:
            return True  # a chapter whose study is gone can only gain
        return studies.load(other, existing(store)).has_fronts == study.has_fronts

    for path in chapters.use_study(name, fits=fits):
        print(path)


def _counted(run: dict) -> dict:
    """A row of the status for programs: epochs as numbers, not as "6/30"."""
    done, _, whole = run["epochs"].partition("/")
    counts = {"epochs_done": int(done), "epochs": int(whole)} if whole else {}
    return run | {"epochs": None} | counts
