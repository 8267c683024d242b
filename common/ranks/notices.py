"""How the supervisor of a rank, which could not say itself why it ended, tells rank 0.

A line over a connection of its own: what the ranks' store takes, PyTorch, is imported in seconds, and rank 0 notices in
milliseconds that a connection is gone. By then it has the reason, or will have it before anybody else acts on that end:
the supervisor ends when it has been heard.
"""

from __future__ import annotations

import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

from common.ranks.ends import End

# Seconds for a connection, and for what is said on it; the longest notice in bytes.
_PATIENCE, _LONGEST = 3.0, 1 << 16
_HEARD = b"heard\n"


class Notices:
    """Rank 0's side: calls `heard`, in a thread of its own, with each end that it is told of.

    address: "port word", which the supervisors are given; the word keeps out what is not meant for this training.
    """

    def __init__(self, heard: Callable[[End], object]) -> None:
        self._heard = heard
        self._word = secrets.token_hex(16)
        self._listener = _listener()
        self.address = f"{self._listener.getsockname()[1]} {self._word}"
        threading.Thread(target=self._run, daemon=True, name="notices").start()

    def close(self) -> None:
        """Hear no more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:  # closed
                return
            with connection, suppress(OSError, ValueError, TypeError, KeyError):
                connection.settimeout(_PATIENCE)
                said = json.loads(connection.makefile("rb").readline(_LONGEST))
                if hmac.compare_digest(said["word"], self._word):
                    self._heard(End(**said["end"]))
                    connection.sendall(_HEARD)


def _listener() -> socket.socket:
    """A port of all addresses of this machine, of both kinds where there are both."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def give_notice(address: str, end: End) -> bool:
    """Tell rank 0 of an end. address: "host port word". Returns whether it has heard it."""
    host, port, word = address.split()
    line = json.dumps({"word": word, "end": json.loads(end.to_text())}).encode() + b"\n"
    with suppress(OSError), socket.create_connection((host, int(port)), _PATIENCE) as connection:
        connection.sendall(line)
        return connection.recv(len(_HEARD)) == _HEARD
    return False
