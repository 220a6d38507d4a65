"""`arlib train …`: one network."""

import dataclasses
import inspect
import signal
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from arlib.cli.loudness import bars
from arlib.cli.options import (
    Budget,
    Device,
    Mode,
    Precision,
    Store,
    Strict,
    as_interrupt,
    made_if_new,
    seconds,
    stop,
)
from arlib.errors import InputError
from arlib.fields import docs
from arlib.sources import NAMES

# A command line speaks of strengths (255·eps), so these fields are set through other options.
THROUGH_OTHERS = ("dataset", "eps", "step_size")


def train_one(
    dataset: Annotated[str, typer.Argument(help=f"{', '.join(NAMES)}.")],
    strength: Annotated[
        float, typer.Option(help="AR strength: 255 times the training radius eps; 0 is standard.")
    ] = 0.0,
    step: Annotated[
        float | None,
        typer.Option(
            help=(
                "Size of an attack step × 255; default a quarter of the strength (n-fgsm: the "
                "strength)."
            )
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            help="Where it is kept; default: single/<run id> in the store.", resolve_path=True
        ),
    ] = None,
    device: Device = "auto",
    time_budget: Budget = None,
    store: Store = None,
    mode: Mode = "auto",
    precision: Precision = "float32",
    strict: Strict = False,
    micro_batches: Annotated[
        int,
        typer.Option(
            help=(
                "Work on each batch in so many parts, to save memory; batch norm sees each by "
                "itself."
            )
        ),
    ] = 1,
    **fields: object,
) -> None:
    """Train one network; the same command goes on from its last epoch.

    On several GPUs or processes: torchrun --nproc-per-node N -m arlib train …

    PGD adversarial training by default; TRADES, N-FGSM, AWP, a warm-up of the strength and weight
    averaging are options. An option that the others make idle is refused.
    """
    from arlib import places, training

    signal.signal(signal.SIGTERM, as_interrupt)
    step_size = None if step is None else step / 255
    recipe = training.Recipe(dataset=dataset, eps=strength / 255, step_size=step_size, **fields)
    _refuse_idle(recipe)
    singles = places.places(made_if_new(store)).store / "single"
    folder = folder or singles / recipe.id
    options = {
        "helper": singles / recipe.helper if recipe.helper else None,
        "device": device,
        "time_budget": seconds(time_budget),
        "progress": bars(),
    }
    options |= {
        "mode": mode,
        "precision": precision,
        "strict": strict,
        "micro_batches": micro_batches,
    }
    from arlib import engine  # torch takes seconds, which a mistake need not wait for
    from arlib.training import distributed

    engine.keep_memory()
    try:
        run = training.train(recipe, folder=folder, **options)
    except KeyboardInterrupt:
        stop(
            f"{recipe.id}: interrupted; whole epochs are kept in {folder}, the same command goes "
            "on.",
            130,
        )
    if not distributed.World.launched().first:
        return
    if len(run.history):
        print(run.history.iloc[-1].to_string())
    print(f"{len(run.history)} of {recipe.epochs} epochs of {recipe.id}, kept in {folder}")


def _options_of(recipe: type) -> list[inspect.Parameter]:
    """One option per field of a recipe, with its docstring as help."""
    helps = docs(recipe)
    options = []
    for field in dataclasses.fields(recipe):
        if field.name in THROUGH_OTHERS:
            continue
        kind = typing.get_args(field.type)[0]  # without its bounds, which the recipe itself checks
        option = Annotated[kind, typer.Option(help=helps[field.name])]
        keyword = inspect.Parameter.KEYWORD_ONLY
        options.append(
            inspect.Parameter(field.name, keyword, default=field.default, annotation=option)
        )
    return options


def with_fields(command: Callable) -> Callable:
    """The command with the fields of a recipe in place of its `**fields`."""
    from arlib.training.recipe import Recipe

    signature = inspect.signature(command)
    own = [
        p.replace(kind=p.KEYWORD_ONLY)
        for p in signature.parameters.values()
        if p.kind is not p.VAR_KEYWORD
    ]
    command.__signature__ = signature.replace(parameters=[*own[:3], *_options_of(Recipe), *own[3:]])
    return command


def _refuse_idle(recipe) -> None:
    """A study's recipe serves all its strengths;
    one training at strength 0 has no use for an attack.
    """
    for name in ("objective", "attack", "eps_warmup"):
        if not recipe.eps and name in recipe.to_dict():
            raise InputError(
                f"{name} is {getattr(recipe, name)!r}, but strength 0 trains unattacked. Give "
                "--strength."
            )
