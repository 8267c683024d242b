"""The log of a job: estimator.log in log_dir, standard output, and a progress bar for people at a terminal.

    log = open_log(log_dir)
    log.info("...")                   # with the time to estimator.log and standard output
    with bar(batches, "epoch 0") as advance: ...
    last_words(DataError("..."))      # why it failed, as the last line of estimator.log and standard error

Modules log with logging.getLogger("visualtl"); what is below INFO goes into the file alone. A record is one line,
whatever the names in it hold. Nobody needs to read the console: a line that it does not take soon is lost there, and
the file has it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shlex
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import IO, Literal

from tqdm import tqdm

from common.errors import ConfigurationError, JobError, one_line
from common.files import open_regular
from common.reporting.supervisor import keep_standard_streams

NAME = "visualtl"
FILE = "estimator.log"

Format = Literal["text", "json"]

# tqdm's own lock takes a semaphore of the system, its monitor a thread: neither suits forked workers.
tqdm.set_lock(threading.RLock())
tqdm.monitor_interval = 0

_PIECE = 4096  # bytes that a pipe takes at once where it says that it takes any (PIPE_BUF)
_PATIENCE = 1.0  # seconds that a line waits for its reader; when it has not come no other line waits


def _moment(record: logging.LogRecord) -> datetime:
    return datetime.fromtimestamp(record.created).astimezone()


class _Text(logging.Formatter):
    """2026-11-27 17:10:56,123 +0100 INFO message"""

    def format(self, record: logging.LogRecord) -> str:
        moment = _moment(record)
        stamp = f"{moment:%Y-%m-%d %H:%M:%S},{moment.microsecond // 1000:03d} {moment:%z}"
        return f"{stamp} {record.levelname} {one_line(record.getMessage())}"


class _Json(logging.Formatter):
    """{"time": "2026-11-27T17:10:56.123+01:00", "level": "INFO", "message": ..., "epoch": ..., ...}

    What a call to the logger gave as `extra={"figures": {...}}` stands beside the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": _moment(record).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "message": one_line(record.getMessage()),
            **getattr(record, "figures", {}),
        }
        finite = {key: None if value != value else value for key, value in entry.items()}
        return json.dumps(finite, ensure_ascii=False)


class _File(logging.Handler):
    """estimator.log. A line that cannot be written (disk full) is lost; standard error says so once."""

    failed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._descriptor: int | None = open_regular(path, flags, follow_links=False)
        super().__init__()
        self.setFormatter(_Text())

    def emit(self, record: logging.LogRecord) -> None:
        self.write(self.format(record))

    def write(self, line: str) -> None:
        """Append `line`."""
        with self.lock or contextlib.nullcontext():
            if self._descriptor is None:
                return
            data = f"{line}\n".encode("utf-8", "backslashreplace")
            try:
                while data:
                    data = data[os.write(self._descriptor, data) :]
            except OSError as error:
                if not self.failed:
                    _say("stderr", f"{self._path} cannot be written: {error}")
                self.failed = True

    def close(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)
            self._descriptor = None
        super().close()


class _Console(logging.Handler):
    """Standard output, standard error from a warning upwards; above the progress bar if there is one.

    As JSON everything goes to standard output.
    """

    def __init__(self, form: Format) -> None:
        super().__init__(logging.INFO)
        self.form = form
        self.setFormatter(_Json() if form == "json" else _Text())

    def emit(self, record: logging.LogRecord) -> None:
        error = record.levelno >= logging.WARNING and self.form == "text"
        _say("stderr" if error else "stdout", self.format(record))


class _Screen:
    """Standard output or error for whoever may not wait for its reader.

    A pipe that nobody empties, or a terminal that is held, would stop the job at the next line. A line waits a second;
    after that lines are lost, and counted, until the reader is back.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._lost = 0

    def write(self, text: str) -> None:
        stream: IO[str] | None = getattr(sys, self._name)
        if stream is None:
            return
        try:
            descriptor = stream.fileno()
        except (OSError, ValueError, AttributeError):  # closed, or not of the system: a test's
            with contextlib.suppress(OSError, ValueError):
                stream.write(_writable(text, stream))
                stream.flush()
            return
        try:
            stream.flush()
            note = f"... {self._lost} lines are missing here: nobody read them\n" if self._lost else ""
            data = (note + _writable(text, stream)).encode(_encoding(stream), "replace")
            if _write(descriptor, data, 0.0 if self._lost else _PATIENCE):
                self._lost = 0
            else:
                self._lost += 1
        except (OSError, ValueError):
            _silence(self._name)

    def flush(self) -> None:
        """All that was written is with the system."""

    def isatty(self) -> bool:
        return _is_terminal(getattr(sys, self._name))

    def fileno(self) -> int:
        return int(getattr(sys, self._name).fileno())

    @property
    def encoding(self) -> str:
        return _encoding(getattr(sys, self._name))


_screens = {name: _Screen(name) for name in ("stdout", "stderr")}


def _takes(descriptor: int, seconds: float) -> bool:
    """Whether a descriptor takes a piece of text, now or within so many seconds."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def _write(descriptor: int, data: bytes, seconds: float) -> bool:
    """Write `data` unless its reader keeps it waiting for longer than so many seconds."""
    end = time.monotonic() + seconds
    while data:
        if not _takes(descriptor, max(end - time.monotonic(), 0.0)):
            return False
        data = data[os.write(descriptor, data[:_PIECE]) :]
    return True


