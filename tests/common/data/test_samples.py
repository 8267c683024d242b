"""A folder becomes samples and a report; nothing is left out in silence."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.samples import (
    BadSample,
    FolderReport,
    NoSamples,
    Problem,
    Sample,
    annotation_path,
    read_folder,
    read_rows,
    write_report,
)
from common.errors import DataError
from common.processes.pool import WorkerPool

POOL = WorkerPool(0)


class Boxes:
    """Rows of id, x1, y1, x2, y2; id 9 is an error, boxes that stick out are clipped, flat ones left out."""

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        path, rows = read_rows(image, 5)
        problems = []
        boxes = []
        for line, values in rows:
            if values[0] == 9:
                raise DataError(f"{path}:{line}: class id 9")
            if values[3] > width:
                problems.append(Problem(path, line, "clipped to the image", clipped=True))
                values[3] = width
            if values[1] >= values[3]:
                problems.append(Problem(path, line, "no area"))
                continue
            boxes.append(values)
        return [np.array(boxes, np.float32).reshape(-1, 5)], problems


def add(folder: Path, name: str, text: str | None = "0,1,2,10,12", size: tuple[int, int] = (16, 14)) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    kind = {".png": "PNG", ".bmp": "BMP"}.get(path.suffix.lower(), "JPEG")
    Image.new("RGB", size).save(path, kind)
    if text is not None:
        Path(annotation_path(str(path))).write_bytes(text.encode())
    return str(path)


def read(folder: Path, pool: WorkerPool = POOL) -> tuple[list[Sample], FolderReport]:
    return read_folder(folder, Boxes(), pool, lambda done: None)


def test_a_folder_is_read_in_order_with_all_its_images(tmp_path: Path) -> None:
    names = ["b.png", "a.jpg", "z/c.jpeg", "sub/deep/d.bmp", "sub/a.jpg"]
    for name in names:
        add(tmp_path, name, size=(20, 10))
    (tmp_path / "classes.csv").write_text("cat")
    samples, report = read(tmp_path)
    found = [os.path.relpath(sample.image, tmp_path) for sample in samples]
    assert found == ["a.jpg", "b.png", "sub/a.jpg", "sub/deep/d.bmp", "z/c.jpeg"]
    for sample in samples:
        assert (sample.width, sample.height) == (20, 10)
        assert sample.annotation.dtype == np.float32
        assert sample.annotation.tolist() == [[0, 1, 2, 10, 12]]
    assert (report.images, report.samples, report.other_files) == (5, 5, 6)
    assert report.problems == report.clipped == report.skipped == []


def test_workers_read_the_same_as_this_process(tmp_path: Path) -> None:
    # Only what workers can import can be read by them, and this module is not light.
    from tests.helpers import worker_annotations

    for number in range(30):
        add(tmp_path, f"{number}.jpg", f"{number},1,2,10,12" if number % 7 else "x")
    done: list[float] = []
    with WorkerPool(2) as pool:
        samples, report = read_folder(tmp_path, worker_annotations.Rows(), pool, done.append)
    expected, expected_report = read_folder(tmp_path, worker_annotations.Rows(), POOL, lambda _: None)
    assert [sample.image for sample in samples] == [sample.image for sample in expected]
    assert all(np.array_equal(a.annotation, b.annotation) for a, b in zip(samples, expected, strict=True))
    assert report == expected_report
    assert len(report.problems) == 5
    assert done == sorted(done)
    assert done[-1] == 1.0


def test_bad_samples_are_left_out_with_file_line_and_reason(tmp_path: Path) -> None:
    good = add(tmp_path, "good.jpg")
    add(tmp_path, "missing.jpg", None)
    add(tmp_path, "malformed.jpg", "0,1,2,3,4\n\n0,1,2,3\n")
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "page.png").write_text("<html>404</html>")
    add(tmp_path, "boxes.jpg", "0,1,2,99,12\n0,5,5,5,9\n1,1,2,3,4")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    samples, report = read(tmp_path)
    assert [sample.image for sample in samples] == [str(tmp_path / "boxes.jpg"), good]
    assert samples[0].annotation.tolist() == [[0, 1, 2, 16, 12], [1, 1, 2, 3, 4]]
    found = {(os.path.relpath(p.file, tmp_path), p.line): p.reason for p in report.problems}
    assert found == {
        ("missing.txt", None): "there is no annotation: the file is missing",
        ("malformed.txt", 3): "'0,1,2,3': 4 values where 5 belong",
        ("empty.jpg", None): "empty file",
        ("page.png", None): "its content is HTML, not JPEG, PNG or BMP",
        ("boxes.txt", 2): "no area",
        ("gone.jpg", None): "No such file or directory",
        ("pipe.jpg", None): "not a regular file",
    }
    assert [(p.file, p.line) for p in report.clipped] == [(str(tmp_path / "boxes.txt"), 1)]
    assert (report.images, report.samples) == (8, 2)


def test_two_images_that_share_a_text_are_noted(tmp_path: Path) -> None:
    add(tmp_path, "twin.jpg")
    add(tmp_path, "twin.png")
    add(tmp_path, "twin.x.png")
    add(tmp_path / "sub", "twin.jpg")
    samples, report = read(tmp_path)
    assert len(samples) == 4
    assert [(os.path.relpath(p.file, tmp_path), p.reason) for p in report.notes] == [
        ("twin.png", "shares twin.txt with another image")
    ]


@pytest.mark.parametrize(("image", "text"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_image_and_text_may_be_named_in_different_unicode_forms(
    tmp_path: Path, image: str, text: str
) -> None:
    add(tmp_path, unicodedata.normalize(image, "é.jpg"), None)
    (tmp_path / unicodedata.normalize(text, "é.txt")).write_text("0,1,2,10,12")
    samples, report = read(tmp_path)
    assert [sample.annotation.tolist() for sample in samples] == [[[0, 1, 2, 10, 12]]]
    assert report.problems == []


def test_what_is_not_looked_at_is_named(tmp_path: Path) -> None:
    add(tmp_path, "a.jpg")
    add(tmp_path, "b.JPG")
    add(tmp_path, "c.Png")
    add(tmp_path, "d.webp")
    add(tmp_path, ".hidden.jpg")
    add(tmp_path, ".git/a.jpg")
    samples, report = read(tmp_path)
    assert len(samples) == report.images == 1
    found = {os.path.relpath(p.file, tmp_path): p.reason for p in report.skipped}
    assert found == {
        "b.JPG": "extension must be lower case: .jpg",
        "c.Png": "extension must be lower case: .png",
        "d.webp": "images are .jpg .jpeg .png .bmp, not .webp",
        ".hidden.jpg": "hidden: its name begins with a dot",
        ".git": "hidden: its name begins with a dot",
    }


def test_links_are_followed_once_and_loops_end(tmp_path: Path) -> None:
    add(tmp_path / "elsewhere", "x.jpg")
    folder = tmp_path / "set"
    add(folder, "a/1.jpg")
    (folder / "a" / "up").symlink_to(folder)
    (folder / "b").symlink_to(tmp_path / "elsewhere")
    (folder / "c").symlink_to("c")
    (folder / "d").symlink_to(folder / "a")
    samples, report = read(folder)
    assert [os.path.relpath(sample.image, folder) for sample in samples] == ["a/1.jpg", "b/x.jpg"]
    assert [os.path.relpath(p.file, folder) for p in report.skipped] == ["a/up", "d"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads folders that are closed to others")
def test_a_closed_folder_is_reported(tmp_path: Path) -> None:
    add(tmp_path, "a.jpg")
    add(tmp_path, "closed/b.jpg")
    (tmp_path / "closed").chmod(0)
    try:
        _, report = read(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)
    assert [p.reason for p in report.skipped] == ["cannot be read: Permission denied"]


def test_a_folder_that_cannot_be_listed_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add(tmp_path, "a.jpg")
    add(tmp_path, "closed/b.jpg")
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    _, report = read(tmp_path)
    assert [p.reason for p in report.skipped] == ["cannot be read: Permission denied"]


def test_a_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none cannot be read: No such file or directory$"):
        read(tmp_path / "none")


def test_names_with_anything_in_them_work_and_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "train"
    folder.mkdir()
    for name in [b"with blank", b"quote'\"", b"new\nline", "漢字，ü".encode(), b"\xff\xfe", b"%s{}\\"]:
        image = os.fsdecode(os.fsencode(folder) + b"/" + name + b".jpg")
        Image.new("RGB", (8, 8)).save(image, "JPEG")
        Path(annotation_path(image)).write_text("0,1,1,4,4")
    Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff\n.jpg")).write_bytes(b"")
    samples, report = read(folder)
    assert len(samples) == 6
    assert len(report.problems) == 1
    assert all(Path(sample.image).exists() for sample in samples)
    write_report(tmp_path / "report.json", {"train": report}, {})
    entry = json.loads((tmp_path / "report.json").read_text())["train"]["left_out"][0]
    assert entry["file"].endswith("bad\\xff\n.jpg")
    assert "\n" not in str(report.problems[0])


def test_an_annotation_that_ends_the_job_ends_it(tmp_path: Path) -> None:
    add(tmp_path, "a.jpg")
    add(tmp_path, "b.jpg", "9,1,1,2,2")
    with pytest.raises(DataError, match=r"b.txt:1: class id 9"):
        read(tmp_path)


def test_a_set_with_nothing_left_says_why(tmp_path: Path) -> None:
    for number in range(5):
        add(tmp_path, f"{number}.jpg", None)
    (tmp_path / "6.jpg").write_bytes(b"")
    with pytest.raises(NoSamples) as caught:
        read(tmp_path)
    assert isinstance(caught.value, DataError)
    assert str(caught.value) == (
        f"no sample is left of the 6 images in {tmp_path}: "
        "there is no annotation: the file is missing (5 times); empty file (1 times)"
    )
    assert len(caught.value.report.problems) == 6
    other = tmp_path / "other"
    add(other, "a.JPG")
    with pytest.raises(NoSamples, match=r"holds no image \(.jpg .jpeg .png .bmp\): extension must be lower"):
        read(other)


def test_the_log_names_the_first_problems_and_counts_the_rest(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(tmp_path, "good.jpg")
    for number in range(25):
        (tmp_path / f"{number}.jpg").write_bytes(b"")
    with caplog.at_level(logging.INFO, "visualtl"):
        read(tmp_path)
    messages = [record.getMessage() for record in caplog.records]
    assert messages[0] == f"{tmp_path}: 26 images, 1 samples, 25 images left out"
    assert len(messages) == 22
    assert messages[1] == f"Left out: {tmp_path / '0.jpg'}: empty file"
    assert messages[-1] == "... and 5 more in the report"


def test_the_report_file_has_every_entry(tmp_path: Path) -> None:
    report = FolderReport("/data/train", 3, 1, [Problem("a.txt", 2, "no area")])
    report.clipped.append(Problem("b.txt", 1, "sticks out", True, "sticking out"))
    report.clipped += [Problem("b.txt", line, "again", True, "duplicates") for line in (2, 3)]
    report.skipped.append(Problem("c.JPG", None, "extension"))
    part = FolderReport.split_off(Path("/data/train"), 4)
    write_report(tmp_path / "r.json", {"train": report, "valid": part}, {"train": {"classes": {"cat": 3}}})
    found = json.loads((tmp_path / "r.json").read_text())
    assert found["train"] == {
        "folder": "/data/train",
        "format": "txt",
        "images": 3,
        "samples": 1,
        "other_files": 0,
        "images_left_out": 0,
        "entries_left_out": 0,
        "left_out": [{"file": "a.txt", "line": 2, "reason": "no area"}],
        "clipped": [
            {"file": "b.txt", "line": line, "reason": reason}
            for line, reason in ((1, "sticks out"), (2, "again"), (3, "again"))
        ],
        "clipped_kinds": {"duplicates": 2, "sticking out": 1},
        "skipped": [{"file": "c.JPG", "line": None, "reason": "extension"}],
        "notes": [],
        "classes": {"cat": 3},
    }
    assert found["valid"]["folder"] == "/data/train"
    assert found["valid"]["samples"] == 4


def test_errors_survive_the_way_from_a_worker() -> None:
    problem = Problem("a.txt", 3, "no area")
    error = pickle.loads(pickle.dumps(BadSample(problem)))
    assert error.problems == (problem,)
    assert str(error) == "a.txt:3: no area"
    sample = pickle.loads(pickle.dumps(Sample("a.jpg", 3, 4, np.zeros((1, 5), np.float32))))
    assert (sample.image, sample.width, sample.height, sample.annotation.shape) == ("a.jpg", 3, 4, (1, 5))


@pytest.mark.shared
def test_the_odd_files_are_all_accounted_for(shared_data: Path, tmp_path: Path) -> None:
    shutil.copytree(shared_data / "edge", tmp_path / "edge", copy_function=shutil.copyfile)
    for path in list((tmp_path / "edge").iterdir()):
        Path(annotation_path(str(path))).write_text("0,0,0,1,1")
    samples, report = read(tmp_path / "edge")
    assert (report.images, len(samples)) == (28, 19)
    assert len(report.problems) == 9
    assert {os.path.basename(p.file) for p in report.skipped} == {"UPPERCASE.JPG", "animated.gif"}
