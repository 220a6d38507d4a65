"""Processes of this machine: when one started, ending one with everything it has started,
and processes that end with the one that started them.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

# prctl(2)
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36


def cores() -> int:
    """How many cores this process may use, which may be fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def started(pid: int) -> str | None:
    """When a process started, in the system's own words;
    None if it is not there or only waits to be buried.
    """
    if not _has_proc():
        listing = subprocess.run(
            ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True
        )
        state, _, begun = listing.stdout.strip().partition(" ")
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
    _kill([*descendants(process.pid), process.pid])
    process.wait()


def kill_descendants(patience: float = 5.0) -> None:
    """Kill all that this process has started, and what those have started.

    After `adopt_orphans` also those whose own parents are dead. patience: seconds in which those
    that are born meanwhile are killed too.
    """
    until = time.monotonic() + patience
    while alive := descendants(os.getpid()):
        _kill(alive)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if time.monotonic() > until:
            return
        time.sleep(0.02)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parents die, so that `descendants` still finds them.
    Linux only; elsewhere they are init's.
    """
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def bound(command: list[str]) -> list[str]:
    """The command, changed so that on Linux it is killed when this process
    (the thread that starts it) dies, in whatever way.

    Set by the child itself before it becomes the command: code between fork and exec is unsafe
    beside threads.
    """
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *command]


def descendants(pid: int) -> list[int]:
    """Processes that this one, or one of its descendants, has started."""
    children: dict[int, list[int]] = {}
    for child, parent in _all():
        children.setdefault(parent, []).append(child)
    born_of, waiting = [], [pid]
    while waiting:
        born = children.get(waiting.pop(), [])
        born_of, waiting = born_of + born, waiting + born
    return born_of


def _kill(pids: list[int]) -> None:
    for pid in pids:
        for end in (os.killpg, os.kill):
            try:
                end(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _all() -> Iterator[tuple[int, int]]:
    """(process, its parent) of every process."""
    if not _has_proc():
        ps = subprocess.Popen(["ps", "-A", "-o", "pid=,ppid="], stdout=subprocess.PIPE, text=True)
        pairs = [tuple(map(int, line.split())) for line in ps.communicate()[0].splitlines()]
        yield from (pair for pair in pairs if pair[0] != ps.pid)
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


def _become(parent: int, command: list[str]) -> None:
    """Tie this process to its parent, then be the command; see `bound`."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before we could ask to be told
        sys.exit(1)
    os.execvp(command[0], command)


if __name__ == "__main__":
    _become(int(sys.argv[1]), sys.argv[2:])
