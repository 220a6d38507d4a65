"""The adversarial-training step against others':
python -m benchmarks.training [--device cpu|cuda] [--quick]

ResNet-56 (thin, 16 channels) and ResNet-18, PGD-10 at 8/255, batch 128 (ResNet-18 on a CPU: 32),
the same weights; contenders as in `benchmarks.loops` and `benchmarks.contenders`. Their rounds are
interleaved; images/s is the median round, low and high the slowest and fastest. `start s`: what the
first step took beyond a usual one (compilation, graph capture). TFLOP/s counts useful operations
only, so gradients that nobody uses do not count.

--scaling measures our step over batch size, depth, attack steps and simultaneous runs instead.
"""

import argparse
import gc
import math
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace

import pandas as pd
import torch

from arlib import engine
from benchmarks import contenders, limits, loops, many, report, workers
from benchmarks.loops import Missing, Setting
from benchmarks.many import EPOCH


def warm(setting: Setting, names: Sequence[str]) -> tuple[dict[str, object], dict[str, float]]:
    """The contenders that run here, and the seconds of each one's first step;
    the others are named and left out.
    """
    ready, first = {}, {}
    for name in names:
        try:
            loop = contenders.make(name, setting)
            begun = time.perf_counter()
            loop.step()
            workers.wait(setting.device)
        except (Missing, RuntimeError, ValueError, TypeError) as reason:
            print(
                f"  {name} left out: {type(reason).__name__}: {str(reason).splitlines()[0]}",
                flush=True,
            )
            continue
        ready[name], first[name] = loop, time.perf_counter() - begun
        print(f"  {name}: first step {first[name]:.1f} s", flush=True)
    return ready, first


def throughput(
    ready: dict[str, object], setting: Setting, batches: int, rounds: int
) -> dict[str, tuple[report.Times, float]]:
    """Times of `batches` steps of each contender, interleaved, and the images in them."""
    images = {name: 0 for name in ready}

    def turn(name: str) -> None:
        images[name] = sum(ready[name].step() for _ in range(batches))

    times = report.interleaved(
        {n: lambda n=n: turn(n) for n in ready}, rounds, setting.device, warm_up=0
    )
    return {name: (times[name], images[name]) for name in ready}


def compare(
    setting: Setting,
    names: Sequence[str],
    ceilings: pd.DataFrame,
    *,
    batches: int,
    rounds: int,
    budget: float,
) -> pd.DataFrame:
    """One row per contender. budget: seconds for the timed rounds (one or more)."""
    ready, first = warm(setting, names)
    usual = max(
        (s for n, s in first.items() if not _compiles(n)), default=max(first.values(), default=1.0)
    )
    expected = batches * sum(min(s, usual) for s in first.values())
    rounds = max(1, min(rounds, int(budget / expected))) if ready else 0
    print(f"  {rounds} rounds of {batches} batches", flush=True)
    done = limits.work(setting)
    rows = [
        _row(name, setting, batches, first[name], times, images, done, ceilings)
        for name, (times, images) in (
            throughput(ready, setting, batches, rounds) if ready else {}
        ).items()
    ]
    ready.clear()
    gc.collect()
    return against_peers(pd.DataFrame(rows))


def _compiles(name: str) -> bool:
    return "compiled" in name or "graphed" in name


def _row(
    name, setting, batches, first, times, images, done: limits.Work, ceilings: pd.DataFrame
) -> dict:
    speed = images / times.median
    row = {"network": setting.network, "loop": name, "batch": setting.batch, "images/s": speed}
    row |= {"low": images / times.high, "high": images / times.low, "cpu s": times.cpu / batches}
    row |= {"start s": max(0.0, first - times.median / batches), "epoch s": EPOCH / speed}
    return row | achieved(speed, done, name, ceilings)


