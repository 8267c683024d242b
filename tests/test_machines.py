"""Machines that go wrong: full disks, folders that are closed, little shared memory, GPUs without memory."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import (
    EVERY_SCRIPT,
    ROOT,
    children_of,
    config,
    fail,
    finish,
    free_port,
    make_data,
    start,
    status,
    wait_for,
)

TASK = "classification"
# Runs a program without the rights by which root ignores what files and folders allow.
ORDINARY = ("setpriv", "--bounding-set", "-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips the test where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs more rights than this user has")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_disk_that_fills_up_ends_the_job_with_old_files_whole_and_it_goes_on_later(
    tmp_path: Path, data: Path
) -> None:
    with small_disk(tmp_path / "disk", "40m") as disk:
        log_dir, filler = disk / "out", disk / "filler"
        process = start(TASK, log_dir, data, epochs=1000)
        wait_for(log_dir, "[Epoch 2] lr", process)
        with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        output, _ = process.communicate(timeout=300)
        last = output.strip().splitlines()[-1]
        assert process.returncode == 1, output
        assert last.startswith(
            f"{log_dir / 'training_state.pkl'}: cannot be written: No space left on device"
        )
        assert "Traceback" not in output
        epoch = read_checkpoint(log_dir / "training_state.pkl", TASK)["epoch"]
        assert read_checkpoint(log_dir / "best_checkpoint.pkl", TASK)["epoch"] <= epoch
        json.loads((log_dir / "status.json").read_text())
        filler.unlink()
        output = finish(start(TASK, log_dir, data, "--resume", epochs=epoch + 2))
        assert f"Resuming after epoch {epoch}" in output
        assert status(log_dir)["state"] == "finished"


@pytest.mark.slow
def test_files_that_may_not_grow_end_the_job_with_one_line(tmp_path: Path, data: Path) -> None:
    last = fail(start(TASK, tmp_path / "out", data, prefix=["prlimit", "--fsize=100000"]))
    assert "training_state.pkl: cannot be written: File too large" in last
    assert status(tmp_path / "out")["error"]["kind"] == "log_dir"
    assert not (tmp_path / "out" / "training_state.pkl").exists()


def uses_shared_memory(pid: int) -> bool:
    """Whether a process has anything of /dev/shm open or mapped."""
    opened = []
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            opened.append(os.readlink(path))
    return "/dev/shm/" in Path(f"/proc/{pid}/maps").read_text() or any("/dev/shm" in path for path in opened)


def test_nothing_of_a_job_lies_in_dev_shm(tmp_path: Path, data: Path) -> None:
    process = start(TASK, tmp_path / "out", data, epochs=1000)
    try:
        wait_for(tmp_path / "out", "[Epoch 1] lr", process)
        assert len(children_of(process.pid)) >= 2
        assert [pid for pid in (process.pid, *children_of(process.pid)) if uses_shared_memory(pid)] == []
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("options", [pytest.param("size=64k", marks=pytest.mark.slow), "ro"])
def test_a_job_works_with_little_or_closed_shared_memory(tmp_path: Path, data: Path, options: str) -> None:
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, "job"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("another /dev/shm needs more rights than this user has")
    output = finish(start(TASK, tmp_path / "out", data, prefix=prefix, epochs=1))
    assert "Finished" in output


@pytest.mark.parametrize("task", EVERY_SCRIPT)
def test_a_log_dir_that_cannot_be_written_is_an_error_before_any_loading(
    tmp_path: Path, data: Path, task: str
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    options = ["--set", f"log_dir={closed / 'out'}"]
    last = fail(start(task, tmp_path / "unused", data, *options, prefix=ORDINARY))
    assert last == f"log_dir {closed / 'out'}: cannot be written: Permission denied; choose a folder that can"


def test_a_log_dir_that_cannot_be_made_is_an_error_in_one_line(tmp_path: Path, data: Path) -> None:
    (tmp_path / "file").write_text("")
    last = fail(start(TASK, tmp_path / "unused", data, "--set", f"log_dir={tmp_path / 'file' / 'out'}"))
    assert "is not a folder" in last


@pytest.mark.parametrize(
    ("task", "which"),
    [*(pytest.param(*case.values, "train", marks=case.marks) for case in EVERY_SCRIPT), (TASK, "valid")],
)
def test_data_that_cannot_be_read_are_an_error_before_any_loading(
    tmp_path: Path, data: Path, task: str, which: str
) -> None:
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    closed = Path(config(task, tmp_path, folder)["dataset"][f"{which}_dir"])
    (folder / closed).chmod(0)
    try:
        last = fail(start(task, tmp_path / "out", folder, prefix=ORDINARY))
    finally:
        (folder / closed).chmod(0o755)
    assert last == f"dataset.{which}_dir: the folder {folder / closed} cannot be read: Permission denied"
    assert status(tmp_path / "out")["error"]["kind"] == "data"
    assert "samples" not in (tmp_path / "out" / "estimator.log").read_text()


def test_a_data_root_that_cannot_be_entered_is_named(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "closed"
    folder.mkdir(mode=0)
    last = fail(start(TASK, tmp_path / "out", folder, prefix=ORDINARY))
    assert (
        last == f"dataset.train_dir: the folder {folder / 'classes_train'} cannot be read: Permission denied"
    )


@pytest.mark.parametrize("task", EVERY_SCRIPT)
def test_a_port_that_is_taken_is_an_error_before_any_loading(tmp_path: Path, data: Path, task: str) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        last = fail(start(task, tmp_path / "out", data, port=taken.getsockname()[1]))
    assert "--port" in last
    assert status(tmp_path / "out")["error"]["kind"] == "port"
    assert "samples" not in (tmp_path / "out" / "estimator.log").read_text()


# A job whose GPU has no memory left in its second step; stands in for a GPU.
WITHOUT_MEMORY = """
import sys
import mxnet
from common import job
from common.engine.mxnet_engine import MXNetEngine
from classification.config import ClassificationConfig

