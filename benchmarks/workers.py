"""Worker processes that train one network each:
python -m benchmarks.workers JOB (started by `benchmarks.many`).

A worker says when it is ready (compiled, captured, warm), then runs one round for each line it is
sent.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace

import torch

from benchmarks import contenders, loops
from benchmarks.loops import Setting


class Worker:
    """A process that trains one network, a round whenever it is told to."""

    def __init__(self, setting: Setting, contender: str, batches: int, threads: int):
        job = {
            "setting": asdict(setting),
            "contender": contender,
            "batches": batches,
            "threads": threads,
        }
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  not a pipe: nobody reads while it works
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors}
        command = [sys.executable, "-m", "benchmarks.workers", json.dumps(job)]
        self.process = subprocess.Popen(command, text=True, cwd=loops.ROOT, **pipes)

    def go(self) -> None:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> dict:
        """What it says next; `loops.Missing` with its last words if it died."""
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.errors.seek(0)
        words = self.errors.read().strip().splitlines()[-1:] or [
            f"exit status {self.process.wait()}"
        ]
        raise loops.Missing(f"a worker process died: {words[0]}")

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()


def processes(
    setting: Setting, runs: int, contender: str, batches: int, rounds: int
) -> tuple[list[float], float]:
    """Images per second of all workers, each round from the first start to the last end;
    and their GiB together.

    Raises `loops.Missing` with the worker's own words if one dies.
    """
    threads = max(1, torch.get_num_threads() // runs)
    workers = [
        Worker(replace(setting, seed=seed), contender, batches, threads) for seed in range(runs)
    ]
    try:
        # ready: compiled, captured and warm
        memory = sum(worker.answer()["memory"] for worker in workers)
        return [_round(workers, setting.batch * batches) for _ in range(rounds)], memory
    finally:
        for worker in workers:
            worker.stop()


def _round(workers: list[Worker], images: int) -> float:
    for worker in workers:
        worker.go()
    times = [worker.answer() for worker in workers]  # time.monotonic is one clock for all processes
    return len(workers) * images / (max(t["end"] for t in times) - min(t["start"] for t in times))


def work(words: str) -> None:
    """The worker's side: get ready, then one round for each line that comes in."""
    job = json.loads(words)
    torch.set_num_threads(job["threads"])
    torch.backends.cudnn.benchmark = True
    setting = Setting(**job["setting"])
    loop = contenders.make(job["contender"], setting)
    warm(loop, setting.device)
    print(json.dumps({"memory": memory(setting.device)}), flush=True)
    for _ in sys.stdin:
        start = time.monotonic()
        for _ in range(job["batches"]):
            loop.step()
        wait(setting.device)
        print(json.dumps({"start": start, "end": time.monotonic()}), flush=True)


def wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def warm(loop, device: str) -> None:
    for _ in range(1 if device == "cpu" else 3):
        loop.step()
    wait(device)


def memory(device: str) -> float:
    """GiB that this process has reserved on the GPU at most; NaN on a CPU."""
    return torch.cuda.max_memory_reserved() / 2**30 if device != "cpu" else math.nan


if __name__ == "__main__":
    work(sys.argv[1])
