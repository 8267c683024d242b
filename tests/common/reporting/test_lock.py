"""Promises of the lock: one job in a log_dir, and none that is dead."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.errors import LogDirError
from common.reporting.lock import lock

ROOT = Path(__file__).resolve().parents[3]

JOB = """
import os, sys, time
from pathlib import Path
from common.reporting.lock import lock
with lock(Path(sys.argv[1])):
    worker = os.fork()
    if worker == 0:
        time.sleep(600)
    print(worker, flush=True)
    time.sleep(600)
"""


def test_a_second_job_is_refused_with_the_first_ones_process_id(tmp_path: Path) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", JOB, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert job.stdout is not None
    worker = int(job.stdout.readline())
    try:
        for _ in range(2):  # the refused one leaves the holder's name in place
            expected = rf"is in use by another job \(process {job.pid} on {socket.gethostname()}\)"
            with pytest.raises(LogDirError, match=expected), lock(tmp_path):
                pass
        job.kill()
        job.wait()
        os.kill(worker, 0)  # lives on, and does not hold the lock
        for attempt in range(100):
            try:
                with lock(tmp_path):
                    assert (tmp_path / ".lock").read_text().split()[0] == str(os.getpid())
                break
            except (
                LogDirError
            ):  # on a busy machine the kernel may take a moment to let go of a dead process's files
                assert attempt < 99
                time.sleep(0.05)
    finally:
        job.kill()
        job.stdout.close()
        os.kill(worker, signal.SIGKILL)


def test_a_lock_file_that_was_left_behind_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("1 elsewhere, and much longer than what comes\n")
    with lock(tmp_path):
        assert (tmp_path / ".lock").read_text() == f"{os.getpid()} {socket.gethostname()}\n"


def test_the_lock_is_free_after_the_block_even_if_that_failed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), lock(tmp_path):
        raise RuntimeError
    with lock(tmp_path), pytest.raises(LogDirError, match=f"process {os.getpid()}"), lock(tmp_path):
        pass
    with lock(tmp_path):
        pass


def test_programs_that_a_job_starts_do_not_inherit_the_lock(tmp_path: Path) -> None:
    with lock(tmp_path):
        child = subprocess.Popen(["sleep", "600"], close_fds=False)
    try:
        with lock(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()


def test_a_forked_process_that_leaves_the_block_closes_nobodys_file(tmp_path: Path) -> None:
    status = os.pipe()
    with lock(tmp_path):
        worker = os.fork()
        if worker == 0:
            taken = os.open(os.devnull, os.O_RDONLY)  # takes the number that the lock had
    if worker == 0:
        try:
            os.fstat(taken)
            os.write(status[1], b"open")
        finally:
            os._exit(0)
    os.waitpid(worker, 0)
    os.close(status[1])
    assert os.read(status[0], 10) == b"open"
    os.close(status[0])


def test_a_folder_that_is_missing_is_made(tmp_path: Path) -> None:
    with lock(tmp_path / "a" / "输出"):
        assert (tmp_path / "a" / "输出").is_dir()


def test_a_log_dir_that_is_no_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(LogDirError, match=rf"log_dir {path}: is not a folder"), lock(path):
            pass


def test_a_log_dir_that_cannot_be_written_is_an_error_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(LogDirError, match=r"^log_dir /proc/nowhere: cannot be written: .*") as caught:  # noqa: SIM117
        with lock(Path("/proc/nowhere")):
            pass
    assert "\n" not in str(caught.value)
    if os.geteuid() != 0:  # for root every folder can be written
        tmp_path.chmod(0o500)
        with pytest.raises(LogDirError, match="cannot be written: Permission denied"), lock(tmp_path):
            pass


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_a_lock_that_is_no_file_is_an_error_and_a_link_is_not_followed(tmp_path: Path, kind: str) -> None:
    target, path = tmp_path / "target", tmp_path / "out" / ".lock"
    target.write_text("precious")
    path.parent.mkdir()
    {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    with pytest.raises(LogDirError, match="cannot be written") as caught, lock(path.parent):
        pass
    assert "\n" not in str(caught.value)
    assert target.read_text() == "precious"


def test_a_very_long_name_is_told_in_short(tmp_path: Path) -> None:
    with pytest.raises(LogDirError, match="File name too long") as caught, lock(tmp_path / ("x" * 5000)):
        pass
    assert len(str(caught.value)) < 300
