"""Finished parts of a measurement on disk, so that an interrupted one goes on where it stopped."""

import hashlib
import json
import logging
from dataclasses import asdict
from pathlib import Path

from arlib import files
from arlib.errors import RecordError
from arlib.measure.job import Outcome
from arlib.training import Recipe

FORMAT = 3  # raise it when a part would be computed differently
log = logging.getLogger(__name__)


class Parts:
    """The parts of one checkpoint in a folder:
    NAME.json and, with arrays, NAME.npz, which is written first.

    A part is used only if it was measured on the same weights and recipe, with the same values of
    the settings that it `uses`: raising one number of images leaves the other parts alone.
    """

    def __init__(self, folder: Path | None, weights: str, recipe: Recipe):
        self.folder, self.known = (
            folder,
            {"format": FORMAT, "weights": weights, "recipe": recipe.to_dict()},
        )

    def key(self, uses: dict) -> str:
        return hashlib.sha256(
            json.dumps(self.known | {"uses": uses}, sort_keys=True).encode()
        ).hexdigest()

    def load(self, name: str, uses: dict) -> Outcome | None:
        """The part if it is there, whole, and of this measurement;
        a damaged one is named in the log.
        """
        if self.folder is None or not (self.folder / f"{name}.json").exists():
            return None
        try:
            return self._read(name, self.key(uses))
        except RecordError as error:
            log.warning("%s The part is measured again.", error)
            return None

    def _read(self, name: str, key: str) -> Outcome | None:
        path, table = self.folder / f"{name}.json", self.folder / f"{name}.npz"
        stored = files.read_json(path)
        if not isinstance(stored, dict) or not {"key", "sha256", *Outcome.__dataclass_fields__} <= {
            *stored,
            "arrays",
        }:
            raise RecordError(f"{path} is damaged: fields are missing.")
        if stored["key"] != key:
            return None
        if stored["sha256"] and (not table.exists() or files.sha256(table) != stored["sha256"]):
            raise RecordError(f"{table} is damaged: it is not the file that {path.name} names.")
        arrays = files.read_arrays(table) if stored["sha256"] else {}
        return Outcome(
            _numbers(stored["rows"], float), arrays, stored["seconds"], stored["warnings"]
        )

    def save(self, name: str, uses: dict, outcome: Outcome) -> None:
        if self.folder is None:
            return
        path, table = self.folder / f"{name}.json", self.folder / f"{name}.npz"
        if outcome.arrays:
            files.write_arrays(table, outcome.arrays)
        stored = asdict(outcome) | {
            "key": self.key(uses),
            "sha256": files.sha256(table) if outcome.arrays else "",
        }
        del stored["arrays"]
        # as words: nan and inf are no JSON
        files.write_json(path, stored | {"rows": _numbers(outcome.rows, repr)})


def _numbers(rows: list[dict], convert) -> list[dict]:
    return [row | {"value": convert(row["value"])} for row in rows]
