"""A job that is cut off loses nothing that was complete, and goes on as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.checkpoint import read_checkpoint

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = "classification/fit_classification.py"
EPOCHS = 4
# What the contract promises to be whole or absent.
FILES = ("valid_data_result.json", "status.json", "data_report.json", "model.json")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of noise, light and dark."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("valid", 4)):
        for name, low in (("dark", 0), ("light", 128)):
            (folder / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(low, low + 128, (40, 40, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / part / name / f"{number}.png")
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(log_dir: Path, data: Path, *options: str, port: int = 0, **train: Any) -> subprocess.Popen[str]:
    path = log_dir.parent / f"{log_dir.name}.json"
    config = {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {"data_root": str(data), "train_dir": "train", "valid_dir": "valid"},
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {
            "epochs": EPOCHS,
            "batch_size": 4,
            "num_workers": 1,
            "input_width": 32,
            "input_height": 32,
            "lr": 0.01,
            **train,
        },
    }
    path.write_text(json.dumps(config))
    command = [sys.executable, SCRIPT, "--config", str(path), "--port", str(port or free_port())]
    command += ["--linger", "0", *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    return output


def wait_for(log_dir: Path, text: str, process: subprocess.Popen[str]) -> None:
    """Until `text` stands in the job's log."""
    for _ in range(3000):
        log = log_dir / "estimator.log"
        if log.exists() and text in log.read_text():
            return
        if process.poll() is not None:
            raise AssertionError(process.communicate()[0])
        time.sleep(0.02)
    raise AssertionError(f"{text!r} never came")


