"""How a job ends: exit status, last line, and `status.json`, for every way in which it can end.

What ends a process that cannot say so itself is written down by `common.reporting.supervisor`.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from common.errors import (
    DeviceError,
    JobError,
    LogDirError,
    MemoryLimitError,
    RankError,
    is_out_of_memory,
    one_line,
)
from common.language import KINDS_IN_CHINESE, spoken
from common.ranks.ends import End
from common.ranks.ranks import ALONE, Ranks
from common.reporting import supervisor
from common.reporting.lock import lock
from common.reporting.log import Format, last_words, open_console, open_log, write_traceback
from common.reporting.status import Status
from common.reporting.supervisor import STOPPING

log = logging.getLogger("visualtl")


class Stopped(BaseException):
    """A signal asks the job to end. Not an Exception: nothing on the way may take it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number


class Abandoned(BaseException):
    """Another rank has ended, and this one with it. No Exception for the same reason."""

    def __init__(self, end: End) -> None:
        super().__init__(end.message)
        self.end = end


# Seconds after which a signal ends the job even if it is within an operation that cannot be interrupted, such as a
# large batch on the CPU. A second later the supervisor kills it; `docker stop` waits 10 s before it does.
_PATIENCE = supervisor.PATIENCE - 1.0

# Seconds in which one more signal is the same request: a whole process group is often told beside the process.
_REPEATED = 1.0

# Seconds in which the main thread is to hear that another rank has ended, wherever it is: it may wait for that rank.
_HEARING = 3.0
# And in which one that has heard it ends.
_ENDING = 4.0

_THREADS = re.compile(r"can't start new thread|thread creation failed|Resource temporarily unavailable", re.I)
_GPU = re.compile(r"cuda|cudnn|cublas|gpu", re.I)
# The disk is full, the user's share of it is used up, or files may not grow that large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def watch_signals(status: Status, ranks: Ranks = ALONE) -> None:
    """From now on SIGTERM, SIGINT and SIGHUP are raised as `Stopped` in the main thread, and the end of another rank as
    `Abandoned`.

    Whatever they interrupt leaves its files whole, and the training state of the last completed epoch is on disk. Where
    the main thread does not come to it in time, and at a second signal, the process ends without its help. A job that
    has finished stays finished.
    """
    first = 0.0
    other: End | None = None
    main = threading.main_thread().ident

    def end(number: int) -> None:
        stopped = Stopped(number)
        end_at_once(str(stopped), stopped.exit_status, ranks.rank)

    def end_at_once(end: JobError | str, exit_status: int, rank: int) -> None:
        if status.state == "finished":
            os._exit(0)
        status.end(end, rank if ranks.size > 1 else None)
        supervisor.tell(ended=exit_status)
        _say(end, ranks, rank == ranks.rank)
        ranks.tell(end, exit_status)
        os._exit(exit_status)

    def abandon(end: End) -> None:
        nonlocal other
        other = end
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)
        time.sleep(_HEARING)
        if signal.getsignal(signal.SIGUSR1) == signal.SIG_IGN:  # it has
            time.sleep(_ENDING)
        end_at_once(_end_of(end), end.exit_status, end.rank)

    def receive_end(number: int, frame: FrameType | None) -> None:
        if other is None:  # somebody else's signal, which ends a process
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif _is_in_finaliser(frame):
            signal.signal(signal.SIGALRM, lambda _, frame: receive_end(number, frame))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
        elif not first and status.state != "finished":
            raise Abandoned(other)

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        if _is_in_finaliser(frame):  # what is raised there goes nowhere
            signal.signal(signal.SIGALRM, lambda _, frame: receive(number, frame))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        first = time.monotonic()
        for other in STOPPING:
            signal.signal(other, again)
        raise Stopped(number)

    def again(number: int, frame: FrameType | None) -> None:
        if time.monotonic() > first + _REPEATED:
            os._exit(0 if status.state == "finished" else 128 + number)

    def watch() -> None:
        number = next(number for number in iter(lambda: os.read(reading, 1)[0], None) if number in STOPPING)
        time.sleep(_PATIENCE)
        end(number)

    # The interpreter writes the signal's number here at once, whatever the main thread is doing.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    for number in STOPPING:
        # A program that was started with nohup has SIGHUP ignored, and so it stays.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, receive)
    signal.signal(signal.SIGUSR1, receive_end)
    ranks.ended = abandon


