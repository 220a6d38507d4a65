"""Real chapters, many at a time: python -m benchmarks.chapters

Every chapter of the book, on two studies, several times over, as one batch with four runs at a
time: runs of papermill that share a machine fail now and then, and a batch is there so that nobody
notices. Every run must end, and equal runs must print the same.

`--runs 4` is shown, not kept; 60 go to `records/benchmarks/chapters-cpu.json`.
"""

import argparse
import configparser
import hashlib
import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd

from arlib import batch
from benchmarks import report

RUNS, JOBS = 60, 4
STUDIES = ("digits", "cifar10-resnet20-small")
MINUTES = 30  # for one attempt, on a machine that others use
SANITIZE = Path(__file__).resolve().parents[1] / "tests" / "nbval_sanitize.cfg"


def tasks(names: list[str], runs: int, folder: Path) -> list[batch.Task]:
    """So many runs, spread evenly over the chapters; equal ones differ in their empty store."""
    stores = [folder / f"store-{place}" for place in range(math.ceil(runs / 2))]
    grids = [f"study={','.join(STUDIES)}", f"store={','.join(map(str, stores))}"]
    planned = batch.plan(names, batch.parameter_sets([], grids), folder / "out")
    # the same store of all chapters first, then the next
    planned.sort(key=lambda task: task.parameters["store"])
    return planned[:runs]


def printed(notebook: Path, masked: Callable[[str], str]) -> str:
    """What a chapter printed, without what may differ between two moments, as a hash."""
    kept = []
    for cell in nbformat.read(notebook, 4).cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            texts = [output.get("text", ""), *(data.get(kind, "") for kind in _COMPARED)]
            kept.append(masked("\n".join(texts)))
    return hashlib.sha256("\0".join(kept).encode()).hexdigest()


_COMPARED = ("text/plain", "text/markdown", "text/html")


def masking() -> Callable[[str], str]:
    """Times and paths masked, by the rules that the tests of stored outputs have."""
    rules = configparser.RawConfigParser()
    rules.read(SANITIZE, encoding="utf-8")
    patterns = [(re.compile(rules[name]["regex"]), rules[name]["replace"]) for name in rules
                if name != "DEFAULT"]  # fmt: skip

    def masked(text: str) -> str:
        for pattern, replacement in patterns:
            text = pattern.sub(replacement, text)
        return text

    return masked


def table(names: list[str], runs: int) -> pd.DataFrame:
    """Run them; a row for each chapter."""
    with tempfile.TemporaryDirectory() as folder:
        planned = tasks(names, runs, Path(folder))
        summary = batch.run(planned, jobs=JOBS, timeout=60.0 * MINUTES)
        masked = masking()
        summary["printed"] = [
            printed(task.output, masked) if task.finished else None for task in planned
        ]
        for row in summary[summary["status"] != "done"].itertuples():
            print(f"{row.chapter}, {row.study}: {row.status}, {row.reason}")
    return by_chapter(summary)


def by_chapter(summary: pd.DataFrame) -> pd.DataFrame:
    """How the runs of each chapter ended, and whether equal ones printed the same."""
    rows = []
    for chapter, runs in summary.groupby("chapter", sort=False):
        kinds = runs.dropna(subset=["printed"]).groupby("study")["printed"]
        rows.append(
            {
                "chapter": chapter,
                "runs": len(runs),
                "done": int((runs["status"] == "done").sum()),
                "tried again": int((runs["attempts"] > 1).sum()),
                # beside the most frequent of its study
                "printed otherwise": sum(len(one) - one.value_counts().iloc[0] for _, one in kinds),
                "median s": runs["seconds"].median(),
                "longest s": runs["seconds"].max(),
            }
        )
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS, choices=range(2, 10**4), metavar="N")
    parser.add_argument("--chapters", nargs="+", default=[], metavar="NAME")
    chosen = parser.parse_args()
    results = table(chosen.chapters or ["all"], chosen.runs)
    print(results.to_string(index=False, float_format=lambda value: f"{value:.1f}"))
    if chosen.runs >= RUNS and not chosen.chapters:
        print(report.write("chapters", "cpu", {"chapters": results}, runs=chosen.runs, jobs=JOBS))


if __name__ == "__main__":
    report.command(main)
