"""Promises of status.json."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.reporting import status as module
from common.reporting.progress import Step
from common.reporting.status import Status, __version__

ROOT = Path(__file__).resolve().parents[3]


def read(log_dir: Path) -> dict[str, Any]:
    """status.json, as a parser that knows no NaN reads it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads((log_dir / "status.json").read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture
def never(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets no second pass between two writes."""
    monkeypatch.setattr(Status, "interval", 3600.0)


def test_every_field_is_there_from_the_start(tmp_path: Path) -> None:
    before = time.time()
    Status(tmp_path)
    status = read(tmp_path)
    assert before <= status.pop("started") <= status.pop("updated") <= time.time()
    assert before - 3600 < status.pop("pid_started") <= time.time()
    assert status == {
        "state": "starting",
        **dict.fromkeys(["step", "progress", "epoch", "epochs", "seconds_left", "images_per_second"]),
        **dict.fromkeys(["metric", "best_metric", "error", "batch", "batches"]),
        **dict.fromkeys(["batches_skipped", "worker_restarts", "progressPercentage"], 0),
        **dict.fromkeys(["estimatedRemainingSeconds", "currentStep", "totalSteps"]),
        **dict.fromkeys(["currentEpoch", "totalEpochs"]),
        **{name: {} for name in ("losses", "images_left_out", "trainMetrics", "evalMetrics")},
        "warnings": [],
        "advice": [],
        "ranks": [],
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "version": __version__,
        "log_dir": str(tmp_path),
    }


def test_the_version_is_that_of_the_project() -> None:
    assert f'\nversion = "{__version__}"\n' in (ROOT / "pyproject.toml").read_text()


def test_a_change_of_state_is_on_disk_at_once(tmp_path: Path, never: None) -> None:
    status = Status(tmp_path)
    for state in module.STATES[1:]:
        status.update(state=state, step=Step.TRAIN)
        assert read(tmp_path)["state"] == state
    assert read(tmp_path)["step"] == {"number": 10, "name": "TRAIN"}


def test_an_error_is_on_disk_at_once(tmp_path: Path, never: None) -> None:
    status = Status(tmp_path)
    status.update(state="failed")
    status.update(error={"kind": "data", "message": "图/1.txt:3: 5 numbers expected"})
    assert read(tmp_path)["error"] == {"kind": "data", "message": "图/1.txt:3: 5 numbers expected"}


def test_other_changes_wait_for_the_next_second_and_are_not_lost(tmp_path: Path, never: None) -> None:
    status = Status(tmp_path)
    for epoch in range(100):
        status.update(epoch=epoch)
    assert read(tmp_path)["epoch"] is None
    status.close()
    assert read(tmp_path)["epoch"] == 99


def test_the_last_change_is_written_although_nothing_follows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Status, "interval", 0.05)
    status = Status(tmp_path)
    status.update(epoch=1)
    status.update(epoch=2)
    deadline = time.monotonic() + 30
    while read(tmp_path)["epoch"] != 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_numbers_that_are_not_finite_are_null(tmp_path: Path) -> None:
    status = Status(tmp_path)
    status.update(
        state="training",
        progress=float("inf"),
        seconds_left=float("nan"),
        images_per_second=np.float32(12.5),
        metric={"name": "mAP", "value": np.float64("nan")},
        best_metric={"name": "mAP", "value": np.float32(0.5), "epoch": np.int64(3)},
    )
    written = read(tmp_path)
    assert (written["progress"], written["seconds_left"], written["images_per_second"]) == (None, None, 12.5)
    assert written["metric"] == {"name": "mAP", "value": None}
    assert written["best_metric"] == {"name": "mAP", "value": 0.5, "epoch": 3}


def test_a_field_or_state_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    status = Status(tmp_path)
    with pytest.raises(ValueError, match="no field 'epochen'"):
        status.update(epochen=1)
    with pytest.raises(ValueError, match="no state 'done'"):
        status.update(state="done")


def test_a_reader_never_sees_a_part_of_it(tmp_path: Path) -> None:
    status = Status(tmp_path)
    done = threading.Event()

    def watch() -> int:
        reads = 0
        while not done.is_set():
            read(tmp_path)
            reads += 1
        return reads

    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(watch)
        for number in range(50):
            status.update(error={"kind": "internal", "message": "x" * 5000 * (number % 3)})
        done.set()
        assert reader.result() > 0
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_a_disk_that_is_full_is_logged_once_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    status = Status(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        status.update(state="loading")
        status.update(state="training")
    assert [record.getMessage().endswith("No space left on device") for record in caplog.records] == [True]
    status.update(state="finished")
    assert read(tmp_path)["state"] == "finished"
