"""The child process of `common.reporting.server`, which calls `main` in it.

It answers progress from memory within a fraction of a second of its start, long before TensorBoard is
imported, and hands every other request to stock TensorBoard:

    GET or POST /data/plugin/scalars/scalars?run=.&tag=progress

    200 application/json   [[wall time in s, step, fraction], ...]   numbers as in an event file (float32)
    404 text/plain         before the first point, as TensorBoard's scalars plugin says it

Points arrive on standard input, one JSON array a line. A blank line follows those that there are already:
only then is anybody answered, so that nobody sees points vanish while a child is replaced. End of file, or
another parent than the one that `main` was told of, means that the job has ended: the process exits at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import select
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from common.reporting.server import WARNING_MARK

ROUTE = "/data/plugin/scalars/scalars"
RUN, TAG = ".", "progress"
_NOT_FOUND = f"Not found: No scalar data for run={RUN!r}, tag={TAG!r}".encode()
_NO_CACHE = [
    ("X-Content-Type-Options", "nosniff"),
    ("Expires", "0"),
    ("Cache-Control", "no-cache, must-revalidate"),
]

_CONNECTIONS = 512
_SMALL = 1 << 16  # bytes of a poll's body, which nobody reads
_READ_TIMEOUT = 10.0  # seconds that a client may take for each piece of its request
_TENSORBOARD_TIMEOUT = 60.0  # seconds that a request for TensorBoard waits for it to be imported
_RELOAD_INTERVAL = 2.0  # seconds between two looks of TensorBoard at the event files

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]


def is_progress(path: str, query: str) -> bool:
    """Whether a request is for the points in memory: the scalars of run `.`, tag `progress`, as JSON.

    As in TensorBoard the first value of a parameter counts and a trailing slash is ignored.
    """
    if path.rstrip("/") != ROUTE:
        return False
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters.setdefault(name, value)
    wanted = parameters.get("run") == RUN and parameters.get("tag") == TAG
    return wanted and parameters.get("format") != "csv"


def _answer(status: str, content_type: str, body: bytes) -> tuple[str, list[tuple[str, str]], bytes]:
    return status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *_NO_CACHE], body


class Endpoint:
    """The WSGI application: progress from memory, the rest from TensorBoard once that is there."""

    def __init__(self) -> None:
        self._points: list[str] = []
        self._tensorboard: Application | None = None
        self._loaded = threading.Event()

    def add(self, line: bytes) -> None:
        """Append the point of one line of standard input."""
        wall, step, fraction = json.loads(line)
        self._points.append(json.dumps([float(wall), int(step), float(fraction)]))

    def tensorboard(self, application: Application | None) -> None:
        """TensorBoard's application is ready, or (None) there is none."""
        self._tensorboard = application
        self._loaded.set()

    def progress(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, headers and body of the answer to a poller."""
        if not self._points:
            return _answer("404 NOT FOUND", "text/plain; charset=utf-8", _NOT_FOUND)
        return _answer("200 OK", "application/json", f"[{', '.join(self._points)}]".encode())

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        if is_progress(environ["PATH_INFO"], environ["QUERY_STRING"]):
            status, headers, body = self.progress()
        elif self._loaded.wait(_TENSORBOARD_TIMEOUT) and self._tensorboard is not None:
            return self._tensorboard(environ, start_response)
        else:
            text = b"TensorBoard is not available; progress is."
            status, headers, body = _answer("503 SERVICE UNAVAILABLE", "text/plain; charset=utf-8", text)
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]


class _Handler(WSGIRequestHandler):
    """A request: gives up on a client that stops in the middle, writes no access log."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(_READ_TIMEOUT)

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nobody reads it, and fifty pollers would fill it."""

    def version_string(self) -> str:
        return "TensorBoard"

    def run_wsgi(self) -> None:
        """A poll without the detour over WSGI, at less than half the cost; everything else over it."""
        length = self.headers.get("Content-Length", "0")
        small = length.isdecimal() and int(length) <= _SMALL and "Transfer-Encoding" not in self.headers
        if self.command == "HEAD" or not small or not is_progress(*self.path.partition("?")[::2]):
            super().run_wsgi()
            return
        self.rfile.read(int(length))  # what is left unread when the connection closes would reset it
        self.close_connection = True
        status, headers, body = self.server.app.progress()  # type: ignore[attr-defined]
        lines = [f"{name}: {value}\r\n" for name, value in [("Connection", "close"), *headers]]
        date = f"Server: {self.version_string()}\r\nDate: {self.date_time_string()}\r\n"
        self.wfile.write(f"HTTP/1.1 {status}\r\n{date}{''.join(lines)}\r\n".encode() + body)


class Server(ThreadedWSGIServer):
    """A thread for each connection, on a socket that listens already; many slow clients cannot keep others
    out.

    When there are more connections than `_CONNECTIONS`, the oldest is closed.
    """

    def __init__(self, application: Application, listener: socket.socket) -> None:
        self._open: dict[Any, None] = {}
        self._guard = threading.Lock()
        host, port = listener.getsockname()[:2]
        super().__init__(host, port, application, _Handler, fd=listener.fileno())

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._open[request] = None
            if len(self._open) > _CONNECTIONS:
                oldest = next(iter(self._open))
                del self._open[oldest]
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._open.pop(request, None)
        super().shutdown_request(request)


class _Captured:
    """Stands where TensorBoard constructs its HTTP server; takes the application and serves nothing."""

    def __init__(self, endpoint: Endpoint, application: Application) -> None:
        self._publish = lambda: endpoint.tensorboard(application)

    def serve_forever(self) -> None:
        self._publish()

    def get_url(self) -> str:
        return ""


def load_tensorboard(endpoint: Endpoint, log_dir: Path) -> None:
    """Import TensorBoard, have it watch `log_dir` and give its application to `endpoint`.

    Only the plugins that show scalars are loaded: others (the projector's) open any file that a configuration
    in log_dir names. TensorBoard answers with the folder's path as it is given, so it is given a relative
    one.
    """
    from tensorboard.plugins.core import core_plugin
    from tensorboard.plugins.metrics import metrics_plugin
    from tensorboard.plugins.scalar import scalars_plugin
    from tensorboard.program import TensorBoard

    os.chdir(log_dir.parent)
    program = TensorBoard(
        plugins=[core_plugin.CorePluginLoader(), metrics_plugin.MetricsPlugin, scalars_plugin.ScalarsPlugin],
        server_class=lambda wsgi_app, flags: _Captured(endpoint, wsgi_app),
    )
    program.configure(
        logdir=f"./{log_dir.name}",
        window_title=log_dir.name,
        load_fast="false",  # the fast loader keeps a single point of a step
        samples_per_plugin={"scalars": 2000},
        reload_interval=_RELOAD_INTERVAL,
    )
    program.launch()


def _follow(endpoint: Endpoint, server: Server, parent: int) -> None:
    """Read points from standard input until the job is over, then end this process."""
    pending = b""
    while True:
        # A process that the job forked may hold the other end of the pipe open: the parent's id counts too.
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if line:
                    endpoint.add(line)
                else:
                    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
        elif os.getppid() != parent:
            break
    os._exit(0)


def main(listening: int, log_dir: Path, parent: int) -> None:
    """Serve until the job is over. `listening` is the descriptor of a socket that listens."""
    # Every connection takes a descriptor; the usual limit of 1024 is low.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    endpoint = Endpoint()
    with socket.socket(fileno=listening) as listener:
        server = Server(endpoint, listener)
    threading.Thread(target=_load, args=(endpoint, log_dir), name="tensorboard", daemon=True).start()
    _follow(endpoint, server, parent)


def _load(endpoint: Endpoint, log_dir: Path) -> None:
    try:
        load_tensorboard(endpoint, log_dir)
    except Exception as error:
        traceback.print_exc()
        reason = str(error) or type(error).__name__
        print(
            f"{WARNING_MARK}TensorBoard cannot be used, progress can: {reason}", file=sys.stderr, flush=True
        )
        endpoint.tensorboard(None)
