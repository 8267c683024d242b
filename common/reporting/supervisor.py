"""A small process that outlives the job and writes down what ended it.

    supervise()     # the first thing that a fit script does; what follows happens in a child, which is the job

The process that was started stays: it passes signals on to the job, ends with the job's exit status (128 + n where
signal n ended it), and where the job could not say why it ended, because it was killed, ran out of memory or crashed in
native code, says so in its place: in status.json, estimator.log and on standard error. Its id stands in status.json,
and it is the one to signal; if it is killed the job dies with it.

Only what is needed at the start is imported here: the child begins to load the job a millisecond later.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.reporting import memory_kills

if TYPE_CHECKING:
    from common.errors import JobError

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Signals that ask a job to end."""

PATIENCE = 5.0
"""Seconds after which a job that was asked to end, and did not, is killed."""

_OTHERS = (signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGCONT, signal.SIGTSTP)
_FROM_KERNEL = 0x80  # SI_KERNEL: of the terminal, which has told the whole process group
_REAPING = 1.0  # seconds for a process that was killed to be gone
_FEW_PROCESSES = 512  # a limit below this is met by a job on a large machine
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


@dataclass
class _Job:
    """This side of the job: the process to signal, and the pipe to the supervisor (None: nobody supervises)."""

    pid: int = field(default_factory=os.getpid)
    channel: int | None = None


_job = _Job()


def keep_standard_streams() -> None:
    """Occupy descriptors 0, 1 and 2 where they are closed: else the next file that is opened becomes standard
    output, and native code prints into it. Call it before anything opens a file."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; exit where `parent` has ended already."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def supervise() -> None:
    """Go on in a child of this process. Returns in the child alone, or where no process can be started."""
    keep_standard_streams()
    if started_by := os.environ.get("VISUALTL_STARTED_BY"):  # `common.ranks.place.STARTED_BY`
        die_with_parent(int(started_by))
    # A program that was started with nohup has SIGHUP ignored, and so it stays.
    stopping = {number for number in STOPPING if number != signal.SIGHUP or not _ignored(number)}
    watched = {*stopping, *_OTHERS, signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    reading, writing = os.pipe()
    killed_before, parent = memory_kills.count(), os.getpid()
    try:
        child = os.fork()
    except OSError:  # no process left, or no memory: it goes on unsupervised
        os.close(reading)
        os.close(writing)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    if child == 0:
        os.close(reading)
        die_with_parent(parent)
        _job.pid, _job.channel = parent, writing
        # Until the job has its own handlers a signal ends it at once, and the supervisor says what it was.
        for number in stopping:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os.close(writing)
    status = 1
    try:
        status = _Supervisor(child, reading, watched, killed_before).run()
    finally:
        os._exit(status)


def _ignored(number: signal.Signals) -> bool:
    return signal.getsignal(number) == signal.SIG_IGN


def signal_pid() -> int:
    """The process that signals for this job are to go to: its supervisor, or itself where it has none."""
    return _job.pid


def tell(**message: Any) -> None:
    """Tell the supervisor, if there is one: log_dir (where to write down how the job ended), log_format (of standard
    output), rank (which of several it is), notices (where rank 0 hears of its end) or ended (the exit status of a job
    that has said itself how it ended)."""
    if _job.channel is not None:
        with contextlib.suppress(OSError):
            os.write(_job.channel, json.dumps(message).encode() + b"\n")


@dataclass
class _Supervisor:
    """The parent's side."""

    child: int
    channel: int
    watched: set[signal.Signals]
    killed_before: int
    asked: int | None = None  # the signal that asked the job to end

    def run(self) -> int:
        """Wait for the job and return the exit status to end with."""
        code, usage = self._wait()
        told = self._told()
        if "ended" in told:  # it has said why, whatever became of the process after that
            return int(told["ended"])
        if code is not None and code >= 0 and not told.keys() & {"log_dir", "rank"}:
            return code  # a command line that is wrong, --help, --check
        return self._write_down(code, usage, told)

    def _wait(self) -> tuple[int | None, resource.struct_rusage | None]:
        """The job's end as `os.waitstatus_to_exitcode` says it, None where it is still dying; passes signals on."""
        deadline, killed = float("inf"), False
        while True:
            left = max(deadline - time.monotonic(), 0.0)
            info = signal.sigtimedwait(self.watched, min(left, 3600.0))
            while ended := self._reap():
                pid, status, usage = ended
                if pid == self.child:
                    self._note_the_last()
                    return os.waitstatus_to_exitcode(status), usage
            if info is None:
                if time.monotonic() >= deadline:
                    if killed:
                        return None, None
                    self._signal(signal.SIGKILL)
                    killed, deadline = True, time.monotonic() + _REAPING
                continue
            number = signal.Signals(info.si_signo)
            if number == signal.SIGCHLD:
                continue
            if number == signal.SIGTSTP:
                self._signal(signal.SIGSTOP)  # in a process group without a terminal SIGTSTP would be ignored
                os.kill(os.getpid(), signal.SIGSTOP)
                continue
            if info.si_code != _FROM_KERNEL:
                self._signal(number)
            if number in STOPPING and self.asked is None:
                self.asked, deadline = number, time.monotonic() + PATIENCE
                self._signal(signal.SIGCONT)  # one that is stopped could not hear it

    def _note_the_last(self) -> None:
        """A signal of the terminal's may have reached the job first."""
        while info := signal.sigtimedwait(self.watched, 0):
            if self.asked is None and info.si_signo in STOPPING:
                self.asked = info.si_signo

    def _reap(self) -> tuple[int, int, resource.struct_rusage] | None:
        """A child that has ended; as process 1 of a container it also has those of others."""
        try:
            ended = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return None
        return ended if ended[0] else None

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.child, number)

    def _told(self) -> dict[str, Any]:
        """All that the job has told; what it wrote is in the pipe, whatever became of it."""
        os.set_blocking(self.channel, False)
        told: dict[str, Any] = {}
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self.channel, 1 << 16):
                data += piece
        for line in data.splitlines():
            with contextlib.suppress(ValueError):
                told |= json.loads(line)
        return told

    def _write_down(
        self, code: int | None, usage: resource.struct_rusage | None, told: dict[str, Any]
    ) -> int:
        """Say why the job ended in its place; returns the exit status."""
        from common.reporting.afterwards import tell_first, tell_ranks, write_down

        number = self.asked if code is None else _stopped_by(code, self.asked)
        end: JobError | str
        if number is not None:
            end, status = f"stopped by {signal.Signals(number).name}", 128 + number
        else:
            assert code is not None
            killed = memory_kills.count() > self.killed_before
            end = _reason(code, killed, usage.ru_maxrss if usage else 0)
            status = 128 - code if code < 0 else code or 1
        folder = Path(told["log_dir"]) if "log_dir" in told else None
        rank = told.get("rank")
        # First of all: rank 0 notices already that this one is gone.
        heard = rank is not None and tell_first(told.get("notices"), rank, end, status)
        write_down(folder, end, told.get("log_format", "text"), rank)
        if rank is not None and not heard:
            tell_ranks(rank, end, status)
        return status


