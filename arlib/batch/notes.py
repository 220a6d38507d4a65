"""Reading what other processes leave: nothing where there is nothing, or not yet."""

import json
from pathlib import Path


def read(path: Path) -> dict | None:
    """What a JSON file says; None where there is none, or it is damaged."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return said if isinstance(said, dict) else None


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
