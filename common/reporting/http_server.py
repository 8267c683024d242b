"""The child process of `common.reporting.server_process`, which calls `main` in it.

It answers from memory within a fraction of a second of its start, and hands every other request to stock TensorBoard,
which is imported when the first of them comes, or once the job has had the processors for itself while it begins:

    GET or POST /data/plugin/scalars/scalars?run=.&tag=progress

    200 application/json   [[wall time in s, step, fraction], ...]   numbers as in an event file (float32)
    404 text/plain         before the first point, as TensorBoard's scalars plugin says it

    GET /status.json   what stands in status.json
    GET /metrics       the same for Prometheus (`common.reporting.prometheus`)
    GET /healthz       200, or 503 where nothing has happened for so long that the job must be stuck

What the job has to say arrives on standard input, a line each: a point as a JSON array, {"status": ...}, or {"ping":
n}, which is answered on standard error. A blank line follows the points that there are already: only then is anybody
answered, so that nobody sees points vanish while a child is replaced. End of file, or another parent than the one
that `main` was told of, means that the job has ended: the process exits at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import io
import json
import os
import resource
import select
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from werkzeug.serving import ThreadedWSGIServer, WSGIRequestHandler

from common.reporting.prometheus import exposition
from common.reporting.server_process import PONG_MARK, TOKEN, WARNING_MARK

ROUTE = "/data/plugin/scalars/scalars"
RUN, TAG = ".", "progress"
_NOT_FOUND = f"Not found: No scalar data for run={RUN!r}, tag={TAG!r}"
_NO_CACHE = [
    ("X-Content-Type-Options", "nosniff"),
    ("Expires", "0"),
    ("Cache-Control", "no-cache, must-revalidate"),
]

_CONNECTIONS = 512
_PIECE = 1 << 16  # bytes of a request's body that are read at once
_BODY = 1 << 20  # bytes of a body that TensorBoard is given; what it is asked takes a few hundred
_READ_TIMEOUT = 10.0  # seconds that a client may take for each piece of its request
_TENSORBOARD_TIMEOUT = 60.0  # seconds that a request for TensorBoard waits for it to be imported
_UNASKED = 20.0  # seconds after which TensorBoard is imported though nobody has asked for it
_RELOAD_INTERVAL = 2.0  # seconds between two looks of TensorBoard at the event files

Environ = dict[str, Any]
StartResponse = Callable[..., Any]
Application = Callable[[Environ, StartResponse], Iterable[bytes]]
Answer = tuple[str, str, bytes]
"""Status, content type and body."""


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


@dataclass(frozen=True)
class Access:
    """Who is answered.

    token: everybody must show it ("": nobody has to). hosts: names that a request may call this server by (none: any).
    cookie: name of the one in which a browser keeps its token; cookies do not know ports.
    """

    token: str = ""
    hosts: Sequence[str] = ()
    cookie: str = "visualtl"

    def knows_host(self, environ: Environ) -> bool:
        """Whether the request's Host header is one of `hosts`; the port in it does not matter."""
        host = environ.get("HTTP_HOST", "").strip().casefold()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        return not self.hosts or name.rstrip(".") in {other.casefold().rstrip(".") for other in self.hosts}

    def admits(self, environ: Environ, headers: list[tuple[str, str]]) -> bool:
        """Whether the request shows the token: as a bearer's, in its query, from which it is taken out, or in the
        cookie that `headers` then set."""
        if not self.token:
            return True
        kind, _, shown = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        if kind.casefold() == "bearer" and self._is_token(shown.strip().encode("latin-1")):
            return True
        query = parse_qsl(environ["QUERY_STRING"], keep_blank_values=True)
        if any(name == "token" and self._is_token(value.encode()) for name, value in query):
            environ["QUERY_STRING"] = urlencode([pair for pair in query if pair[0] != "token"])
            headers.append(("Set-Cookie", f"{self.cookie}={self._kept()}; Path=/; HttpOnly; SameSite=Strict"))
            return True
        try:
            kept = SimpleCookie(environ.get("HTTP_COOKIE", "")).get(self.cookie)
        except CookieError:
            return False
        return kept is not None and hmac.compare_digest(kept.value.encode(), self._kept().encode())

    def _is_token(self, shown: bytes) -> bool:
        return hmac.compare_digest(shown, self.token.encode())

    def _kept(self) -> str:
        return hashlib.sha256(b"visualtl " + self.token.encode()).hexdigest()


