"""Who works on what: leases by which any number of processes
on one file system share the runs of a study.

A lease is a small file naming host, process and its start time; its modification time is the
heartbeat. It is void when its process is dead on this host or the heartbeat is older than five
minutes. A worker that lost its lease (a laptop that slept, say) notices and stops: the run is
somebody else's now.
"""

import contextlib
import functools
import json
import os
import signal
import socket
import threading
import time
import uuid
from pathlib import Path

from filelock import FileLock, Timeout

from arlib import files, processes

HEARTBEAT = 30.0  # seconds between two signs of life
STALE = 300.0  # seconds without one after which a lease is void
# tells the main thread; Ctrl-C is ignored in `nohup … &`
LOST = getattr(signal, "SIGUSR1", signal.SIGINT)


class Lease:
    """A lease held by this process; use it as a context manager,
    which beats its heart and lets it go.

    `lost` turns True, and the main thread gets a KeyboardInterrupt, when another worker has taken
    the lease because this one's heartbeat had stopped.
    """

    def __init__(self, path: Path, token: str):
        self.path, self.token, self.lost = path, token, False
        self._done, self._guard = threading.Event(), threading.Lock()
        self._thread = threading.Thread(
            target=self._beat, name=f"heartbeat {path.stem}", daemon=True
        )

    def __enter__(self) -> "Lease":
        self._former = _listen()
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        with self._guard:
            self._done.set()
        if self._former is not None:
            signal.signal(LOST, self._former)
        with _lock(self.path.parent):
            if self.holds():
                self.path.unlink(missing_ok=True)

    def holds(self) -> bool:
        """Whether the lease file is still ours."""
        return (read(self.path) or {}).get("token") == self.token

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT):
            with self._guard:
                if self._done.is_set():
                    return
                if not self.holds():
                    self.lost = True
                    interrupt_main_thread()
                    return
            # a file system that stutters; the next beat may succeed
            with contextlib.suppress(OSError):
                os.utime(self.path)


def interrupt_main_thread() -> None:
    """KeyboardInterrupt in the main thread, by a real signal: it also ends a wait."""
    signal.pthread_kill(threading.main_thread().ident, LOST)


def _listen():
    """Let the signal raise KeyboardInterrupt; gives the handler of before.
    Only a main thread can set one.
    """
    if threading.current_thread() is not threading.main_thread():
        return None
    return signal.signal(LOST, signal.default_int_handler)


def take(folder: Path, run: str) -> Lease | None:
    """Take a run for this process; None while another worker holds a valid lease on it."""
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / f"{run}.json", uuid.uuid4().hex[:8]
    with _lock(folder) as locked:
        if path.exists() and not void(path):
            return None
        holder = {
            "host": _host(),
            "pid": os.getpid(),
            "started": processes.started(os.getpid()),
            "token": token,
        }
        files.write_json(path, holder)
    if not locked:  # no locks on this file system: the last writer of a crowd holds the lease
        time.sleep(1.0)
    held = Lease(path, token)
    return held if locked or held.holds() else None


def read(path: Path) -> dict | None:
    """What a lease says; None if there is none or it cannot be read."""
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder if isinstance(holder, dict) else None


def void(path: Path) -> str:
    """Why nobody works under this lease; empty while somebody does."""
    holder = read(path)
    if (
        holder
        and holder.get("host") == _host()
        and processes.started(holder["pid"]) != holder["started"]
    ):
        return f"process {holder['pid']} is dead"
    try:
        age = _now(path.parent) - path.stat().st_mtime
    except FileNotFoundError:
        return "it was let go"
    return f"no sign of life for {age / 60:.0f} minutes" if age > STALE else ""


@contextlib.contextmanager
def _lock(folder: Path):
    """Serialise the taking and letting go of leases;
    yields False where the file system has no locks.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=60)
    except (NotImplementedError, Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _now(folder: Path) -> float:
    """The time by the clock that stamps the leases: on a shared file system, the server's."""
    path = folder / f".now-{os.getpid()}-{threading.get_ident()}"
    path.touch()
    now = path.stat().st_mtime
    path.unlink(missing_ok=True)
    return now


@functools.cache
def _host() -> str:
    """This machine, and the process table that its process numbers are
    of (containers have their own).
    """
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()
