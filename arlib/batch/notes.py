"""The last words of a process, for the message that says why it failed."""

from pathlib import Path


def last_line(path: Path) -> str:
    """The last line of a log that is not empty."""
    try:
        with open(path, "rb") as log:
            log.seek(max(0, path.stat().st_size - 4096))
            lines = log.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")
