"""Whatever ends a job, the process that was started says what it was. Jobs here are a few lines of their own."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from common.reporting import supervisor
from tests.helpers.jobs import assert_gone, children_of
from tests.helpers.polling import eventually

ROOT = Path(__file__).resolve().parents[3]

HEAD = """
import os, signal, sys, time
from common.reporting.supervisor import supervise
supervise()
from pathlib import Path
from common.errors import DataError
from common.reporting import supervisor
from common.reporting.endings import ending, finish, watch_signals
from common.reporting.lock import lock
from common.reporting.log import open_log
from common.reporting.status import Status
log_dir = Path(sys.argv[1])
"""

JOB = (
    HEAD
    + """
with lock(log_dir):
    supervisor.tell(log_dir=str(log_dir))
    log = open_log(log_dir)
    status = Status(log_dir)
    with ending(status, 1):
        watch_signals(status)
        log.info("ready")
        {}
"""
)
WAIT = "time.sleep(600)"
# What no handler of Python's interrupts: the interpreter does not come to it.
BUSY = "sum(range(10**12))"


def start(log_dir: Path, script: str, **options: Any) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, str(log_dir)]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def job(log_dir: Path, last: str = WAIT, **options: Any) -> subprocess.Popen[str]:
    """A job that is ready."""
    # Under nohup SIGHUP is ignored, by what is started there too.
    options.setdefault("preexec_fn", lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL))
    process = start(log_dir, JOB.format(last), **options)
    eventually(lambda: "INFO ready" in log_of(log_dir) or process.poll() is not None)
    return process


def log_of(log_dir: Path) -> str:
    path = log_dir / "estimator.log"
    return path.read_text() if path.exists() else ""


def ended(process: subprocess.Popen[str], log_dir: Path) -> tuple[int, str, dict[str, Any]]:
    """Exit status, last line (which the log ends with too) and status.json."""
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    last = errors.strip().splitlines()[-1]
    assert log_of(log_dir).strip().splitlines()[-1].endswith(f" {last}")
    return process.returncode, last, json.loads((log_dir / "status.json").read_text())


def the_child(process: subprocess.Popen[str]) -> int:
    (child,) = children_of(process.pid)
    return child


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_a_signal_that_ends_the_job_is_written_down(tmp_path: Path, number: signal.Signals) -> None:
    process = job(tmp_path)
    os.kill(the_child(process), number)
    code, last, status = ended(process, tmp_path)
    assert code == 128 + number
    assert f"signal {int(number)} ({number.name})" in last
    assert last.endswith("[error.retry: true]")
    assert status["state"] == "failed"
    assert status["error"]["kind"] == ("killed" if number == signal.SIGKILL else "crash")
    assert status["pid"] == process.pid


@pytest.mark.parametrize("way", ["os._exit(255)", "os._exit(0)"])
def test_an_end_without_a_reason_is_written_down_and_is_no_success(tmp_path: Path, way: str) -> None:
    process = job(tmp_path, way)
    code, last, status = ended(process, tmp_path)
    assert code != 0
    assert "no reason" in last
    assert status["error"]["kind"] == "crash"


def test_memory_that_a_limit_forbids_is_named_as_the_probable_reason(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2_000_000_000,) * 2)

    process = job(tmp_path, "os.abort()", preexec_fn=limit)
    code, last, status = ended(process, tmp_path)
    assert code == 134
    assert "memory probably ran out" in last
    assert "allows 2.0 GB" in last
    assert status["error"] == {"kind": "memory", "message": last.partition(" [")[0], "retry": True}


def test_threads_that_a_limit_forbids_are_named_as_the_probable_reason(tmp_path: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_NPROC, (100, 100))

    for way in (
        "os.abort()",
        "signal.signal(2, signal.SIG_DFL); os.kill(os.getpid(), 2)",
    ):  # so OpenBLAS gives up
        process = job(tmp_path, way, preexec_fn=limit)
        code, last, status = ended(process, tmp_path)
        assert code in (134, 130)
        assert "no further thread or process can be started: a limit (ulimit -u) allows 100" in last
        assert status["error"]["kind"] == "memory"


def test_the_system_s_own_kill_for_want_of_memory_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel counts such kills; here a file stands in for its count."""
    count = tmp_path / "count"
    count.write_text("oom_kill 4\n")
    script = JOB.format(WAIT).replace(
        "supervise()\n",
        f"from common.reporting import memory_kills; from pathlib import Path; "
        f"memory_kills.count = lambda: memory_kills.entry(Path({str(count)!r}), 'oom_kill')\n"
        "supervise()\n",
        1,
    )
    out = tmp_path / "out"
    process = start(out, script)
    eventually(lambda: "INFO ready" in log_of(out))
    count.write_text("oom_kill 5\n")
    os.kill(the_child(process), signal.SIGKILL)
    code, last, status = ended(process, out)
    assert code == 137
    assert last.startswith("memory ran out: the system killed the job")
    assert status["error"]["kind"] == "memory"


def test_a_job_that_says_its_own_reason_has_the_last_word(tmp_path: Path) -> None:
    code, last, status = ended(job(tmp_path, "raise DataError('1.txt:3: odd')"), tmp_path)
    assert (code, last) == (3, "1.txt:3: odd [error.retry: false]")
    assert status["error"] == {"kind": "data", "message": "1.txt:3: odd", "retry": False}
    assert log_of(tmp_path).count("ERROR 1.txt:3") == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("last", [WAIT, BUSY])
