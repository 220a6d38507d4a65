"""Is the fast training the same training? python -m benchmarks.equivalence [--device cuda]
[--reduced | --study NAME]

Paired seeds: each trained by the plain path (eager, no folding, float32) and by the fast one, on
natural images and at the study's radius. Of each pair the difference fast − plain of

    natural error       on all test images, in points
    strong error        under APGD-CE and targeted APGD at the study's radius, on --images of
                        them, in points
    std, std / mean     of the circular singular values: median over the counted layers of the
                        log ratio

and over the pairs the 90 % t interval of the mean, against ±1 point and ±2 %:

    equivalent   the whole interval lies within the margin (two one-sided t tests at 5 %)
    different    it does not, and it excludes 0
    not shown    neither: more pairs or more images would be needed

By default ResNet-20 on all of CIFAR-10, 15 epochs; --reduced: ResNet-8 on the digits; --study NAME:
that study's trainings. Each trained network and each measurement is kept in --folder (SIDE/RUN/ in
it) and taken up again. --batch N asks another question: with N images per batch and the learning
rate scaled alike (Goyal et al. 2017), how long to equal accuracy?
"""

import argparse
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from arlib import attacks, data, engine, files, places, spectra, studies, training
from arlib.claims.statistics import t_interval
from arlib.errors import InputError
from arlib.training import Recipe
from benchmarks import attackers, report

POINTS, RATIO = 1.0, math.log(1.02)
MARGINS = {"natural error": POINTS, "strong error": POINTS, "std": RATIO, "std / mean": RATIO}
UNITS = {
    "natural error": "points",
    "strong error": "points",
    "std": "log ratio",
    "std / mean": "log ratio",
}
LEVEL = 0.90
STRONG = ("apgd-ce", "apgd-t")


@dataclass(frozen=True)
class Side:
    """One way to train: mode and precision of `training.train`."""

    mode: str
    precision: str = "float32"

    @property
    def name(self) -> str:
        return f"{self.mode}-{self.precision}"


@dataclass(frozen=True)
class Plan:
    """What is trained and measured.

    recipes: the natural and the adversarial training of each pair. eps: the study's radius in [0,
    1] pixel units.
    images: test images attacked.
    """

    recipes: tuple[Recipe, ...]
    eps: float
    images: int
    folder: Path
    device: str
    data_root: str | None = None

    @property
    def pairs(self) -> int:
        return len(self.recipes) // 2


def planned(options: argparse.Namespace, device: str, folder: Path) -> Plan:
    """What the command line asks for."""
    if options.study:
        recipes, eps = of_study(options)
    elif options.reduced:  # the digits, where 32/255 does what 8/255 does on CIFAR-10
        recipe, eps = (
            Recipe(dataset="digits", model="resnet8", width=8, steps=5, epochs=15),
            32 / 255,
        )
        recipes = paired(recipe, eps, options.pairs or 16)
    else:
        recipe, eps = Recipe(dataset="cifar10", model="resnet20", epochs=15), 8 / 255
        recipes = paired(recipe, eps, options.pairs or 5)
    changes = {
        "model": options.model,
        "epochs": options.epochs,
        "train_images": options.train_images,
    }
    changes = {name: value for name, value in changes.items() if value}
    recipes = tuple(replace(recipe, **changes) for recipe in recipes)
    return Plan(recipes, eps, options.images, folder, device, options.data_root)


def paired(recipe: Recipe, eps: float, pairs: int) -> list[Recipe]:
    return [
        replace(recipe, eps=radius, seed=seed) for seed in range(pairs) for radius in (0.0, eps)
    ]


def of_study(options: argparse.Namespace) -> tuple[list[Recipe], float]:
    """A study's trainings at strength 0 and at the one its claims compare with,
    and that one's radius.
    """
    study = studies.load(options.study)
    if not study.claims:
        raise InputError(
            f"the study {options.study} says under claims: at no strength what is compared with "
            "0. Add it."
        )
    effect = study.claims["effect"]
    recipes = [
        e.recipe for e in study.entries if not e.variant and e.recipe.strength in (0.0, effect)
    ]
    return recipes[: 2 * options.pairs if options.pairs else None], effect / 255


def trained(plan: Plan, recipe: Recipe, side: Side) -> training.Run:
    """The finished training, taken up from its folder where it stopped."""
    options = {"data_root": plan.data_root, "device": plan.device, "progress": False}
    return training.train(
        recipe,
        folder=plan.folder / side.name / recipe.id,
        mode=side.mode,
        precision=side.precision,
        **options,
    )


