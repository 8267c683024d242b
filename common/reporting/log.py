"""The log of a job: estimator.log in log_dir, standard output, and a progress bar for people at a terminal.

    log = open_log(log_dir)
    log.info("...")                   # with the time to estimator.log and standard output
    with bar(batches, "epoch 0") as advance: ...
    last_words("data/1.txt:3: ...")   # why it failed, as the last line of estimator.log and standard error

Modules log with logging.getLogger("visualtl").
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

from tqdm import tqdm

NAME = "visualtl"
FILE = "estimator.log"

# tqdm's own lock takes a semaphore of the system, its monitor a thread: neither suits forked workers.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

_FORMAT = "%(asctime)s %(levelname)s %(message)s"


class _File(logging.FileHandler):
    """estimator.log. A line that cannot be written (disk full) is lost; standard error says so once."""

    failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not self.failed:
            _say("stderr", f"{self.baseFilename} cannot be written: {error}")
        self.failed = True


class _Console(logging.Handler):
    """Standard output, standard error from a warning upwards; above the progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        _say("stderr" if record.levelno >= logging.WARNING else "stdout", self.format(record))


def _say(name: str, line: str) -> None:
    """Write a line to sys.stdout or sys.stderr; nobody may be listening there any more."""
    stream: IO[str] | None = getattr(sys, name)
    if stream is None:
        return
    try:
        with tqdm.external_write_mode(file=stream) if _bars else contextlib.nullcontext():
            stream.write(_writable(line, stream) + "\n")
            stream.flush()
    except (OSError, ValueError):
        _silence(name)


def _writable(line: str, stream: IO[str]) -> str:
    """`line` with escapes for what the stream's encoding has not: a plain terminal, a name in Chinese."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _silence(name: str) -> None:
    """Send the rest of a broken stream to nowhere: what its buffer holds would fail again at the exit."""
    stream: IO[str] | None = getattr(sys, name)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def keep_standard_streams() -> None:
    """Occupy descriptors 0, 1 and 2 where they are closed: else the next file that is opened becomes standard
    output, and native code prints into it. Call it before anything opens a file."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def open_log(log_dir: Path) -> logging.Logger:
    """The job's logger, set up to write to `log_dir`/estimator.log (appended, UTF-8) and the console.

    A job in a folder that has a log goes on in it, after a line with its own command. Raises OSError if the
    file cannot be opened.
    """
    logger = open_console()
    file = _File(log_dir / FILE, mode="a", encoding="utf-8", errors="backslashreplace")
    file.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(file)
    logger.info("===== %s", shlex.join(sys.orig_argv).replace("\n", "\\n"))
    return logger


def open_console() -> logging.Logger:
    """The job's logger, set up to write to the console alone."""
    keep_standard_streams()
    logger = _reset()
    console = _Console()
    console.setFormatter(logging.Formatter(_FORMAT))
    logger.addHandler(console)
    return logger


def last_words(message: str) -> None:
    """Say why the job failed: the lines of `message` end estimator.log (if it is open) and standard error.

    They stand there without a time, for programs to read. The log is closed: nothing can come after them.
    """
    logger = logging.getLogger(NAME)
    lines = [line for line in message.splitlines() if line.strip()] or ["unknown error"]
    files = [handler for handler in logger.handlers if isinstance(handler, _File)]
    if files:
        logger.error("the job failed:")
    for file in files:
        file.setFormatter(logging.Formatter("%(message)s"))
        file.emit(logger.makeRecord(NAME, logging.ERROR, "", 0, "\n".join(lines), (), None))
    _reset()
    for line in lines:
        _say("stderr", line)


def _reset() -> logging.Logger:
    """The job's logger without any handler that writes."""
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(logging.NullHandler())  # else warnings would go to standard error by themselves
    return logger


_bars: set[tqdm] = set()


@contextlib.contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[int], object]]:
    """A progress bar of `total` steps on standard error while the block runs; the block gets `advance`.

    Only at a terminal: in a file or a pipe the log lines have to do.
    """
    if not _is_terminal():
        yield lambda steps: None
        return
    shown = tqdm(total=total, desc=title, file=sys.stderr, leave=False, dynamic_ncols=True)
    _bars.add(shown)
    try:
        yield shown.update
    finally:
        _bars.discard(shown)
        with contextlib.suppress(OSError, ValueError):
            shown.close()


def _is_terminal() -> bool:
    """Whether standard error is a terminal; it may be closed, or not exist."""
    try:
        return sys.stderr is not None and sys.stderr.isatty()
    except ValueError:
        return False
