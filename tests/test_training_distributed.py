"""`torchrun … -m arlib train …` as people start it:
it trains, survives the death of a process, and goes on.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
import pytest

from arlib import files, training
from arlib.training import store

OPTIONS = [
    "digits",
    "--model",
    "resnet8",
    "--width",
    "4",
    "--strength",
    "32",
    "--steps",
    "2",
    "--batch-size",
    "64",
]


def command(folder: Path, epochs: int) -> list[str]:
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    return [
        *launcher,
        "-m",
        "arlib",
        "train",
        *OPTIONS,
        "--epochs",
        str(epochs),
        "--folder",
        str(folder),
    ]


def environment() -> dict:
    root = str(Path(training.__file__).parents[2])
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": root}


def workers_of(process: subprocess.Popen) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "arlib" in child.cmdline()]


@pytest.mark.slow
def test_a_process_that_dies_leaves_a_message_and_a_checkpoint_to_go_on_from(tmp_path):
    epochs = 40
    process = subprocess.Popen(
        command(tmp_path, epochs), env=environment(), stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (tmp_path / store.CHECKPOINT).exists():
        time.sleep(0.05)
    victims = workers_of(process)
    assert len(victims) == 2
    victims[1].send_signal(signal.SIGKILL)
    _, log = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "the same command goes on" in log, log[-2000:]
    files.read_tensors(tmp_path / store.CHECKPOINT)  # whole
    assert not (tmp_path / "recipe.json").exists()
    done = subprocess.run(
        command(tmp_path, epochs), env=environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("40 of 40 epochs") == 1  # the first process speaks
    history = pd.read_csv(tmp_path / "history.csv")
    assert list(history.epoch) == list(range(1, epochs + 1))
    assert history.val_error.iloc[-1] < 0.3
    assert files.read_json(tmp_path / "provenance.json")["processes"] == 2
