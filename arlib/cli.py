"""The `arlib` command: it spells the science, `arlib study run cifar10-resnet56 --time-budget 9m`."""

import logging
import re
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Annotated

import typer

from arlib.errors import InputError, RecordError, TrainingStopped

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="What adversarial robustness does to a neural network, measured: studies, chapters, data, verdicts.",
)  # fmt: skip
study_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None,
    help="Studies: named grids of training runs (studies/NAME.yml), what is recorded of them, and running the rest.",
)  # fmt: skip
app.add_typer(study_app, name="study")

Name = Annotated[str, typer.Argument(help="Name of a study (see `arlib study list`), or the path of a .yml file.")]
Store = Annotated[
    Path | None,
    typer.Option(
        help="Folder where runs are computed and kept. Default: $ARLIB_STORE, else runs/ of the checkout.",
        resolve_path=True,
    ),
]
Device = Annotated[str, typer.Option(help="auto (a GPU if there is one), cpu, cuda, cuda:1, …")]
Mode = Annotated[
    str, typer.Option(help="How fast: plain, folded, compiled, graphed, compiled+graphed; auto: what is proven here.")
]
Precision = Annotated[str, typer.Option(help="Of the network's passes in training: float32 or bfloat16.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a mode or precision the device lacks.")]
Budget = Annotated[
    str | None, typer.Option(help="Stop cleanly within this time, e.g. 9m, 1h30m, 90s; the same command goes on later.")
]


