"""Who works on what: leases by which any number of processes
on one file system share the runs of a study.

A lease is a small file naming host, start of the machine, process and its start time; its
modification time is the heartbeat. When it is void, another worker may take it (`alive`). A worker
that lost its lease (a laptop that slept, say) notices and stops: the run is somebody else's now.
What moves or removes a run's folder asks first, under the lock, whether the lease is still its own.
"""

import contextlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from arlib import files, processes
from arlib.studies import alive
from arlib.studies.alive import read

log = logging.getLogger(__name__)
# tells the main thread; Ctrl-C is ignored in `nohup … &`
LOST = getattr(signal, "SIGUSR1", signal.SIGINT)


class Lost(BaseException):
    """The run is another worker's now.
    Like KeyboardInterrupt, nothing on the way may swallow it.
    """


class Lease:
    """A lease held by this process; use it as a context manager,
    which beats its heart and lets it go.

    `lost` turns True, and the main thread gets a `Lost`, when another worker has taken the lease
    because this one's heartbeat had stopped.
    """

    def __init__(self, path: Path, token: str):
        self.path, self.token, self.lost = path, token, False
        self._leaving, self._listens = False, False
        self._done, self._guard = threading.Event(), threading.Lock()
        self._thread = threading.Thread(
            target=self._beat, name=f"heartbeat {path.stem}", daemon=True
        )

    def __enter__(self) -> "Lease":
        # only a main thread can listen; another one notices when it wants to publish
        if threading.current_thread() is threading.main_thread():
            self._former = signal.signal(LOST, self._stop)
            self._listens = True
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._leaving = True  # a signal on its way says nothing new any more
        with self._guard:
            self._done.set()
        if self._listens:
            signal.signal(LOST, self._former or signal.SIG_DFL)
        with locked(self.path.parent):
            if self.holds():
                self.path.unlink(missing_ok=True)
            else:
                self.lost = True

    def holds(self) -> bool:
        """Whether the lease file is still ours."""
        return (read(self.path) or {}).get("token") == self.token

    @contextlib.contextmanager
    def confirmed(self) -> Iterator[None]:
        """For what only the holder may do:
        nobody can take the lease meanwhile; `Lost` if somebody has.
        """
        with locked(self.path.parent):
            if not self.holds():
                raise Lost
            yield

    def _beat(self) -> None:
        while not self._done.wait(alive.HEARTBEAT):
            with self._guard:
                if self._done.is_set():
                    return
                if self._is_taken():
                    self.lost = True
                    if self._listens:
                        interrupt_main_thread()
                    return
            # a file system that stutters; the next beat may succeed
            with contextlib.suppress(OSError):
                os.utime(self.path)

    def _is_taken(self) -> bool:
        try:
            self.path.stat()
        except FileNotFoundError:  # taken, done with, and let go
            return True
        except OSError:
            return False
        holder = read(self.path)  # None where it cannot be read now: that is no other's token
        return holder is not None and holder.get("token") != self.token

    def _stop(self, *_) -> None:
        if not self._leaving:
            raise Lost


def interrupt_main_thread() -> None:
    """`Lost` in the main thread, by a real signal: it also ends a wait."""
    signal.pthread_kill(threading.main_thread().ident, LOST)


def take(folder: Path, run: str) -> Lease | None:
    """Take a run for this process; None while another worker holds a valid lease on it,
    or one of which watching has yet to show that it is void.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, token = folder / f"{run}.json", uuid.uuid4().hex[:8]
    with locked(folder) as alone:
        if path.exists():
            judgement = alive.judge(path)
            if not judgement.void:
                return None
            log.info("%s: taken over from %s: %s", run, alive.describe(path), judgement.reason)
        holder = {
            "host": alive.host(),
            "boot": alive.boot(),
            "pid": os.getpid(),
            "started": processes.started(os.getpid()),
            "token": token,
        }
        files.write_json(path, holder)
    if not alone:  # no locks on this file system: the last writer of a crowd holds the lease
        time.sleep(1.0)
    held = Lease(path, token)
    return held if alone or held.holds() else None


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[bool]:
    """Serialise the taking, using and letting go of leases;
    yields False where the file system has no locks.
    """
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=60, poll_interval=0.01)
    except (NotImplementedError, Timeout, OSError):
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