class Endpoint:
    """The WSGI application: what is known from memory, the rest from TensorBoard once that is there.

    stuck_after: seconds without any sign of the job after which it is not healthy.
    """

    def __init__(self, access: Access | None = None, stuck_after: float = 300.0) -> None:
        self._access = access or Access()
        self._stuck_after = stuck_after
        self._points: list[str] = []
        self._status: dict[str, Any] = {}
        self._seen = time.monotonic()
        self._tensorboard: Application | None = None
        self._wanted = threading.Event()
        self._loaded = threading.Event()

    def add(self, line: bytes) -> None:
        """Take up a line of standard input: a point or a status."""
        value = json.loads(line)
        if isinstance(value, dict):
            if value["status"].get("updated") != self._status.get("updated"):
                self._seen = time.monotonic()
            self._status = value["status"]
            return
        wall, step, fraction = value
        self._seen = time.monotonic()
        self._points.append(json.dumps([float(wall), int(step), float(fraction)]))

    def wait_until_tensorboard_is_wanted(self, seconds: float) -> None:
        """Return when a request needs TensorBoard, and after `seconds` at the latest."""
        self._wanted.wait(seconds)

    def tensorboard(self, application: Application | None) -> None:
        """TensorBoard's application is ready, or (None) there is none."""
        self._tensorboard = application
        self._loaded.set()

    def progress(self) -> Answer:
        """What a poller is told."""
        if not self._points:
            return "404 NOT FOUND", "text/plain; charset=utf-8", _NOT_FOUND.encode()
        return "200 OK", "application/json", f"[{', '.join(self._points)}]".encode()

    def health(self) -> Answer:
        """Whether the job gets on: steps, batches and files count."""
        silent = time.monotonic() - self._seen
        if silent > self._stuck_after and self._status.get("state") != "finished":
            text = f"stuck: nothing has happened for {silent:.0f} s (more than {self._stuck_after:g} s)\n"
            return "503 SERVICE UNAVAILABLE", "text/plain; charset=utf-8", text.encode()
        return "200 OK", "text/plain; charset=utf-8", b"ok\n"

    def status(self) -> Answer:
        """What stands in status.json."""
        if not self._status:
            return "404 NOT FOUND", "text/plain; charset=utf-8", b"there is no status yet"
        text = json.dumps(self._status, ensure_ascii=False, indent=1)
        return "200 OK", "application/json", text.encode("utf-8", "backslashreplace")

    def metrics(self) -> Answer:
        """The status for Prometheus."""
        text = exposition(self._status)
        return "200 OK", "text/plain; version=0.0.4; charset=utf-8", text.encode("utf-8", "replace")

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        path, headers = environ["PATH_INFO"].rstrip("/"), list[tuple[str, str]]()
        answer: Answer | None
        if path == "/healthz":
            answer = self.health()
        elif not self._access.knows_host(environ):
            text = b"this server is not called by that name (--allow-host)"
            answer = "403 FORBIDDEN", "text/plain; charset=utf-8", text
        elif not self._access.admits(environ, headers):
            headers.append(("WWW-Authenticate", "Bearer"))
            answer = "401 UNAUTHORIZED", "text/plain; charset=utf-8", b"a token is needed"
        elif is_progress(path, environ["QUERY_STRING"]):
            answer = self.progress()
        else:
            known = {"/status.json": self.status, "/metrics": self.metrics}.get(path)
            answer = known() if known else None
        return self._send(answer, headers, environ, start_response)

    def _send(
        self,
        answer: Answer | None,
        headers: list[tuple[str, str]],
        environ: Environ,
        start_response: StartResponse,
    ) -> Iterable[bytes]:
        """The answer, or (None) TensorBoard's. Headers: to go with it."""
        body, whole = _body_of(environ)
        if answer is None and not whole:
            answer = "413 CONTENT TOO LARGE", "text/plain; charset=utf-8", b"the body is too large"
        if answer is None:
            self._wanted.set()
        if answer is None and self._loaded.wait(_TENSORBOARD_TIMEOUT) and self._tensorboard is not None:
            for name in ("HTTP_TRANSFER_ENCODING", "wsgi.input_terminated"):
                environ.pop(name, None)
            environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}

            def start(status: str, own: list[tuple[str, str]], *more: Any) -> Any:
                return start_response(status, [*own, *headers], *more)

            return self._tensorboard(environ, start)
        if answer is None:
            text = b"TensorBoard is not available; progress is."
            answer = "503 SERVICE UNAVAILABLE", "text/plain; charset=utf-8", text
        status, content_type, content = answer
        own = [("Content-Type", content_type), ("Content-Length", str(len(content))), *_NO_CACHE]
        start_response(status, [*own, *headers])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [content]


