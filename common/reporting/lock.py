"""One job at a time in a log_dir."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from common.errors import LogDirError, one_line, shortened_path
from common.files import open_regular
from common.reporting.supervisor import signal_pid

FILE = ".lock"
_LETTING_GO = 5.0  # seconds for which a lock may be held by a job whose supervisor is gone

_logger = logging.getLogger("visualtl")
_held: set[int] = set()


@contextlib.contextmanager
def lock(log_dir: Path) -> Iterator[None]:
    """Make `log_dir` if it is missing, and hold it for this process while the block runs.

    The lock is the operating system's (flock on log_dir/.lock) and ends with the process, however it ends: a
    file left behind is in nobody's way. It says which process holds the folder. Raises LogDirError if another
    job does, or if the folder cannot be made or written.
    """
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(log_dir, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        fd = open_regular(log_dir / FILE, os.O_RDWR | os.O_CREAT, follow_links=False)
    except OSError as error:
        raise _unusable(log_dir, error) from error
    _held.add(fd)
    try:
        _take(fd, log_dir)
        yield
    finally:
        if fd in _held:  # else this is a forked process, in which the descriptor is closed already
            _held.discard(fd)
            os.close(fd)


def _take(fd: int, log_dir: Path) -> None:
    end = time.monotonic() + _LETTING_GO
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError as error:
            pid, host = _holder(fd)
            # The supervisor of a job may be gone a moment before the system has cleared away the job itself.
            if host == socket.gethostname() and not _is_there(pid) and time.monotonic() < end:
                time.sleep(0.05)
                continue
            who = f"process {pid} on {host}" if pid else "a process that has just started"
            raise LogDirError(
                f"log_dir {log_dir}: is in use by another job ({who}); choose another folder or wait"
            ) from error
        except OSError as error:  # some network file systems know no locks
            _logger.warning(
                "log_dir %s: cannot be locked (%s); no two jobs may use it", log_dir, error.strerror
            )
            break
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{signal_pid()} {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        raise _unusable(log_dir, error) from error


def _holder(fd: int) -> tuple[str, str]:
    """Process and host that wrote the lock file. Between taking the lock and writing lies an instant in which nobody
    has."""
    pid, _, host = os.pread(fd, 300, 0).decode("utf-8", "replace").strip().partition(" ")
    return one_line(pid), one_line(host)


def _is_there(pid: str) -> bool:
    return not pid.isdecimal() or Path("/proc", pid).exists()


def _unusable(log_dir: Path, error: OSError) -> LogDirError:
    where = shortened_path(str(log_dir))
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return LogDirError(f"log_dir {where}: is not a folder; choose another name")
    reason = error.strerror or str(error)
    return LogDirError(f"log_dir {where}: cannot be written: {reason}; choose a folder that can")


def _let_go() -> None:
    """A forked data worker shares the lock, and would hold it beyond the job's death."""
    for fd in _held:
        os.close(fd)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