steps = iter([None])
forward = MXNetEngine.forward

def run_out(self):
    if next(steps, "out of memory"):
        raise mxnet.MXNetError("Traceback (most recent call last):\\n  File pooled_storage_manager.h, line 161\\n"
                               "MXNetError: cudaMalloc retry failed: out of memory")
    forward(self)

MXNetEngine.forward = run_out
sys.exit(job.main(ClassificationConfig, "classification.task:ClassificationTask", "test"))
"""


def test_a_gpu_without_memory_ends_the_job_with_a_batch_size_to_try(tmp_path: Path, data: Path) -> None:
    path, log_dir = tmp_path / "job.json", tmp_path / "out"
    path.write_text(json.dumps(config(TASK, log_dir, data)))
    command = [sys.executable, "-c", WITHOUT_MEMORY, "--config", str(path), "--port", str(free_port())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1, done.stderr
    told = "the GPU's memory ran out; train.batch_size is 4; try 2 (cudaMalloc retry failed: out of memory)"
    assert done.stderr.strip().splitlines()[-1] == f"{told} [error.retry: true]"
    assert status(log_dir)["error"] == {"kind": "memory", "message": told, "retry": True}


def test_names_of_any_letters_go_through_a_whole_job(tmp_path: Path, data: Path) -> None:
    folder = tmp_path / "data 'of' \"mine\""
    names = ["a b", 'it\'s "two"', "line\nend", "猫 ü"]
    for part in ("train", "valid"):
        for name, source in zip(names, ["dark", "light"] * 2, strict=True):
            shutil.copytree(data / f"classes_{part}" / source, folder / f"classes_{part}" / name)
            for path in sorted((folder / f"classes_{part}" / name).iterdir()):
                path.rename(path.with_name(f"{name} {path.name}"))
    (folder / "classes_train" / "loop").symlink_to(folder / "classes_train")
    (folder / "classes_train" / "a b" / "self.png").symlink_to("self.png")
    (folder / "classes_train" / "a b" / "gone.png").symlink_to("no such file")
    log_dir = tmp_path / "out 输出"
    output = finish(start(TASK, log_dir, folder, epochs=1))
    assert "line\nend" not in output
    report = json.loads((log_dir / "data_report.json").read_text())["train"]
    assert report["samples"] == 48
    left_out = {Path(entry["file"]).name: entry["reason"] for entry in report["left_out"]}
    assert set(left_out) == {"self.png", "gone.png"}
    result = json.loads((log_dir / "valid_data_result.json").read_text())["Result"]
    assert {row["groundtruth"] for row in result} == set(names)
    assert all(Path(row["image"]).is_file() for row in result)