def _stopped_by(code: int, asked: int | None) -> int | None:
    """The signal that asked the job to end, where it ended for that reason."""
    if -code in STOPPING and not (
        asked is None and code == -signal.SIGINT
    ):  # which OpenBLAS raises to give up
        return -code
    if asked is not None and code in (-signal.SIGKILL, 128 + asked):
        return asked
    return code - 128 if code - 128 in STOPPING else None


def _reason(code: int, out_of_memory: bool, peak: int) -> JobError:
    """Why a job ended that could not say it. peak: of its memory, in KiB."""
    from common.errors import CrashError, KilledError, MemoryLimitError

    used = f"it had used {peak / 1e6:.1f} GB"
    advice = "a smaller train.batch_size, fewer train.num_workers, a smaller input or network need less"
    how = f"ended with exit status {code} and no reason"
    if code < 0:
        name = signal.Signals(-code).name if -code in list(signal.Signals) else "unknown"
        how = f"was ended by signal {-code} ({name})"
    if out_of_memory and code == -signal.SIGKILL:
        return MemoryLimitError(
            f"memory ran out: the system killed the job to free some ({used}); give it more, or {advice}"
        )
    limits = [resource.getrlimit(which)[0] for which in (resource.RLIMIT_AS, resource.RLIMIT_DATA)]
    finite = [limit for limit in limits if limit != resource.RLIM_INFINITY]
    if finite and code != -signal.SIGKILL:
        return MemoryLimitError(
            f"memory probably ran out: the job {how}, and a limit (ulimit -v, ulimit -d) allows "
            f"{min(finite) / 1e9:.1f} GB of addresses; raise it, or {advice}"
        )
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if 0 <= processes < _FEW_PROCESSES and code != -signal.SIGKILL:
        return MemoryLimitError(
            f"the job {how}, probably because no further thread or process can be started: a limit (ulimit -u) allows "
            f"{processes}; raise it, or lower --threads and train.num_workers"
        )
    if code == -signal.SIGKILL:
        return KilledError(f"the job {how} from outside ({used})")
    return CrashError(f"the job {how} ({used}); what native code wrote to standard error may say more")
