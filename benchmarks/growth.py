"""How cost grows with a study's runs and workers: python -m benchmarks.growth

Studies of 20, 200 and 2,000 made-up runs are written by the project's own writer into a temporary
folder. What people and chapters ask of a study is timed on each, in processor seconds, which other
programs on the machine hardly move. The exponent is the slope from the second largest to the
largest study, on logarithmic axes: 1 where twice the runs cost twice as much.

Then workers share studies whose runs take no time: what a worker asks of the file system and how
long its processor works, for each run that it does. Linux only.

Minutes on one core. `--tiny` only shows that it runs.
"""

import argparse
import json
import math
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

from arlib import claims, engine, files, places, records, studies, training
from arlib.claims.declared import BLOCKS, CONVOLUTIONS, Config, Statistic
from arlib.figures import shared
from arlib.studies import budget, file
from arlib.studies import run as runs
from benchmarks import operations, report

SIZES = (20, 200, 2000)
WORKERS = (1, 4, 16)
STRENGTHS = (0, 16, 32, 64)
RUNS_A_WORKER = 20
LAYERS = {
    "": [""],
    BLOCKS: [f"blocks.{i}" for i in range(3)],
    CONVOLUTIONS: [f"blocks.{i}.conv{j}" for i in range(3) for j in (1, 2)],
}
CPU = engine.Machine(torch.device("cpu"))
FILE = """\
title: made up
purpose: to see how cost grows
cost: none
toy: true
recipe: {{dataset: digits, model: resnet8, width: 4, epochs: 3}}
grid: {{strength: [{strengths}], seed: [{seeds}]}}
keep_epochs: [1, 2]
claims: {{effect: 32, feature: 4, flip_pgd: 4, flip_sign: 8}}
"""


def a_study(folder: Path, amount: int) -> studies.Study:
    """A study of so many runs, none of which is there; `amount` is a multiple of the strengths."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = range(amount // len(STRENGTHS))
    listed = {"strengths": STRENGTHS, "seeds": seeds}
    text = FILE.format(**{name: ", ".join(map(str, values)) for name, values in listed.items()})
    (folder / "grown.yml").write_text(text)
    return loaded(folder)


def loaded(folder: Path) -> studies.Study:
    """The study in the folder as a new process finds it: nothing of it is known yet."""
    written = file.parse(folder / "grown.yml")
    return studies.Study(written, places.Places(folder / "store", (), ()))


def write_run(study: studies.Study, entry: studies.Entry, folder: Path, **_) -> bool:
    """A run with every number that claims read, as `studies.run.compute` would leave it."""
    draw = np.random.default_rng(zlib.crc32(entry.run.encode()))
    files.write_tensors(folder / "last.safetensors", {"weight": torch.zeros(1000)})
    records.write(
        folder,
        run=entry.run,
        recipe=entry.recipe.to_dict(),
        variant=entry.variant,
        provenance=training.store.provenance(CPU),
        settings=study.settings.to_dict(),
        history=pd.DataFrame({"epoch": [1, 2, 3], "seconds": [7.0, 7.0, 7.0]}),
        rows=_rows(entry, draw),
        arrays={
            "margin|test": draw.normal(size=200).astype(np.float16),
            **{f"quantiles|circular|{layer}": np.ones(201) for layer in LAYERS[CONVOLUTIONS]},
        },
    )
    return True


def _rows(entry: studies.Entry, draw: np.random.Generator) -> pd.DataFrame:
    """One number for each statistic of each claim and each layer, somewhat smaller at larger
    strengths; of runs at strength 0 also along training.
    """
    strength = entry.recipe.strength
    along = () if strength else ("epoch-1", "epoch-2")
    rows = []
    for place, checkpoint in enumerate(("last", *along)):
        for statistic, split in _read():
            dose = place + strength / 64
            for layer in LAYERS[statistic.layers]:
                value = 0.5 * math.exp(-0.3 * dose + 0.05 * draw.normal())
                setting = statistic.setting
                rows.append((checkpoint, split, statistic.name, layer, setting, 100, value))
    return pd.DataFrame(rows, columns=list(records.COLUMNS)).drop_duplicates(
        ["checkpoint", "split", "statistic", "layer", "setting"]
    )


def _read() -> Iterator[tuple[Statistic, str]]:
    """Each statistic that a claim of either protocol reads, with each split it is read of."""
    config = Config(effect=32.0)
    for protocol in (1, 2):
        for claim in claims.claims_of(protocol).values():
            for statistic in (claim.primary, claim.twin, *claim.sensitivity):
                if statistic is not None and statistic.setting != "*":
                    splits = [statistic.split, *filter(None, [statistic.minus])]
                    yield from ((statistic.at(config), split) for split in splits)
    yield from ((Statistic("", "ce", split="train"), "train"),)


def fill(study: studies.Study) -> None:
    """Write all its runs into its store."""
    for entry in study.entries:
        write_run(study, entry, study.folder / entry.run)


def in_part(whole: Path, folder: Path) -> None:
    """The same study, whose runs at the largest strength are missing."""
    shutil.copytree(whole, folder, copy_function=os.link)
    study = loaded(folder)
    for entry in study.entries:
        if entry.recipe.strength == max(STRENGTHS):
            shutil.rmtree(study.folder / entry.run)


def fits(study: studies.Study) -> None:
    """What a worker under a time budget asks: whether there is time for any of the missing runs."""
    budget.refuse_small_budget(study, 1e6, afresh=False)
    speeds = budget.Speeds(study)
    for entry in study.missing():
        speeds.time_for(entry, time.monotonic() + 1e6)


def asked(target: Path) -> dict[str, Callable[[studies.Study], object]]:
    """What is asked of a study, by name."""
    return {
        "read the study file": lambda study: file.parse(study.path),
        "status": lambda study: study.status(),
        "record of each run": lambda study: [study.record(e.run) for e in study.entries],
        "arrays of each run": lambda study: shared.collect(study),
        "records": lambda study: study.records(),
        "records, ten times": lambda study: [study.records() for _ in range(10)],
        "verdicts": lambda study: claims.verdicts(study),
        "matched fit": lambda study: claims.matched_fit(study.records(), claims.config_of(study)),
        "matched fit of one claim": lambda study: claims.matched_fit(
            study.records(), claims.config_of(study), only=["C6"]
        ),
        "verdict of one claim": lambda study: claims.decide(
            study.records(), claims.config_of(study), only=["C1"]
        ),
        "publish": lambda study: study.publish(target / f"published-{time.monotonic_ns()}"),
    }


def seconds(folder: Path, call: Callable[[studies.Study], object], repeats: int) -> float:
    """Processor seconds of a call on the study in a folder, the least of several; a study that
    was just loaded each time.
    """
    least = math.inf
    for _ in range(repeats):
        study = loaded(folder)
        begun = time.process_time()
        call(study)
        least = min(least, time.process_time() - begun)
    return least


def by_runs(sizes: tuple[int, ...]) -> pd.DataFrame:
    """A row for each thing that is asked: seconds on a study of each size, and the exponent."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for size in sizes:
            fill(a_study(folder / f"{size}", size))
            in_part(folder / f"{size}", folder / f"{size}-in-part")
        calls = {title: ("{}", call) for title, call in asked(folder).items()}
        calls["time budget"] = ("{}-in-part", fits)
        calls["status, a quarter missing"] = ("{}-in-part", studies.Study.status)
        rows = []
        for title, (where, call) in calls.items():
            taken = [
                seconds(folder / where.format(size), call, 1 if size == sizes[-1] else 3)
                for size in sizes
            ]
            columns = {f"{size} runs": value for size, value in zip(sizes, taken, strict=True)}
            rows.append({"asked": title} | columns | {"exponent": exponent(sizes, taken)})
            print(f"{title}: {', '.join(f'{value:.3g}' for value in taken)} s", flush=True)
    return pd.DataFrame(rows)


