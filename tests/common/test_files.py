"""Files appear whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from common.files import replacing, write_json


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