def parameters(log_dir: Path) -> dict[str, np.ndarray]:
    return read_checkpoint(log_dir / "training_state.pkl", "classification")["parameters"]


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A job that nothing interrupted."""
    log_dir = tmp_path_factory.mktemp("whole") / "out"
    finish(start(log_dir, data))
    return log_dir


@pytest.mark.parametrize("epoch", [0, 1, EPOCHS - 1])
def test_killed_and_resumed_ends_with_the_same_parameters_bit_for_bit(
    tmp_path: Path, data: Path, whole: Path, epoch: int
) -> None:
    log_dir, port = tmp_path / "out", free_port()
    process = start(log_dir, data, port=port)
    wait_for(log_dir, f"[Epoch {epoch}]", process)
    before = poll(port)
    process.kill()
    process.wait()
    process = start(log_dir, data, "--resume", "--linger", "1", port=port)
    after: list[list[float]] = []
    while process.poll() is None:
        after = poll(port) or after
        time.sleep(0.05)
    assert process.returncode == 0, process.communicate()[0]
    wanted, found = parameters(whole), parameters(log_dir)
    assert wanted.keys() == found.keys()
    assert all((wanted[name] == found[name]).all() for name in wanted)
    assert (whole / "valid_data_result.json").read_text() == (log_dir / "valid_data_result.json").read_text()
    steps_and_fractions = [point[1:] for point in after]
    assert steps_and_fractions == sorted(steps_and_fractions)
    assert steps_and_fractions[-1] == [30, 1.0]
    assert after[: len(before)] == before


def poll(port: int) -> list[list[float]]:
    address = f"http://127.0.0.1:{port}/data/plugin/scalars/scalars?run=.&tag=progress"
    try:
        with urllib.request.urlopen(address, timeout=5) as answer:
            return json.load(answer)  # type: ignore[no-any-return]
    except (urllib.error.URLError, OSError):
        return []


def test_resuming_a_finished_job_trains_nothing_again(whole: Path, data: Path) -> None:
    before = parameters(whole)
    output = finish(start(whole, data, "--resume"))
    assert f"Resuming after epoch {EPOCHS - 1}" in output
    after = parameters(whole)
    assert all((before[name] == after[name]).all() for name in before)


def test_resume_without_anything_to_resume_says_so_and_starts_afresh(tmp_path: Path, data: Path) -> None:
    output = finish(start(tmp_path / "out", data, "--resume", epochs=1))
    assert "there is nothing to resume" in output
    assert (tmp_path / "out" / "best_checkpoint.pkl").exists()


def test_resume_refuses_keys_that_cannot_change_and_names_those_that_did(tmp_path: Path, data: Path) -> None:
    finish(start(tmp_path / "out", data, epochs=1))
    process = start(tmp_path / "out", data, "--resume", epochs=2, lr=0.5, batch_size=3)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "train.lr: 0.5 differs from 0.01" in output
    assert "train.batch_size: 3 differs from 4" in output
    assert "Traceback" not in output
    output = finish(start(tmp_path / "out", data, "--resume", epochs=2))
    assert "train.epochs was 1 and is 2 now" in output
    assert read_checkpoint(tmp_path / "out" / "training_state.pkl", "classification")["epoch"] == 1


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_job_soon_and_says_so(tmp_path: Path, data: Path, number: int, status: int) -> None:
    log_dir = tmp_path / "out"
    process = start(log_dir, data, epochs=1000)
    wait_for(log_dir, "[Epoch 1]", process)
    children = children_of(process.pid)
    began = time.monotonic()
    process.send_signal(number)
    output, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 8
    assert process.returncode == status
    assert output.strip().splitlines()[-1] == f"stopped by {signal.Signals(number).name}"
    assert (log_dir / "estimator.log").read_text().strip().splitlines()[-1] == output.strip().splitlines()[-1]
    written = json.loads((log_dir / "status.json").read_text())
    assert written["state"] == "stopped"
    assert_gone(children)
    assert read_checkpoint(log_dir / "training_state.pkl", "classification")["epoch"] >= 0


def assert_gone(pids: list[int]) -> None:
    """No process of these lives for more than a few seconds."""
    for _ in range(100):
        if not any(Path(f"/proc/{pid}").exists() and alive(pid) for pid in pids):
            return
        time.sleep(0.05)
    raise AssertionError(f"processes of the job are still there: {pids}")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def killed_at_random(tmp_path: Path, data: Path, kills: int, seed: int) -> None:
    """Kill a job at random instants, look at what is left each time, and resume it."""
    instants = random.Random(seed)
    log_dir, port = tmp_path / "out", free_port()
    for _ in range(kills):
        process = start(log_dir, data, "--resume", port=port, epochs=3)
        try:
            process.wait(instants.uniform(0.1, 9.0))
        except subprocess.TimeoutExpired:
            children = children_of(process.pid)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            assert_gone(children)
        for name in FILES:
            if (log_dir / name).exists():
                json.loads((log_dir / name).read_text())
        for name in ("training_state.pkl", "best_checkpoint.pkl"):
            if (log_dir / name).exists():
                read_checkpoint(log_dir / name, "classification", ("parameters", "epoch"))
        log = (log_dir / "estimator.log").read_text() if (log_dir / "estimator.log").exists() else ""
        if "Validation:" in log and "Best accuracy" in log and (log_dir / "training_state.pkl").exists():
            assert (log_dir / "best_checkpoint.pkl").exists() or "[Epoch 1]" not in log
        with socket.socket() as probe:  # nothing is left on the port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
    finish(start(log_dir, data, "--resume", port=port, epochs=3))


def test_killed_at_any_moment_every_file_is_whole_or_absent(tmp_path: Path, data: Path) -> None:
    killed_at_random(tmp_path, data, kills=4, seed=0)


@pytest.mark.soak
def test_killed_at_sixty_moments_every_file_is_whole_or_absent(tmp_path: Path, data: Path) -> None:
    killed_at_random(tmp_path, data, kills=60, seed=1)


def test_a_second_job_in_the_same_folder_is_refused(tmp_path: Path, data: Path) -> None:
    log_dir = tmp_path / "out"
    first = start(log_dir, data, epochs=1000)
    try:
        wait_for(log_dir, "[Epoch 0]", first)
        second = start(log_dir, data)
        output, _ = second.communicate(timeout=60)
        assert second.returncode == 1
        assert f"process {first.pid}" in output.strip().splitlines()[-1]
        assert json.loads((log_dir / "status.json").read_text())["pid"] == first.pid
    finally:
        first.kill()
        first.communicate()


def test_a_port_that_is_taken_is_an_error_before_any_loading(tmp_path: Path, data: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        process = start(tmp_path / "out", data, port=taken.getsockname()[1])
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "--port" in output.strip().splitlines()[-1]
    assert json.loads((tmp_path / "out" / "status.json").read_text())["error"]["kind"] == "port"


def test_a_log_dir_that_cannot_be_made_is_an_error_in_one_line(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_text("")
    process = start(tmp_path / "unused", data, "--set", f"log_dir={tmp_path / 'file' / 'out'}")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "is not a folder" in output.strip().splitlines()[-1]
    assert "Traceback" not in output