def _body_of(environ: Environ) -> tuple[bytes, bool]:
    """The body of a request, and whether that is all of it: of a large one the beginning is kept.

    A body must be read even where nobody needs it: what is left unread when the connection closes would reset it, and
    the answer might be lost. What is very large is read no further.
    """
    stream, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH", "")
    chunked = "wsgi.input_terminated" in environ
    left = int(length) if length.isdecimal() and len(length) < 20 and not chunked else 0
    body, size = bytearray(), 0
    while (chunked or left > 0) and size < 64 * _BODY:
        try:
            piece = stream.read(_PIECE if chunked else min(left, _PIECE))
        except (TimeoutError, ConnectionError):
            raise
        except OSError:  # chunks that are none
            break
        if not piece:
            break
        left, size = left - len(piece), size + len(piece)
        if size <= _BODY:
            body += piece
    return bytes(body), size <= _BODY and left <= 0


class _Pieces:
    """A client's stream that is never read in large pieces: a connection costs little, whatever is sent."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def read(self, size: int = -1) -> bytes:
        return bytes(self._stream.read(_PIECE if size < 0 else min(size, _PIECE)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Handler(WSGIRequestHandler):
    """A request: gives up on a client that stops in the middle, writes no access log."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.settimeout(_READ_TIMEOUT)
        self.rfile = _Pieces(self.rfile)  # type: ignore[assignment]

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nobody reads it, and fifty pollers would fill it."""

    def version_string(self) -> str:
        return "TensorBoard"


class Server(ThreadedWSGIServer):
    """A thread for each connection, on a socket that listens already; many slow clients cannot keep others out.

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
    in log_dir names. TensorBoard answers with the folder's path as it is given, so it is given a relative one.
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
    """Read what the job says from standard input until it is over, then end this process."""
    pending, http = b"", threading.Thread(target=server.serve_forever, name="http", daemon=True)
    while True:
        # A process that the job forked may hold the other end of the pipe open: the parent's id counts too.
        ready, _, _ = select.select([0], [], [], 1.0)
        if ready:
            data = os.read(0, 1 << 16)
            if not data:
                break
            *lines, pending = (pending + data).split(b"\n")
            for line in lines:
                if line.startswith(b'{"ping"'):
                    if http.is_alive():
                        os.write(2, f"{PONG_MARK}\n".encode())
                elif line:
                    endpoint.add(line)
                else:
                    http.start()
        elif os.getppid() != parent:
            break
    os._exit(0)


def main(listening: int, log_dir: Path, parent: int, hosts: Sequence[str], stuck_after: float) -> None:
    """Serve until the job is over. `listening` is the descriptor of a socket that listens; the rest see `Access` and
    `Endpoint`. The token, if there is one, stands in the environment."""
    # Every connection takes a descriptor; the usual limit of 1024 is low.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8192 if hard == resource.RLIM_INFINITY else min(8192, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    with socket.socket(fileno=listening) as listener:
        access = Access(os.environ.get(TOKEN, ""), hosts, f"visualtl_{listener.getsockname()[1]}")
        endpoint = Endpoint(access, stuck_after)
        server = Server(endpoint, listener)
    threading.Thread(target=_load, args=(endpoint, log_dir), name="tensorboard", daemon=True).start()
    _follow(endpoint, server, parent)


def _load(endpoint: Endpoint, log_dir: Path) -> None:
    """TensorBoard takes half a second of a processor to import, and looks at the event files from then on."""
    endpoint.wait_until_tensorboard_is_wanted(_UNASKED)
    try:
        load_tensorboard(endpoint, log_dir)
    except Exception as error:
        traceback.print_exc()
        reason = str(error) or type(error).__name__
        print(
            f"{WARNING_MARK}TensorBoard cannot be used, progress can: {reason}", file=sys.stderr, flush=True
        )
        endpoint.tensorboard(None)