def _is_in_finaliser(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


def finish(status: Status) -> None:
    """All files of the job are there: whatever comes now, it has succeeded."""
    status.update(state="finished")
    supervisor.tell(ended=0)


@contextmanager
def ending(status: Status, batch_size: int, ranks: Ranks = ALONE) -> Iterator[None]:
    """Say how the block ended, in `status` and as the last line of log and standard error; raise SystemExit.

    A block that ends well says nothing here. Errors that are not the job's own (a defect) leave their traceback in
    estimator.log, and their one line at its end. batch_size: of the job; where memory runs out a smaller one is
    suggested. ranks: whoever ends tells the others why, and one that ends because of another says what that one told.
    """
    try:
        yield
        status.close()
    except Stopped as stopped:
        if status.state == "finished":
            raise SystemExit(0) from None
        _ignore(signal.SIGUSR1)  # that another one ends as well is asked for
        if end := ranks.cause():
            _end(status, _end_of(end), end.exit_status, ranks, end.rank)
        _end(status, str(stopped), stopped.exit_status, ranks)
    except Abandoned as abandoned:
        end = abandoned.end
        _end(status, _end_of(end), end.exit_status, ranks, end.rank)
    except Exception as error:
        if status.state == "finished":
            log.warning("%s", explain(error))
            raise SystemExit(0) from None
        known = explain(error, batch_size)
        if not isinstance(error, (JobError, OSError, MemoryError)):
            write_traceback(traceback.format_exc())
        _ignore(signal.SIGUSR1)
        if end := ranks.cause(error):
            _end(status, _end_of(end), end.exit_status, ranks, end.rank)
        _end(status, known, known.exit_status, ranks, known.rank if isinstance(known, RankError) else None)
    finally:
        _ignore_signals()


def _end(
    status: Status, end: JobError | str, exit_status: int, ranks: Ranks = ALONE, rank: int | None = None
) -> None:
    """rank: whose end it is; None: this one's."""
    _ignore(signal.SIGUSR1)
    ranks.tell(end, exit_status)
    status.end(end, None if ranks.size == 1 else ranks.rank if rank is None else rank)
    status.close()
    _explain_kind(end)
    supervisor.tell(ended=exit_status)
    _say(end, ranks, rank in (None, ranks.rank))
    raise SystemExit(exit_status) from None


def _say(end: JobError | str, ranks: Ranks, own: bool) -> None:
    """Rank 0 says how the job ended; another one, whose words stand among those of many, what its own end was."""
    if ranks.first:
        last_words(end)
        return
    if own:
        last_words(f"rank {ranks.rank}: {end}")
    elif isinstance(end, RankError) and end.kind == "rank" and end.rank == 0:
        ranks.first_gone(end)


def _end_of(end: End) -> JobError | str:
    """What another rank has told, in this one's words."""
    if end.state == "stopped":
        return f"rank {end.rank}: {end.message}"
    return RankError(end.message, end.rank, end.kind, end.retry, end.exit_status)


def _explain_kind(end: JobError | str) -> None:
    """Where Chinese is spoken, what kind of reason the last lines are going to name."""
    if isinstance(end, JobError) and spoken() == "zh":
        log.error("%s", KINDS_IN_CHINESE[end.kind])


def _ignore_signals() -> None:
    """The process is about to exit with the status that it has."""
    for number in STOPPING:
        _ignore(number)


def _ignore(number: int) -> None:
    if threading.current_thread() is threading.main_thread():
        signal.signal(number, signal.SIG_IGN)


def explain(error: Exception, batch_size: int = 0) -> JobError:
    """The error as one line for people. batch_size: with which it happened; 0: none."""
    if isinstance(error, JobError):
        return error
    text = one_line(" ".join(str(error).split()).rpartition("MXNetError: ")[2])[:200]
    if is_out_of_memory(error):
        whose = "the GPU's memory" if _GPU.search(text) else "memory"
        advice = (
            f"train.batch_size is {batch_size}; try {batch_size // 2}"
            if batch_size > 1
            else "a smaller train.batch_size, input or network needs less"
        )
        return MemoryLimitError(f"{whose} ran out; {advice} ({text or type(error).__name__})")
    if _THREADS.search(text):
        return MemoryLimitError(
            "no further thread or process can be started; a limit (ulimit -u, pids of the container) allows no more, "
            f"or memory ran out: raise it, or lower --threads and train.num_workers ({text})"
        )
    if "no kernel image" in text:
        return DeviceError(f"MXNet, as it is installed here, holds no code for this GPU ({text})")
    if "cannot open shared object file" in text:
        library = text.partition(":")[0]
        return DeviceError(
            f"MXNet cannot be loaded: {library} is not there; where that is libcuda.so.1, the build for GPUs lacks "
            "NVIDIA's driver: start the container with its GPUs (--gpus all), or take the CPU image"
        )
    if isinstance(error, OSError):
        where = os.fsdecode(error.filename) if isinstance(error.filename, (str, bytes)) else "a file"
        if error.errno in _FULL:
            return LogDirError(
                f"{where}: cannot be written: {error.strerror}; make room: what was there is whole"
            )
        return LogDirError(f"{where}: {error.strerror or error}")
    return JobError(f"internal error: {type(error).__name__}: {text} (the place is in estimator.log)")


def fail_before(error: JobError, folder: Path | None, form: Format = "text") -> int:
    """A configuration that cannot be used: say so, also in its log_dir if that can be written.

    folder: the log_dir; None: it names none, and nothing is written. form: of standard output. Returns the exit status.
    """
    supervisor.tell(ended=error.exit_status)
    try:
        if folder is None:
            open_console(form)
            _explain_kind(error)
            last_words(error)
        else:
            with lock(folder):
                open_log(folder, form)
                status = Status(folder)
                status.end(error)
                status.close()
                _explain_kind(error)
                last_words(error)
    except (JobError, OSError):
        open_console(form)
        last_words(error)
    return error.exit_status
