"""`arlib train …`: one network."""

import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from arlib.cli.options import Budget, Device, Mode, Precision, Store, Strict, as_interrupt, seconds, stop
from arlib.errors import InputError


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
    from arlib import engine, places, training
    from arlib.training import distributed

    signal.signal(signal.SIGTERM, as_interrupt)
    engine.keep_memory()
    recipe = training.Recipe(
        dataset=dataset, model=model, width=width, eps=strength / 255, steps=steps,
        step_size=None if step is None else step / 255, train_images=train_images, epochs=epochs,
        batch_size=batch_size, lr=lr, schedule=schedule, weight_decay=weight_decay, seed=seed,
        objective=objective, beta=beta, mix=mix, attack=attack, noise=noise, awp=awp, eps_warmup=eps_warmup, ema=ema,
    )  # fmt: skip
    _refuse_idle(recipe)
    folder = folder or places.places(store).store / "single" / recipe.id
    options = {"device": device, "time_budget": seconds(time_budget), "progress": sys.stderr.isatty()}
    options |= {"mode": mode, "precision": precision, "strict": strict, "micro_batches": micro_batches}
    try:
        run = training.train(recipe, folder=folder, **options)
    except KeyboardInterrupt:
        stop(f"{recipe.id}: interrupted; whole epochs are kept in {folder}, the same command goes on.", 130)
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
