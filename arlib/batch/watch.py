"""Following what was submitted to Slurm: which tasks have ended, how, and which never will begin.

A worker leaves the outcome of its task in the submission's folder. Where it could not, Slurm says
why: squeue for some minutes after a job's end, then the accounting, where there is one.
"""

import contextlib
import logging
import re
import time
from collections.abc import Iterator

from arlib import files
from arlib.batch import cluster, notes
from arlib.batch.attempts import outcome
from arlib.batch.cluster import SlurmError, State
from arlib.batch.submission import Submission
from arlib.batch.task import Task

log = logging.getLogger(__name__)
OFTEN, SELDOM = 2.0, 15.0  # seconds between two questions to Slurm, at first and later
LATE = 30.0  # seconds by which a file may show later than the end of the job that wrote it
NEVER = 20.0  # seconds for which a task says that it cannot run before it is given up
# reasons of waiting that pass by themselves
USUAL = re.compile(
    r"None|Priority|Resources|Dependency|JobArrayTaskLimit|BeginTime|Cleaning|Prolog|\(null\)"
)
# and those that waiting does not cure: the job asks for more than it may ever have
HOPELESS = re.compile(
    r".*PerJob(Limit)?|Partition(Time|Node)Limit|BadConstraints|DependencyNeverSatisfied"
    r"|.*NotAllowed|Invalid(Account|QOS)|QOSMin.*|QOSUsageThreshold"
)
WORDS = {
    "CANCELLED": "was cancelled (scancel)",
    "TIMEOUT": "reached its time limit; give a longer --time",
    "OUT_OF_MEMORY": "ran out of memory; give more --mem",
    "NODE_FAIL": "lost its node (NODE_FAIL)",
    "BOOT_FAIL": "lost its node (BOOT_FAIL)",
    "PREEMPTED": "was preempted",
    "DEADLINE": "reached its deadline",
    "COMPLETED": "ended without an outcome",
}


