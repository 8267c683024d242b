"""A poller, for tests."""

from __future__ import annotations

import json
import socket
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

PROGRESS = "/data/plugin/scalars/scalars?run=.&tag=progress"


def eventually(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The first true value of `condition`; the deadline is for a promise that is broken, not for slowness."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError("it did not happen")


def ask(port: int, path: str = PROGRESS, method: str = "GET", data: bytes | None = None) -> tuple[int, bytes]:
    """Status and body of a request."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", method=method, data=data)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def raw(port: int, request: str) -> tuple[bytes, bytes]:
    """Head and body of the answer to the bytes of `request`, read to the end of the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.sendall(request.encode())
        head, _, body = b"".join(iter(lambda: connection.recv(1 << 16), b"")).partition(b"\r\n\r\n")
    return head, body


def points(port: int) -> list[list[float]]:
    """What a poller gets."""
    status, body = ask(port, method="POST", data=b"")
    assert status == 200
    return json.loads(body)
