"""Equal marks are equal files, and a large file is not read for one unless it must be."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from common.data.marks import find_identical, image_marks
from common.data.samples import Sample
from common.images.decoding import probe_marked
from common.processes.pool import WorkerPool

LARGE = 200_000


def write(folder: Path, name: str, data: bytes) -> str:
    """An image file: whatever follows the pixels of a BMP is no part of it, and makes it another file."""
    pixels = cv2.imencode(".bmp", np.zeros((4, 4, 3), np.uint8))[1].tobytes()
    (folder / name).write_bytes(pixels + data)
    return str(folder / name)


def marked(*paths: str) -> list[Sample]:
    return [Sample(path, *probe_marked(path)[:2], np.empty(0), "", probe_marked(path)[2]) for path in paths]


@pytest.mark.parametrize("workers", [0, 2])
def test_files_with_the_same_bytes_have_the_same_mark_and_others_another(
    tmp_path: Path, workers: int
) -> None:
    noise = np.random.default_rng(0).bytes(LARGE)
    # Differs from the noise in one byte, between the pieces that are looked at.
    near = noise[:10_000] + bytes([noise[10_000] ^ 1]) + noise[10_001:]
    paths = [
        write(tmp_path, "a", b"small"),
        write(tmp_path, "b", b"small"),
        write(tmp_path, "c", b"other"),
        write(tmp_path, "d", noise),
        write(tmp_path, "e", near),
        write(tmp_path, "f", noise),
        write(tmp_path, "g", b""),
    ]
    with WorkerPool(workers) as pool:
        marks = image_marks(marked(*paths, *paths), pool)
    assert list(marks) == paths
    number = [marks[path] for path in paths]
    assert number[0] == number[1]
    assert number[3] == number[5]
    assert len(set(number)) == len(paths) - 2
    assert all(0 <= mark < 2**64 for mark in number)


def test_a_mark_is_the_same_whatever_the_name_and_whatever_else_is_there(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(LARGE)
    first, second = write(tmp_path, "a", noise), write(tmp_path, "b", noise)
    other = write(tmp_path, "c", noise[::-1])
    pool = WorkerPool(0)
    assert image_marks(marked(first), pool)[first] == image_marks(marked(other, second), pool)[second]


def test_files_that_are_gone_meanwhile_are_like_no_others(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(LARGE)
    paths = [write(tmp_path, name, noise) for name in ("a", "b", "c")]
    samples = marked(*paths)
    (tmp_path / "a").unlink()
    (tmp_path / "b").unlink()
    assert len(set(image_marks(samples, WorkerPool(0)).values())) == 3


def test_identical_images_are_named_by_set_those_of_several_sets_first() -> None:
    def sample(name: str, value: float = 1) -> Sample:
        return Sample(name, 10, 10, np.array([0, value, 0, 9, 9], np.float32))

    hidden = float("nan")
    marks = {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3, "f": 4}
    sets = {
        "train": [sample("a"), sample("a", 2), sample("b"), sample("c", hidden), sample("e"), sample("f")],
        "valid": [sample("d", hidden), sample("f")],
    }
    assert find_identical(sets, marks) == [
        {"files": {"train": ["c"], "valid": ["d"]}, "annotated_differently": False},
        {"files": {"train": ["f"], "valid": ["f"]}, "annotated_differently": False},
        {"files": {"train": ["a", "b"]}, "annotated_differently": True},
    ]