def test_a_signal_is_passed_on_and_ends_even_a_job_that_does_not_hear_it(
    tmp_path: Path, number: signal.Signals, last: str
) -> None:
    if last == BUSY and number != signal.SIGTERM:
        pytest.skip("once is enough: it takes seconds")
    process = job(tmp_path, last)
    began = time.monotonic()
    process.send_signal(number)
    code, told, status = ended(process, tmp_path)
    assert time.monotonic() - began < 20  # of 600: five seconds are given
    assert (code, told) == (128 + number, f"stopped by {number.name}")
    assert (status["state"], status["error"]["kind"]) == ("stopped", "stopped")
    assert "ERROR" not in log_of(tmp_path)


def test_a_whole_group_that_is_told_is_told_once(tmp_path: Path) -> None:
    process = job(
        tmp_path, "\n        try: time.sleep(600)\n        finally: time.sleep(0.5)", start_new_session=True
    )
    os.killpg(process.pid, signal.SIGINT)
    code, told, _ = ended(process, tmp_path)
    assert (code, told) == (130, "stopped by SIGINT")


def test_a_signal_in_the_first_second_ends_the_job_without_a_traceback() -> None:
    script = ROOT / "classification" / "fit_classification.py"
    command = [sys.executable, str(script), "--config", "/dev/null", "--check"]
    for instant in (0.0, 0.1, 0.2, 0.3, 0.5):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        eventually(lambda pid=process.pid: str(script).encode() in Path(f"/proc/{pid}/cmdline").read_bytes())
        time.sleep(0.04 + instant)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        if errors.startswith("Fatal Python error: init"):  # on a busy machine it is not ready itself
            continue
        assert "Traceback" not in errors
        if process.returncode != 2:  # on a fast machine it has read its configuration
            assert (process.returncode, errors) == (130, "stopped by SIGINT\n")


@pytest.mark.parametrize(
    "ending", [lambda job: job.send_signal(signal.SIGTERM), lambda job: os.kill(the_child(job), 9)]
)
def test_a_finished_job_stays_finished(tmp_path: Path, ending: Callable[[Any], None]) -> None:
    process = job(tmp_path, "finish(status); log.info('done'); time.sleep(600)")
    eventually(lambda: "INFO done" in log_of(tmp_path))
    began = time.monotonic()
    ending(process)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert time.monotonic() - began < 15
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "finished"


def test_the_job_dies_with_its_supervisor(tmp_path: Path) -> None:
    process = job(tmp_path, BUSY)
    child = the_child(process)
    process.kill()
    process.communicate()
    assert_gone([child])
    process = job(tmp_path)  # nothing of it is in the way
    assert process.poll() is None
    process.kill()
    process.communicate()


def test_a_job_that_was_suspended_is_ended_all_the_same(tmp_path: Path) -> None:
    process = job(tmp_path)
    process.send_signal(signal.SIGTSTP)
    child = the_child(process)
    eventually(lambda: all(_state(pid) == "T" for pid in (process.pid, child)))
    process.send_signal(signal.SIGCONT)
    eventually(lambda: all(_state(pid) in "SR" for pid in (process.pid, child)))
    os.kill(child, signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert ended(process, tmp_path)[0] == 143


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = job(tmp_path, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
    process.send_signal(signal.SIGHUP)
    os.kill(the_child(process), signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.terminate()
    assert ended(process, tmp_path)[0] == 143


def test_a_job_goes_on_where_no_process_can_be_started(tmp_path: Path) -> None:
    script = (
        "import errno, os\n"
        "def none(): raise OSError(errno.EAGAIN, 'none left')\n"
        "os.fork = none\n" + JOB.format("finish(status)").lstrip()
    )
    process = start(tmp_path, script)
    assert process.wait(60) == 0
    status = json.loads((tmp_path / "status.json").read_text())
    assert (status["state"], status["pid"]) == ("finished", process.pid)


def test_as_process_1_it_buries_others_and_passes_signals_on(tmp_path: Path) -> None:
    orphan = "\n        ".join(
        [
            "",
            "if os.fork() == 0:",
            "    if os.fork() == 0:",
            "        time.sleep(0.2)",
            "        (log_dir / 'orphan').touch()",
            "    os._exit(0)",
            "time.sleep(600)",
        ]
    )
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    if os.geteuid() or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a process namespace needs more rights than this user has")
    outer = subprocess.Popen(
        [*command, sys.executable, "-c", JOB.format(orphan), str(tmp_path)],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: "INFO ready" in log_of(tmp_path))
    supervisor_ = children_of(outer.pid)[0]
    eventually((tmp_path / "orphan").exists)
    (job, *_) = children_of(supervisor_)
    eventually(lambda: len(children_of(supervisor_)) == 1 + len(children_of(job)))
    os.kill(supervisor_, signal.SIGTERM)
    assert outer.wait(60) == 143
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "stopped"


def test_what_is_imported_before_the_job_is_little() -> None:
    code = (
        "import sys; before = set(sys.modules); import common.reporting.beginning, common.reporting.supervisor; "
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert not {"numpy", "pydantic", "tensorboard", "tqdm", "logging"} & set(done.stdout.split())
    assert supervisor.PATIENCE < 6
