"""The table of a batch: one row per task, in `summary.csv` beside the outputs."""

from pathlib import Path

import pandas as pd

from arlib import files
from arlib.batch.task import Task

USUAL = ("chapter", "status", "attempts", "seconds", "output", "reason")


class Summary:
    """Rows of the tasks, each `waiting` or `skipped` until it is told otherwise."""

    def __init__(self, folder: Path | None, tasks: list[Task]):
        self.folder = folder
        self.rows = {
            task.output: _row(task, status="skipped" if task.finished else "waiting")
            for task in tasks
        }

    def status(self, task: Task) -> str:
        return self.rows[task.output]["status"]

    def set(self, task: Task, outcome: dict) -> None:
        self.rows[task.output] = _row(task, **outcome)

    def table(self) -> pd.DataFrame:
        if not self.rows:
            return pd.DataFrame(columns=list(USUAL))
        table = pd.DataFrame(list(self.rows.values()))
        return table[["chapter", *(c for c in table if c not in USUAL), *USUAL[1:]]]

    def write(self) -> pd.DataFrame:
        table = self.table()
        if self.folder is not None:
            files.write_text(self.folder / "summary.csv", table.to_csv(index=False))
        return table


def _row(
    task: Task, status: str, attempts: int = 0, seconds: float = 0.0, reason: str = ""
) -> dict:
    usual = (task.chapter.stem, status, attempts, round(seconds, 1), str(task.output), reason)
    return task.parameters | dict(zip(USUAL, usual, strict=True))