def exponent(sizes: tuple[int, ...], taken: list[float]) -> float:
    """Slope between the two largest sizes, on logarithmic axes."""
    (few, many), (short, long) = sizes[-2:], taken[-2:]
    return math.log(long / short) / math.log(many / few)


def by_workers(workers: tuple[int, ...], sizes: tuple[int, ...]) -> pd.DataFrame:
    """A row for each number of workers and runs: of one run, what its worker asked of the file
    system and how long its processor worked, making up its numbers left out.
    """
    rows = []
    jobs = [(many, many * RUNS_A_WORKER) for many in workers] + [(1, size) for size in sizes]
    for many, size in dict.fromkeys(jobs):
        amount = size - size % len(STRENGTHS)
        with tempfile.TemporaryDirectory() as name:
            a_study(Path(name), amount)
            begun = time.monotonic()
            told = together(Path(name), many)
            wall = time.monotonic() - begun
        rows.append(
            {
                "workers": many,
                "runs": amount,
                "file operations a run": sum(one["operations"] for one in told) / amount,
                "cpu ms a run": 1000 * sum(one["seconds"] for one in told) / amount,
                "wall s": wall,
            }
        )
        print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def together(folder: Path, workers: int) -> list[dict]:
    """What each worker asked and took, in processes of their own that begin together."""
    pids = [_fork(folder, folder / f"told-{place}") for place in range(workers)]
    statuses = [os.waitpid(pid, 0)[1] for pid in pids]
    if any(statuses):
        raise RuntimeError(f"workers ended with {statuses}")
    return [json.loads((folder / f"told-{place}").read_text()) for place in range(workers)]


def _fork(folder: Path, told: Path) -> int:
    """A worker, forked: it has imported everything already."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        told.write_text(json.dumps(_worked(folder)))
        status = 0
    finally:
        os._exit(status)


def _worked(folder: Path) -> dict:
    """Work on the study in the folder until nothing is missing."""
    inside = 0.0

    def made_up(*args, **options):
        nonlocal inside
        with operations.not_counted():
            begun = time.process_time()
            write_run(*args)
            inside += time.process_time() - begun
        return True

    study = loaded(folder)
    begun = time.process_time()
    with mock.patch.object(runs, "compute", made_up), operations.counted() as counter:
        runs.work(study, runs.Work(CPU, progress=False))
    return {
        "operations": sum(counter.values()),
        "seconds": time.process_time() - begun - inside,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="only show that it runs")
    tiny = parser.parse_args().tiny
    sizes, workers = ((8, 20), (1, 2)) if tiny else (SIZES, WORKERS)
    torch.set_num_threads(1)
    tables = {"by runs": by_runs(sizes), "by workers": by_workers(workers, sizes)}
    for title, frame in tables.items():
        print(f"\n{title}\n{frame.to_string(index=False, float_format='{:.3g}'.format)}")
    if not tiny:
        print(report.write("growth", "cpu", tables))


if __name__ == "__main__":
    report.command(main)
