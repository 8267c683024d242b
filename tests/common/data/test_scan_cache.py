"""A second start reads what has changed and nothing else, and comes to the same samples as a first."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from common.container import read_container, write_container
from common.data import samples as samples_module
from common.data import scan_cache
from common.data.samples import NoSamples, Sample, read_folder
from common.processes.pool import WorkerPool
from detect.annotations import DetectionAnnotations
from landmark.annotations import LandmarkAnnotations

COUNT = 12


@pytest.fixture(autouse=True)
def _small_sets_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEAST_IMAGES", 1)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images with objects, some without, one that is bad; all of them an hour old."""
    made = tmp_path / "data" / "train"
    (made / "部分").mkdir(parents=True)
    for number in range(COUNT):
        image = made / ("部分" if number % 2 else ".") / f"{number}.png"
        cv2.imencode(".png", np.full((20, 30 + number, 3), number, np.uint8))[1].tofile(image)
        lines = (
            ["-1,-1,-1,-1,-1"]
            if number == 3
            else [f"{number % 3},1,2,{10 + i},12" for i in range(number + 1)]
        )
        image.with_suffix(".txt").write_text("\n".join(lines))
    (made / "0.txt").write_text("nonsense")
    return made


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files count as settled at once."""
    monkeypatch.setattr(scan_cache, "SETTLED_NS", -(10**10))


Read = Callable[..., tuple[list[Sample], list[str]]]


@pytest.fixture
def read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads the folder; returns the samples and the names of the images that were opened for it."""

    def run(annotate: DetectionAnnotations | None = None) -> tuple[list[Sample], list[str]]:
        opened: list[str] = []
        probe = samples_module.probe_marked

        def counting(path: str) -> tuple[int, int, int]:
            opened.append(os.path.basename(path))
            return probe(path)

        with monkeypatch.context() as patched, WorkerPool(0) as pool:
            patched.setattr(samples_module, "probe_marked", counting)
            found, _ = read_folder(
                folder,
                annotate or DetectionAnnotations(None),
                pool,
                lambda share: None,
                tmp_path / "cache",
            )
        return found, opened

    return run


def same(first: list[Sample], second: list[Sample]) -> bool:
    return len(first) == len(second) and all(
        (a.image, a.width, a.height, a.mark) == (b.image, b.width, b.height, b.mark)
        and a.annotation.dtype == b.annotation.dtype
        and a.annotation.shape == b.annotation.shape
        and bool((a.annotation == b.annotation).all())
        for a, b in zip(first, second, strict=True)
    )


@pytest.mark.usefixtures("settled")
def test_a_second_start_opens_only_what_was_bad_and_finds_the_same(read: Read) -> None:
    first, opened = read()
    assert len(opened) == COUNT
    assert len(first) == COUNT - 1
    second, opened = read()
    assert opened == ["0.png"]
    assert same(first, second)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("what", ["text", "text, keeping size and time", "image", "text gone"])
