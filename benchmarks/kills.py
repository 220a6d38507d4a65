"""What is left after computations were killed: python -m benchmarks.kills

A small study by one worker, the same by two workers, and a batch of notebooks are started, killed
with SIGKILL at random moments, and started again until they end by themselves. What then lies in
the store is compared, bit by bit, with what an undisturbed computation leaves there. Linux only.

`--kills 20` is shown, not kept; 500 go to `records/benchmarks/kills-cpu.json` (about an hour on
two cores).
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
import pandas as pd

from arlib import batch, engine, files, measure, studies, training
from benchmarks import report

# Imported before anything is forked, so that few kills fall into the time that imports take.
ROOMS = (measure, training)
KILLS = 500
MARK = "ARLIB_KILLS"  # an environment variable, by which all descendants are known
GONE = 10.0  # seconds within which descendants of a killed process must end
STUDY = """\
title: killed
purpose: to be killed
cost: seconds
toy: true
recipe: {dataset: digits, model: resnet8, width: 4, steps: 1, epochs: 3, batch_size: 128,
  train_images: 256, monitor_images: 16}
grid: {strength: [0, 32], seed: [0]}
measure: {feature_images: 8, adversarial_images: 2, jacobian_images: 1, flip_radii: [4],
  flip_images_main: 4, flip_images: 4, flip_draws: 1, robust_images: 4, strong_images: 1,
  instance_images: 1, instance_steps: 1, bn_images: 8}
"""
# What may differ between two computations of the same: how long they took, and the checksum of a
# record that says so.
TIMES = frozenset({"seconds", "images_per_second", "measure_seconds", "part_seconds", "checksum"})
CELL = "import time\nfor step in range(3):\n    time.sleep(0.1)\nprint(x * x)\n"


@dataclass(frozen=True)
class Scene:
    """Something that computes into a folder.

    workers: how many at a time; compute: what one of them does; left: what lies there at the end,
    as text by name, without times.
    """

    name: str
    workers: int
    share: float  # of all kills
    compute: Callable[[Path], object]
    left: Callable[[Path], dict[str, str]]


@dataclass
class Tally:
    kills: int = 0
    rounds: int = 0  # computations that ended by themselves, after all their kills
    different: int = 0  # rounds that did not end with the same bits
    failed: int = 0  # starts that ended by themselves with an error
    orphans: int = 0  # processes that outlived the one that was killed
    first: list[str] = field(default_factory=list)  # what was different, of the first such round


def run_study(folder: Path) -> None:
    """One worker on the study."""
    if not (folder / "killed.yml").exists():
        (folder / "killed.yml").write_text(STUDY)
    studies.load(folder / "killed.yml", folder / "store").run(device="cpu", progress=False)


def study_left(folder: Path) -> dict[str, str]:
    """Finished runs by name, and whatever else lies in the store."""
    store = folder / "store"
    return {
        str(path.relative_to(store)): _content(path)
        for path in sorted(store.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def run_batch(folder: Path) -> None:
    """Three notebooks, two at a time."""
    notebook = folder / "killed.ipynb"
    if not notebook.exists():
        v4 = nbformat.v4
        parameters = v4.new_code_cell("x: int = 1", metadata={"tags": ["parameters"]}, id="x")
        cells = [parameters, v4.new_code_cell(CELL, id="square")]
        kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
        written = v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
        nbformat.write(written, notebook)
    tasks = batch.plan([str(notebook)], batch.parameter_sets([], ["x=1,2,3"]), folder / "out")
    table = batch.run(tasks, jobs=2, timeout=120)
    if set(table["status"]) - {"done", "skipped"}:
        raise RuntimeError(f"not all notebooks ended: {table['reason'].tolist()}")


def batch_left(folder: Path) -> dict[str, str]:
    """What the notebooks answered, and whatever else lies there."""
    out, left = folder / "out", {}
    for path in sorted(out.rglob("*")):
        if path.suffix == ".ipynb":
            cells = nbformat.read(path, 4).cells
            left[str(path.relative_to(out))] = "".join(
                output.get("text", output.output_type)
                for one in cells
                if one.cell_type == "code"
                for output in one.outputs
            )
        elif path.is_file() and path.name not in ("summary.csv", ".lock"):
            left[str(path.relative_to(out))] = ""
    return left


SCENES = (
    Scene("a study, one worker", 1, 0.5, run_study, study_left),
    Scene("the same, two workers", 2, 0.3, run_study, study_left),
    Scene("a batch of notebooks", 1, 0.2, run_batch, batch_left),
)


def _content(path: Path) -> str:
    """What a file says, without times."""
    if path.suffix == ".safetensors":
        tensors = files.read_tensors(path)
        # as bytes: that is equal for NaN and unequal for 0.0 and -0.0
        return json.dumps({name: _hash(t.numpy().tobytes()) for name, t in tensors.items()})
    if path.suffix == ".csv":
        table = pd.read_csv(path)
        return table.drop(columns=[name for name in table if name in TIMES]).to_csv()
    if path.suffix == ".json":
        return json.dumps(_timeless(json.loads(path.read_text(encoding="utf-8"))), sort_keys=True)
    return _hash(path.read_bytes())


def _timeless(value: object) -> object:
    if isinstance(value, list):
        return [_timeless(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {key: _timeless(inner) for key, inner in value.items() if key not in TIMES}


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def start(scene: Scene, folder: Path) -> int:
    """One worker in a process of its own, forked: it has imported everything already."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        os.setsid()
        with open(folder / "log", "ab") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        scene.compute(folder)
        status = 0
    except BaseException as error:
        os.write(2, f"{type(error).__name__}: {error}\n".encode())
    finally:
        os._exit(status)


