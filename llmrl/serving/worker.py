"""One thread that computes for all visitors, one after the other: torch keeps a pool of threads for every thread that calls it,
models keep buffers between passes, and two answers side by side on the same processors are each half as fast."""

import threading
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from llmrl.errors import UserError

T = TypeVar("T")
TICK_SECONDS = 0.1


class Cancelled(Exception):  # noqa: N818  (no error: the visitor has gone, or asks for something else)
    """Nobody waits for what is computed."""


@dataclass(frozen=True)
class Waiting:
    """So many requests are before this one; 0: it is at work, and has nothing to tell yet."""

    before: int


@dataclass(frozen=True)
class Told:
    """What the work tells while it is at it."""

    what: Any


@dataclass(frozen=True)
class Done(Generic[T]):
    """The end of it."""

    result: T


class Tell:
    """Given to the work, to tell the visitor what there is so far. Raises Cancelled where nobody listens any more."""

    def __init__(self, job: "_Job", worker: "Worker") -> None:
        self._job, self._worker = job, worker

    def __call__(self, what: Any) -> None:
        self.check()
        self._job.events.put(Told(what))

    def check(self) -> None:
        """Raises Cancelled where nobody listens any more."""
        if self._job.cancelled.is_set():
            raise Cancelled

    def let_others(self) -> None:
        """Long work calls this where it can be interrupted: one that waits, and is not long itself, is carried out first."""
        self.check()
        if self._job.long:
            self._worker.carry_out_a_short_one()


@dataclass(eq=False)
class _Job:
    work: Callable[[Tell], Any]
    events: SimpleQueue[Any] = field(default_factory=SimpleQueue)
    cancelled: threading.Event = field(default_factory=threading.Event)
    long: bool = False


class Worker:
    """Requests in a line, carried out in their order by a thread of its own."""

    def __init__(self, most_waiting: int = 32) -> None:
        self.most_waiting = most_waiting
        self._line: deque[_Job] = deque()
        self._change = threading.Condition()
        self._thread: threading.Thread | None = None

    def stream(self, work: Callable[[Tell], T], long: bool = False) -> Generator[Waiting | Told | Done[T], None, None]:
        """Carry out `work(tell)` and yield what it tells; a Waiting ten times a second where nothing is told.

        `long` work may let others through. Ends with Done, or raises what the work raised. Closing it cancels the work.
        Raises UserError where too many wait.
        """
        job = _Job(work, long=long)
        with self._change:
            waiting = sum(not each.cancelled.is_set() for each in self._line)
            if waiting >= self.most_waiting:
                raise UserError(f"{waiting} requests are waiting already: try again in a minute")
            self._line.append(job)
            if self._thread is None:
                self._thread = threading.Thread(target=self._carry_out_all, name="llmrl worker", daemon=True)
                self._thread.start()
            self._change.notify()
        return self._events(job)

    def result(self, work: Callable[[Tell], T]) -> T:
        """What `work` returns, when its turn has come."""
        for event in self.stream(work):
            if isinstance(event, Done):
                return event.result
        raise AssertionError("a stream ends with Done")

    def _events(self, job: _Job) -> Generator[Any, None, None]:
        try:
            while True:
                try:
                    event = job.events.get(timeout=TICK_SECONDS)
                except Empty:
                    event = Waiting(self._before(job))
                if isinstance(event, BaseException):
                    raise event
                yield event
                if isinstance(event, Done):
                    return
        finally:
            job.cancelled.set()

    def _before(self, job: _Job) -> int:
        with self._change:
            if job not in self._line:
                return 0
            return 1 + sum(not each.cancelled.is_set() for each in list(self._line)[: self._line.index(job)])

    def _carry_out_all(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._line)
                job = self._line.popleft()
            self._carry_out(job)
            del job  # or the last visitor's answers are kept until the next one asks

    def carry_out_a_short_one(self) -> None:
        """The first in the line that is not long and is still waited for; for the worker's thread."""
        with self._change:
            job = next((each for each in self._line if not each.long and not each.cancelled.is_set()), None)
            if job is None:
                return
            self._line.remove(job)
        self._carry_out(job)

    def _carry_out(self, job: _Job) -> None:
        if job.cancelled.is_set():
            return
        try:
            job.events.put(Done(job.work(Tell(job, self))))
        except Cancelled:
            pass
        except BaseException as error:  # the visitor's thread raises it
            job.events.put(error.with_traceback(None) if isinstance(error, UserError) else error)
