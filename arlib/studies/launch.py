"""Worker processes on one machine:
each gets its share of the cores, a GPU, and its share of that GPU's memory.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import time

import torch

from arlib import places, processes
from arlib.errors import InputError
from arlib.studies.run import Work
from arlib.studies.shelf import Shelf

log = logging.getLogger(__name__)
SHARE = "ARLIB_GPU_SHARE"  # of its GPU's memory, as a worker process finds it in its environment
LEAST = 2.0  # GiB of GPU memory that a worker needs: the libraries' own, and a small network's


def start_workers(study: Shelf, jobs: int, how: Work, device: str) -> None:
    """Start `jobs` worker processes on the study,
    each with its share of the machine, and wait for them.

    device: as the user gave it, since with "auto" several GPUs are shared out.
    """
    shares = memory_shares(jobs, device)
    available = processes.cores()
    threads = min(max(1, available // jobs), int(os.environ.get("OMP_NUM_THREADS") or available))
    paths = [str(places.PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = (
        os.environ
        | {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        | shares
    )
    command = command_of(study, how)
    started = [
        subprocess.Popen([*command, "--device", _device_of(worker, device)], env=environment)
        for worker in range(jobs)
    ]
    try:
        codes = [process.wait() for process in started]
    except BaseException:
        _end(started)
        raise
    if any(codes):
        log.warning(
            "Not every worker ended well (exit statuses %s); see their messages above", codes
        )


def command_of(study: Shelf, how: Work) -> list[str]:
    """The command of a worker of this study, but for its device."""
    command = [
        sys.executable,
        "-m",
        "arlib",
        "study",
        "run",
        str(study.path),
        "--store",
        str(study.places.store),
    ]
    command += [
        "--no-progress",
        "--mix",
        "--mode",
        how.machine.mode,
        "--precision",
        how.machine.precision,
    ]
    command += ["--no-wait"] * (not how.wait) + ["--afresh"] * how.afresh
    # workers say as much as who started them
    command += ["--quiet"] * (not log.isEnabledFor(logging.INFO))
    if how.deadline is not None:
        command += ["--time-budget", f"{max(1.0, how.deadline - time.monotonic()):.0f}s"]
    return command


def memory_shares(jobs: int, device: str) -> dict[str, str]:
    """The environment by which workers on one GPU share its memory; empty on a CPU.

    Raises `InputError` if there is too little free memory for so many.
    """
    gpus = (
        torch.cuda.device_count()
        if torch.device("cuda" if device == "auto" else device).type == "cuda"
        else 0
    )
    if not gpus:
        return {}
    on_one = -(-jobs // gpus) if device in ("auto", "cuda") else jobs
    free, total = (value / 2**30 for value in torch.cuda.mem_get_info())
    if free / on_one < LEAST:
        raise InputError(
            f"jobs is {jobs}: {on_one} workers on one GPU with {free:.1f} GiB free leave less "
            f"than {LEAST:g} GiB each. Use at most "
            f"{max(1, int(free / LEAST)) * (gpus if on_one < jobs else 1)}."
        )
    return {SHARE: f"{free / total / on_one:.4f}"}


def limit_memory(device: torch.device) -> None:
    """Keep this worker within its share of the GPU,
    so that it and not its neighbours run out of memory.
    """
    if device.type == "cuda" and os.environ.get(SHARE):
        torch.cuda.set_per_process_memory_fraction(float(os.environ[SHARE]), device)


def _device_of(worker: int, device: str) -> str:
    """With several GPUs each worker gets one of them."""
    several = device in ("auto", "cuda") and torch.cuda.device_count() > 1
    return f"cuda:{worker % torch.cuda.device_count()}" if several else device


def _end(processes: list[subprocess.Popen], patience: float = 20.0) -> None:
    """Ask worker processes to stop as Ctrl-C would (a terminal has done so already),
    and kill those that do not.
    """
    with contextlib.suppress(subprocess.TimeoutExpired):
        for process in processes:
            process.wait(2.0)
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    until = time.monotonic() + patience
    for process in processes:
        try:
            process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
