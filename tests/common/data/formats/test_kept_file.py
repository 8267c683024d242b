"""A second start does not read a large file of annotations again, whatever lies where it was kept."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.container import read_container, write_container
from common.data.formats import coco as coco_module
from common.data.formats import json_stream, kept_file
from common.data.formats.base import AnnotatedSet, FormatError, Place
from common.data.listing import Listing
from tests.helpers.label_trees import coco, images, records, text

NAMES = ("a.jpg", "b.jpg", "c.jpg")


@pytest.fixture(autouse=True)
def _small_files_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_file, "LEAST_BYTES", 1)
    monkeypatch.setattr(kept_file, "SETTLED_NS", -(10**12))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set with crowds, points, annotations out of order and some that cannot be used."""
    made = tmp_path / "data"
    images(made, *NAMES)
    rows: list[dict[str, Any]] = [
        {"image_id": 3, "category_id": 7, "bbox": [1, 2, 3, 4], "keypoints": [1, 2, 2, 0, 0, 0]},
        {"image_id": 1, "category_id": 3, "bbox": [5, 6, 7, 8], "iscrowd": 1},
        {"image_id": 3, "category_id": 3, "bbox": [5, 6, 7.5, 8], "keypoints": [3, 4, 1, 5, 6, 2]},
        {"image_id": 1, "category_id": 9, "bbox": [5, 6, 7, 8], "ignore": 1},
        {"image_id": 1, "category_id": 9, "bbox": [5, 6, 7]},
        {"image_id": 8, "category_id": 9, "bbox": [5, 6, 7, 8]},
    ]
    names = [{"id": 9, "name": "z"}, {"id": 7, "name": "y", "keypoints": ["l", "r"]}, {"id": 3, "name": "x"}]
    text(made / "_annotations.coco.json", coco([*NAMES, "gone.jpg"], rows, names))
    return made


def read(folder: Path) -> AnnotatedSet:
    place = Place(str(folder), str(folder), None, "train", "detection", folder.parent / "kept")
    return coco_module.read(place, Listing(str(folder)))


def told(found: AnnotatedSet) -> tuple[Any, ...]:
    return found.images, found.names, found.keypoints, found.problems, found.skipped, records(found)


def forbid_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: str) -> Any:
        raise AssertionError(f"{path} was read")

    monkeypatch.setattr(json_stream, "items", fail)


def test_a_second_start_reads_what_was_kept_and_finds_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = told(read(folder))
    assert len(first[3]) == 3
    forbid_reading(monkeypatch)
    assert told(read(folder)) == first
    # Which images are there is looked up anew.
    images(folder, "gone.jpg")
    assert [Path(path).name for path in read(folder).images] == [*NAMES, "gone.jpg"]


def test_a_file_that_has_changed_is_read_again(folder: Path) -> None:
    read(folder)
    file = folder / "_annotations.coco.json"
    before = file.stat()
    file.write_text(file.read_text().replace('"x"', '"w"'))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert read(folder).names == ["w", "y", "z"]
    file.write_text("{")
    with pytest.raises(FormatError, match="not JSON"):
        read(folder)


def test_a_file_that_changed_a_moment_ago_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_file, "SETTLED_NS", 2 * 10**9)
    read(folder)
    assert not (folder.parent / "kept").exists()


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda stored: {**stored, name: change(stored[name])}


def with_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.reshape(-1)[0] = value
        return array

    return change


@pytest.mark.parametrize(
    "change",
    [
        *(
            changed(name, with_first(value))
            for name, values in {
                "image": (-1, 1 << 30),
                "category": (-2, 3, 1 << 30),
                "box": (np.nan, np.inf, 1e30),
                "crowd": (-1, 3),
                "line": (-1,),
                "points": (np.nan, np.inf),
                "points_end": (-3, 1, 1 << 30),
                "images": (-1, 1 << 40),
                "names": (0xFF,),
            }.items()
            for value in values
        ),
        changed("image", lambda array: array[::-1]),
        changed("image", lambda array: array.astype(np.int64)),
        changed("box", lambda array: array.reshape(-1)),
        changed("box", lambda array: array[1:]),
        changed("points", lambda array: array[3:]),
        changed("images", lambda array: array[:0]),
        changed("images", lambda array: array[:, :3]),
        changed("images", lambda array: array.repeat(2, axis=0)),
        changed("names", lambda array: array[:3]),
        changed("names", lambda array: None),
        changed("classes", lambda listed: listed[:2]),
        changed("classes", lambda listed: [["other"], *listed[1:]]),
        changed("classes", lambda listed: [listed[0], [3], []]),
        changed("problems", lambda listed: [[1, 2, 3]]),
        changed("problems", lambda listed: "text"),
        changed("further", lambda count: -1),
        lambda stored: {"key": stored["key"]},
    ],
)
def test_what_was_never_kept_is_not_believed(
    folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]], caplog: pytest.LogCaptureFixture
) -> None:
    first = told(read(folder))
    kept = folder.parent / "kept"
    write_container(kept, change(read_container(kept)))
    assert told(read(folder)) == first
    assert "not usable, the annotations are read again" in caplog.text


@pytest.mark.parametrize("damage", ["empty", "half", "folder", "pipe"])
def test_a_damaged_file_is_replaced(folder: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = told(read(folder))
    kept = folder.parent / "kept"
    data = kept.read_bytes()
    kept.unlink()
    if damage == "folder":
        kept.mkdir()
    elif damage == "pipe":
        os.mkfifo(kept)
    else:
        kept.write_bytes(data[: len(data) // 2 if damage == "half" else 0])
    assert told(read(folder)) == first
    if damage != "folder":
        forbid_reading(monkeypatch)
        assert told(read(folder)) == first


def test_names_that_no_text_holds_are_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = folder / "_annotations.coco.json"
    content = json.loads(file.read_text())
    content["images"][3]["file_name"] = "half \ud800.jpg"
    text(file, json.dumps(content))
    first = told(read(folder))
    forbid_reading(monkeypatch)
    assert told(read(folder)) == first
