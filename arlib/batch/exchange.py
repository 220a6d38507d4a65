"""The folder through which a batch and its workers speak: tasks in, outcomes out.

tasks.json     written first: the tasks, and how they are to be run
tries/3.json   what task 3 has been through so far, for the job that is started again
rows/3.json    how task 3 ended
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from arlib import files
from arlib.batch.task import Task


@dataclass(frozen=True)
class Exchange:
    folder: Path

    @classmethod
    def create(cls, folder: Path, tasks: list[Task], **how) -> "Exchange":
        """A new folder for these tasks, in the place of whatever was there."""
        shutil.rmtree(folder, ignore_errors=True)
        made = cls(folder)
        made.rows.mkdir(parents=True)
        made.tries.mkdir()
        files.write_json(
            folder / "tasks.json", {"tasks": [task.packed() for task in tasks], "how": how}
        )
        return made

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def rows(self) -> Path:
        return self.folder / "rows"

    @property
    def tries(self) -> Path:
        return self.folder / "tries"

    def read(self) -> tuple[list[dict], dict]:
        """The tasks, packed, and how they are to be run; none where the folder is damaged."""
        content = files.peek_json(self.folder / "tasks.json") or {"tasks": [], "how": {}}
        return content["tasks"], content["how"]

    def outcome(self, index: int) -> dict | None:
        return files.peek_json(self.rows / f"{index}.json")

    def settled(self) -> set[int]:
        """The tasks that have ended. A listing, which a shared file system has sooner and cheaper
        than answers for each of a thousand files.
        """
        names = [name.partition(".") for name in os.listdir(self.rows)]
        return {int(stem) for stem, _, suffix in names if suffix == "json" and stem.isdigit()}

    def settle(self, index: int, outcome: dict) -> None:
        files.write_json(self.rows / f"{index}.json", outcome)

    def tried(self, index: int) -> dict:
        return files.peek_json(self.tries / f"{index}.json") or {"reasons": [], "restarts": 0}

    def note(self, index: int, tried: dict) -> None:
        files.write_json(self.tries / f"{index}.json", tried)