def measured(plan: Plan, recipe: Recipe, side: Side) -> dict:
    """What is compared of one trained network;
    kept beside it as `measured-N.json` (N test images).
    """
    path = plan.folder / side.name / recipe.id / f"measured-{plan.images}.json"
    if path.exists():
        return files.read_json(path)
    run = trained(plan, recipe, side)
    test = data.load(recipe.dataset, plan.data_root, device=plan.device).test
    natural = attackers.right(engine.prepare(run.model), test.x, test.y)
    test = test[: plan.images]
    robustness = attacks.evaluate(run.model, *test, eps=plan.eps, attacks=STRONG)
    layers = spectra.of(run.model.cpu(), run_shape(recipe), operator="circular")
    layers = layers[layers.counted]
    values = {
        "natural error": 100 * float(1 - natural.double().mean()),
        "strong error": 100 * float(1 - robustness.robust[-1].mean()),
        "std": layers["std"].tolist(),
        "std / mean": layers.std_over_mean.tolist(),
        "seconds": float(run.history.seconds.sum()),
        "n": len(test),
    }
    files.write_json(path, values)
    return values


def trained_images(plan: Plan, recipe: Recipe) -> int:
    return len(
        training.trained_split(recipe, data.load(recipe.dataset, plan.data_root, device="cpu"))
    )


def run_shape(recipe: Recipe) -> tuple[int, int, int]:
    return (1, 8, 8) if recipe.dataset == "digits" else (3, 32, 32)


def difference(plain: dict, fast: dict) -> dict[str, float]:
    """fast − plain of each quantity: points, and median over layers of the log ratio."""
    errors = {name: fast[name] - plain[name] for name in ("natural error", "strong error")}

    def ratio(name):
        return float(np.median(np.log(np.array(fast[name]) / np.array(plain[name]))))

    return errors | {name: ratio(name) for name in ("std", "std / mean")}


def verdict(
    differences: Sequence[float], margin: float, level: float = LEVEL
) -> tuple[float, float, float, str]:
    """Mean difference, its t interval, and "equivalent", "different" or "not shown".

    Equivalent if the interval lies wholly inside ±margin, however surely it excludes 0; different
    if it does not and excludes 0.
    """
    mean, low, high = t_interval(differences, level)
    if -margin < low and high < margin:
        return mean, low, high, "equivalent"
    return mean, low, high, "different" if low > 0 or high < 0 else "not shown"


def table(pairs: pd.DataFrame) -> pd.DataFrame:
    """A row per radius and quantity. pairs: eps, seed, quantity, plain, fast, difference."""
    rows = []
    for (eps, quantity), part in pairs.groupby(["eps", "quantity"], sort=False):
        mean, low, high, word = verdict(part.difference.tolist(), MARGINS[quantity])
        if quantity == "strong error" and min(part.plain.min(), part.fast.min()) > 99.5:
            word = "says nothing: all are fooled"
        row = {
            "strength": round(255 * eps, 6),
            "quantity": quantity,
            "unit": UNITS[quantity],
            "pairs": len(part),
        }
        row |= {
            "plain": part.plain.mean(),
            "fast": part.fast.mean(),
            "fast − plain": mean,
            "low": low,
            "high": high,
        }
        rows.append(row | {"margin": MARGINS[quantity], "verdict": word})
    return pd.DataFrame(rows)


