"""How long a command takes before it answers: python -m benchmarks.startup

Each in a fresh process, one after the other, several rounds: the least processor time (user and
system) and wall time. Half a minute on an idle core. `--rounds 1` is shown, not kept; the rest go
to `records/benchmarks/startup-cpu.json`.
"""

import argparse
import os
import subprocess
import sys
import time

import pandas as pd

from arlib import places
from benchmarks import report

ROUNDS = 3
COMMANDS = {
    "arlib --help": "--help",
    "arlib train --help": "train --help",
    "arlib study list": "study list",
    "arlib study show digits": "study show digits",
    "arlib study status cifar10-resnet20-small": "study status cifar10-resnet20-small",
    "arlib study run digitz (mistyped)": "study run digitz",
    "arlib batch marginz (mistyped)": "batch marginz",
    "arlib verdicts digitz (mistyped)": "verdicts digitz",
}
IMPORTS = {"import arlib.attacks": "import arlib.attacks", "import torch alone": "import torch"}


def programs() -> dict[str, list[str]]:
    """What is timed, by its name in the table."""
    commands = {name: ["-m", "arlib", *words.split()] for name, words in COMMANDS.items()}
    return commands | {name: ["-c", code] for name, code in IMPORTS.items()}


def seconds(arguments: list[str]) -> tuple[float, float]:
    """Processor and wall seconds of one Python process, its output thrown away."""
    paths = os.pathsep.join([str(places.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    before, begun = os.times(), time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wall, after = time.perf_counter() - begun, os.times()
    spent = [after[i] - before[i] for i in (2, 3)]  # of children: user, system
    return sum(spent), wall


def table(rounds: int) -> pd.DataFrame:
    """The least of some rounds, since whatever else the machine does only adds."""
    taken = {name: [] for name in programs()}
    for _ in range(rounds):
        for name, arguments in programs().items():
            taken[name].append(seconds(arguments))
    rows = []
    for name, runs in taken.items():
        cpu, wall = (min(values) for values in zip(*runs, strict=True))
        rows.append({"what": name, "cpu s": cpu, "wall s": wall})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=ROUNDS, choices=range(1, 100), metavar="N")
    rounds = parser.parse_args().rounds
    results = table(rounds)
    print(results.to_string(index=False, float_format=lambda value: f"{value:.2f}"))
    if rounds >= ROUNDS:
        print(report.write("startup", "cpu", {"start-up": results}, rounds=rounds))


if __name__ == "__main__":
    report.command(main)