def _say(name: str, line: str) -> None:
    """Write a line to standard output or error; nobody may be listening there any more."""
    screen = _screens[name]
    try:
        with tqdm.external_write_mode(file=_screens["stderr"]) if _bars else contextlib.nullcontext():
            screen.write(line + "\n")
    except (OSError, ValueError):
        _silence(name)


def _encoding(stream: IO[str] | None) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _writable(line: str, stream: IO[str]) -> str:
    """`line` with escapes for what the stream's encoding has not: a plain terminal, a name in Chinese."""
    encoding = _encoding(stream)
    return line.encode(encoding, "backslashreplace").decode(encoding)


def _silence(name: str) -> None:
    """Send the rest of a broken stream to nowhere: what its buffer holds would fail again at the exit."""
    stream: IO[str] | None = getattr(sys, name)
    with contextlib.suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def open_log(log_dir: Path, form: Format = "text", *, headline: bool = True) -> logging.Logger:
    """The job's logger, set up to write to `log_dir`/estimator.log (appended, UTF-8) and the console.

    form: of the lines on standard output; estimator.log is text. A job in a folder that has a log goes on in it, after
    a line with its own command (headline). Raises OSError if the file cannot be opened, is a link or no file.
    """
    logger = open_console(form)
    logger.addHandler(_File(log_dir / FILE))
    if headline:
        logger.info("===== %s", shlex.join(sys.orig_argv))
    return logger


def open_console(form: Format = "text") -> logging.Logger:
    """The job's logger, set up to write to the console alone."""
    keep_standard_streams()
    logger = _reset()
    logger.addHandler(_Console(form))
    return logger


def open_nothing() -> logging.Logger:
    """The job's logger, set up to write nowhere: another rank logs."""
    keep_standard_streams()
    return _reset()


def write_traceback(text: str) -> None:
    """Into the log file alone: people who read the console want the reason, people who mend want the place.

    Its lines are indented, so that none of them can be taken for one of the log.
    """
    for handler in logging.getLogger(NAME).handlers:
        if isinstance(handler, _File):
            for line in text.splitlines():
                handler.write(f"    {one_line(line)}")


def last_words(end: JobError | str) -> None:
    """Say why the job ended: the last line of estimator.log (if it is open), of standard error and, as JSON, of
    standard output.

    A JobError is a failure, and its line says whether it helps to try again. Text is no failure: the job was asked to
    end. The log is closed: nothing can come after.
    """
    lines = reasons(end)
    level = logging.ERROR if isinstance(end, JobError) else logging.WARNING
    if isinstance(end, JobError):
        lines[-1] += f" [error.retry: {'true' if end.retry else 'false'}]"
    logger = logging.getLogger(NAME)
    for line in lines:
        for handler in logger.handlers:
            if isinstance(handler, _File) or (isinstance(handler, _Console) and handler.form == "json"):
                record = logger.makeRecord(NAME, level, "", 0, "%s", (line,), None)
                if isinstance(end, JobError):
                    record.figures = {"error": {"kind": end.kind, "retry": end.retry}}
                handler.handle(record)
    _reset()
    for line in lines:
        _say("stderr", line)


def reasons(end: JobError | str) -> list[str]:
    """The lines of a reason. Only a configuration can be wrong in several ways at once, a line each."""
    lines = str(end).split("\n") if isinstance(end, ConfigurationError) else [str(end)]
    return [one_line(line) for line in lines if line.strip()] or ["unknown error"]


def _reset() -> logging.Logger:
    """The job's logger without any handler that writes."""
    logger = logging.getLogger(NAME)
    for handler in list(logger.handlers):
        logger.removeHandler(handler)
        with contextlib.suppress(OSError, ValueError):
            handler.close()
    logger.setLevel(logging.DEBUG)  # for the file; the console begins at INFO
    logger.propagate = False
    logger.addHandler(logging.NullHandler())  # else warnings would go to standard error by themselves
    return logger


_bars: set[tqdm] = set()


@contextlib.contextmanager
def bar(total: int, title: str) -> Iterator[Callable[[int], object]]:
    """A progress bar of `total` steps on standard error while the block runs; the block gets `advance`.

    Only at a terminal: in a file or a pipe the log lines have to do.
    """
    if not _is_terminal(sys.stderr):
        yield lambda steps: None
        return
    shown = tqdm(total=total, desc=title, file=_screens["stderr"], leave=False, dynamic_ncols=True)
    _bars.add(shown)
    try:
        yield shown.update
    finally:
        _bars.discard(shown)
        with contextlib.suppress(OSError, ValueError):
            shown.close()


def _is_terminal(stream: IO[str] | None) -> bool:
    """Whether a stream is a terminal; it may be closed, or not exist."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:
        return False
