"""The progress server of a job: TensorBoard on log_dir, as a child process that cannot outlive the job.

    server = ProgressServer(log_dir, port)      # the port is bound here; PortError if it is taken
    server.start()                              # returns at once, the child boots beside the job
    server.publish([(time.time(), 10, 0.25)])   # visible over HTTP within milliseconds
    server.close()

The job itself owns the listening socket and hands it to the child (`common.reporting.http_server`). Nobody else can
therefore answer in its place, and while a child that died is replaced, pollers wait in the socket's queue
instead of being refused. Points go to the child through its standard input; end of file there means that the
job has ended, however it ended, and the child exits.

Imports nothing heavy: it runs before everything else.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from common.errors import ConfigurationError, LogDirError, PortError, shortened
from common.files import open_regular

Point = tuple[float, int, float]
"""[wall time in seconds since 1970, step, progress of that step as a fraction 0…1]."""

TOKEN = "VISUALTL_TOKEN"
"""The variable of the environment that holds the token which requests must show."""

EVENT_FILES = "events.out.tfevents.*"
PREVIOUS = "previous"
WARNING_MARK = "warning: "
"""Lines of the child's standard error that begin so are worth the log even if the child lives on."""
PONG_MARK = "pong"
"""A line of the child's standard error that answers a ping."""

_BACKLOG = 256
_QUICK_DEATH = 10.0  # seconds: a child that lived shorter counts as one more failure in a row
_PATIENCE = 5  # failures in a row after which the log says that nobody can watch
_LONGEST_PAUSE = 60.0  # seconds between two attempts, at most
_LETTING_GO = 1.0  # seconds for which a port may be taken: by a job that was killed a moment ago
_PULSE = 1.0  # seconds between two pings
_SILENCE = 5  # pings without an answer after which a child is replaced
_BOOT = 60  # the same before it has answered for the first time

# Before anything is imported the kernel is told to end the child with the job, which may be killed meanwhile.
_START = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.getppid() == {parent} or sys.exit(); "
    "from pathlib import Path; from common.reporting.http_server import main; "
    "main({listener}, Path({log_dir!a}), {parent}, {hosts!a}, {stuck_after})"
)

_logger = logging.getLogger("visualtl")


