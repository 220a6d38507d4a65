"""Processes of this machine: when one started, and ending one with everything it has started."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path


def started(pid: int) -> str | None:
    """When a process started, in the system's own words;
    None if it is not there or only waits to be buried.
    """
    if not _has_proc():
        found = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True
        )
        state, _, begun = found.stdout.strip().partition(" ")
        return None if not state or state.startswith("Z") else begun.strip()
    try:
        after_name = _after_name(Path(f"/proc/{pid}/stat"))
    except OSError:
        return None
    # proc(5): fields 3 (state) and 22 (start time)
    return None if after_name[0] in "ZX" else after_name[19]


def kill(process: subprocess.Popen) -> None:
    """Kill a process, its group, and all it started:
    Jupyter kernels sit in process groups of their own.
    """
    if process.poll() is not None:
        return
    for pid in [*descendants(process.pid), process.pid]:
        for end in (os.killpg, os.kill):
            try:
                end(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
    process.wait()


def descendants(pid: int) -> list[int]:
    """Processes that this one, or one of its descendants, has started."""
    children: dict[int, list[int]] = {}
    for child, parent in _all():
        children.setdefault(parent, []).append(child)
    found, waiting = [], [pid]
    while waiting:
        born = children.get(waiting.pop(), [])
        found, waiting = found + born, waiting + born
    return found


def _all() -> Iterator[tuple[int, int]]:
    """(process, its parent) of every process."""
    if not _has_proc():
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True
        ).stdout
        yield from (tuple(map(int, line.split())) for line in listed.splitlines())
        return
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            yield int(path.parent.name), int(_after_name(path)[1])
        except OSError:  # it ended while we looked
            continue


def _after_name(stat: Path) -> list[str]:
    """Fields of /proc/PID/stat from the third on;
    the second, the name, may hold anything but is in brackets.
    """
    return stat.read_text().rpartition(")")[2].split()


def _has_proc() -> bool:
    return Path("/proc/self/stat").exists()