def test_what_has_changed_is_read_again(read: Read, folder: Path, what: str) -> None:
    read()
    text, image = folder / "2.txt", folder / "2.png"
    before = text.stat()
    if what == "text":
        text.write_text("1,3,3,9,9")
    elif what == "text, keeping size and time":
        text.write_text(text.read_text().replace("2,1,2,", "1,1,2,"))
        os.utime(text, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert text.stat().st_size == before.st_size
    elif what == "image":
        cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tofile(image)
    else:
        text.unlink()
    changed, opened = read()
    assert sorted(opened) == ["0.png", "2.png"]
    found = [sample for sample in changed if sample.image == str(image)]
    if what == "text":
        assert found[0].annotation.tolist() == [[1, 3, 3, 9, 9]]
    elif what == "text, keeping size and time":
        assert found[0].annotation[:, 0].tolist() == [1, 1, 1]
    elif what == "image":
        assert (found[0].width, found[0].height) == (40, 40)
    else:
        assert not found


@pytest.mark.usefixtures("settled")
def test_other_options_of_the_reader_read_everything_again(read: Read) -> None:
    read()
    _, opened = read(DetectionAnnotations(5))
    assert len(opened) == COUNT


def test_files_that_changed_a_moment_ago_are_not_trusted(read: Read) -> None:
    read()
    _, opened = read()
    assert len(opened) == COUNT


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("damage", ["empty", "half", "text", "archive", "folder", "pipe", "large"])
def test_a_damaged_cache_is_ignored_and_replaced(read: Read, tmp_path: Path, damage: str) -> None:
    first, _ = read()
    file = tmp_path / "cache"
    data = file.read_bytes()
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "half":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "text":
        file.write_text("not a cache")
    elif damage == "archive":  # what unfolds to a thousand times its size
        with file.open("wb") as target:
            np.savez_compressed(target, key=np.zeros(1 << 22, np.uint8))
    elif damage == "folder":
        file.unlink()
        file.mkdir()
    elif damage == "pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        os.truncate(file, 1 << 40)
    again, opened = read()
    assert len(opened) == COUNT
    assert same(first, again)
    if damage != "folder":
        assert len(read()[1]) == 1


def changed(name: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda stored: {**stored, name: change(stored[name])}


def with_number(row: int, column: int, number: int) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array[row, column] = number
        return array

    return change


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize(
    "change",
    [
        changed("images", lambda array: array[:-1]),
        changed("images", lambda array: array.astype(np.int32)),
        changed("images", lambda array: array.reshape(-1)),
        changed("images", lambda array: None),
        changed("images", with_number(0, 8, -1)),
        changed("images", with_number(0, 8, 1 << 62)),
        changed("images", with_number(0, 6, 0)),
        changed("images", with_number(0, 7, 1 << 40)),
        changed("rows", lambda array: array[1:]),
        changed("rows", lambda array: array[:, :1]),
        changed("rows", with_number(0, 0, -5)),
        changed("rows", with_number(0, 0, 1 << 62)),
        changed("rows", with_number(0, 1, 0)),
        changed("rows", with_number(0, 1, 3)),
        changed("rows", with_number(0, 1, -7)),
        changed("rows", with_number(0, 1, -1)),
        changed("numbers", lambda array: np.full_like(array, np.inf)),
        changed("numbers", lambda array: array * np.float32(1e6)),
        changed("numbers", lambda array: array - np.float32(1e6)),
        changed("numbers", lambda array: array[:-1]),
        changed("numbers", lambda array: array * np.float32(np.nan)),
        changed("numbers", lambda array: array.astype(np.float64)),
        changed("names", lambda array: array[array > 0]),
        changed("names", lambda array: "text"),
        changed("key", lambda key: 3),
        lambda stored: {"key": stored["key"]},
    ],
)
def test_a_cache_of_other_content_is_ignored(
    read: Read, tmp_path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    first, _ = read()
    write_container(tmp_path / "cache", change(read_container(tmp_path / "cache")))
    again, opened = read()
    assert same(first, again)
    assert len(opened) == COUNT


@pytest.mark.usefixtures("settled")
def test_a_set_of_images_without_objects_is_kept(read: Read, folder: Path) -> None:
    for text in folder.rglob("*.txt"):
        text.write_text("-1,-1,-1,-1,-1")
    first, _ = read()
    again, opened = read()
    assert same(first, again)
    assert opened == []


@pytest.mark.usefixtures("settled")
def test_points_that_cannot_be_seen_are_kept(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in folder.rglob("*.png"):
        path.with_suffix(".txt").write_text("-1,-1\n3,4\n")

    def run(joints: int) -> list[Sample]:
        with WorkerPool(0) as pool:
            return read_folder(
                folder, LandmarkAnnotations(joints), pool, lambda share: None, tmp_path / "cache"
            )[0]

    first = run(2)
    with monkeypatch.context() as patched:
        patched.setattr(samples_module, "probe_marked", lambda path: 1 / 0)
        again = run(2)
    assert [sample.annotation.tobytes() for sample in again] == [s.annotation.tobytes() for s in first]
    assert np.isnan(first[0].annotation[0]).all()
    # As annotations of another number of points they are none.
    key = read_container(tmp_path / "cache")["key"]
    monkeypatch.setattr(scan_cache, "reader_key", lambda *_: key)
    monkeypatch.setattr(samples_module, "probe_marked", lambda path: (30, 20, 0))
    with pytest.raises(NoSamples):
        run(3)


@pytest.mark.usefixtures("settled")
def test_the_code_that_reads_is_part_of_the_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = scan_cache.reader_key(DetectionAnnotations(None))
    assert before == scan_cache.reader_key(DetectionAnnotations(None))
    own = tmp_path / "changed.py"
    own.write_text("# another way to read")
    monkeypatch.setattr("detect.annotations.__file__", str(own))
    assert scan_cache.reader_key(DetectionAnnotations(None)) != before


def test_small_sets_leave_no_cache(read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples_module, "LEAST_IMAGES", COUNT + 1)
    read()
    assert not (tmp_path / "cache").exists()
