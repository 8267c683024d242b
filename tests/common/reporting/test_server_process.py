"""Promises of the progress server: over real HTTP, with real processes that die."""

from __future__ import annotations

import http.client
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from common.errors import PortError
from common.reporting import server_process
from common.reporting.progress import Progress, Step
from common.reporting.server_process import ProgressServer
from tests.helpers.polling import PROGRESS, ask, eventually, points, raw

ROOT = Path(__file__).resolve().parents[3]


def gone(pid: int) -> bool:
    """Whether process `pid` has ended; one that is dead and not yet reaped has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def free(port: int) -> bool:
    """Whether a job could have `port`; threads of a process that is gone may hold it for another moment."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("secret-parent") / "out 输出"
    folder.mkdir()
    (folder / "best_checkpoint.pkl").write_bytes(b"parameters")
    return folder


@pytest.fixture(scope="module")
def watched(log_dir: Path) -> Iterator[ProgressServer]:
    """A server with points and curves."""
    with ProgressServer(log_dir, 0) as running:
        progress = Progress(log_dir, running.publish)
        with progress.step(Step.LOAD_TRAIN_DATA):
            pass
        progress.begin(Step.TRAIN)
        for fraction in (0.1, 0.2, 1 / 3):
            time.sleep(Progress.interval)
            progress.advance(fraction)
        progress.scalar("loss", 2.5, 1)
        progress.scalar("learning_rate", 0.001, 1)
        progress.scalar("valid/mAP", float("nan"), 1)
        progress.close()
        last = pytest.approx(1 / 3)
        assert eventually(lambda: ask(running.port)[0] == 200 and points(running.port)[-1][2] == last)
        yield running


