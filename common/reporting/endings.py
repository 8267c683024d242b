"""How a job ends: exit status, last line, and `status.json`, for every way in which it can end."""

from __future__ import annotations

import errno
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from common.errors import DeviceError, JobError, LogDirError, MemoryLimitError
from common.reporting.lock import lock
from common.reporting.log import last_words, open_log
from common.reporting.status import Status

log = logging.getLogger("visualtl")


class Stopped(BaseException):
    """A signal asks the job to end. Not an Exception: nothing on the way may take it for a failure of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}")
        self.exit_status = 128 + number


# Seconds after which a signal ends the job even if it is within an operation that cannot be interrupted, such as a
# large batch on the CPU. `docker stop` waits 10 s before it kills.
_PATIENCE = 6.0

# What MXNet, CUDA's libraries and the C++ runtime say when memory runs out.
_MEMORY = re.compile(
    r"out of memory|bad_alloc|cannot allocate|failed to allocate|ALLOC_FAILED|cudaMalloc", re.I
)
_GPU = re.compile(r"cuda|cudnn|cublas|gpu", re.I)
# The disk is full, the user's share of it is used up, or files may not grow that large.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def watch_signals(status: Status) -> None:
    """From now on SIGTERM and SIGINT are raised as `Stopped` in the main thread.

    Whatever they interrupt leaves its files whole, and the training state of the last completed epoch is on disk. Where
    the main thread does not come to it in time, and at a second signal, the process ends without its help.
    """

    def end(number: int) -> None:
        stopped = Stopped(number)
        status.update(state="stopped", error={"kind": "stopped", "message": str(stopped)})
        last_words(str(stopped))
        os._exit(stopped.exit_status)

    def receive(number: int, frame: FrameType | None) -> None:
        if _is_in_finaliser(frame):  # what is raised there goes nowhere
            signal.signal(signal.SIGALRM, lambda _, frame: receive(number, frame))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            return
        for other in (signal.SIGTERM, signal.SIGINT):
            signal.signal(other, lambda number, frame: os._exit(128 + number))
        raise Stopped(number)

    def watch() -> None:
        number = os.read(reading, 1)[0]
        time.sleep(_PATIENCE)
        end(number)

    # The interpreter writes the signal's number here at once, whatever the main thread is doing.
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, receive)


def _is_in_finaliser(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_name != "__del__":
        frame = frame.f_back
    return frame is not None


@contextmanager
def ending(status: Status, batch_size: int) -> Iterator[None]:
    """Say how the block ended, in `status` and as the last line of log and standard error; raise SystemExit.

    A block that ends well says nothing here. Errors that are not the job's own (a defect) leave their traceback in
    estimator.log, and their one line at its end. batch_size: of the job; where memory runs out a smaller one is
    suggested.
    """
    try:
        yield
    except Stopped as stopped:
        status.update(state="stopped", error={"kind": "stopped", "message": str(stopped)})
        status.close()
        last_words(str(stopped))
        raise SystemExit(stopped.exit_status) from None
    except Exception as error:
        known = explain(error, batch_size)
        if not isinstance(error, (JobError, OSError, MemoryError)):
            _keep_traceback()
        status.update(state="failed", error={"kind": known.kind, "message": str(known)})
        status.close()
        last_words(str(known))
        raise SystemExit(known.exit_status) from None


def _keep_traceback() -> None:
    """Into the log file alone: people who read the console want the reason, people who mend want the place."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream is not None:
            with suppress(OSError):  # where the disk is full the reason is what matters
                handler.stream.write(traceback.format_exc())
                handler.flush()


def explain(error: Exception, batch_size: int = 0) -> JobError:
    """The error as one line for people. batch_size: with which it happened; 0: none."""
    if isinstance(error, JobError):
        return error
    text = " ".join(str(error).split()).rpartition("MXNetError: ")[2][:200]
    if isinstance(error, MemoryError) or _MEMORY.search(text):
        whose = "the GPU's memory" if _GPU.search(text) else "memory"
        advice = (
            f"train.batch_size is {batch_size}; try {batch_size // 2}"
            if batch_size > 1
            else "a smaller train.batch_size, input or network needs less"
        )
        return MemoryLimitError(f"{whose} ran out; {advice} ({text or type(error).__name__})")
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


def fail_before(error: JobError, folder: Path | None) -> int:
    """A configuration that cannot be used: say so, also in its log_dir if that can be written.

    folder: the log_dir; None: it names none, and nothing is written. Returns the exit status.
    """
    if folder is None:
        for line in str(error).splitlines():
            print(line, file=sys.stderr)
        return error.exit_status
    try:
        with lock(folder):
            open_log(folder)
            status = Status(folder)
            status.update(state="failed", error={"kind": error.kind, "message": str(error)})
            status.close()
            last_words(str(error))
    except (JobError, OSError):
        for line in str(error).splitlines():
            print(line, file=sys.stderr)
    return error.exit_status