class Watch:
    """Some tasks of one submission, being followed."""

    def __init__(self, submission: Submission, tasks: dict[int, Task]):
        self.submission, self.open = submission, dict(tasks)
        self.states: dict[int, State] = {}
        self._begun = time.monotonic()
        self._next = 0.0  # when to ask Slurm again
        self._silent: float | None = self._begun  # since when Slurm has not answered
        self._since: dict[int, tuple[str, float]] = {}  # in which state a task is, since when
        self._left_at: dict[int, float] = {}  # when the outcome of a task was first seen
        self._said: set[str] = set()

    @property
    def quiet(self) -> bool:
        """Whether Slurm has looked at every task."""
        states = [self.states.get(index) for index in self.open]
        return all(s and (s.state, s.why) != ("PENDING", "None") for s in states)

    def ended(self) -> Iterator[tuple[Task, dict]]:
        """Tasks that have ended since it was last asked, and how."""
        if time.monotonic() >= self._next:
            self._ask()
        settled = self.submission.exchange.settled()
        for index, task in list(self.open.items()):
            left = self.submission.exchange.outcome(index) if index in settled else None
            outcome = self._left(index, left) if left else self._lost(index, task)
            if outcome:
                self.submission.exchange.settle(index, outcome)
                del self.open[index]
                yield task, outcome

    def cancel(self) -> None:
        """Cancel the tasks that have not ended, so that a later batch may have them."""
        if len(self.open) == len(self.submission.tasks):
            self.submission.cancel_all()
        elif self.open:
            states = cluster.states(list(self.submission.arrays))
            mine = [s for s in states if self.submission.index(s) in self.open and s.alive]
            cluster.cancel([f"{s.job}_{s.task}" for s in mine])
        for index in set(self.open) - self.submission.exchange.settled():
            self.submission.exchange.settle(index, outcome("cancelled", 0, 0.0, []))
        self.open.clear()

    def close(self) -> None:
        """Where all tasks have ended, remember that; the logs stay where one has failed."""
        exchange, every = self.submission.exchange, range(len(self.submission.tasks))
        if self.open or exchange.settled() != set(every):
            return
        if all((exchange.outcome(index) or {}).get("status") == "done" for index in every):
            exchange.remove()
        else:
            files.write_json(exchange.folder / "ended", {"at": time.time()})

    def _ask(self) -> None:
        now = time.monotonic()
        self._next = now + min(SELDOM, max(OFTEN, (now - self._begun) / 10))
        try:
            states = cluster.states(list(self.submission.arrays))
        except SlurmError as error:
            self._silent = self._silent or now
            self._say(f"Slurm does not answer ({error}); the batch waits for it.")
            return
        self._silent = None
        before, self.states = self.states, {self.submission.index(s): s for s in states}
        for index in self.open:
            state = self.states.get(index)
            label = f"{state.state} {state.why}" if state else "absent"
            if self._since.get(index, ("", 0.0))[0] != label:
                self._since[index] = (label, now)
        self._tell(before)

    def _tell(self, before: dict[int, State]) -> None:
        """Say, once, what the owner of the batch should know of tasks that wait."""
        waiting = {i: s for i in self.open if (s := self.states.get(i)) and s.state == "PENDING"}
        lasting = [state.why for i, state in waiting.items() if self._waited(i) >= OFTEN]
        for why in sorted(set(lasting)):
            many = lasting.count(why)
            if HOPELESS.fullmatch(why):
                self._say(
                    f"Slurm says {why}: it will never start runs as they were asked for ({many} of "
                    "them). They are given up unless that changes at once."
                )
            elif not USUAL.match(why):
                self._say(f"Runs that wait: {many}. Slurm says why: {why}")
        for index in waiting:
            if index in before and before[index].state in ("RUNNING", "COMPLETING"):
                name = self.open[index].output.stem
                log.info("%s was interrupted by Slurm and waits to start again", name)

    def _say(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            log.warning("%s", words)

    def _left(self, index: int, left: dict) -> dict | None:
        """What the worker left, and what Slurm has to add where it failed."""
        if left["status"] != "failed":
            return left
        state, now = self.states.get(index), time.monotonic()
        seen = self._left_at.setdefault(index, now)
        if (state is None or state.alive) and now - seen < 2 * OFTEN:
            return None
        if state is not None and state.state == "OUT_OF_MEMORY":
            return left | {"reason": f"{left['reason']}; its job {WORDS[state.state]}"}
        return left

    def _lost(self, index: int, task: Task) -> dict | None:
        """How a task ended that left no outcome; None while it may still leave one."""
        if self._silent is not None:
            silent = time.monotonic() - self._silent
            if silent > self.submission.limit + 300:  # by now its job is over
                return self._failed(index, f"Slurm has not answered for {silent / 60:.0f} minutes")
            return None
        state = self.states.get(index)
        if state is None:
            return self._vanished(index, task)
        if state.alive:
            return self._never(index, state)
        late = LATE if state.state in ("COMPLETED", "FAILED") else OFTEN
        return self._over(index, task, state) if self._waited(index) > late else None

    def _never(self, index: int, state: State) -> dict | None:
        """Give up a task that can never start."""
        if state.state != "PENDING" or not HOPELESS.fullmatch(state.why):
            return None
        long_ago = time.time() - self.submission.begun > 3 * NEVER  # we may have come only now
        if self._waited(index) < NEVER and not long_ago:
            return None
        with contextlib.suppress(SlurmError):
            cluster.cancel([f"{state.job}_{state.task}"])
        return self._failed(
            index, f"Slurm would never have started it ({state.why}); ask for less, or elsewhere"
        )

    def _vanished(self, index: int, task: Task) -> dict | None:
        """The end of a task that squeue does not know, or no longer."""
        if self._waited(index) < 2 * OFTEN:
            return None
        for state in cluster.accounted(list(self.submission.arrays)):
            if self.submission.index(state) == index:
                return None if state.alive else self._over(index, task, state)
        lost = "its job is gone and left no outcome (killed, out of memory, or its node lost)"
        return self._done(task) or self._failed(index, lost)

    def _over(self, index: int, task: Task, state: State) -> dict:
        """The end of a task, by what Slurm says of its job."""
        if done := self._done(task):
            return done
        log = self.submission.log(state)
        last = notes.last_line(log)
        # without cgroups Slurm calls a job that it killed for its memory just FAILED
        memory = state.state == "FAILED" and re.search(r"memory limit|oom.kill", last, re.I)
        known = WORDS.get("OUT_OF_MEMORY" if memory else state.state)
        how = known or f"ended with {state.state}: {last}"
        seen = f" (see {log})" if log.is_file() else ""
        return self._failed(index, f"its job {state.job}_{state.task} {how}{seen}")

    def _done(self, task: Task) -> dict | None:
        """The worker may have been killed just before it could say so."""
        return outcome("done", 1, 0.0, []) if task.finished else None

    def _failed(self, index: int, reason: str) -> dict:
        reasons = [*self.submission.exchange.tried(index)["reasons"], reason]
        return outcome("failed", len(reasons), 0.0, reasons)

    def _waited(self, index: int) -> float:
        """Seconds for which the task has been in its state."""
        return time.monotonic() - self._since[index][1]
