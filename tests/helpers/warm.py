"""Jobs that are forked from a process which has imported already what they import: a second and a half less each.

    process = Starter().start(["classification/fit_classification.py", "--config", ...], environment)

Everything else is as if Python had been started with these words: the script runs from its first line, in a process of
its own, below a supervisor of its own. The tests of what a job does at its start run it as a platform does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_LONGEST = 1 << 17  # bytes of a request
# What a job imports, whatever it trains.
_IMPORTED = (
    "common.job_work",
    "classification.task",
    "detect.center_net.task",
    "detect.ssd.task",
    "detect.yolov3.task",
    "landmark.task",
    "reid.task",
)


class Forked:
    """A job, with what tests use of `subprocess.Popen`; what it writes to both streams is one text."""

    def __init__(self, starter: Starter, pid: int, output: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._starter = starter
        self._output = output
        self._text = bytearray()

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            self.returncode = self._starter.status_of(self.pid, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """All that it has written, when it has ended and closed it; nothing the second time."""
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        while self._output >= 0:
            left = deadline - time.monotonic()
            if left < 0:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            if select.select([self._output], [], [], min(left, 60.0))[0]:
                piece = os.read(self._output, 1 << 16)
                self._text += piece
                if not piece:
                    os.close(self._output)
                    self._output = -1
        self.wait(max(deadline - time.monotonic(), 0.0))
        text = self._text.decode("utf-8", "replace")
        self._text.clear()
        return text, None

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Starter:
    """The process that jobs are forked from; it ends with this one."""

    def __init__(self) -> None:
        self._socket, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-m", "tests.helpers.warm", str(other.fileno())]
        with other:
            self._process = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.DEVNULL, pass_fds=[other.fileno()]
            )
        self._lock = threading.Lock()
        self._ended: dict[int, int] = {}

    def start(self, words: Sequence[str], environment: Mapping[str, str]) -> Forked:
        """Run a script of the project. words: its path and arguments."""
        reading, writing = os.pipe()
        with self._lock:
            request = json.dumps([list(words), dict(environment)]).encode("utf-8", "surrogatepass")
            socket.send_fds(self._socket, [request], [writing])
            os.close(writing)
            while (pid := self._told()) is None:
                pass
        return Forked(self, pid, reading)

    def status_of(self, pid: int, timeout: float | None) -> int:
        """The exit status of a job, as `Popen.returncode` has it. Raises TimeoutExpired."""
        deadline = time.monotonic() + (timeout if timeout is not None else 1e9)
        while True:
            with self._lock:
                while pid not in self._ended and select.select([self._socket], [], [], 0)[0]:
                    self._told()
                if pid in self._ended:
                    return self._ended.pop(pid)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise subprocess.TimeoutExpired(str(pid), timeout or 0.0)
                select.select([self._socket], [], [], min(left, 1.0))

    def _told(self) -> int | None:
        """Take up a message: a job has begun, whose id is returned, or one has ended."""
        message = self._socket.recv(_LONGEST)
        if not message:
            raise RuntimeError("the process that jobs are forked from has ended")
        pid, status = json.loads(message)
        if status is None:
            return int(pid)
        self._ended[pid] = status
        return None


def serve(descriptor: int) -> None:
    """Fork jobs for whoever holds the other end of a socket; returns in these alone, when it is their turn."""
    for name in _IMPORTED:
        importlib.import_module(name)
    requests = socket.socket(fileno=descriptor)
    ended, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(woken)
    while True:
        ready, _, _ = select.select([requests, ended], [], [])
        if ended in ready:
            os.read(ended, 1 << 10)
            with contextlib.suppress(ChildProcessError):
                while (found := os.waitpid(-1, os.WNOHANG))[0]:
                    requests.send(json.dumps([found[0], os.waitstatus_to_exitcode(found[1])]).encode())
        if requests in ready:
            request, descriptors, _, _ = socket.recv_fds(requests, _LONGEST, 1)
            if not request:
                os._exit(0)
            child = os.fork()
            if child == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for number in (ended, woken):
                    os.close(number)
                requests.close()
                _become(*json.loads(request), descriptors[0])
                return
            os.close(descriptors[0])
            requests.send(json.dumps([child, None]).encode())


def _become(words: list[str], environment: dict[str, str], output: int) -> None:
    for stream, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        os.dup2(output, stream)
        # The one that Python has made may take it for a file, with a place in it: pytest's own is one.
        setattr(sys, name, open(stream, "w", 1, encoding="utf-8", errors=errors, closefd=False))  # noqa: SIM115
    os.close(output)
    # As Python makes them for a pipe.
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", buffering=1, errors="backslashreplace", closefd=False)
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)
    sys.argv[:] = words
    sys.orig_argv[:] = [sys.executable, *words]


if __name__ == "__main__":
    from common.engine.devices import load_mxnet

    load_mxnet()
    serve(int(sys.argv[1]))
    runpy.run_path(sys.argv[0], run_name="__main__")