def compare(
    plan: Plan, fast: Side, plain: Side = Side("plain")
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The verdicts, and the pairs they were taken from."""
    rows = []
    for done, recipe in enumerate(plan.recipes, 1):
        begun = time.perf_counter()
        a, b = measured(plan, recipe, plain), measured(plan, recipe, fast)
        for name, value in difference(a, b).items():
            values = {"plain": np.mean(a[name]), "fast": np.mean(b[name]), "difference": value}
            rows.append({"eps": recipe.eps, "seed": recipe.seed, "quantity": name} | values)
        line = f"natural {a['natural error']:.2f} / {b['natural error']:.2f} %, "
        line += f"strong {a['strong error']:.2f} / {b['strong error']:.2f} %"
        print(f"  {done} of {len(plan.recipes)}, {recipe.id}: {line}, "
              f"trained {a['seconds']:.0f} / {b['seconds']:.0f} s, now "
              f"{time.perf_counter() - begun:.0f} s",
              flush=True)  # fmt: skip
    pairs = pd.DataFrame(rows).sort_values(["eps", "seed"], kind="stable")
    return table(pairs), pairs


def time_to_accuracy(plan: Plan, batch: int, side: Side) -> pd.DataFrame:
    """Training seconds until the larger batch reaches what the usual one ends with, seed by seed.

    The learning rate grows as the batch (the linear rule of Goyal et al. 2017; the one-cycle
    schedule warms it up).
    Reached: the first epoch whose validation error under attack is at most that of the usual
    batch's last epoch.
    """
    rows = []
    for recipe in [r for r in plan.recipes if r.eps]:
        large = replace(recipe, batch_size=batch, lr=recipe.lr * batch / recipe.batch_size)
        histories = [trained(plan, one, side).history for one in (recipe, large)]
        target, images = histories[0].val_robust_error.iloc[-1], trained_images(plan, recipe)
        times = [seconds_to(history, target, images) for history in histories]
        row = {"seed": recipe.seed, "target val error": 100 * target}
        for one, history, seconds in zip((recipe, large), histories, times, strict=True):
            row |= {
                f"batch {one.batch_size}: s": seconds,
                f"best % at {one.batch_size}": 100 * history.val_robust_error.min(),
            }
        rows.append(row | {"times as fast": times[0] / times[1]})
        print(f"  {recipe.id}: {times[0]:.0f} s, batch {batch}: {times[1]:.0f} s", flush=True)
    return pd.DataFrame(rows)


def seconds_to(history: pd.DataFrame, target: float, images: int) -> float:
    """Seconds of training proper up to the end of the first epoch at
    or below the target; NaN if none is.
    """
    reached = np.flatnonzero(history.val_robust_error.to_numpy() <= target)
    seconds = images / history.images_per_second
    return float(seconds.iloc[: reached[0] + 1].sum()) if len(reached) else math.nan


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    options = parsed(arguments)
    device = str(engine.device(options.device))
    size = Path(options.study).stem if options.study else "reduced" if options.reduced else "full"
    folder = (
        Path(options.folder)
        if options.folder
        else places.places().store / "scratch" / f"equivalence-{size}"
    )
    plan = planned(options, device, folder)
    machine = engine.settle(device, options.mode, options.precision)
    fast, begun = Side(machine.mode, machine.precision), time.perf_counter()
    recipe = plan.recipes[0]
    print(
        f"{recipe.id}: {plan.pairs} pairs, strengths 0 and {255 * plan.eps:g}, {recipe.epochs} "
        f"epochs, up to {plan.images} test images; plain against {fast.name}; kept in {folder}",
        flush=True,
    )
    if options.batch:
        tables = {
            f"time to equal accuracy, batch {options.batch}, {fast.name}": time_to_accuracy(
                plan, options.batch, fast
            )
        }
    else:
        verdicts, pairs = compare(plan, fast)
        tables = {f"plain against {fast.name}": verdicts, "pairs": pairs}
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")
    name = result_name(fast, size=size, batch=options.batch)
    images = len(data.load(recipe.dataset, plan.data_root, device="cpu").test[: plan.images])
    notes = {
        "recipe": recipe.to_dict(),
        "pairs": plan.pairs,
        "test images": images,
        "fast": fast.name,
    }
    print(report.write(name, device, tables, folder=options.out, **notes))
    return tables


def result_name(fast: Side, *, size: str, batch: int | None) -> str:
    """Of the file of results: one for each fast side and size, so that none replaces another's."""
    parts = [
        "equivalence",
        size if size != "full" else "",
        f"batch{batch}" * bool(batch),
        fast.name,
    ]
    return re.sub("[^a-z0-9]+", "_", "_".join(filter(None, parts)))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--reduced", action="store_true", help="ResNet-8 on the digits, for a CPU")
    sizes.add_argument(
        "--study", default=None, help="the trainings of a study, as many as its seeds (or --pairs)"
    )
    parser.add_argument("--mode", default="auto", help="of the fast side")
    parser.add_argument("--precision", default="float32", help="of the fast side")
    parser.add_argument("--pairs", type=int, default=None)
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--model", default=None, help="another network")
    parser.add_argument(
        "--train-images", type=int, default=None, help="only so many training images"
    )
    parser.add_argument("--images", type=int, default=2000, help="test images attacked, at most")
    parser.add_argument(
        "--batch", type=int, default=None, help="time to equal accuracy at this batch size instead"
    )
    parser.add_argument("--folder", default=None, help="where trained networks are kept")
    parser.add_argument(
        "--out", default=None, help="where the JSON goes, by default records/benchmarks"
    )
    parser.add_argument("--data-root", default=None)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.command(main)