def single(value: float) -> float:
    """`value` rounded to float32, as an event file holds it, so that both ways to a point agree."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def archive_old_events(log_dir: Path) -> Path | None:
    """Move event files of earlier runs out of the top of `log_dir`, where they would count as this run's.

    They go to `previous/<time of the last of them>`, where TensorBoard still shows them as a run of their
    own. Returns that folder, or None if there was nothing to move. Call it before the server starts, and not
    for a job that resumes an earlier one: that run's curves go on. Raises LogDirError if a file cannot be moved.
    """
    try:
        old = sorted(log_dir.glob(EVENT_FILES))
        for path in old:
            require_regular(path)
        if not old:
            return None
        last = datetime.fromtimestamp(max(path.stat().st_mtime for path in old))
        name = last.strftime("%Y%m%d-%H%M%S")
        previous = log_dir / PREVIOUS
        if previous.is_symlink():
            raise OSError(errno.ELOOP, "a symbolic link, which is not followed", str(previous))
        folder, copies = previous / name, 1
        while os.path.lexists(folder):
            copies += 1
            folder = previous / f"{name}-{copies}"
        folder.mkdir(parents=True)
        for path in old:
            path.rename(folder / path.name)
    except OSError as error:
        where = error.filename if isinstance(error.filename, str) else log_dir
        reason = (
            f"{where}: cannot move event files of an earlier run to {PREVIOUS}/: {error.strerror or error}"
        )
        raise LogDirError(reason) from error
    return folder


def check_token(log_dir: Path) -> None:
    """Raise ConfigurationError for a token that no request can show, with log_dir as the place to note it in."""
    try:
        os.environ.get(TOKEN, "").encode()
    except UnicodeEncodeError:
        reason = f"{TOKEN}: is not UTF-8; set this variable of the environment to a text, or not at all"
        raise ConfigurationError(reason, log_dir) from None


def require_regular(path: Path) -> None:
    """Raise OSError unless `path` is a file, and no link to one: TensorBoard opens whatever is named as event files
    are, and would wait at a pipe for ever."""
    os.close(open_regular(path, follow_links=False))


def _create_server(host: str, port: int) -> socket.socket:
    """A socket that listens on `port` of one address or ("") of all, IPv6 and IPv4 where the machine has both.

    SO_REUSEADDR (set by create_server) lets connections of an earlier job that linger in TIME_WAIT not count
    as taken; a socket that listens does.
    """
    if host:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(
                ("", port), family=socket.AF_INET6, backlog=_BACKLOG, dualstack_ipv6=True
            )
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port), backlog=_BACKLOG)


def _listen(port: int, host: str = "") -> socket.socket:
    """The socket of `_create_server`. Raises PortError with the remedy."""
    end = time.monotonic() + _LETTING_GO
    try:
        while True:
            try:
                return _create_server(host, port)
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > end:
                    raise
                time.sleep(0.05)
    except OverflowError:
        raise PortError(
            f"--port {port}: is not a port; choose one from 1 to 65535 (0: any free one)"
        ) from None
    except (socket.gaierror, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no name that a machine can have"
        raise PortError(f"--host {shortened(host)}: {reason}; name an address of this machine") from error
    except OSError as error:
        remedy = "choose another one with --port"
        if error.errno == errno.EADDRINUSE:
            raise PortError(f"port {port} is taken by another process; {remedy}") from error
        if error.errno == errno.EACCES:
            raise PortError(
                f"port {port} needs rights that this user has not; {remedy}, above 1023"
            ) from error
        if error.errno == errno.EADDRNOTAVAIL:
            raise PortError(f"--host {shortened(host)}: is no address of this machine") from error
        raise PortError(f"port {port} cannot be used: {error.strerror or error}; {remedy}") from error


class ProgressServer:
    """TensorBoard on `log_dir`, reachable on `port` (0: any free one, see `.port`) of `host` ("": every address).

    Raises PortError at once if the port cannot be used. Nothing after that raises: training does not depend
    on being watched. A child that dies is noticed at once, one that does not move within seconds; another one is
    started and told all. hosts: names that it answers to (none: any). stuck_after: seconds without a sign of the job
    after which it says that the job is stuck.
    """

    def __init__(
        self,
        log_dir: Path,
        port: int,
        host: str = "",
        hosts: Sequence[str] = (),
        stuck_after: float = 300.0,
    ) -> None:
        self._log_dir = log_dir
        self._listener = _listen(port, host)
        self.port: int = self._listener.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        self.address = (
            f"http://{name}:{self.port}/"
            if host
            else f"http://127.0.0.1:{self.port}/ (every address of this machine)"
        )
        self._hosts = tuple(hosts)
        self._stuck_after = stuck_after
        self._points: list[Point] = []
        self._status = ""  # as JSON
        self._pongs = 0  # of the present child
        self._changed = threading.Condition()
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: threading.Thread | None = None
        self._closing = False
        _servers.add(self)

    @property
    def pid(self) -> int | None:
        """Process id of the child, None while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    def start(self) -> None:
        """Start the child and the thread that looks after it; does not wait for either. Call it once."""
        self._spawn()
        self._keeper = threading.Thread(target=self._keep_alive, name="progress-server", daemon=True)
        self._keeper.start()

    def publish(self, points: Sequence[Point]) -> None:
        """Append `points` to the list that pollers get. Never blocks on, or fails by, the child."""
        rounded = [(float(wall), int(step), single(fraction)) for wall, step, fraction in points]
        with self._changed:
            self._points += rounded
            self._changed.notify_all()

    def inform(self, status: dict[str, Any]) -> None:
        """Let `status`, the content of status.json, be what is told from now on. Never blocks, as `publish`."""
        text = json.dumps({"status": status})
        with self._changed:
            self._status = text
            self._changed.notify_all()

    def close(self) -> None:
        """End the child and free the port. The child holds nothing that could be lost."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            process = self._process
            if process is not None:
                process.kill()
        if self._keeper is not None:
            self._keeper.join()
        if process is not None:
            process.wait()
        self._listener.close()
        _servers.discard(self)

    def __enter__(self) -> ProgressServer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _spawn(self) -> None:
        """Start a child; a failure to do so shows as `_process is None`."""
        root = Path(__file__).resolve().parents[2]
        listener = self._listener.fileno()
        code = _START.format(
            listener=listener,
            log_dir=str(self._log_dir.resolve()),
            parent=os.getpid(),
            hosts=self._hosts,
            stuck_after=self._stuck_after,
        )
        with self._changed:
            if self._closing:
                return
            try:
                # A session of its own: Ctrl-C is for the job, which ends the child when it is done.
                self._process = subprocess.Popen(
                    [sys.executable, "-c", code],
                    cwd=root,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    bufsize=0,  # no buffer whose lock a forked worker could inherit taken
                    pass_fds=(listener,),
                    start_new_session=True,
                )
            except OSError as error:
                self._process = None
                _logger.warning("the progress server cannot be started: %s", error)

    def _keep_alive(self) -> None:
        """Runs in a thread for the life of the server: feed the child, wait for its end, start the next."""
        failures = 0
        while not self._closing:
            born = time.monotonic()
            reason = self._attend() if self._process is not None else "not started"
            if self._closing:
                return
            failures = failures + 1 if time.monotonic() - born < _QUICK_DEATH else 1
            if failures < _PATIENCE:
                _logger.info("the progress server ended (%s) and is started again", reason)
            elif failures == _PATIENCE:
                text = "the progress server failed %d times in a row (%s); the job goes on, perhaps unwatched"
                _logger.warning(text, failures, reason)
            pause = 0.0 if failures == 1 else min(_LONGEST_PAUSE, 0.25 * 2.0**failures)
            with self._changed:
                self._changed.wait_for(lambda: self._closing, timeout=pause)
            self._spawn()

    def _attend(self) -> str:
        """Feed the present child until it ends; returns the last lines that it wrote to standard error."""
        process = self._process
        assert process is not None
        assert process.stderr is not None
        self._pongs = 0
        ended = threading.Event()
        feeder = threading.Thread(target=self._feed, args=(process, ended), daemon=True)
        feeder.start()
        tail: deque[str] = deque(maxlen=5)
        fd = process.stderr.fileno()
        with process.stderr, open(fd, encoding="utf-8", errors="replace", closefd=False) as lines:
            for line in map(str.strip, lines):
                if line == PONG_MARK:
                    self._pongs += 1
                    continue
                if line:
                    tail.append(line)
                if line.startswith(WARNING_MARK):
                    _logger.warning("progress server: %s", line.removeprefix(WARNING_MARK))
        status = process.wait()
        with self._changed:
            ended.set()
            self._changed.notify_all()
        feeder.join()
        return " | ".join([f"status {status}", *tail])

    def _feed(self, process: subprocess.Popen[bytes], ended: threading.Event) -> None:
        """Write to the child's input, a line each: the points and the status that there are, a blank line, what is new,
        and a ping a second. A child that does not answer is killed, which `_attend` sees."""
        assert process.stdin is not None
        sent, told, mark = 0, "", "\n"
        text = memoryview(b"")
        silent, pongs, due = 0, 0, time.monotonic()

        def is_new() -> bool:
            return ended.is_set() or len(self._points) > sent or self._status != told or bool(mark)

        # An error means that the child died.
        with contextlib.suppress(OSError), process.stdin as pipe:
            os.set_blocking(pipe.fileno(), False)
            while not ended.is_set():
                if text:
                    if select.select([], [pipe], [], max(due - time.monotonic(), 0.0))[1]:
                        text = text[os.write(pipe.fileno(), text) :]
                else:
                    with self._changed:
                        self._changed.wait_for(is_new, max(due - time.monotonic(), 0.0))
                        lines = [json.dumps(point) for point in self._points[sent:]]
                        lines += [self._status] if self._status != told else []
                        sent, told = len(self._points), self._status
                    text = memoryview("".join(f"{line}\n" for line in lines).encode() + mark.encode())
                    mark = ""
                if time.monotonic() < due:
                    continue
                # Counted by looks and not by the clock: this process may have been suspended itself.
                silent = silent + 1 if self._pongs == pongs else 0
                if silent > (_SILENCE if self._pongs else _BOOT):
                    _logger.warning(
                        "the progress server (process %d) has not moved for %d s; another one takes its place",
                        process.pid,
                        silent - 1,
                    )
                    process.kill()
                    return
                pongs, due = self._pongs, time.monotonic() + _PULSE
                if not text:
                    text = memoryview(b'{"ping": 1}\n')

    def _forget(self) -> None:
        """In a forked process: let go of what must end with the job, the socket and the child's pipe."""
        self._listener.close()
        pipe = self._process.stdin if self._process is not None else None
        if pipe is not None and not pipe.closed:
            pipe.close()


_servers: weakref.WeakSet[ProgressServer] = weakref.WeakSet()


def _forget_all() -> None:
    for server in list(_servers):
        server._forget()


# A data worker that is forked would otherwise keep the port and the child alive after the job.
os.register_at_fork(after_in_child=_forget_all)
