"""Promises of what the progress server answers, and of the event files that it finds."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import LogDirError
from common.reporting import endpoint, server
from common.reporting.progress import Progress, Step
from common.reporting.server import ProgressServer, archive_old_events
from tests.helpers.polling import PROGRESS, ask, eventually, points


@contextlib.contextmanager
def in_process(application: endpoint.Endpoint) -> Iterator[int]:
    """The child's HTTP server in a thread of this process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        web = endpoint.Server(application, listener)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web.port
    finally:
        web.shutdown()
        thread.join()


def test_progress_is_served_where_tensorboard_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ImportError("no module named protobuf")

    monkeypatch.setattr(endpoint, "load_tensorboard", fail)
    application = endpoint.Endpoint()
    application.add(b"[1.0, 1, 0.5]\n")
    endpoint._load(application, tmp_path)
    assert application._loaded.is_set()  # nobody waits for it
    assert f"{server.WARNING_MARK}TensorBoard cannot be used" in capsys.readouterr().err
    statuses: dict[str, str] = {}

    def call(path: str, query: str) -> bytes:
        environ = {"PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": "GET"}
        return b"".join(application(environ, lambda status, headers: statuses.__setitem__(path, status)))

    assert call(*PROGRESS.split("?")) == b"[[1.0, 1, 0.5]]"
    call("/", "")
    assert statuses["/"].startswith("503")


def test_a_client_that_stops_in_the_middle_of_a_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_READ_TIMEOUT", 0.1)
    with (
        in_process(endpoint.Endpoint()) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as slow,
    ):
        slow.sendall(b"GET /data/plugin")
        assert slow.recv(1) == b""


def test_the_oldest_of_too_many_connections_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "_CONNECTIONS", 3)
    application = endpoint.Endpoint()
    application.add(b"[1.0, 1, 0.5]\n")
    with in_process(application) as port, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        idle = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(3)]
        assert points(port) == [[1.0, 1, 0.5]]
        assert idle[0].recv(1) == b""
        idle[2].settimeout(0.05)
        with pytest.raises(TimeoutError):
            idle[2].recv(1)


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (endpoint.ROUTE, "run=.&tag=progress", True),
        (endpoint.ROUTE + "/", "tag=progress&run=.", True),
        (endpoint.ROUTE, "run=%2E&tag=progress&format=json", True),
        (endpoint.ROUTE, "run=.&tag=progress&tag=loss", True),
        (endpoint.ROUTE, "run=.&tag=progress&format=csv", False),
        (endpoint.ROUTE, "run=.&tag=loss", False),
        (endpoint.ROUTE, "run=previous/1&tag=progress", False),
        (endpoint.ROUTE, "", False),
        ("/data/plugin/scalars/tags", "run=.&tag=progress", False),
    ],
)
def test_only_the_progress_of_this_run_is_answered_from_memory(path: str, query: str, expected: bool) -> None:
    assert endpoint.is_progress(path, query) is expected


def test_event_files_of_an_earlier_run_become_a_run_of_their_own(tmp_path: Path) -> None:
    for _ in range(2):
        progress = Progress(tmp_path, lambda _: None)
        with progress.step(Step.EXPORT):
            pass
        progress.close()
        folder = archive_old_events(tmp_path)
        assert folder is not None
        assert folder.parent == tmp_path / "previous"
        assert len(list(folder.iterdir())) == 1
    assert archive_old_events(tmp_path) is None
    runs = {f"previous/{folder.name}" for folder in (tmp_path / "previous").iterdir()}
    assert len(runs) == 2
    with ProgressServer(tmp_path, 0) as running:
        assert eventually(lambda: set(json.loads(ask(running.port, "/data/runs")[1])) == runs)
        assert ask(running.port)[0] == 404


def test_event_files_that_cannot_be_moved_are_an_error_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "events.out.tfevents.1.host.1.0").touch()
    (tmp_path / "previous").write_text("in the way")
    with pytest.raises(LogDirError, match=r"cannot move event files .* previous"):
        archive_old_events(tmp_path)
