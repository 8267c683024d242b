"""Promises of the log: what a person reads, and what a program reads of the last line."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAD = "import sys; from pathlib import Path; from common.reporting.log import *; log = open_log(Path(sys.argv[1]))\n"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")


def run(log_dir: Path, script: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A process that opens its log in log_dir and then runs `script`."""
    command = [sys.executable, "-c", HEAD + script, str(log_dir)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=ROOT, encoding="utf-8", timeout=120, **streams)  # type: ignore[call-overload]


def lines(log_dir: Path) -> list[str]:
    return (log_dir / "estimator.log").read_text(encoding="utf-8").splitlines()


def test_lines_are_in_the_file_and_on_the_console_with_their_time(tmp_path: Path) -> None:
    done = run(tmp_path, "log.info('epoch %d: 图', 3); log.warning('hot'); log.debug('detail')")
    head, info, warning = lines(tmp_path)
    assert all(STAMP.match(line) for line in (head, info, warning))
    assert info.endswith(" INFO epoch 3: 图")
    assert warning.endswith(" WARNING hot")
    assert done.stdout.splitlines() == [head, info]
    assert done.stderr.splitlines() == [warning]


def test_a_line_is_in_the_file_before_the_process_does_anything_else(tmp_path: Path) -> None:
    done = run(tmp_path, "import os; log.info('before'); os.kill(os.getpid(), 9)")
    assert done.returncode == -9
    assert lines(tmp_path)[-1].endswith("before")


def test_a_later_job_goes_on_in_the_log_under_its_own_command(tmp_path: Path) -> None:
    run(tmp_path, "log.info('first')")
    run(tmp_path, "log.info('second')")
    first_head, first, second_head, second = lines(tmp_path)
    assert first.endswith("first")
    assert second.endswith("second")
    for head in (first_head, second_head):
        assert "=====" in head
        assert str(tmp_path) in head


@pytest.mark.parametrize("message", ["data/1.txt:3: 5 numbers expected, found 4", "one\ntwo\n\nthree\n"])
def test_the_reason_is_the_last_line_of_the_log_and_of_standard_error(tmp_path: Path, message: str) -> None:
    script = f"log.info('x'); last_words({message!r}); log.error('too late'); log.handlers[0].flush()"
    done = run(tmp_path, script)
    expected = [line for line in message.splitlines() if line]
    assert lines(tmp_path)[-len(expected) :] == expected
    assert done.stderr.splitlines()[-len(expected) :] == expected


def test_a_job_that_has_no_log_yet_says_its_reason_on_standard_error(tmp_path: Path) -> None:
    script = "from common.reporting.log import last_words; last_words('train.epochs: is not a number')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "train.epochs: is not a number\n"


def test_a_reader_that_goes_away_does_not_end_the_job(tmp_path: Path) -> None:
    for stream in ("stdout", "stderr"):
        read, write = os.pipe()
        os.close(read)
        done = run(
            tmp_path,
            "log.info('a'); log.warning('b'); print('library'); log.info('end'); print('x')",
            **{stream: write},
        )
        os.close(write)
        assert done.returncode == 0  # also nothing goes wrong with what is left in buffers at the exit
        assert lines(tmp_path)[-1].endswith("end")
        assert "Traceback" not in (done.stdout or "") + (done.stderr or "")


def test_closed_streams_are_no_error_and_no_file_takes_their_place(tmp_path: Path) -> None:
    script = (
        HEAD + "import os; log.info('a'); log.warning('b'); os.write(1, b'NOI' + b'SE'); last_words('why')"
    )
    shell = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(["sh", "-c", shell, sys.executable, script, str(tmp_path)], cwd=ROOT)
    assert done.returncode == 0
    assert lines(tmp_path)[-1] == "why"
    assert "NOISE" not in (tmp_path / "estimator.log").read_text()


def test_a_console_without_chinese_letters_gets_escapes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    done = run(tmp_path, "log.info('图\\udcff'); last_words('坏')", env=environment)
    assert lines(tmp_path)[-1] == "坏"
    assert "\\u56fe" in done.stdout
    assert done.stderr.splitlines()[-1] == "\\u574f"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_costs_lines_and_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "estimator.log").symlink_to("/dev/full")
    done = run(tmp_path, "log.info('a'); log.info('b'); last_words('why')")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stderr.count("No space left on device") == 1
    assert done.stderr.splitlines()[-1] == "why"


BAR = """
import time
with bar(4, 'epoch 0') as advance:
    for batch in range(4):
        log.info('batch %d', batch)
        advance(1)
"""


def test_there_is_no_bar_where_nobody_sees_it(tmp_path: Path) -> None:
    done = run(tmp_path, BAR)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == 5


def test_at_a_terminal_the_bar_does_not_break_log_lines(tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    job = subprocess.Popen(
        [sys.executable, "-c", HEAD + BAR, str(tmp_path)], cwd=ROOT, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    seen = b""
    while select.select([ours], [], [], 60)[0]:
        try:
            seen += os.read(ours, 4096)
        except OSError:  # the other side is closed
            break
    os.close(ours)
    assert job.wait() == 0
    shown = seen.decode()
    assert shown.count("epoch 0:") > 4  # drawn again below each line
    for batch in range(4):  # a log line begins at a line's start: after a line's end, or a bar wiped out
        assert re.search(rf"[\r\n]{STAMP.pattern}INFO batch {batch}\r\n", shown), shown
