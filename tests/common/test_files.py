"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from common.files import replacing, write_json

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
    assert json.loads((tmp_path / "a.json").read_text())["image"] == name
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
