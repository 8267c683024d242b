"""What happens to machines that run jobs for weeks: processes that stop, memory, threads and disks that run out."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from common.training.checkpoint import read_checkpoint
from tests.helpers.jobs import (
    Process,
    assert_gone,
    assert_same,
    children_of,
    finish,
    make_data,
    parameters,
    server_of,
    start,
    status,
    wait_for,
    workers_of,
)
from tests.helpers.polling import eventually

pytestmark = pytest.mark.soak
TASK = "classification"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


def ended(process: Process, log_dir: Path, seconds: float = 300) -> dict[str, object]:
    """A job under a limit: it succeeds, or ends with a status and a reason that its last line and status.json share."""
    output, _ = process.communicate(timeout=seconds)
    found = status(log_dir)
    if process.returncode == 0:
        assert found["state"] == "finished"
        return found
    last = output.strip().splitlines()[-1].partition(" [error.retry: ")[0]
    assert "Traceback" not in output
    assert found["error"]["message"] == last
    assert (log_dir / "estimator.log").read_text().strip().splitlines()[-1].partition(" [")[0].endswith(last)
    assert found["state"] in ("failed", "stopped")
    return found


def test_workers_and_server_that_are_stopped_at_random_change_nothing(tmp_path: Path, data: Path) -> None:
    finish(start(TASK, tmp_path / "whole", data, epochs=60))
    instants = random.Random(0)
    process = start(TASK, tmp_path / "out", data, epochs=60)
    wait_for(tmp_path / "out", "[Epoch 0] lr", process)
    stopped = 0
    while process.poll() is None:
        time.sleep(instants.uniform(0.5, 3.0))
        victims = workers_of(process) if instants.random() < 0.7 else []
        with contextlib.suppress(ProcessLookupError, StopIteration):
            os.kill(victims[0] if victims else server_of(process), signal.SIGSTOP)
            stopped += 1
    finish(process)
    assert stopped > 3
    assert status(tmp_path / "out")["worker_restarts"] > 0
    assert_same(parameters(TASK, tmp_path / "whole"), parameters(TASK, tmp_path / "out"))


@pytest.mark.parametrize("size", [400, 600, 800, 1000, 1200, 1400, 1600, 2000, 3000])
def test_a_limit_of_memory_ends_a_job_with_a_reason_or_not_at_all(
    tmp_path: Path, data: Path, size: int
) -> None:
    log_dir = tmp_path / "out"
    process = start(TASK, log_dir, data, prefix=["prlimit", f"--as={size * 1_000_000}"])
    wait_until_started(process, log_dir)
    children = children_of(process.pid)
    found = ended(process, log_dir)
    assert found["state"] == "finished" or found["error"]["kind"] == "memory"  # type: ignore[index]
    assert_gone(children)


@pytest.mark.parametrize("count", [4, 8, 12, 16, 24, 32])
def test_a_limit_of_processes_ends_a_job_with_a_reason_or_not_at_all(
    tmp_path: Path, data: Path, count: int
) -> None:
    if os.geteuid():
        pytest.skip("another user, whose processes are counted apart, needs more rights than this one has")
    log_dir = tmp_path / "out"
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        folder.chmod(0o777)
    rights = "+dac_override,+dac_read_search"
    prefix = ["setpriv", "--reuid", "12345", "--clear-groups", "--inh-caps", rights, "--ambient-caps", rights]
    process = start(TASK, log_dir, data, prefix=[*prefix, "prlimit", f"--nproc={count}"])
    wait_until_started(process, log_dir)
    found = ended(process, log_dir)
    assert found["state"] == "finished" or found["error"]["kind"] == "memory"  # type: ignore[index]


def wait_until_started(process: Process, log_dir: Path) -> None:
    eventually(lambda: (log_dir / "status.json").exists() or process.poll() is not None, 60)


@pytest.mark.parametrize("megabytes", [1, 2, 4, 8])
def test_a_disk_that_is_full_at_any_time_ends_a_job_with_a_reason_and_it_goes_on_with_room(
    tmp_path: Path, data: Path, megabytes: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs more rights than this user has")
    try:
        log_dir = disk / "out"
        process = start(TASK, log_dir, data)
        output, _ = process.communicate(timeout=300)
        assert "Traceback" not in output
        if process.returncode:
            assert "No space left on device" in output.strip().splitlines()[-1]
        for name in ("training_state.pkl", "best_checkpoint.pkl"):
            if (log_dir / name).exists():
                read_checkpoint(log_dir / name, TASK)
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        finish(start(TASK, log_dir, data, "--resume"))
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_control_group_without_memory_is_named(tmp_path: Path, data: Path) -> None:
    """The kernel's own kill, in a control group that is made here."""
    group = _memory_group(40_000_000)
    if group is None:
        pytest.skip("control groups need more rights than this user has")
    try:
        log_dir = tmp_path / "out"
        join = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        process = start(TASK, log_dir, data, prefix=["sh", "-c", join, "job"])
        output, _ = process.communicate(timeout=120)
        assert process.returncode in (137, 1), output
        assert "memory ran out" in output.strip().splitlines()[-1]
    finally:
        for _ in range(50):
            with contextlib.suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.1)


def _memory_group(limit: int) -> Path | None:
    for top, name in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(top) / f"visualtl-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / name).write_text(str(limit))
            return group
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
    return None
