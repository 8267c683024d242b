"""Promises of what the progress server answers, and of the event files that it finds."""

from __future__ import annotations

import contextlib
import http.client
import json
import resource
import socket
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.errors import LogDirError
from common.reporting import http_server
from common.reporting.progress import Progress, Step
from common.reporting.server_process import ProgressServer, archive_old_events
from tests.helpers.polling import PROGRESS, ask, eventually, points


@contextlib.contextmanager
def in_process(application: http_server.Endpoint) -> Iterator[int]:
    """The child's HTTP server in a thread of this process; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        web = http_server.Server(application, listener)
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield web.port
    finally:
        web.shutdown()
        thread.join()


def test_a_client_that_stops_in_the_middle_of_a_request_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_READ_TIMEOUT", 0.1)
    with (
        in_process(http_server.Endpoint()) as port,
        socket.create_connection(("127.0.0.1", port), timeout=30) as slow,
    ):
        slow.sendall(b"GET /data/plugin")
        assert slow.recv(1) == b""


def test_the_oldest_of_too_many_connections_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "_CONNECTIONS", 3)
    application = http_server.Endpoint()
    application.add(b"[1.0, 1, 0.5]\n")
    with in_process(application) as port, contextlib.ExitStack() as stack:
        address = ("127.0.0.1", port)
        idle = [stack.enter_context(socket.create_connection(address, timeout=30)) for _ in range(3)]
        assert points(port) == [[1.0, 1, 0.5]]
        assert idle[0].recv(1) == b""
        idle[2].settimeout(0.05)
        with pytest.raises(TimeoutError):
            idle[2].recv(1)


def request(port: int, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to a GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.putrequest("GET", path, skip_host="Host" in headers)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    return answer.status, dict(answer.getheaders()), answer.read()


TOLD = {
    "state": "training",
    "step": {"number": 10, "name": "TRAIN"},
    "progress": 0.25,
    "epoch": 1,
    "epochs": 4,
    "seconds_left": 90.5,
    "images_per_second": 12.0,
    "metric": {"name": "mAP", "value": 0.5},
    "best_metric": {"name": "mAP", "value": 0.75, "epoch": 0},
    "losses": {'a "b" \\': 1.5, "none": None},
    "batches_skipped": 2,
    "worker_restarts": 1,
    "images_left_out": {"train": 3, "valid": 0},
    "updated": 1.0,
}


def informed(status: dict[str, Any], **settings: Any) -> http_server.Endpoint:
    application = http_server.Endpoint(**settings)
    application.add(json.dumps({"status": status}).encode())
    application.add(b"[1.0, 1, 0.5]")
    application.tensorboard(None)
    return application


def test_status_and_metrics_are_answered_from_memory() -> None:
    with in_process(informed(TOLD)) as port:
        status, headers, body = request(port, "/status.json")
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert json.loads(body) == TOLD
        status, headers, body = request(port, "/metrics")
        assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    parser = pytest.importorskip("prometheus_client.parser")
    families = list(parser.text_string_to_metric_families(body.decode()))
    assert all(family.documentation for family in families)
    kinds = {family.name: family.type for family in families}
    assert kinds.pop("visualtl_batches_skipped") == kinds.pop("visualtl_worker_restarts") == "counter"
    assert set(kinds.values()) == {"gauge"}
    samples = {
        (sample.name, *sample.labels.items()): sample.value
        for family in families
        for sample in family.samples
    }
    assert samples == {
        ("visualtl_step",): 10,
        ("visualtl_step_progress",): 0.25,
        ("visualtl_epoch",): 1,
        ("visualtl_epochs",): 4,
        ("visualtl_seconds_left",): 90.5,
        ("visualtl_metric", ("name", "mAP")): 0.5,
        ("visualtl_best_metric",): 0.75,
        ("visualtl_loss", ("name", 'a "b" \\')): 1.5,
        ("visualtl_images_per_second",): 12,
        ("visualtl_batches_skipped_total",): 2,
        ("visualtl_worker_restarts_total",): 1,
        ("visualtl_images_left_out", ("set", "train")): 3,
        ("visualtl_images_left_out", ("set", "valid")): 0,
    }


def test_metrics_of_a_job_that_has_not_said_anything_are_none() -> None:
    with in_process(http_server.Endpoint()) as port:
        assert request(port, "/metrics")[::2] == (200, b"")
        assert request(port, "/status.json")[0] == 404


def test_a_job_of_which_nothing_is_heard_is_not_healthy() -> None:
    application = informed(TOLD, stuck_after=0.2)
    with in_process(application) as port:
        assert request(port, "/healthz")[::2] == (200, b"ok\n")
        assert eventually(lambda: request(port, "/healthz")[0] == 503)
        assert b"nothing has happened for" in request(port, "/healthz")[2]
        application.add(json.dumps({"status": TOLD}).encode())  # the same once more is no news
        assert request(port, "/healthz")[0] == 503
        application.add(json.dumps({"status": {**TOLD, "updated": 2.0}}).encode())
        assert request(port, "/healthz")[0] == 200
        assert eventually(lambda: request(port, "/healthz")[0] == 503)
        application.add(b"[2.0, 10, 0.5]")
        assert request(port, "/healthz")[0] == 200
        application.add(json.dumps({"status": {**TOLD, "state": "finished", "updated": 3.0}}).encode())
        time.sleep(0.3)
        assert request(port, "/healthz")[0] == 200


PATHS = (PROGRESS, "/status.json", "/metrics", "/", "/data/runs")


def test_with_a_token_only_health_is_told_without_it() -> None:
    access = http_server.Access("geheim-秘密", cookie="visualtl_1")
    with in_process(informed(TOLD, access=access)) as port:
        assert request(port, "/healthz")[0] == 200
        for path in PATHS:
            for shown in (
                {},
                {"Authorization": "Bearer other"},
                {"Authorization": "Basic Z2VoZWlt"},
                {"Cookie": "a;=b"},
            ):
                status, headers, body = request(port, path, **shown)
                assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
                assert b"1.0" not in body
            assert request(port, path + ("&" if "?" in path else "?") + "token=other")[0] == 401
        bearer = "Bearer geheim-秘密".encode().decode("latin-1")
        assert request(port, "/metrics", Authorization=bearer)[0] == 200
        quoted = urllib.parse.quote("geheim-秘密")
        status, headers, body = request(port, f"{PROGRESS}&token={quoted}")
        assert (status, json.loads(body)) == (200, [[1.0, 1, 0.5]])
        cookie = headers["Set-Cookie"]
        assert "HttpOnly" in cookie
        assert "geheim" not in cookie
        assert request(port, "/status.json", Cookie=cookie.partition(";")[0])[0] == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("job.example", 200),
        ("JOB.example.:8888", 200),
        ("[::1]:8888", 200),
        ("other.example", 403),
        ("job.example.evil", 403),
        ("127.0.0.1:8888", 403),
        ("", 403),
    ],
)
def test_only_allowed_names_of_the_server_are_answered(host: str, status: int) -> None:
    access = http_server.Access(hosts=("job.example", "[::1]"))
    with in_process(informed(TOLD, access=access)) as port:
        assert {request(port, path, Host=host)[0] for path in ("/status.json", PROGRESS)} == {status}
        assert request(port, "/healthz", Host=host)[0] == 200


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/data/plugin/scalars/scalars_multirun", PROGRESS])
def test_a_large_body_costs_no_memory(path: str, chunked: bool) -> None:
    application = http_server.Endpoint()
    application.add(b"[1.0, 1, 0.5]")
    application.tensorboard(lambda environ, start: [environ["wsgi.input"].read()])

    def body() -> Iterator[bytes]:
        for _ in range(320):
            yield bytes(100_000)

    with in_process(application) as port:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        headers = {} if chunked else {"Content-Length": "32000000"}
        connection.request("POST", path, body=body(), headers=headers, encode_chunked=chunked)
        assert connection.getresponse().status == (200 if path == PROGRESS else 413)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000  # KiB


def test_tensorboard_is_wanted_when_a_request_needs_it() -> None:
    application = informed(TOLD)
    application.tensorboard(None)
    waiting = threading.Thread(target=application.wait_until_tensorboard_is_wanted, args=(60,))
    with in_process(application) as port:
        waiting.start()
        for path in (PROGRESS, "/status.json", "/metrics", "/healthz"):
            assert ask(port, path)[0] == 200
        assert waiting.is_alive()
        assert ask(port, "/")[0] == 503
        waiting.join(30)
        assert not waiting.is_alive()


def test_tensorboard_gets_a_body_of_the_usual_size_whole() -> None:
    seen: list[tuple[str, bytes]] = []

    def stock(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["CONTENT_LENGTH"], environ["wsgi.input"].read()))
        start_response("200 OK", [])
        return [b""]

    application = http_server.Endpoint()
    application.tensorboard(stock)
    with in_process(application) as port:
        for body in (b"runs=.&tag=loss", iter([b"runs=.", b"&tag=loss"])):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request("POST", "/data/x", body=body)
            assert connection.getresponse().status == 200
    assert seen == [("15", b"runs=.&tag=loss")] * 2


@pytest.mark.parametrize(
    ("path", "query", "expected"),
    [
        (http_server.ROUTE, "run=.&tag=progress", True),
        (http_server.ROUTE + "/", "tag=progress&run=.", True),
        (http_server.ROUTE, "run=%2E&tag=progress&format=json", True),
        (http_server.ROUTE, "run=.&tag=progress&tag=loss", True),
        (http_server.ROUTE, "run=.&tag=progress&format=csv", False),
        (http_server.ROUTE, "run=.&tag=loss", False),
        (http_server.ROUTE, "run=previous/1&tag=progress", False),
        (http_server.ROUTE, "", False),
        ("/data/plugin/scalars/tags", "run=.&tag=progress", False),
    ],
)
def test_only_the_progress_of_this_run_is_answered_from_memory(path: str, query: str, expected: bool) -> None:
    assert http_server.is_progress(path, query) is expected


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


def test_event_files_are_not_moved_through_a_link(tmp_path: Path) -> None:
    elsewhere, log_dir = tmp_path / "elsewhere", tmp_path / "log"
    for folder in (elsewhere, log_dir):
        folder.mkdir()
    event = log_dir / "events.out.tfevents.1.host.1.0"
    event.touch()
    (log_dir / "previous").symlink_to(elsewhere)
    with pytest.raises(LogDirError, match=r"previous: cannot move .*: a symbolic link"):
        archive_old_events(log_dir)
    assert event.exists()
    assert not list(elsewhere.iterdir())