def main() -> None:
    """Entry point: what can be said in one line is said in one line, with exit status 2."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    warnings.formatwarning = lambda message, *_: f"arlib: {message}\n"  # no source lines
    try:
        app()
    except (InputError, RecordError, TrainingStopped) as error:
        _stop(str(error))
    except OSError as error:
        _stop(f"{error}. What was finished is kept; the same command goes on from there.")


def _stop(message: str, status: int = 2) -> None:
    print(f"arlib: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def seconds(text: str | None) -> float | None:
    """Seconds of a time like 9m, 1h30m, 90s or 1.5h; None stays None. `InputError` for anything else."""
    if text is None:
        return None
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    try:
        found = [float(part or 0) for part in parts.groups()] if parts else [0.0]
    except ValueError:
        found = [0.0]
    total = sum(value * unit for value, unit in zip(found, (3600, 60, 1), strict=False))
    if not total > 0:
        raise InputError(f"time is {text!r}; write hours, minutes and seconds like 9m, 1h30m or 90s.")
    return total


@study_app.command("list")
def study_list(store: Store = None) -> None:
    """All studies: how many runs each has and how many are recorded."""
    from arlib import studies

    broken = []
    for name in studies.names(store):
        try:
            study = studies.load(name, store)
            done = len(study.entries) - len(study.missing())
        except (InputError, RecordError) as error:
            broken.append(str(error))
            continue
        print(f"{name:26} {done:3d} of {len(study.entries):3d} runs recorded{' (toy)' * study.toy}  {study.title}")
    if broken:
        raise InputError(" ".join(broken))


@study_app.command("show")
def study_show(name: Name, store: Store = None) -> None:
    """What a study is for, its recipe, its runs, what is measured with which n, and what it costs."""
    from arlib import studies

    study = studies.load(name, store)
    print(f"{study.name}: {study.title}\n\n{study.purpose.strip()}\n\ncost: {study.cost.strip()}\nfile: {study.path}")
    varied = ("eps", "seed", "step_size")
    shared = {k: v for k, v in study.entries[0].recipe.to_dict().items() if k not in varied}
    print("\nrecipe: " + ", ".join(f"{key} {value}" for key, value in shared.items()))
    for title, values in (("measured", study.settings.to_dict()), ("claims at", study.claims)):
        print(f"{title}: " + ", ".join(f"{key} {value}" for key, value in values.items()))
    print(f"\nruns, in running order; store: {study.folder}")
    for entry in study.entries:
        print(f"  {entry.run}{f'  ({entry.variant})' * bool(entry.variant)}")


@study_app.command("status")
def study_status(name: Name, store: Store = None) -> None:
    """One line a run: recorded, finished in the store, running (by whom), begun, missing, or damaged."""
    from arlib import studies

    study = studies.load(name, store)
    table = study.status()
    print(table.to_string(index=False, na_rep="", float_format=lambda value: f"{value:.1f}"))
    print(f"\n{_done(table)} of {len(table)} runs of {study.name} are done.")


@study_app.command("missing")
def study_missing(name: Name, store: Store = None) -> None:
    """The runs that are missing, one a line; exit status 1 if there are any, so that a shell can loop on it."""
    from arlib import studies

    missing = studies.load(name, store).missing()
    for entry in missing:
        print(entry.run)
    raise typer.Exit(1 if missing else 0)


@study_app.command("run")
def study_run(
    name: Name,
    time_budget: Budget = None,
    jobs: Annotated[
        int, typer.Option(help="Worker processes; each gets its share of the cores (or one GPU each).")
    ] = 1,
    device: Device = "auto",
    store: Store = None,
    wait: Annotated[
        bool, typer.Option(help="Stay until other workers' runs are done, ready to take over the run of one that dies.")
    ] = True,
    afresh: Annotated[bool, typer.Option("--afresh", help="Compute also what is published as a record.")] = False,
    mix: Annotated[
        bool, typer.Option("--mix", help="Allow another device or precision than the finished runs'.")
    ] = False,
    mode: Mode = "auto",
    precision: Precision = "float32",
    strict: Strict = False,
    progress: Annotated[bool | None, typer.Option(help="Progress bars; by default on a terminal only.")] = None,
) -> None:
    """Compute what is missing of a study, from wherever it stopped.

    Start it in several terminals, or on several machines with one shared store: they share the runs.
    Ctrl-C, a full disk or a killed process lose at most one epoch; the same command goes on.
    """
    from arlib import studies

    signal.signal(signal.SIGTERM, _as_interrupt)
    study = studies.load(name, store)
    shown = sys.stderr.isatty() if progress is None else progress
    options = {"progress": shown, "wait": wait, "afresh": afresh, "mix": mix}
    options |= {"mode": mode, "precision": precision, "strict": strict}
    begun = time.monotonic()
    try:
        study.run(seconds(time_budget), jobs, device, **options)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    missing = len(study.missing(afresh=afresh))
    rest = f"{missing} are missing; the same command goes on" if missing else "nothing is missing"
    total = len(study.entries)
    print(f"{study.name}: {total - missing} of {total} runs are done after {time.monotonic() - begun:.0f} s, {rest}.")


@study_app.command("publish")
def study_publish(
    name: Name,
    store: Store = None,
    to: Annotated[
        Path | None, typer.Option(help="Folder of records; default: records/ of the checkout.", resolve_path=True)
    ] = None,
) -> None:
    """Copy the finished runs of the store into records/, the part of a study that the repository keeps."""
    from arlib import studies

    study = studies.load(name, store)
    new = study.publish(to)
    for run in new:
        print(run)
    print(f"{len(new)} new records of {study.name}; {len(study.missing())} of {len(study.entries)} runs are missing.")


@study_app.command("use")
def study_use(name: Name, store: Store = None) -> None:
    """Make the chapters of the book show this study: sets `study = "NAME"` in their parameters cells."""
    from arlib import batch, studies

    studies.load(name, store)
    for path in batch.use_study(name):
        print(path)


@app.command("batch")
def run_batch(
    chapters: Annotated[list[str], typer.Argument(help="Chapters (margins, book/margins.ipynb, …) or `all`.")],
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", help="name=value, the same in every run.")
    ] = None,
    grid: Annotated[list[str] | None, typer.Option(help="name=value,value,…; several grids multiply.")] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the executed chapters, logs and summary.csv.", resolve_path=True)
    ] = Path("out"),
    jobs: Annotated[int, typer.Option(help="Runs at a time.")] = 1,
    timeout: Annotated[
        str, typer.Option(help="Time limit of one run, e.g. 30m; then its processes are killed.")
    ] = "1h",
    retries: Annotated[int, typer.Option(help="How often a failed run is tried again (0, 1 or 2).")] = 2,
    executor: Annotated[
        str, typer.Option(help="local, or submitit (Slurm where there is one; needs `pip install submitit`).")
    ] = "local",
) -> None:
    """Run chapters × parameters with papermill, each in processes of its own, and collect one table.

    What is finished is skipped when the command is given again; a changed chapter or parameter runs anew.
    Exit status 0 only if every run succeeded.
    """
    from arlib import batch

    signal.signal(signal.SIGTERM, _as_interrupt)
    tasks = batch.plan(chapters, batch.parameter_sets(parameter or [], grid or []), out)
    try:
        table = batch.run(tasks, jobs=jobs, timeout=seconds(timeout), retries=retries, executor=executor)
    except KeyboardInterrupt:
        _stop("interrupted; finished chapters are kept, the same command goes on.", 130)
    failed = table[table["status"] == "failed"]
    print(f"{len(table) - len(failed)} of {len(table)} runs succeeded; see {out / 'summary.csv'}.")
    for row in failed.itertuples():
        print(f"failed: {row.output}: {row.reason}", file=sys.stderr)
    raise typer.Exit(1 if len(failed) else 0)


@app.command("data")
def show_data(
    name: Annotated[str, typer.Argument(help="digits, cifar10 or cifar100.")],
    download: Annotated[bool, typer.Option("--download", help="Fetch the files if they are missing.")] = False,
    root: Annotated[
        Path | None, typer.Option(help="Folder of the files; default: $ARLIB_DATA, else data/.", resolve_path=True)
    ] = None,
) -> None:
    """Check that a data set is there and whole, and say what is in it."""
    from arlib import data

    found = data.load(name, root, download, device="cpu")
    where = "embedded in scikit-learn" if name == "digits" else f"in {data.data_root(root)}"
    print(f"{name}, {where}: {len(found.classes)} classes, images {' × '.join(map(str, found.shape))}")
    print(", ".join(f"{part} {len(getattr(found, part)):,}" for part in ("train", "val", "test")))


@app.command("verdicts")
def show_verdicts(name: Name, store: Store = None) -> None:
    """Every claim of the book, decided by the records of one study."""
    from arlib import claims, studies

    study = studies.load(name, store)
    print(claims.table(claims.verdicts(study)).to_string())
    if study.toy:
        print("\nThis is a toy study: its verdicts show the method, not the paper's claims.")


@app.command("train")
def train_one(
    dataset: Annotated[str, typer.Argument(help="digits, cifar10 or cifar100.")],
    model: Annotated[str, typer.Option(help="resnet8, 20, 32, 44, 56 or 110.")] = "resnet20",
    width: Annotated[int, typer.Option(help="Channels of the first stage.")] = 16,
    strength: Annotated[
        float, typer.Option(help="AR strength: 255 times the training radius eps; 0 is standard.")
    ] = 0.0,
    steps: Annotated[int, typer.Option(help="PGD steps of the training attack.")] = 10,
    step: Annotated[
        float | None,
        typer.Option(help="Size of an attack step × 255; default a quarter of the strength (n-fgsm: the strength)."),
    ] = None,
    train_images: Annotated[int | None, typer.Option(help="Only the first so many training images.")] = None,
    epochs: Annotated[int, typer.Option()] = 60,
    batch_size: Annotated[int, typer.Option()] = 128,
    lr: Annotated[float, typer.Option(help="Largest learning rate.")] = 0.1,
    schedule: Annotated[str, typer.Option(help="one-cycle or piecewise.")] = "one-cycle",
    weight_decay: Annotated[float, typer.Option()] = 5e-4,
    seed: Annotated[int, typer.Option(help="Initialisation, data order, augmentation, random starts.")] = 0,
    objective: Annotated[str, typer.Option(help="adversarial, trades, or mixed (with natural loss).")] = "adversarial",
    beta: Annotated[float, typer.Option(help="Of trades: weight of the divergence.")] = 6.0,
    mix: Annotated[float, typer.Option(help="Of mixed: share of the natural loss, 0 to 1.")] = 0.5,
    attack: Annotated[str, typer.Option(help="pgd, or n-fgsm: one step from wide noise.")] = "pgd",
    noise: Annotated[float, typer.Option(help="Of n-fgsm: half-width of the noise ÷ strength.")] = 2.0,
    awp: Annotated[float, typer.Option(help="Adversarial weight perturbation ÷ weights; 0.005 is usual.")] = 0.0,
    eps_warmup: Annotated[float, typer.Option(help="Epochs over which the strength grows from 0.")] = 0.0,
    ema: Annotated[float, typer.Option(help="Decay of the weights' running average; 0.999 is usual.")] = 0.0,
    folder: Annotated[
        Path | None, typer.Option(help="Where it is kept; default: single/<run id> in the store.", resolve_path=True)
    ] = None,
    device: Device = "auto",
    time_budget: Budget = None,
    store: Store = None,
    mode: Mode = "auto",
    precision: Precision = "float32",
    strict: Strict = False,
    micro_batches: Annotated[
        int, typer.Option(help="Work on each batch in so many parts, to save memory; batch norm sees each by itself.")
    ] = 1,
) -> None:
    """Train one network; the same command goes on from its last epoch.

    On several GPUs or processes: torchrun --nproc-per-node N -m arlib train …

    PGD adversarial training by default; TRADES, N-FGSM, AWP, a warm-up of the strength and weight
    averaging are options. An option that the others make idle is refused.
    """
    from arlib import records, training
    from arlib.training import distributed

    signal.signal(signal.SIGTERM, _as_interrupt)
    recipe = training.Recipe(
        dataset=dataset, model=model, width=width, eps=strength / 255, steps=steps,
        step_size=None if step is None else step / 255, train_images=train_images, epochs=epochs,
        batch_size=batch_size, lr=lr, schedule=schedule, weight_decay=weight_decay, seed=seed,
        objective=objective, beta=beta, mix=mix, attack=attack, noise=noise, awp=awp, eps_warmup=eps_warmup, ema=ema,
    )  # fmt: skip
    _refuse_idle(recipe)
    folder = folder or records.places(store).store / "single" / recipe.id
    options = {"device": device, "time_budget": seconds(time_budget), "progress": sys.stderr.isatty()}
    options |= {"mode": mode, "precision": precision, "strict": strict, "micro_batches": micro_batches}
    try:
        run = training.train(recipe, folder=folder, **options)
    except KeyboardInterrupt:
        _stop(f"{recipe.id}: interrupted; whole epochs are kept in {folder}, the same command goes on.", 130)
    if not distributed.World.launched().first:
        return
    if len(run.history):
        print(run.history.iloc[-1].to_string())
    print(f"{len(run.history)} of {epochs} epochs of {recipe.id}, kept in {folder}")


def _refuse_idle(recipe) -> None:
    """A study's recipe serves all its strengths; one training at strength 0 has no use for an attack."""
    for name in ("objective", "attack", "eps_warmup"):
        if not recipe.eps and name in recipe.to_dict():
            raise InputError(f"{name} is {getattr(recipe, name)!r}, but strength 0 trains unattacked. Give --strength.")


def _done(table) -> int:
    return int(table["state"].isin(["finished", "recorded"]).sum())


def _as_interrupt(*_) -> None:
    """Being asked to end (a cluster's time limit, a closed session) is like Ctrl-C."""
    raise KeyboardInterrupt
