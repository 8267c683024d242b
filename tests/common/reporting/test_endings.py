"""However a job ends, its last line says why and what would help."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import mxnet as mx
import pytest

from common.errors import DataError
from common.reporting.endings import explain

ROOT = Path(__file__).resolve().parents[3]

CUDA = """Traceback (most recent call last):
  File "src/storage/./pooled_storage_manager.h", line 161
MXNetError: cudaMalloc retry failed: out of memory"""


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (mx.MXNetError(CUDA), "memory", "the GPU's memory ran out; train.batch_size is 24; try 12 (cudaMalloc"),
        (mx.MXNetError("CUDNN_STATUS_ALLOC_FAILED"), "memory", "the GPU's memory ran out; train.batch_size is 24"),
        (mx.MXNetError("Failed to allocate CPU Memory"), "memory", "memory ran out; train.batch_size is 24; try 12"),
        (RuntimeError("std::bad_alloc"), "memory", "memory ran out; train.batch_size is 24; try 12"),
        (MemoryError(), "memory", "try 12 (MemoryError)"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "memory", "try 12"),
        (OSError("libmxnet.so: failed to map segment from shared object"), "memory", "memory ran out"),
        (RuntimeError("can't start new thread"), "memory", "no further thread or process can be started"),
        (OSError(errno.EAGAIN, "Resource temporarily unavailable"), "memory", "ulimit -u"),
        (mx.MXNetError("CUDA: no kernel image is available"), "device", "holds no code for this GPU"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/a"), "log_dir", "/out/a: cannot be written: No space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded", b"/out/a"), "log_dir", "/out/a: cannot be written: Disk quota"),
        (OSError(errno.EFBIG, "File too large"), "log_dir", "a file: cannot be written: File too large"),
        (PermissionError(errno.EACCES, "Permission denied", "/data"), "log_dir", "/data: Permission denied"),
        (DataError("data/1.txt:3: odd"), "data", "data/1.txt:3: odd"),
        (KeyError("a\nb"), "internal", "internal error: KeyError"),
        (ValueError("x" * 9999), "internal", "internal error: ValueError"),
    ],
)  # fmt: skip
def test_an_error_is_a_line_with_its_kind_and_its_remedy(error: Exception, kind: str, told: str) -> None:
    known = explain(error, 24)
    assert known.kind == kind
    assert told in str(known)
    assert "\n" not in str(known)
    assert len(str(known)) < 400


def test_no_smaller_batch_is_suggested_than_one_image() -> None:
    assert "try" not in str(explain(MemoryError(), 1))
    assert "a smaller train.batch_size" in str(explain(MemoryError()))


def test_an_error_of_another_file_keeps_its_name() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.ENOENT)) as caught:
        open("/no/such/file")  # noqa: SIM115
    assert "/no/such/file" in str(explain(caught.value))


def test_a_build_for_gpus_without_a_driver_says_so() -> None:
    with pytest.raises(OSError, match="libcuda") as caught:
        ctypes.CDLL("libcuda.so.1-that-is-not-here")
    known = explain(caught.value)
    assert known.kind == "device"
    assert str(known).startswith("MXNet cannot be loaded: libcuda.so.1-that-is-not-here is not there")


FINALISER = """
import signal, sys, time
from pathlib import Path
from common.reporting.endings import ending, watch_signals
from common.reporting.status import Status

class Slow:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.05)  # the handler runs before this, and again before it is over

status = Status(Path(sys.argv[1]))
with ending(status, 1):
    watch_signals(status)
    slow = Slow()
    began = time.monotonic()
    del slow
    while time.monotonic() - began < 5:
        time.sleep(0.01)
"""


def test_a_signal_that_comes_while_an_object_is_finalised_is_not_lost(tmp_path: Path) -> None:
    began = time.monotonic()
    made = subprocess.run(
        [sys.executable, "-c", FINALISER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert made.returncode == 143, made.stderr
    assert made.stderr.strip().splitlines()[-1] == "stopped by SIGTERM"
    assert "Traceback" not in made.stderr
    assert time.monotonic() - began < 5


def test_a_wrong_configuration_is_noted_in_the_folder_that_it_means_and_in_no_other(tmp_path: Path) -> None:
    finished, meant, home = tmp_path / "a", tmp_path / "b", tmp_path / "home"
    finished.mkdir()
    home.mkdir()
    (finished / "status.json").write_text('{"state": "finished"}')
    (tmp_path / "job.json").write_text(json.dumps({"log_dir": str(finished), "train": {"lr": "fast"}}))
    script = str(ROOT / "classification" / "fit_classification.py")
    for override, folder in ((str(meant), meant), ("~/x", home / "x")):
        command = [sys.executable, script, "--config", "job.json", "--set", f"log_dir={override}"]
        environment = {**os.environ, "HOME": str(home)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
        assert json.loads((folder / "status.json").read_text())["state"] == "failed"
    assert (finished / "status.json").read_text() == '{"state": "finished"}'
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "home", "job.json"]
