"""Several trainings at once on one device: python -m benchmarks.many [--device cpu|cuda] [--runs 1 2 4]

A small network does not fill a large GPU. Three ways to train N of them, each against one alone:

    processes    N worker processes, each with its own copy of the data
    streams      N trainings in one process, each on its own CUDA stream (CUDA only)
    vectorised   N networks as one over a run axis: torch.func.vmap turns their convolutions into
                 grouped ones; one optimiser over the stacked weights

The vectorised step is N separate steps to rounding. Batch norm: with a batch *and* running statistics for
each run, vmap folds the run axis into the channels, so that every run is normalised by its own batch, and the
running statistics (momentum, unbiased variance) and batch counters of each run move in place.
"""

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from arlib import attacks, engine
from benchmarks import contenders, loops
from benchmarks.loops import Setting

PATIENCE = 900  # seconds a worker may take to get ready


class Together:
    """N networks of one architecture, trained as one. The networks given are copied.

    eps: radius of each run (0 trains on natural images); the other settings are common to all.
    """

    def __init__(
        self,
        networks: Sequence[nn.Module],
        *,
        eps: Sequence[float],
        steps: int = 10,
        lr: float = 0.1,
        momentum: float = loops.MOMENTUM,
        weight_decay: float = loops.DECAY,
    ):
        trained = [copy.deepcopy(one).train() for one in networks]
        self.parameters, self.buffers = stack_module_state(trained)  # each (runs, …)
        self.base = trained[0]
        prepared = engine.prepare(networks[0], mode="folded")
        self.pairs, self.frozen = prepared.pairs, prepared.module
        first = next(iter(self.parameters.values()))
        self.eps = torch.tensor(eps, dtype=first.dtype, device=first.device)
        self.steps = steps
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        self.optimizer = torch.optim.SGD(list(self.parameters.values()), **options)

    @torch.no_grad()
    def folded(self) -> dict[str, Tensor]:
        """Weights and buffers of all runs for crafting, each batch norm folded into its convolution."""
        ours = self.parameters | self.buffers
        names = [name for name, _ in (*self.frozen.named_parameters(), *self.frozen.named_buffers())]
        found = {name: ours[name] for name in names if name in ours}
        for conv, bn in self.pairs:
            scale = ours[f"{bn}.weight"] * (ours[f"{bn}.running_var"] + self.base.get_submodule(bn).eps).rsqrt()
            found[f"{conv}.weight"] = ours[f"{conv}.weight"] * scale[..., None, None, None]
            bias = ours.get(f"{conv}.bias", 0.0)
            found[f"{conv}.bias"] = ours[f"{bn}.bias"] + (bias - ours[f"{bn}.running_mean"]) * scale
        return found

    def craft(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """PGD on every run's own network, radius and images. x, start: (runs, b, c, h, w), y: (runs, b)."""
        weights, runs, each = self.folded(), len(x), x.shape[1]
        one = lambda state, images: functional_call(self.frozen, state, (images,))

        def logits(images: Tensor) -> Tensor:
            return vmap(one)(weights, images.unflatten(0, (runs, each))).flatten(0, 1)

        eps = self.eps.repeat_interleave(each)  # one an image
        found = attacks.perturb(
            logits, x.flatten(0, 1), y.flatten(), eps=eps, steps=self.steps, start=start.flatten(0, 1)
        )
        return found.unflatten(0, (runs, each))

    def step(self, x: Tensor, y: Tensor, start: Tensor) -> Tensor:
        """One optimiser step of every run; returns the mean loss of each (runs,), on the device."""
        crafted = self.craft(x, y, start)
        one = lambda parameters, buffers, images: functional_call(self.base, (parameters, buffers), (images,))
        logits = vmap(one)(self.parameters, self.buffers, crafted)  # (runs, b, classes)
        logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
        losses = F.cross_entropy(logits, y.flatten(), reduction="none")
        losses = losses.unflatten(0, y.shape).mean(1)
        self.optimizer.zero_grad(set_to_none=True)
        losses.sum().backward()  # a run's weights enter its own loss only
        self.optimizer.step()
        return losses.detach()

    def networks(self) -> list[nn.Module]:
        """The runs as separate networks again."""
        found = []
        for run in range(len(self.eps)):
            network = copy.deepcopy(self.base)
            state = {name: value[run].detach().clone() for name, value in (self.parameters | self.buffers).items()}
            network.load_state_dict(state)
            found.append(network)
        return found


class Vectorised:
    """`Together` on the benchmark's pictures, as a loop: one `step()` is one batch of every run."""

    def __init__(self, setting: Setting, runs: int):
        networks = [loops.network(replace(setting, seed=seed)).to(setting.device) for seed in range(runs)]
        self.together = Together(networks, eps=[setting.eps] * runs, steps=setting.steps, lr=setting.lr)
        self.batches = contenders.DeviceBatches(setting)
        self.runs = runs

    def step(self) -> int:
        drawn = [self.batches.next() for _ in range(self.runs)]
        x, y = (torch.stack(part) for part in zip(*drawn, strict=True))
        start = attacks.random_start(
            x.flatten(0, 1), eps=self.batches.setting.eps, generator=self.batches.generator
        ).view_as(x)
        self.together.step(x, y, start)
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
    found = []
    for _ in range(rounds):
        begun = time.monotonic()
        seen = sum(loop.step() for _ in range(batches))
        wait(device)
        found.append(seen / (time.monotonic() - begun))
    return found


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def processes(setting: Setting, runs: int, contender: str, batches: int, rounds: int) -> list[float]:
    """Images per second of all workers together, each round from the first start to the last end.

    Raises `loops.Missing` with the worker's own words if one dies.
    """
    threads = max(1, torch.get_num_threads() // runs)
    said = [json.dumps({"setting": asdict(replace(setting, seed=s)), "contender": contender, "batches": batches,
                        "threads": threads}) for s in range(runs)]  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.many", "--worker"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    workers = [subprocess.Popen([*command, one], text=True, cwd=loops.ROOT, **pipes) for one in said]
    try:
        for worker in workers:
            _answer(worker)  # ready: compiled, captured and warm
        return [_round(workers, setting.batch * batches) for _ in range(rounds)]
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()


def _round(workers: list[subprocess.Popen], images: int) -> float:
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    times = [_answer(worker) for worker in workers]  # time.monotonic is one clock for all processes
    return len(workers) * images / (max(t["end"] for t in times) - min(t["start"] for t in times))


def _answer(worker: subprocess.Popen) -> dict:
    for line in worker.stdout:
        if line.startswith("{"):
            return json.loads(line)
    reason = worker.stderr.read().strip().splitlines()[-1:] or [f"exit status {worker.wait()}"]
    raise loops.Missing(f"a worker process died: {reason[0]}")


def worker(said: str) -> None:
    """One worker process: gets ready, then runs a round whenever it is told to."""
    job = json.loads(said)
    torch.set_num_threads(job["threads"])
    setting = Setting(**job["setting"])
    loop = contenders.make(job["contender"], setting)
    for _ in range(2):
        loop.step()
    wait(setting.device)
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        start = time.monotonic()
        for _ in range(job["batches"]):
            loop.step()
        wait(setting.device)
        print(json.dumps({"start": start, "end": time.monotonic()}), flush=True)


def together(way: str, setting: Setting, runs: int, contender: str, batches: int, rounds: int) -> list[float]:
    """Images per second in total, round by round, of `runs` trainings by one way."""
    if way == "processes":
        return processes(setting, runs, contender, batches, rounds)
    loop = Vectorised(setting, runs) if way == "vectorised" else Streams(setting, runs, contender)
    for _ in range(2):
        loop.step()
    wait(setting.device)
    return rate(loop, batches, rounds, setting.device)


def table(
    setting: Setting, contender: str, counts: Sequence[int] = (1, 2, 4), batches: int = 2, rounds: int = 3
) -> pd.DataFrame:
    """Total images per second for each way and number of runs, against one run alone in its own process."""
    ways = ["processes", "vectorised", *(["streams"] if setting.device != "cpu" else [])]
    rows, alone = [], None
    for runs in counts:
        for way in ways:
            row = {"network": setting.network, "way": way, "runs": runs}
            try:
                found = sorted(together(way, setting, runs, contender, batches, rounds))
            except (loops.Missing, RuntimeError, torch.cuda.OutOfMemoryError) as reason:
                print(f"  {way} × {runs} left out: {str(reason).splitlines()[0]}", flush=True)
                continue
            finally:
                if setting.device != "cpu":
                    torch.cuda.empty_cache()
            median = found[len(found) // 2]
            alone = alone or median
            rows.append(row | {"images/s": median, "low": found[0], "high": found[-1], "× one alone": median / alone})
            print(f"  {way} × {runs}: {median:.1f} images/s, {median / alone:.2f} × one alone", flush=True)
    return pd.DataFrame(rows)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--network", default=None, help="resnet8 on a CPU, resnet56 on a GPU by default")
    parser.add_argument("--contender", default=None, help="the loop of processes and streams, for example 'ours auto'")
    parser.add_argument("--runs", type=int, nargs="+", default=None)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--worker", default=None, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        worker(options.worker)
        return
    device = str(engine.device(options.device))
    gpu = device != "cpu"
    setting = Setting(network=options.network or ("resnet56" if gpu else "resnet8"), device=device, steps=options.steps)
    counts = options.runs or ([1, 2, 4, 8, 12] if gpu else [1, 2, 4])
    contender = options.contender or contenders.fastest(device)
    print(table(setting, contender, counts, 20 if gpu else 2, options.rounds).to_string(index=False))


if __name__ == "__main__":
    main()
