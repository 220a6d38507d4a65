"""One chapter with one set of parameters: where its executed copy goes, and whether it is done."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from arlib import files


@dataclass(frozen=True)
class Task:
    """One chapter with one set of parameters, and where its executed copy goes."""

    chapter: Path
    parameters: dict
    output: Path

    @property
    def key(self) -> str:
        """SHA-256 over the chapter's file and the parameters:
        what a finished run is recognised by.
        """
        canonical = json.dumps(self.parameters, sort_keys=True)
        return hashlib.sha256(self.chapter.read_bytes() + canonical.encode()).hexdigest()

    @property
    def yaml(self) -> str:
        """The parameters, as papermill reads them; JSON has no mappings with keys of any kind."""
        return yaml.safe_dump(self.parameters)

    @property
    def marker(self) -> Path:
        return self.output.with_suffix(".done.json")

    @property
    def log(self) -> Path:
        return self.output.with_suffix(".log")

    @property
    def finished(self) -> bool:
        """Whether this chapter, as it is now, has been run with these parameters."""
        marked = files.peek_json(self.marker) if self.output.is_file() else None
        return marked is not None and marked.get("key") == self.key

    def packed(self) -> dict:
        """Plain content for JSON."""
        return {
            "chapter": str(self.chapter),
            "parameters": self.yaml,
            "output": str(self.output),
            "key": self.key,
        }

    @classmethod
    def unpacked(cls, packed: dict) -> "Task":
        parameters = yaml.safe_load(packed["parameters"])
        return cls(Path(packed["chapter"]), parameters, Path(packed["output"]))