def achieved(
    speed: float, done: limits.Work, name: str, ceilings: pd.DataFrame
) -> dict[str, float]:
    """Useful TFLOP/s and unfused GB/s at that many images a second,
    and their shares of the measured ceilings.

    Passes in two precisions have no one ceiling and no one size of a number.
    """
    precision = name.split()[-1] if name.startswith("ours") else "float32"
    if precision == "bfloat16-attack":
        return {"TFLOP/s": speed * done.flops / 1e12} | dict.fromkeys(
            ("of ceiling", "GB/s unfused", "of copy"), math.nan
        )
    flops, moved = (
        speed * done.flops / 1e12,
        speed * done.bytes / 1e9 * (0.5 if precision == "bfloat16" else 1.0),
    )
    shares = (
        flops / limits.highest(ceilings, precision),
        moved / ceilings.value[ceilings.ceiling == "copy"].max(),
    )
    return {"TFLOP/s": flops, "of ceiling": shares[0], "GB/s unfused": moved, "of copy": shares[1]}


def against_peers(table: pd.DataFrame) -> pd.DataFrame:
    """With each row's speed over that of the fastest loop that is not ours."""
    if table.empty:
        return table
    others = table["images/s"][~table.loop.str.startswith("ours")]
    return table.assign(
        **{"× fastest peer": table["images/s"] / others.max() if len(others) else float("nan")}
    )


def sweep(
    cases: dict[object, Setting],
    column: str,
    contender: str,
    ceilings: pd.DataFrame,
    *,
    batches: int,
    rounds: int,
) -> pd.DataFrame:
    """Our step over one quantity: interleaved rounds of all its values."""
    ready, rows = {}, []
    for value, setting in cases.items():
        if loop := warm(setting, [contender])[0].get(contender):
            ready[value] = loop
    measured = throughput(ready, next(iter(cases.values())), batches, rounds) if ready else {}
    for value, (times, images) in measured.items():
        speed = images / times.median
        row = {
            column: value,
            "images/s": speed,
            "low": images / times.high,
            "high": images / times.low,
        }
        row |= {"image-steps/s": speed * (cases[value].steps + 1)}
        rows.append(row | achieved(speed, limits.work(cases[value]), contender, ceilings))
    return pd.DataFrame(rows)


def scaling(device: str, contender: str, quick: bool, rounds: int) -> dict[str, pd.DataFrame]:
    """Tables over batch size, depth, attack steps K and simultaneous runs; and the ceilings."""
    gpu = device != "cpu"
    base = Setting(network="resnet56" if gpu else "resnet8", device=device, steps=10 if gpu else 3)
    base = replace(base, batch=128 if gpu else 8 if quick else 64, images=8192 if gpu else 512)
    sizes = (128, 256, 512, 1024, 2048, 4096) if gpu else (4, 8) if quick else (32, 64, 128, 256)
    depths, attack_steps = (
        ((8,), (1, 2)) if quick else ((8, 20, 56), (1, 3, 10, 20) if gpu else (1, 3, 10))
    )
    batches, runs = (20, (1, 2, 4, 8, 12)) if gpu else (1, (1, 2) if quick else (1, 2, 4))
    ceilings = limits.ceilings(device, contenders.precisions(device), quick)
    cases = {
        ("batch", f"batch size ({base.network}, PGD-{base.steps}"): {
            n: replace(base, batch=n) for n in sizes
        },
        ("depth", f"depth (PGD-{base.steps}, batch {base.batch}"): {
            d: replace(base, network=f"resnet{d}") for d in depths
        },
        ("K", f"attack steps ({base.network}, batch {base.batch}"): {
            k: replace(base, steps=k) for k in attack_steps
        },
    }
    tables = {}
    for (column, title), chosen_cases in cases.items():
        print(f"{column}: {', '.join(map(str, chosen_cases))}", flush=True)
        options = {"batches": batches, "rounds": rounds}
        tables[f"{title}, {contender})"] = sweep(
            chosen_cases, column, contender, ceilings, **options
        )
    title = f"simultaneous runs ({base.network}, PGD-{base.steps}, batch {base.batch}, {contender})"
    tables[title] = many.table(base, contender, runs, max(batches, 2), rounds)
    return tables | {"ceilings": ceilings}