def test_before_the_first_point_the_answer_is_that_of_tensorboard(tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as empty:
        status, body = ask(empty.port)
        assert status == 404
        assert (status, body) == ask(empty.port, PROGRESS + "&format=csv")  # which TensorBoard itself answers


def test_progress_is_served_where_tensorboard_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard.py").write_text("raise ImportError('no module named protobuf')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with ProgressServer(tmp_path, 0) as running:
        running.publish([(1.0, 1, 0.5)])
        began = time.monotonic()
        assert ask(running.port, "/")[0] == 503
        assert time.monotonic() - began < 30  # nobody waits for what will not come
        eventually(
            lambda: "TensorBoard cannot be used, progress can: no module named protobuf" in caplog.text
        )
        assert points(running.port) == [[1.0, 1, 0.5]]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_a_poller_may_use_any_method(watched: ProgressServer, method: str) -> None:
    status, body = ask(watched.port, method=method, data=b"ignored=1" if method == "POST" else None)
    assert status == 200
    assert [point[1:] for point in json.loads(body)][:3] == [[1, 0.0], [1, 1.0], [10, 0.0]]


@pytest.mark.parametrize("body", [b"x" * 1000, b"x" * 3_000_000, [b"one", b"two"]])
def test_a_body_that_a_poller_sends_is_ignored(watched: ProgressServer, body: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=60)
    connection.request("POST", PROGRESS, body=body, encode_chunked=isinstance(body, list))
    answer = connection.getresponse()
    assert answer.status == 200
    assert answer.getheader("Content-Type") == "application/json"
    assert json.loads(answer.read()) == points(watched.port)
    connection.close()


@pytest.mark.parametrize(
    "request_line", ["GET {} HTTP/1.0", "GET http://host{} HTTP/1.1", "PATCH {} HTTP/1.1"]
)
@pytest.mark.parametrize("length", ["", "none", "-5"])
def test_requests_of_old_or_odd_clients_are_answered_alike(
    watched: ProgressServer, request_line: str, length: str
) -> None:
    header = f"Content-Length: {length}\r\n" if length else ""
    head, body = raw(watched.port, f"{request_line.format(PROGRESS)}\r\n{header}\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert json.loads(body) == points(watched.port)


def test_the_answer_waits_for_the_end_of_a_small_body(watched: ProgressServer) -> None:
    # An answer before that, and the close after it, could be lost to a client that is still sending.
    with socket.create_connection(("127.0.0.1", watched.port), timeout=60) as connection:
        head = f"POST {PROGRESS} HTTP/1.1\r\nContent-Length: 60000\r\n\r\n".encode()
        connection.sendall(head + b"x" * 30000)
        assert not select.select([connection], [], [], 0.2)[0]
        connection.sendall(b"x" * 30000)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_head_has_no_body(watched: ProgressServer) -> None:
    head, body = raw(watched.port, f"HEAD {PROGRESS} HTTP/1.1\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"Content-Length: {len(ask(watched.port)[1])}".encode() in head
    assert body == b""


def test_points_from_memory_are_those_that_tensorboard_reads_from_the_event_file(
    watched: ProgressServer,
) -> None:
    form = urllib.parse.urlencode({"runs": ".", "tag": "progress"}).encode()
    ours = points(watched.port)
    assert ours[-1][2] != 1 / 3  # float32
    assert ours[-1][2] == pytest.approx(1 / 3)

    def stock() -> Any:
        status, body = ask(watched.port, "/data/plugin/scalars/scalars_multirun", "POST", form)
        found = json.loads(body).get(".") if status == 200 else None
        return found if found is not None and len(found) >= len(ours) else None

    assert eventually(stock) == ours


def test_the_page_shows_the_curves_of_the_training(watched: ProgressServer) -> None:
    status, page = ask(watched.port, "/")
    assert status == 200
    assert b"<!doctype html>" in page[:100]

    def tags() -> set[str]:
        return set(json.loads(ask(watched.port, "/data/plugin/scalars/tags")[1]).get(".", {}))

    assert eventually(lambda: tags() >= {"progress", "loss", "learning_rate", "valid/mAP"})
    status, body = ask(watched.port, "/data/plugin/scalars/scalars?run=.&tag=loss")
    assert [point[1:] for point in json.loads(body)] == [[1, 2.5]]
    status, body = ask(watched.port, "/data/plugin/scalars/scalars?run=.&tag=valid/mAP")
    assert json.loads(body)[0][2] == "NaN"
    listing = json.loads(ask(watched.port, "/data/plugins_listing")[1])
    assert listing["scalars"]["enabled"]
    assert listing["timeseries"]["enabled"]


@pytest.mark.parametrize(
    "path",
    [
        "/best_checkpoint.pkl",
        "/out 输出/best_checkpoint.pkl",
        "/../best_checkpoint.pkl",
        "/../../../../../../etc/passwd",
        "/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
        "/data/../../../../etc/passwd",
        "//etc/passwd",
        "/etc/passwd",
        "/data/plugin/projector/tensors?run=.&name=/etc/passwd",
        "/data/plugin/projector/sprite_image?run=.&name=/etc/passwd",
        "/data/plugin/timeseries/../../../etc/passwd",
        "/data/plugin/timeseries/imageData?imageId=/etc/passwd",
        "/data/plugin/debugger-v2/source_files/file?run=.&index=0",
    ],
)
def test_no_file_can_be_fetched(watched: ProgressServer, path: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=60)  # sends the path as it is
    connection.request("GET", urllib.parse.quote(path, safe="/%?=&."))
    answer = connection.getresponse()
    body = answer.read()
    assert answer.status >= 300
    assert b"root:" not in body
    assert b"parameters" not in body


@pytest.mark.parametrize(
    "path", ["/data/logdir", "/data/environment", "/data/runs", "/data/window_properties", "/"]
)
def test_paths_of_the_machine_are_not_told(watched: ProgressServer, log_dir: Path, path: str) -> None:
    status, body = ask(watched.port, path)
    assert status == 200
    assert log_dir.parent.name.encode() not in body
    if path == "/data/logdir":
        assert json.loads(body)["logdir"] == f"./{log_dir.name}"


def test_clients_that_stop_in_the_middle_of_a_request_do_not_keep_others_out(watched: ProgressServer) -> None:
    slow = [socket.create_connection(("127.0.0.1", watched.port)) for _ in range(60)]
    try:
        for connection in slow:
            connection.sendall(b"POST /data/plugin/scalars/scalars?run=.&tag=pro")
        with ThreadPoolExecutor(50) as pollers:
            answers = list(pollers.map(lambda _: ask(watched.port), range(200)))
        assert {status for status, _ in answers} == {200}
        assert len({body for _, body in answers}) == 1
    finally:
        for connection in slow:
            connection.close()


def test_a_child_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as running:
        running.publish([(0.5, 1, 0.0)])
        before = eventually(lambda: ask(running.port)[0] == 200 and points(running.port))
        for _ in range(2):
            first = running.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            assert eventually(lambda old=first: gone(old))
            assert points(running.port) == before  # at the first try
        running.publish([(1.0, 10, 0.5)])
        assert eventually(lambda: points(running.port) == [*before, [1.0, 10, 0.5]])


JOB = """
import ctypes, os, sys, time
from pathlib import Path
from common.reporting.server_process import ProgressServer
server = ProgressServer(Path(sys.argv[1]), 0)
server.start()
server.publish([(1.0, 1, 0.0)])
# Python is not asked before a fork of the C library: the worker holds on to everything.
worker = ctypes.CDLL(None).fork() if sys.argv[2] == "held" else os.fork()
if worker == 0:
    time.sleep(600)
print(server.port, server.pid, worker, flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("pipe", ["closed", "held"])
def test_the_server_ends_with_a_job_that_is_killed_even_if_a_worker_lives_on(
    tmp_path: Path, pipe: str
) -> None:
    command = [sys.executable, "-c", JOB, str(tmp_path), pipe]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert job.stdout is not None
    port, child, worker = map(int, job.stdout.readline().split())
    try:
        assert eventually(lambda: ask(port)[0] == 200)
        job.kill()
        job.wait()
        assert eventually(lambda: gone(child))
        assert not gone(worker)
        if pipe == "closed":
            assert eventually(lambda: free(port))
    finally:
        job.kill()
        job.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_ctrl_c_at_the_terminal_is_for_the_job_alone(watched: ProgressServer) -> None:
    assert watched.pid is not None
    assert os.getpgid(watched.pid) != os.getpgid(0)


def test_a_port_that_is_taken_is_named_with_the_remedy(tmp_path: Path) -> None:
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, 0)) as other:
            port = other.getsockname()[1]
            with pytest.raises(PortError, match=rf"port {port} is taken .* --port"):
                ProgressServer(tmp_path, port)


def test_a_port_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="--port 70000"):
        ProgressServer(tmp_path, 70000)


def test_connections_of_the_job_before_do_not_count_as_a_taken_port(tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0) as first:
        first.publish([(1.0, 1, 0.0)])
        assert eventually(lambda: ask(first.port)[0] == 200)  # the server closes it, and stays in TIME_WAIT
    again = ProgressServer(tmp_path, first.port)
    again.close()
    assert again.port == first.port


def test_after_close_nobody_answers(tmp_path: Path) -> None:
    running = ProgressServer(tmp_path, 0)
    running.start()
    child = running.pid
    assert child is not None
    running.close()
    assert gone(child)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", running.port), timeout=5)


class Lines(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.levelname} {record.getMessage()}")


@pytest.fixture
def logged() -> Iterator[list[str]]:
    logger, lines = logging.getLogger("visualtl"), Lines()
    level = logger.level
    logger.addHandler(lines)
    logger.setLevel(logging.INFO)
    yield lines.lines
    logger.setLevel(level)
    logger.removeHandler(lines)


def test_a_child_that_cannot_start_is_logged_with_its_reason_and_does_not_end_the_job(
    tmp_path: Path, logged: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 3\n")
    broken.chmod(0o755)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(broken))
        patch.setattr(server_process, "_PATIENCE", 2)
        running = ProgressServer(tmp_path, 0)
        running.start()
        running.publish([(1.0, 1, 0.0)])
        warning = eventually(lambda: [line for line in logged if line.startswith("WARNING")])
    assert "2 times in a row (status 3 | the disk is on fire)" in warning[0]
    assert points(running.port) == [[1.0, 1, 0.0]]  # it went on trying; pollers had to wait
    running.close()


def test_a_child_that_does_not_move_is_named_and_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server_process, "_PULSE", 0.1)
    monkeypatch.setattr(
        server_process, "_BOOT", 200
    )  # one stopped before its first sign of life counts as booting
    with ProgressServer(tmp_path, 0) as running:
        running.publish([(1.0, 1, 0.5)])
        running.inform({"state": "training", "updated": 1.0})
        eventually(lambda: ask(running.port)[0] == 200)
        stopped = running.pid
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        eventually(lambda: running.pid not in (None, stopped))
        assert points(running.port) == [[1.0, 1, 0.5]]
        assert json.loads(ask(running.port, "/status.json")[1])["state"] == "training"
        assert gone(stopped)
    assert f"process {stopped}) has not moved" in caplog.text


def test_a_child_that_is_busy_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "_PULSE", 0.2)
    monkeypatch.setattr(server_process, "_BOOT", 600)
    with ProgressServer(tmp_path, 0) as running:
        running.publish([(float(number), 10, 0.5) for number in range(20_000)])
        eventually(lambda: ask(running.port)[0] == 200)
        first = running.pid
        eventually(lambda: len(points(running.port)) == 20_000)
        assert running.pid == first


def test_one_address_is_listened_at_where_one_is_named(tmp_path: Path) -> None:
    with ProgressServer(tmp_path, 0, host="127.0.0.1") as running:
        assert running.address == f"http://127.0.0.1:{running.port}/"
        assert eventually(lambda: ask(running.port)[0]) == 404
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.2", running.port), timeout=5)


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("192.0.2.1", "is no address of this machine"),
        ("no such host", "name an address"),
        ("a" * 300, "name an address"),
    ],
)
def test_an_address_that_cannot_be_had_is_an_error_of_one_line(tmp_path: Path, host: str, told: str) -> None:
    with pytest.raises(PortError, match=told) as caught:
        ProgressServer(tmp_path, 0, host=host)
    assert "\n" not in str(caught.value)


def test_a_very_long_address_is_told_in_short(tmp_path: Path) -> None:
    with pytest.raises(PortError, match="--host hhh") as caught:
        ProgressServer(tmp_path, 0, "h" * 300)
    assert len(str(caught.value)) < 200
