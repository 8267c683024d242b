"""The other side of a pool: what a worker process does from first to last, and how messages travel.

Small messages travel in the socket itself, large ones in anonymous memory whose descriptor does.
"""

from __future__ import annotations

import array
import contextlib
import os
import pickle
import select
import socket
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TAKEN = 1 << 62
"""Added to a ticket by a worker that says that it has begun the task, and has no answer yet."""

_INLINE = 16 * 1024
_LONG = b"long"
_RIGHTS = socket.CMSG_SPACE(8 * array.array("i").itemsize)  # of at most eight descriptors

objects: dict[int, Any] = {}
"""What `WorkerPool.install` made in this process, by key."""


def installed(key: int) -> Any:
    """What `WorkerPool.install` made under `key`, in the process that asks."""
    return objects[key]


def serve(queue: int, channel: int, parent: int) -> None:
    """The life of a worker. queue, channel: sockets it inherited. parent: process id."""
    threading.Thread(target=_follow, args=(queue, parent), daemon=True).start()
    # Where memory runs out the kernel shall take a worker, which can be replaced, rather than its parent.
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("500")
    tasks = socket.socket(fileno=queue)
    answers = socket.socket(fileno=channel)
    sys.path[:] = pickle.loads(take(answers)[1])
    import cv2

    cv2.setNumThreads(0)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        while True:
            ticket, task, _ = take(tasks)
            post(answers, (ticket | TAKEN).to_bytes(8, "little"), [])
            try:
                _update_objects(answers)
                function, arguments = pickle.loads(task)
                answer = message_of(ticket, (True, function(*arguments)))
            except Exception as error:
                answer = message_of(ticket, (False, _portable(error)))
            post(answers, answer, [])
    os._exit(0)


def _follow(queue: int, parent: int) -> None:
    """End this process as soon as the parent has ended, whatever the main thread is doing."""
    poll = select.poll()
    poll.register(queue, 0)  # no event but the other end's closing
    while not poll.poll(1000):
        # Should something that the parent started hold the socket open, this still tells.
        if os.getppid() != parent:
            break
    os._exit(0)


def _update_objects(channel: socket.socket) -> None:
    """Make and forget objects as the parent has asked since the last task."""
    with contextlib.suppress(BlockingIOError):
        while True:
            key, content, descriptors = take(channel, socket.MSG_DONTWAIT)
            recipe = pickle.loads(content)
            if recipe is None:
                objects.pop(key, None)
            else:
                build, arguments = recipe
                objects[key] = build(descriptors, *arguments)


class _WorkerTraceback(Exception):
    """Where in a worker an exception was raised; stands as the cause of that exception."""

    def __str__(self) -> str:
        return f"in a worker:\n{self.args[0]}"


def _portable(error: Exception) -> _Raised:
    """The exception in a form that survives being pickled, with its traceback as the cause."""
    text = "".join(traceback.format_exception(error))
    try:
        copy = pickle.loads(pickle.dumps(error))
    except Exception:  # whatever an exception of somebody else's does on its way; what it says must arrive
        copy = RuntimeError(f"{type(error).__name__}: {error}")
    return _Raised(copy, text)


class _Raised:
    """Pickles an exception together with its cause, which exceptions themselves do not."""

    def __init__(self, error: Exception, text: str) -> None:
        self.error = error
        self.text = text

    def __reduce__(self) -> tuple[Any, ...]:
        return _with_cause, (self.error, self.text)


def _with_cause(error: Exception, text: str) -> Exception:
    error.__cause__ = _WorkerTraceback(text)
    return error


def message_of(number: int, content: Any) -> bytes:
    """`content` pickled, after its number. Raises what pickling raises."""
    return number.to_bytes(8, "little") + pickle.dumps(content, pickle.HIGHEST_PROTOCOL)


def post(target: socket.socket, message: bytes, descriptors: Sequence[int], flags: int = 0) -> None:
    """Send a message: itself, or where it is long a marker and anonymous memory that holds it."""
    if len(message) <= _INLINE and not descriptors:
        target.send(message, flags)
    elif len(message) <= _INLINE:
        _send_descriptors(target, message, descriptors, flags)
    else:
        memory = os.memfd_create("message")
        try:
            with open(memory, "wb", closefd=False) as file:
                file.write(message)
            _send_descriptors(target, _LONG, [memory, *descriptors], flags)
        finally:
            os.close(memory)


def _send_descriptors(target: socket.socket, message: bytes, descriptors: Sequence[int], flags: int) -> None:
    # socket.send_fds and recv_fds do the same but ignore their flags.
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
    target.sendmsg([message], [rights], flags)


def take(source: socket.socket, flags: int = 0) -> tuple[int, bytes, list[int]]:
    """Receive a message: its number, pickled content and descriptors. EOFError: the other end is closed."""
    message, ancillary, _, _ = source.recvmsg(_INLINE, _RIGHTS, flags | socket.MSG_CMSG_CLOEXEC)
    if not message:
        raise EOFError
    descriptors = array.array("i", b"".join(data for _, _, data in ancillary)).tolist() if ancillary else []
    if message == _LONG:
        with open(descriptors.pop(0), "rb") as file:
            file.seek(0)
            message = file.read()
    return int.from_bytes(message[:8], "little"), message[8:], descriptors