def ended(pid: int, until: float) -> int | None:
    """The exit status of a child, minus the signal if one ended it;
    None if it was still at work when the time came.
    """
    while True:
        waited, status = os.waitpid(pid, os.WNOHANG)
        if waited:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def marked(mark: str) -> list[int]:
    """The living processes with this mark in their environment, but not this one."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            state = (path.parent / "stat").read_text().rpartition(")")[2].split()[0]
            if f"{MARK}={mark}".encode() in path.read_bytes() and state != "Z":
                pids.append(int(path.parent.name))
    return [pid for pid in pids if pid != os.getpid()]


@contextlib.contextmanager
def marks() -> Iterator[str]:
    """A new mark, inherited by whatever is started.

    A forked child shows the environment its own program began with, so only programs that were
    started anew carry the mark: kernels and workers of a batch.
    """
    mark = uuid.uuid4().hex
    os.environ[MARK] = mark
    try:
        yield mark
    finally:
        del os.environ[MARK]


def undisturbed(scene: Scene) -> tuple[dict[str, str], float]:
    """What the scene leaves where nobody kills anything, and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        begun = time.monotonic()
        pid = start(scene, Path(folder))
        status = ended(pid, begun + 600)
        if status != 0:
            raise RuntimeError(f"{scene.name}: {(Path(folder) / 'log').read_text()[-2000:]}")
        return scene.left(Path(folder)), time.monotonic() - begun


def one_round(scene: Scene, longest: float, expected: dict, chance: random.Random, tally: Tally):
    """Start, kill and start again until it ends by itself; then look at what is there."""
    with tempfile.TemporaryDirectory() as name, marks() as mark:
        folder = Path(name)
        working = [start(scene, folder) for _ in range(scene.workers)]
        while working:
            victim = chance.choice(working)
            status = ended(victim, time.monotonic() + chance.uniform(0, longest))
            if status is None:
                os.kill(victim, signal.SIGKILL)
                status = ended(victim, time.monotonic() + GONE)
            working.remove(victim)
            if status == -signal.SIGKILL:
                tally.kills += 1
                tally.orphans += survivors(mark) if scene.workers == 1 else 0
                working.append(start(scene, folder))
            elif status != 0:
                tally.failed += 1
                tally.first = tally.first or (folder / "log").read_text().splitlines()[-1:]
        left = scene.left(folder)
    tally.rounds += 1
    if left != expected:
        tally.different += 1
        names = sorted(k for k in left.keys() | expected if left.get(k) != expected.get(k))
        tally.first = tally.first or names[:3]


def survivors(mark: str) -> int:
    """How many processes with this mark are alive some seconds later; they are ended then."""
    until = time.monotonic() + GONE
    while (alive := marked(mark)) and time.monotonic() < until:
        time.sleep(0.02)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(alive)


def killed(scene: Scene, kills: int, seed: int = 0) -> Tally:
    """At least so many kills of one scene, in as many rounds as that takes."""
    expected, longest = undisturbed(scene)
    tally, chance = Tally(), random.Random(seed)
    while tally.kills < kills:
        one_round(scene, 1.1 * longest, expected, chance, tally)
        print(f"\r{scene.name}: {tally.kills} of {kills} kills", end="", file=sys.stderr)
    print(file=sys.stderr)
    return tally


def table(kills: int) -> pd.DataFrame:
    """All scenes, one row for each."""
    rows = []
    for scene in SCENES:
        begun = time.monotonic()
        tally = killed(scene, max(1, round(kills * scene.share)))
        rows.append(
            {
                "what": scene.name,
                "kills": tally.kills,
                "ends": tally.rounds,
                "ends that differ": tally.different,
                "failed starts": tally.failed,
                "left running": tally.orphans,
                "minutes": (time.monotonic() - begun) / 60,
            }
        )
        if tally.first:
            print(f"{scene.name}: {', '.join(tally.first)}", file=sys.stderr)
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=KILLS, choices=range(1, 10**5), metavar="N")
    kills = parser.parse_args().kills
    engine.keep_memory()
    results = table(kills)
    print(results.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    if kills >= KILLS:
        print(report.write("kills", "cpu", {"kills": results}, kills=kills))


if __name__ == "__main__":
    report.command(main)