def settings(device: str, quick: bool) -> list[Setting]:
    """The two networks; on a CPU the wide one gets a smaller batch,
    which changes its images/s little.
    """
    if quick:
        return [
            Setting(network="resnet8", width=4, batch=8, steps=2, images=16, size=16, device=device)
        ]
    wide, images = (128, EPOCH) if device != "cpu" else (32, 1024)
    both = {"device": device, "images": images}
    return [Setting(**both), Setting(network="resnet18", batch=wide, **both)]


def chosen(device: str, peers: bool, only: str | None) -> list[str]:
    """Contenders of this run; on a CPU bfloat16 is tried where it can win."""
    known = contenders.names(device, peers)
    if device == "cpu":
        known = [name for name in known if not name.startswith("ours plain bfloat16")]
    return [name for name in known if only is None or any(part in name for part in only.split(","))]


def main(arguments: Sequence[str] | None = None) -> dict[str, pd.DataFrame]:
    options = parsed(arguments)
    device, begun = str(engine.device(options.device)), time.perf_counter()
    torch.backends.cudnn.benchmark = device != "cpu"  # for everybody, as the public codes have it
    warnings.filterwarnings("ignore", category=UserWarning, module=r"art\.|torchattacks\.")
    if device == "cpu":
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads", flush=True)
    if options.scaling:
        contender = options.contender or contenders.fastest(device)
        name, tables = "training_scaling", scaling(device, contender, options.quick, options.rounds)
    else:
        name, tables = "training", steps(device, options)
    for title, table in tables.items():
        print(f"\n{title}\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    print(f"\n{time.perf_counter() - begun:.0f} s in all")
    # a part does not replace the whole
    if (options.quick or options.only) and options.folder is None:
        return tables
    print(
        report.write(
            name, device, tables, folder=options.folder, targets=TARGETS, pictures="random, fixed"
        )
    )
    return tables


TARGETS = {
    "cpu": "a PGD-10 step at least 1.5 times the fastest peer's as it is, 1.7 times compiled",
    "cuda": (
        "ResNet-56, PGD-10: 45,000 images in at most 3.3 s, simultaneous runs counted; 5 times "
        "the fastest peer"
    ),
}


def steps(device: str, options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """The table of contenders for each network, and the ceilings."""
    peers = not options.no_peers
    if peers:
        try:
            loops.show_peers(options.peers)
        except Missing as reason:
            print(f"left out: {reason}", flush=True)
            peers = False
    print("ceilings", flush=True)
    ceilings = limits.ceilings(device, contenders.precisions(device), options.quick)
    tables, batches = {}, 20 if device != "cpu" else 1
    for setting in settings(device, options.quick):
        print(f"{setting.network}, batch {setting.batch}, PGD-{setting.steps}", flush=True)
        names = chosen(device, peers, options.only)
        share = options.budget / len(settings(device, options.quick))
        title = f"{setting.network}, PGD-{setting.steps}, batch {setting.batch}"
        tables[title] = compare(
            setting, names, ceilings, batches=batches, rounds=options.rounds, budget=share
        )
    return tables | {"ceilings": ceilings}


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="tiny sizes, to see that it runs; no JSON without --folder",
    )
    parser.add_argument(
        "--scaling", action="store_true", help="our step over batch, depth, attack steps, runs"
    )
    parser.add_argument("--no-peers", action="store_true", help="without torchattacks and art")
    parser.add_argument(
        "--peers", default=None, help="the peers' site-packages, by default those in .venv-peers"
    )
    parser.add_argument(
        "--only",
        default=None,
        help="contenders whose name has one of these, by commas; no JSON without --folder",
    )
    parser.add_argument("--contender", default=None, help="the loop that --scaling measures")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--budget", type=float, default=240, help="seconds for timed rounds, warming up apart"
    )
    parser.add_argument(
        "--folder", default=None, help="where the JSON goes, by default records/benchmarks"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    report.command(main)
