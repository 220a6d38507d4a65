"""Whether somebody still works under a lease, judged by its file.

Only one thing is proof: a process of this machine, since it was last started, that is not there
any more. All else is a suspicion, an old date above all: clocks jump, a laptop sleeps, and two
machines may have one name. A suspicion counts once the lease has been watched for three heartbeats,
by a clock that cannot be set, without a sign of life; a live worker gives one at each.
"""

import functools
import math
import os
import socket
import subprocess
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

from arlib import processes
from arlib.files import peek_json as read

HEARTBEAT = 30.0  # seconds between two signs of life
STALE = 300.0  # seconds without one after which a lease is void
LET_GO = "it was let go"  # the reason of a lease that is no longer there
WATCHED = 3  # heartbeats for which a suspicious lease is watched before it counts as void


@dataclass(frozen=True)
class Judgement:
    """What the file of a lease says of its holder."""

    reason: str = ""
    """Why nobody seems to work under it; empty while somebody does."""
    certain: bool = True
    """False for a suspicion that watching has not confirmed yet."""

    @property
    def void(self) -> bool:
        """Whether the run may be taken over."""
        return bool(self.reason) and self.certain

    @property
    def in_doubt(self) -> bool:
        """Whether watching a little longer will tell."""
        return bool(self.reason) and not self.certain


def judge(path: Path) -> Judgement:
    """Look at a lease; looks from now on also watch it."""
    # read before its date is asked for: on a network file system opening fetches the new date
    holder = read(path) or {}
    try:
        status = path.stat()
    except FileNotFoundError:
        _seen.pop(path, None)
        return Judgement(LET_GO)
    here = holder.get("host") == host()
    quiet, age = _quiet(path, status), _now(path.parent) - status.st_mtime
    # leases of an arlib of before did not say which start of the machine they are of
    restarted = here and holder.get("boot", boot()) != boot()
    if here and not restarted and _is_dead(holder):
        return Judgement(f"process {holder['pid']} is dead")
    if quiet > STALE:  # whatever the clocks say
        return Judgement(f"no sign of life in {quiet / 60:.0f} minutes of watching")
    confirmed = quiet >= WATCHED * HEARTBEAT
    if restarted:
        return Judgement("the machine was started anew since", confirmed)
    if age > STALE:
        return Judgement(f"no sign of life for {age / 60:.0f} minutes", confirmed)
    return Judgement()


def describe(path: Path) -> str:
    """Who holds a lease, in words, and what is odd about it."""
    holder = read(path) or {}
    if _is_process(holder) and isinstance(holder.get("host"), str) and holder["host"].split():
        who = f"process {holder['pid']} on {holder['host'].split()[0]}"
    else:
        who = f"somebody, but {path} names no process"
    try:
        ahead = path.stat().st_mtime - _now(path.parent)
    except FileNotFoundError:
        return who
    if ahead > STALE:
        return f"{who}; its last sign of life is dated {ahead / 60:.0f} minutes ahead of the clock"
    return who


# What this process saw of each lease: its file and date, and since when they are the same.
_seen: dict[Path, tuple[tuple[int, int], float]] = {}


def _quiet(path: Path, status: os.stat_result) -> float:
    """Seconds since this process first saw the lease as it is now."""
    sign = (status.st_ino, status.st_mtime_ns)
    if path not in _seen or _seen[path][0] != sign:
        _seen[path] = (sign, time.monotonic())
    return time.monotonic() - _seen[path][1]


# When this process last asked what time it is in a folder, by a clock that cannot be set, and what
# it was told.
_told: dict[Path, tuple[float, float]] = {}


def _now(folder: Path) -> float:
    """The time by the clock that dates the leases in a folder: on a shared file system, the
    server's. It is asked once a heartbeat: what a jump makes look old is a suspicion only.
    """
    asked, told = _told.get(folder, (-math.inf, 0.0))
    if (since := time.monotonic() - asked) < HEARTBEAT:
        return told + since
    probe = folder / f".now-{uuid.uuid4().hex}"
    try:
        probe.touch()
        _told[folder] = (time.monotonic(), probe.stat().st_mtime)
        probe.unlink()
    except OSError:  # somebody else's store, which we may only read
        return time.time()
    return _told[folder][1]


def _is_process(holder: dict) -> bool:
    pid = holder.get("pid")
    return isinstance(pid, int) and not isinstance(pid, bool) and pid > 0


def _is_dead(holder: dict) -> bool:
    """Whether a lease of this machine names a process that is gone;
    one that names none is judged by its heartbeat.
    """
    if not _is_process(holder) or not isinstance(holder.get("started"), str):
        return False
    return processes.started(holder["pid"]) != holder["started"]


@functools.cache
def host() -> str:
    """This machine, and the process table that its process numbers are
    of (containers have their own).
    """
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


@functools.cache
def boot() -> str:
    """This start of the machine: another one counts its processes anew. Empty if it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        pass
    try:  # macOS
        asked = ["sysctl", "-n", "kern.bootsessionuuid"]
        return subprocess.run(asked, capture_output=True, text=True).stdout.strip()
    except OSError:
        return ""
