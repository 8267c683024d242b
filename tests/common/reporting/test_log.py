"""Promises of the log: what a person reads, and what a program reads of the last line."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
from datetime import datetime
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAD = "import sys; from pathlib import Path; from common.reporting.log import *; log = open_log(Path(sys.argv[1]))\n"
STAMP = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} [+-]\d{4} ")


def run(log_dir: Path, script: str, **options: object) -> subprocess.CompletedProcess[str]:
    """A process that opens its log in log_dir and then runs `script`."""
    command = [sys.executable, "-c", HEAD + script, str(log_dir)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.run(command, cwd=ROOT, encoding="utf-8", timeout=120, **streams)  # type: ignore[call-overload]


def lines(log_dir: Path) -> list[str]:
    return (log_dir / "estimator.log").read_text(encoding="utf-8").splitlines()


def test_lines_are_in_the_file_and_on_the_console_with_their_time(tmp_path: Path) -> None:
    done = run(tmp_path, "log.info('epoch %d: 图', 3); log.warning('hot'); log.debug('detail')")
    head, info, warning, debug = lines(tmp_path)
    assert all(STAMP.match(line) for line in (head, info, warning, debug))
    assert info.endswith(" INFO epoch 3: 图")
    assert warning.endswith(" WARNING hot")
    assert debug.endswith(" DEBUG detail")  # for who mends, in the file alone
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


def words(lines: list[str]) -> list[str]:
    """Lines of a log without their time."""
    assert all(STAMP.match(line) for line in lines)
    return [STAMP.sub("", line, count=1) for line in lines]


@pytest.mark.parametrize(
    ("reason", "expected", "retry"),
    [
        ("DataError('1.txt:3: 5 numbers expected, found 4')", ["1.txt:3: 5 numbers expected, found 4"], "false"),
        ("DataError('1\\n2 INFO Finished\\x1b[2J')", [r"1\n2 INFO Finished\x1b[2J"], "false"),
        ("ConfigurationError('one\\ntwo\\n\\nthree\\n')", ["one", "two", "three"], "false"),
        ("PortError('port 1 is taken')", ["port 1 is taken"], "true"),
    ],
)  # fmt: skip
def test_the_reason_and_whether_it_helps_to_try_again_end_the_log_and_standard_error(
    tmp_path: Path, reason: str, expected: list[str], retry: str
) -> None:
    script = (
        f"from common.errors import *; log.info('x'); last_words({reason}); log.error('too late'); "
        "log.handlers[0].flush()"
    )
    done = run(tmp_path, script)
    told = [*expected[:-1], f"{expected[-1]} [error.retry: {retry}]"]
    assert words(lines(tmp_path)[-len(told) :]) == [f"ERROR {line}" for line in told]
    assert done.stderr.splitlines()[-len(told) :] == told


def test_a_job_that_was_asked_to_end_has_not_failed(tmp_path: Path) -> None:
    done = run(tmp_path, "last_words('stopped by SIGINT')")
    assert words(lines(tmp_path)[-1:]) == ["WARNING stopped by SIGINT"]
    assert done.stderr.splitlines()[-1] == "stopped by SIGINT"
    assert "ERROR" not in (tmp_path / "estimator.log").read_text()


def test_a_job_that_has_no_log_yet_says_its_reason_on_standard_error(tmp_path: Path) -> None:
    script = "from common.reporting.log import last_words; last_words('train.epochs: is not a number')"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    assert done.stderr == "train.epochs: is not a number\n"


def test_a_name_cannot_forge_a_line(tmp_path: Path) -> None:
    forged = "x\n2026-11-27 17:10:56,123 +0000 INFO Finished\x1b[1A\r\u2028\u202e"
    done = run(tmp_path, f"log.info('reading %s', {forged!r}); write_traceback({forged!r})")
    assert len(done.stdout.splitlines()) == 2
    line, *traceback = lines(tmp_path)[1:]
    assert words([line]) == [
        r"INFO reading x\n2026-11-27 17:10:56,123 +0000 INFO Finished\x1b[1A\r\u2028\u202e"
    ]
    assert traceback
    assert all(text.startswith("    ") and text.isprintable() for text in traceback)


def test_as_json_standard_output_is_an_object_a_line(tmp_path: Path) -> None:
    script = (
        "log = open_log(Path(sys.argv[1]), 'json'); "
        "log.info('图\\nx', extra={'figures': {'epoch': 3, 'loss': float('nan')}}); "
        "log.warning('hot'); from common.errors import DataError; last_words(DataError('odd'))"
    )
    done = run(tmp_path, script)
    entries = [json.loads(line) for line in done.stdout.splitlines()[1:]]
    assert all(datetime.fromisoformat(entry.pop("time")).tzinfo for entry in entries)
    assert entries[1:] == [
        {"level": "INFO", "message": r"图\nx", "epoch": 3, "loss": None},
        {"level": "WARNING", "message": "hot"},
        {
            "level": "ERROR",
            "message": "odd [error.retry: false]",
            "error": {"kind": "data", "retry": False},
        },
    ]
    assert done.stderr == "odd [error.retry: false]\n"
    assert words(lines(tmp_path)[-3:])[0].startswith("INFO 图")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_reader_that_does_not_read_keeps_nobody_waiting(tmp_path: Path, stream: str) -> None:
    read, write = os.pipe()
    fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    script = "\n".join(
        [
            "import time, fcntl, os",
            f"level = {'log.info' if stream == 'stdout' else 'log.warning'!s}",
            "began = time.monotonic()",
            "for number in range(500): level('line %d', number)",
            "assert time.monotonic() - began < 10",
            f"os.read({read}, 1 << 20)",
            "level('the reader is back')",
            "log.info('end'); log.warning('end')",
        ]
    )
    done = run(tmp_path, script, pass_fds=[read], **{stream: write})
    os.close(write)
    with open(read, encoding="utf-8") as rest:
        text = rest.read()
    assert done.returncode == 0, done.stderr
    assert re.search(r"\.\.\. \d+ lines are missing here: nobody read them\n.*the reader is back\n", text)
    assert sum("line " in line for line in lines(tmp_path)[1:]) == 500 + 0


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
    assert lines(tmp_path)[-1].endswith(" why")
    assert "NOISE" not in (tmp_path / "estimator.log").read_text()


def test_a_console_without_chinese_letters_gets_escapes(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C"}
    done = run(tmp_path, "log.info('图\\udcff'); last_words('坏')", env=environment)
    assert lines(tmp_path)[-1].endswith(" 坏")
    assert "\\u56fe" in done.stdout
    assert done.stderr.splitlines()[-1] == "\\u574f"


def test_a_full_disk_costs_lines_and_is_said_once(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); "
    done = run(tmp_path, limit + "log.info('a'); log.info('b'); last_words('why')")
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert done.stderr.count("File too large") == 1
    assert done.stderr.splitlines()[-1] == "why"


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_what_is_no_file_is_an_error_and_a_link_is_not_followed(tmp_path: Path, kind: str) -> None:
    log_dir, target = tmp_path / "out", tmp_path / "target"
    log_dir.mkdir()
    target.write_text("precious")
    path = log_dir / "estimator.log"
    {"link": lambda: path.symlink_to(target), "pipe": lambda: os.mkfifo(path), "folder": path.mkdir}[kind]()
    done = run(log_dir, "")
    assert done.returncode == 1
    assert "OSError" in done.stderr
    assert target.read_text() == "precious"


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
