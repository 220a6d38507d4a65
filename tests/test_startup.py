"""What must not be loaded: a question about studies waits for no torch, an attack for no pandas."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup

ROOT = Path(__file__).resolve().parents[1]
HEAVY = (
    "numpy", "torch", "torchvision", "pandas", "scipy", "sklearn", "matplotlib", "IPython",
    "papermill",
)  # fmt: skip
LISTED = f"print(*[name for name in {HEAVY} if name in sys.modules], file=sys.__stderr__)"


def loaded_by(code: str) -> list[str]:
    """The heavy modules that a fresh Python has loaded after this code."""
    whole = f"import atexit, sys\natexit.register(lambda: {LISTED})\n{code}"
    ended = subprocess.run([sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True)
    return ended.stderr.splitlines()[-1].split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "study list",
        "study list --json",
        "study show digits",
        "study status digits",
        "study status cifar10-resnet20",
        "study missing digits",
        "--version",
        "--help",
        "train --help",
        "study run --help",
        # mistakes
        "study show digitz",
        "study run digitz",
        "study run digits --time-budget soon",
        "study list --store /no/such/folder",
        "verdicts digitz",
        "batch marginz",
        "data mnist",
        "train mnist",
        "train digits --lr -1",
        "compare net.py:net --data nope",
        "compare no-such.py:net --data digits",
    ],
)
def test_a_command_that_computes_nothing_loads_nothing_heavy(words):
    code = f"sys.argv = ['arlib', *{words.split()}]\nfrom arlib.cli import main; main()"
    assert loaded_by(code) == []


@pytest.mark.slow
@pytest.mark.parametrize("room", ["attacks", "engine", "margins"])
def test_attacks_bring_torch_alone(room):
    assert set(loaded_by(f"import arlib.{room}")) <= {"numpy", "torch"}


@pytest.mark.slow
def test_the_benchmark_times_processes():
    assert {"arlib study list", "import arlib.attacks"} <= startup.programs().keys()
    cpu, wall = startup.seconds(["-c", "sum(range(3_000_000))"])
    assert cpu > 0 and wall > 0
