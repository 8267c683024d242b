"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import open_regular, read_file, replacing, write_json

ROOT = Path(__file__).resolve().parents[2]


def test_a_file_appears_when_its_block_has_ended(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with replacing(path, "w") as file:
        file.write("new")
        assert not path.exists()
    assert path.read_text() == "new"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail() -> None:
        with replacing(path, "w") as file:
            file.write("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_keeps_names_in_any_writing_even_bytes_that_are_none(tmp_path: Path) -> None:
    name = os.fsdecode(b'\xe7\x8c\xab \xff "quoted"\n.jpg')
    write_json(tmp_path / "a.json", {"image": name})
    assert json.loads((tmp_path / "a.json").read_text())["image"] == '猫 \\xff "quoted"\n.jpg'
    assert "\u732b" in (tmp_path / "a.json").read_text()


LIMITED = """
import resource, sys
from pathlib import Path
from common.reporting.endings import explain
{what}
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    {call}
except OSError as error:
    print(explain(error))
"""


@pytest.mark.parametrize(
    ("what", "call"),
    [
        ("from common.files import write_json", "write_json(Path(sys.argv[1]), 'new' * 1000)"),
        (
            "from common.training.checkpoint import write_checkpoint",
            "write_checkpoint(Path(sys.argv[1]), 'task', {'x': 'new' * 1000})",
        ),
        (
            "import numpy; from common.engine.parameter_file import write_parameter_file",
            "write_parameter_file(Path(sys.argv[1]), {'x': numpy.ones(300)})",
        ),
    ],
    ids=["results", "checkpoint", "model"],
)
def test_where_there_is_no_room_the_old_file_is_whole_and_the_reason_names_it(
    tmp_path: Path, what: str, call: str
) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    command = [sys.executable, "-c", LIMITED.format(what=what, call=call), str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith(f"{path}: cannot be written: File too large"), done.stderr
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_names_the_file_that_was_meant(tmp_path: Path) -> None:
    path = tmp_path / "none" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        write_json(path, 1)
    assert caught.value.filename == str(path)


def special(path: Path, kind: str) -> Path:
    """Something that is no file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    return Path("/dev/zero") if kind == "device" else path


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "device"])
@pytest.mark.parametrize("flags", [os.O_RDONLY, os.O_WRONLY | os.O_CREAT | os.O_APPEND])
def test_what_is_no_file_is_neither_opened_nor_waited_for(tmp_path: Path, kind: str, flags: int) -> None:
    path = special(tmp_path / "x", kind)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(path, flags)
    with pytest.raises(OSError, match="not a regular file"):
        read_file(path, 10)


def test_a_link_is_followed_only_where_that_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 10) == b"text"
    with pytest.raises(OSError, match="symbolic link") as caught:
        open_regular(tmp_path / "link", os.O_RDWR | os.O_CREAT | os.O_TRUNC, follow_links=False)
    assert caught.value.filename == str(tmp_path / "link")
    assert (tmp_path / "file").read_text() == "text"
    os.close(open_regular(tmp_path / "new", os.O_RDWR | os.O_CREAT, follow_links=False))
    assert (tmp_path / "new").is_file()


def test_a_file_larger_than_the_limit_is_not_read(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1099511627776 bytes are more than the 5"):
        read_file(tmp_path / "sparse", 5)
    with pytest.raises(OSError, match="not a name"):
        read_file("a\0b", 5)


def test_a_file_is_not_written_through_a_link_that_lies_in_wait(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    (tmp_path / f".file.{os.getpid()}.part").symlink_to("precious")
    with replacing(tmp_path / "file", "w") as file:
        file.write("new")
    assert (tmp_path / "file").read_text() == "new"
    assert (tmp_path / "precious").read_text() == "precious"
