"""A pool of processes that decode and augment.

Workers are fresh interpreters (never a fork: MXNet's threads would not survive it) that import what
unpickling their first function needs, and so stay free of MXNet. One socket is the queue of all: each worker
takes the next message when it has finished the last, without locks, so a worker that is killed in the middle
leaves nothing locked behind.

A worker ends the moment its parent does, whatever the parent died of and whatever the worker is doing. A worker that
dies takes at most the task it was at with it, and one that is stopped or stuck is killed: all are then started afresh
and every unfinished task is done again, so tasks must be repeatable.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common.errors import WorkerError
from common.processes.worker import TAKEN, installed, message_of, objects, post, take

__all__ = ["WorkerPool", "installed"]

T = TypeVar("T")
R = TypeVar("R")

DEATHS = 3
"""So many times workers may die in the life of a pool; the last one ends the job."""

PATIENCE = 2.0
"""Seconds that withdrawn tasks may go on; then the workers are started afresh."""

STOPPED = 2
"""Looks, a second apart, at which a worker is found stopped before it is replaced."""

STUCK = 10
"""The same for one that is at a task, and neither computes, reads nor waits for a disk."""

BUSY = 120.0
"""Seconds that a worker may be at a single task, whatever it does."""

_LOOK = 1.0  # seconds between two looks

_ROOT = str(Path(__file__).resolve().parents[2])
# Before anything is imported the kernel is told to end the worker with its parent, which may be killed meanwhile. The
# root of the project takes the place of the current folder, which may hold anything.
_START = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == {parent} or sys.exit(); "
    "sys.path[0] = {root!r}; from common.processes.worker import serve; "
    "serve({queue}, {channel}, {parent})"
)

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_log = logging.getLogger("visualtl")

_keys = itertools.count(1)


class WorkerPool:
    """Processes that carry out functions, given by module and name, in the order of submission.

    count: how many processes; with 0 the same happens in this process, when a result is asked for. Starting
    takes no time here: workers start while this process goes on. To be used by one thread, and not to outlive it. Ends
    with `close`. restarted: told how often workers have been started afresh, when they are.
    """

    def __init__(self, count: int, restarted: Callable[[int], None] | None = None) -> None:
        self.count = count
        self._restarted = restarted
        self._restarts = 0
        self._tickets = itertools.count(1)
        self._tasks: dict[int, Any] = {}  # unfinished: messages, or calls where count is 0
        self._backlog: deque[int] = deque()  # those of them that did not fit into the queue yet
        self._results: dict[int, bytes] = {}
        self._cancelled: set[int] = set()
        self._installations: dict[int, tuple[bytes, list[int]]] = {}
        self._workers: list[_Worker] = []
        self._deaths = 0
        self._next_look = time.monotonic()
        self._closed = False
        if count:
            self._start()

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def processes(self) -> list[int]:
        """Ids of the worker processes."""
        return [worker.process.pid for worker in self._workers]

    def submit(self, function: Callable[..., Any], *arguments: Any) -> int:
        """Have `function(*arguments)` carried out; returns the ticket under which `result` gives what came of it."""
        self._check_open()
        ticket = next(self._tickets)
        if not self.count:
            self._tasks[ticket] = function, arguments
            return ticket
        self._tasks[ticket] = message_of(ticket, (function, arguments))
        self._backlog.append(ticket)
        self._send()
        return ticket

    def result(self, ticket: int) -> Any:
        """Wait for a task and return its result or raise its exception. A ticket is good for one result.

        Raises:
            WorkerError: workers died too often.
        """
        self._check_open()
        if not self.count:
            function, arguments = self._tasks.pop(ticket)
            return function(*arguments)
        while ticket not in self._results:
            if ticket not in self._tasks:
                raise ValueError(f"no task has the ticket {ticket}")
            self._collect()
        good, value = pickle.loads(self._results.pop(ticket))
        if good:
            return value
        raise value

    def map(self, function: Callable[[T], R], items: Iterable[T], chunk: int = 32) -> Iterator[R]:
        """`function` of each item, in order, as results come; `chunk` items travel together."""
        remaining = iter(items)
        waiting: deque[int] = deque()
        try:
            while part := list(itertools.islice(remaining, chunk)):
                waiting.append(self.submit(_apply, function, part))
                # Enough that no worker waits while the caller looks at a result.
                if len(waiting) > 4 * self.count:
                    yield from self.result(waiting.popleft())
            while waiting:
                yield from self.result(waiting.popleft())
        finally:
            self.cancel(waiting)

    def cancel(self, tickets: Iterable[int]) -> None:
        """Withdraw tasks. When it returns none of them is being carried out, and their results are gone."""
        unwanted = set(tickets)
        if self._closed or not unwanted:
            return
        if not self.count:
            for ticket in unwanted:
                self._tasks.pop(ticket, None)
            return
        self._cancelled = unwanted & self._tasks.keys()
        try:
            queued = self._take_back()
            self._cancelled -= set(queued)
            for ticket in unwanted & set(queued):
                del self._tasks[ticket]
            self._backlog = deque(ticket for ticket in queued if ticket not in unwanted)
            self._send()
            # An answer may be lost where a signal's handler raised while it was being received.
            end = time.monotonic() + PATIENCE
            while self._cancelled:
                if time.monotonic() < end:
                    self._collect(PATIENCE)
                else:
                    self._restart()
        finally:
            self._cancelled = set()
            for ticket in unwanted:
                self._results.pop(ticket, None)

    def install(self, build: Callable[..., Any], *arguments: Any, descriptors: Sequence[int] = ()) -> int:
        """Make an object once in every process, as `build(descriptors, *arguments)`, before its next task.

        Tasks reach it as `installed(key)` with the key that is returned. Descriptors are duplicated; `build`
        owns and closes those that it is given.
        """
        self._check_open()
        key = next(_keys)
        if not self.count:
            objects[key] = build([os.dup(descriptor) for descriptor in descriptors], *arguments)
            return key
        message = message_of(key, (build, arguments))
        self._installations[key] = message, [os.dup(descriptor) for descriptor in descriptors]
        for worker in self._workers:
            worker.post(*self._installations[key])
        return key

    def remove(self, key: int) -> None:
        """Forget what was installed under `key`; each worker does so before its next task."""
        if self._closed or not self.count:
            objects.pop(key, None)
        elif key in self._installations:
            for descriptor in self._installations.pop(key)[1]:
                os.close(descriptor)
            for worker in self._workers:
                worker.post(message_of(key, None), [])

    def close(self) -> None:
        """End the workers at once. Tasks that are not finished are lost."""
        if self._closed:
            return
        self._closed = True
        if self.count:
            self._stop()
        for _, descriptors in self._installations.values():
            for descriptor in descriptors:
                os.close(descriptor)
        self._installations.clear()
        self._tasks.clear()
        self._results.clear()

    def shrink(self, count: int) -> None:
        """Go on with that many processes, before anything is submitted."""
        self._check_open()
        if self._tasks or not 0 < count < self.count:
            return
        self._stop()
        self.count = count
        self._start()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the pool of workers is closed")

    def _start(self) -> None:
        self._queue, self._outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._selector = selectors.DefaultSelector()
        self._workers = [_Worker(self._outlet) for _ in range(self.count)]
        for worker in self._workers:
            self._selector.register(worker.channel, selectors.EVENT_READ, worker)
            for message, descriptors in self._installations.values():
                worker.post(message, descriptors)

    def _stop(self) -> None:
        """Kill all workers, and with them every task that is being carried out."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            self._selector.unregister(worker.channel)
            worker.channel.close()
        self._workers = []
        self._selector.close()
        self._queue.close()
        self._outlet.close()

    def _send(self) -> None:
        """Move tasks from the backlog into the queue as far as it takes them."""
        while self._backlog:
            try:
                post(self._queue, self._tasks[self._backlog[0]], [], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            self._backlog.popleft()

    def _take_back(self) -> list[int]:
        """Empty the queue: tickets of all tasks that no worker has taken, in order."""
        tickets = []
        with contextlib.suppress(BlockingIOError):
            while True:
                ticket, _, descriptors = take(self._outlet, socket.MSG_DONTWAIT)
                for descriptor in descriptors:
                    os.close(descriptor)
                tickets.append(ticket)
        return [*tickets, *self._backlog]

    def _collect(self, timeout: float | None = None) -> None:
        """Wait a while for what workers say; look after them once in a while."""
        ready = self._selector.select(_LOOK if timeout is None else timeout)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + _LOOK
            if self._look():
                return
        for key, _ in ready:
            worker: _Worker = key.data
            try:
                ticket, answer, _ = take(worker.channel)
            except (EOFError, ConnectionError):
                self._recover(worker)
                break
            if ticket & TAKEN:
                worker.begin(ticket & ~TAKEN)
                continue
            worker.begin(None)
            if self._tasks.pop(ticket, None) is None:
                continue
            if ticket in self._cancelled:
                self._cancelled.discard(ticket)
            else:
                self._results[ticket] = answer
        self._send()

    def _look(self) -> bool:
        """Replace a worker that is stopped, or stuck in a task; whether there was one."""
        for worker in self._workers:
            if reason := worker.trouble():
                _log.warning("%s", reason)
                worker.process.kill()
                worker.process.wait()
                if not worker.was_stopped:
                    self._count_death(reason)
                self._restart()
                return True
        return False

    def _recover(self, dead: _Worker) -> None:
        """Replace a worker that closed its end: it is dead, or about to be."""
        try:
            status = dead.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            dead.process.kill()
            status = dead.process.wait()
        how = _how(status)
        _log.warning("data worker %d %s; all are started afresh", dead.process.pid, how)
        self._count_death(f"a data worker {how}", killed=status == -signal.SIGKILL)
        self._restart()

    def _count_death(self, reason: str, killed: bool = False) -> None:
        self._deaths += 1
        if self._deaths >= DEATHS:
            self.close()
            help_ = f"lower train.num_workers ({self.count} run)"
            if killed:
                help_ = f"the system does this when memory runs out: {help_} or train.batch_size"
            raise WorkerError(f"{reason}, and {DEATHS} times in all workers died or were stuck: {help_}")

    def _restart(self) -> None:
        """Start all workers afresh, with every task that is unfinished.

        Which task a dead worker was at is not known, and one that another worker is at must not be given away
        again as long as that goes on. Dying is rare, and starting is quick.
        """
        self._stop()
        self._restarts += 1
        if self._restarted is not None:
            self._restarted(self._restarts)
        for ticket in self._cancelled:
            del self._tasks[ticket]
        self._cancelled = set()
        self._backlog = deque(sorted(self._tasks))
        self._start()
        self._send()


class _Worker:
    """A process and this side of its channel: results come from it, installations go to it."""

    def __init__(self, outlet: socket.socket) -> None:
        self.channel, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.was_stopped = False
        self._looks_stopped = 0
        self.begin(None)
        command = _START.format(root=_ROOT, queue=outlet.fileno(), channel=other.fileno(), parent=os.getpid())
        # Ctrl-C and a SIGTERM to the whole group are for the parent, which ends its workers when it is done
        # with them. A blocked signal is inherited, so there is no moment at which a starting worker is open to one.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-c", command],
                stdin=subprocess.DEVNULL,
                pass_fds=[outlet.fileno(), other.fileno()],
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
            other.close()
        self.post(message_of(0, sys.path), [])

    def begin(self, task: int | None) -> None:
        """It has begun a task, or (None) finished one."""
        self._task, self._began = task, time.monotonic()
        self._looks_still, self._done = 0, (-1, -1)

    def trouble(self) -> str | None:
        """What is wrong with it, if anything; to be asked once in a while."""
        try:
            state, *done = _activity(self.process.pid)
        except (OSError, ValueError, IndexError):  # it is gone, which shows elsewhere
            return None
        self._looks_stopped = self._looks_stopped + 1 if state in "Tt" else 0
        still = self._task is not None and state != "D" and tuple(done) == self._done
        self._looks_still = self._looks_still + 1 if still else 0
        self._done = (done[0], done[1])
        who = f"data worker {self.process.pid}"
        if self._looks_stopped >= STOPPED:
            self.was_stopped = True
            return f"{who} was stopped from outside; all are started afresh"
        if self._looks_stopped:
            return None
        if self._looks_still >= STUCK:
            return f"{who} is stuck: at one task it has neither computed nor read for {STUCK} s; all are started afresh"
        if self._task is not None and time.monotonic() - self._began > BUSY:
            return f"{who} is stuck: it is at one task for more than {BUSY:g} s; all are started afresh"
        return None

    def post(self, message: bytes, descriptors: Sequence[int]) -> None:
        # A worker that has died is noticed where results are awaited; its successor is told everything again.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            post(self.channel, message, descriptors)


def _activity(pid: int) -> tuple[str, int, int]:
    """State of a process (a letter), and how much it has computed (ticks) and read (bytes) so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    read = Path(f"/proc/{pid}/io").read_text().split()[1]
    return fields[0], int(fields[11]) + int(fields[12]), int(read)


def _how(status: int) -> str:
    if status < 0:
        return f"was killed by signal {-status} ({signal.Signals(-status).name})"
    return f"ended with exit status {status}; what it wrote to standard error says why"


def _apply(function: Callable[[T], R], items: list[T]) -> list[R]:
    return [function(item) for item in items]
