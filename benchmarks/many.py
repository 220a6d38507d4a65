"""Several trainings at once on one device:
python -m benchmarks.many [--device cpu|cuda] [--runs 1 2 4]

A small network does not fill a large GPU. Three ways to train N of them, each against one alone:

    processes    N worker processes, each with its own copy of the data
    streams      N trainings in one process, each on its own CUDA stream (CUDA only)
    vectorised   N networks as one over a run axis: torch.func.vmap turns their convolutions into
                 grouped ones; one optimiser over the stacked weights

The first row, one process, is the "one alone" of all others.
"""

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import pandas as pd
import torch

from arlib import attacks, engine
from arlib.sources import source
from benchmarks import contenders, loops, report, workers
from benchmarks.loops import Setting
from benchmarks.together import Together
from benchmarks.workers import memory, wait, warm

EPOCH = source("cifar10").train  # images, without the validation part


class Vectorised:
    """`Together` on the benchmark's pictures, as a loop:
    one `step()` is one batch of every run; a graph on CUDA.
    """

    def __init__(self, setting: Setting, runs: int, precision: str = "float32"):
        networks = [
            loops.network(replace(setting, seed=seed)).to(setting.device) for seed in range(runs)
        ]
        options = {"steps": setting.steps, "lr": setting.lr, "precision": precision}
        self.update = engine.Captured(Together(networks, eps=[setting.eps] * runs, **options).step)
        self.batches, self.runs, self.eps = contenders.DeviceBatches(setting), runs, setting.eps

    def step(self) -> int:
        drawn = [self.batches.next() for _ in range(self.runs)]
        x, y = (torch.stack(part) for part in zip(*drawn, strict=True))
        start = attacks.random_start(
            x.flatten(0, 1), eps=self.eps, generator=self.batches.generator
        )
        self.update(x, y, start.unflatten(0, x.shape[:2]))
        return y.numel()


class Streams:
    """N loops, each on a CUDA stream of its own, their steps issued in turn."""

    def __init__(self, setting: Setting, runs: int, contender: str):
        self.streams = [torch.cuda.Stream() for _ in range(runs)]
        self.loops = []
        for seed, stream in enumerate(self.streams):
            with torch.cuda.stream(stream):
                self.loops.append(contenders.make(contender, replace(setting, seed=seed)))

    def step(self) -> int:
        seen = 0
        for loop, stream in zip(self.loops, self.streams, strict=True):
            with torch.cuda.stream(stream):
                seen += loop.step()
        return seen


def rate(loop, batches: int, rounds: int, device: str) -> list[float]:
    """Images per second of each round of `batches` steps; the loop is warm already."""
    rates = []
    for _ in range(rounds):
        begun = time.monotonic()
        seen = sum(loop.step() for _ in range(batches))
        wait(device)
        rates.append(seen / (time.monotonic() - begun))
    return rates


def together(
    way: str, setting: Setting, runs: int, contender: str, batches: int, rounds: int
) -> tuple[list[float], float]:
    """Images per second in total, round by round, of `runs` trainings by one way,
    and the GPU memory in GiB.
    """
    if way == "processes":
        return workers.processes(setting, runs, contender, batches, rounds)
    if setting.device != "cpu":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    precision = contender.split()[-1]
    loop = (
        Vectorised(setting, runs, precision)
        if way == "vectorised"
        else Streams(setting, runs, contender)
    )
    warm(loop, setting.device)
    return rate(loop, batches, rounds, setting.device), memory(setting.device)


def table(
    setting: Setting,
    contender: str,
    counts: Sequence[int] = (1, 2, 4),
    batches: int = 2,
    rounds: int = 3,
) -> pd.DataFrame:
    """Total images per second for each way and number of runs,
    against one run alone in its own process.
    """
    ways = ["processes", "vectorised", *(["streams"] if setting.device != "cpu" else [])]
    rows, alone = [], None
    for runs, way in product(sorted({1, *counts}), ways):
        try:
            speed, used = together(way, setting, runs, contender, batches, rounds)
        except (loops.Missing, RuntimeError) as reason:  # out of memory is one of the latter
            print(f"  {way} × {runs} left out: {str(reason).splitlines()[0]}", flush=True)
            continue
        median = statistics.median(speed)
        alone = alone or median
        row = {
            "network": setting.network,
            "way": way,
            "runs": runs,
            "images/s": median,
            "low": min(speed),
        }
        rows.append(
            row
            | {
                "high": max(speed),
                "× one alone": median / alone,
                "epoch s": EPOCH / median,
                "GiB": used,
            }
        )
        print(
            f"  {way} × {runs}: {median:.1f} images/s, {median / alone:.2f} × one alone", flush=True
        )
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--network", default=None, help="resnet8 on a CPU, resnet56 on a GPU by default"
    )
    parser.add_argument(
        "--contender",
        default=None,
        help="the loop of processes and streams, for example 'ours auto'",
    )
    parser.add_argument("--runs", type=int, nargs="+", default=None)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    device = str(engine.device(options.device))
    gpu = device != "cpu"
    torch.backends.cudnn.benchmark = gpu
    setting = Setting(
        network=options.network or ("resnet56" if gpu else "resnet8"),
        device=device,
        steps=options.steps,
    )
    counts = options.runs or ([1, 2, 4, 8, 12] if gpu else [1, 2, 4])
    contender = options.contender or contenders.fastest(device)
    print(
        table(setting, contender, counts, 20 if gpu else 2, options.rounds).to_string(index=False)
    )


if __name__ == "__main__":
    report.command(main)
