"""Numbers are read from texts by many hands, or refused with their place."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.samples import BadSample, Problem, read_rows


def rows(folder: Path, data: bytes, columns: int = 3) -> list[tuple[int, list[float]]]:
    (folder / "a.txt").write_bytes(data)
    path, found = read_rows(str(folder / "a.jpg"), columns)
    assert path == str(folder / "a.txt")
    return [(row.line, row.values) for row in found]


@pytest.mark.parametrize(
    "data",
    [
        b"1,-2.5,3\n\n4,5,6e1",
        b"1,-2.5,3\r\n \r\n4,5,6e1\r\n",
        b"1,-2.5,3\r\r4,5,60\r",
        b" 1 , -2.5 ,3 \n\t\n4,5,60,\n",
        b"1 -2.5\t3\n\n4  5 60\n",
        b"1, -2.5 3\n\n4,5 ,60\n",
        "\ufeff1,-2.5,3\n\n4,5,60".encode(),
        "１，－２．５，３\n\u3000\n4，5，60".encode(),
        "1，\u22122.5，3\n\n4，5，60".encode("gb18030"),
        "1,-2.5,3\n\n4,5,60".encode("utf-16"),
    ],
)
def test_rows_are_read_however_they_were_written(tmp_path: Path, data: bytes) -> None:
    assert rows(tmp_path, data) == [(1, [1, -2.5, 3]), (3, [4, 5, 60])]


@pytest.mark.parametrize(
    ("data", "line", "reason"),
    [
        (b"1,2,3\n1,2", 2, "'1,2': 2 values where 3 belong"),
        (b"1,2,3,4", 1, "'1,2,3,4': 4 values where 3 belong"),
        (b"1,,2", 1, "'1,,2': not 3 numbers"),
        (b"1,2,x", 1, "'1,2,x': not 3 numbers"),
        (b"1,2,nan", 1, "'1,2,nan': not 3 finite numbers"),
        (b"1,2,-inf", 1, "'1,2,-inf': not 3 finite numbers"),
        (b"1,2,1e39", 1, "'1,2,1e39': not 3 finite numbers"),
        (b"1,2,1_0", 1, "'1,2,1_0': not 3 finite numbers"),
        (b"\xff\x80\x81,2", None, "not a text in UTF-8 or GBK"),
        (b"\x00\x01\x02", None, "not a text in UTF-8 or GBK"),
    ],
)
def test_malformed_rows_are_refused_with_their_place(
    tmp_path: Path, data: bytes, line: int | None, reason: str
) -> None:
    with pytest.raises(BadSample) as caught:
        rows(tmp_path, data)
    assert caught.value.problems == (Problem(str(tmp_path / "a.txt"), line, reason),)


def test_a_text_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSample, match="the file is missing"):
        read_rows(str(tmp_path / "none.jpg"), 5)
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(BadSample, match="not a regular file"):
        read_rows(str(tmp_path / "folder.jpg"), 5)
    with open(tmp_path / "long.txt", "wb") as file:
        file.truncate(20 << 20)
    with pytest.raises(BadSample, match="bytes are more than"):
        read_rows(str(tmp_path / "long.jpg"), 5)


@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
@given(st.binary(max_size=60) | st.text("0123456789,.- \t\r\n，－eEx_", max_size=40).map(str.encode))
def test_any_bytes_are_rows_or_a_bad_sample(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    try:
        found = rows(tmp_path_factory.getbasetemp(), data, 2)
    except BadSample as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    assert all(len(values) == 2 and np.isfinite(np.float32(values)).all() for _, values in found)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("a" + "\u0300" * 500_000 + "\u0316" * 500_000, "characters are more than any row has"),
        ("0,1,1\n" * 700_000, "bytes are more than"),
        ("0,1,1\n" * 500_000, "500000 lines are more than the 10000"),
        ("\n" * 4_000_000, "4000000 lines are more than the 10000"),
        ("1" * 4_000_000, "characters are more than any row has"),
        ("1," * 2_000_000, "characters are more than any row has"),
        (" " * 2_000_000 + "x" + " " * 2_000_000 + "1", "characters are more than any row has"),
        ("，" * 1_000_000, "characters are more than any row has"),
        (("x " * 400 + "\n") * 4_000, "400 values where 3 belong"),
    ],
    ids=["accents", "bytes", "rows", "blank", "digits", "commas", "blanks", "wide", "values"],
)
def test_a_text_far_beyond_any_annotation_is_reported_at_once(
    tmp_path: Path, content: str, reason: str
) -> None:
    began, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(BadSample, match=reason):
        rows(tmp_path, content.encode())
    assert time.process_time() - began < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


def test_as_many_rows_as_any_image_has_objects_are_read(tmp_path: Path) -> None:
    assert len(rows(tmp_path, b"1,2,3\n" * 10_000)) == 10_000
