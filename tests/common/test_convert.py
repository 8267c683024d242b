"""Labels go from any format into any that is written, and back as they were; what cannot go along is said."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import convert
from tests.helpers.label_trees import SIZE, coco, image, images, labelme, objects, opened, records, text, voc

ROOT = Path(__file__).resolve().parents[2]

Rows = list[tuple[str, float, float, float, float]]


def run(source: Path, out: Path, to: str, *options: str) -> int:
    return convert.main([str(source), str(out), "--to", to, *options])


def coordinates(limit: int) -> st.SearchStrategy[tuple[float, float]]:
    whole = st.integers(0, limit).map(float)
    fraction = st.floats(0, limit).map(lambda value: round(value, 2))
    pair = st.tuples(whole, whole) | st.tuples(fraction, fraction)
    return pair.map(sorted).map(tuple).filter(lambda ends: ends[1] - ends[0] >= 1)


BOX = st.tuples(st.sampled_from(["cat", "大 dog", "x&<y>"]), coordinates(SIZE[0]), coordinates(SIZE[1])).map(
    lambda row: (row[0], row[1][0], row[2][0], row[1][1], row[2][1])
)
SET = st.dictionaries(
    st.sampled_from(["a.jpg", "b c.png", "sub/a.jpg", "漢.bmp"]),
    st.lists(BOX, max_size=4, unique=True),
    min_size=1,
)


def written_as_coco(folder: Path, content: dict[str, Rows]) -> None:
    images(folder, *content)
    names = sorted({name for rows in content.values() for name, *_ in rows})
    rows = [
        {"image_id": number, "category_id": names.index(name), "bbox": [x1, y1, x2 - x1, y2 - y1]}
        for number, rows in enumerate(content.values(), 1)
        for name, x1, y1, x2, y2 in rows
    ]
    text(folder / "_annotations.coco.json", coco(list(content), rows, dict(enumerate(names))))


def read_back(folder: Path, to: str) -> dict[str, Rows]:
    """Objects by the paths of the images below what was written."""
    base = {"coco": folder / "images", "voc": folder / "JPEGImages", "yolo": folder / "images"}.get(
        to, folder
    )
    found = opened(folder, format_name=to)
    names = (folder / "classes.txt").read_text().splitlines() if (folder / "classes.txt").exists() else []
    result = {}
    for path, entry in zip(found.images, found.entries, strict=True):
        record = found.parse(path, entry, *SIZE)
        assert not record.problems
        result[os.path.relpath(path, base)] = [
            (names[thing.label] if isinstance(thing.label, int) else thing.label, *(thing.box or ()))
            for thing in record.objects
        ]
    return result


@pytest.mark.parametrize("to", ["txt", "coco", "voc", "yolo", "labelme"])
def test_there_and_back_is_the_identity(tmp_path_factory: pytest.TempPathFactory, to: str) -> None:
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(SET)
    def there_and_back(content: dict[str, Rows]) -> None:
        folder = tmp_path_factory.mktemp("set")
        written_as_coco(folder / "source", content)
        assert run(folder / "source", folder / "out", to) == 0
        found = read_back(folder / "out", to)
        assert set(found) == set(content)
        for name, rows in content.items():
            assert [row[0] for row in found[name]] == [row[0] for row in rows]
            for (_, *box), (_, *expected) in zip(found[name], rows, strict=True):
                assert box == pytest.approx(expected, abs=1e-9)
                if all(value == int(value) for value in expected):
                    assert box == expected

    there_and_back()


def test_a_whole_export_keeps_its_sets_and_hard_links_its_images(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        images(tmp_path / "source" / part / "images", f"{part}.jpg")
        text(tmp_path / "source" / part / "labels" / f"{part}.txt", "1 0.25 0.225 0.25 0.2\n")
    text(tmp_path / "source" / "data.yaml", "names: [cat, dog]\n")
    for to, train in (
        ("txt", "train"),
        ("coco", "train"),
        ("voc", "train"),
        ("labelme", "train"),
        ("yolo", "train"),
    ):
        out = tmp_path / to
        assert run(tmp_path / "source", out, to) == 0
        found = opened(out / train, root=out, part="train", format_name=to)
        label = 1 if to == "txt" else "dog"
        assert objects(found) == {"train.jpg": [(label, 10, 5, 30, 13)]}, to
        assert os.path.samefile(found.images[0], tmp_path / "source" / "train" / "images" / "train.jpg")
        assert not list(tmp_path.glob(f".{to}.*"))


def test_classes_are_named_chosen_and_ordered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "source", "a.jpg", "b.jpg")
    text(tmp_path / "source" / "a.xml", voc(("cat", 1, 1, 8, 4), ("dog", 1, 1, 8, 4), ("bird", 1, 1, 8, 4)))
    text(tmp_path / "source" / "b.xml", voc())
    assert run(tmp_path / "source", tmp_path / "out", "txt", "--classes", "dog,cat") == 0
    assert (tmp_path / "out" / "a.txt").read_text() == "1,0,0,8,4\n0,0,0,8,4\n"
    assert (tmp_path / "out" / "b.txt").read_text() == "-1,-1,-1,-1,-1\n"
    assert (tmp_path / "out" / "classes.txt").read_text() == "dog\ncat\n"
    assert "1 objects of the class bird, which --classes does not name" in capsys.readouterr().err
    assert run(tmp_path / "out", tmp_path / "again", "yolo") == 0
    assert opened(tmp_path / "again").names == ["dog", "cat"]


def test_what_a_format_cannot_hold_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "source", "a.jpg")
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5, 5], "iscrowd": 1},
        {"image_id": 1, "category_id": 1, "bbox": [70, 1, 20, 5]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 1, 5]},
    ]
    text(tmp_path / "source" / "_annotations.coco.json", coco(["a.jpg"], rows, {1: "cat"}))
    assert run(tmp_path / "source", tmp_path / "out", "yolo") == 0
    said = capsys.readouterr().err
    report = (tmp_path / "out" / "conversion.log").read_text()
    for word in ("1 crowd or difficult regions", "sticks out of the 80x40 image", "bbox [1, 1, 5] is not"):
        assert word in said
        assert word in report
    assert report.startswith("1 images, 2 objects written (from coco)\n")
    assert run(tmp_path / "source", tmp_path / "voc", "voc") == 0
    assert records(opened(tmp_path / "voc"))["a.jpg"].objects[0].difficult


def test_keypoints_go_along(tmp_path: Path) -> None:
    images(tmp_path / "source", "a.jpg")
    text(tmp_path / "source" / "a.pts", "version: 1\nn_points: 3\n{\n2 3\n11.5 5\n9 9\n}\n")
    for to in ("coco", "yolo", "labelme", "txt"):
        assert run(tmp_path / "source", tmp_path / to, to, "--task", "landmark") == 0
        (record,) = records(opened(tmp_path / to, task="landmark")).values()
        (thing,) = record.objects
        assert [(point.x, point.y) for point in thing.points] == [(1, 2), (10.5, 4), (8, 8)], to
        # What is learnt stays all of the image, also where a format wants a box.
        assert thing.box == ((0, 0, 80, 40) if to in ("coco", "yolo") else None)
    assert run(tmp_path / "coco", tmp_path / "back", "txt", "--task", "landmark") == 0
    assert "boxes beside the points" not in (tmp_path / "back" / "conversion.log").read_text()


def test_keypoints_that_cannot_be_seen_go_along(tmp_path: Path) -> None:
    images(tmp_path / "source", "a.jpg")
    text(tmp_path / "source" / "a.txt", "2,3\n-1,-1\n9,9\n")
    for to in ("coco", "yolo", "labelme"):
        assert run(tmp_path / "source", tmp_path / to, to, "--task", "landmark") == 0
        assert run(tmp_path / to, tmp_path / f"{to}_back", "txt", "--task", "landmark") == 0
        assert (tmp_path / f"{to}_back" / "a.txt").read_text().split() == ["2,3", "-1,-1", "9,9"], to


def test_classes_of_images_become_folders_or_a_table(tmp_path: Path) -> None:
    images(tmp_path / "source", "a.jpg", "b.jpg")
    text(tmp_path / "source" / "train.lst", "a.jpg cat\nb.jpg black dog\n")
    options = ("--task", "classification")
    assert run(tmp_path / "source", tmp_path / "folders", "txt", *options) == 0
    assert (tmp_path / "folders" / "black dog" / "b.jpg").is_file()
    assert run(tmp_path / "folders", tmp_path / "table", "csv", *options) == 0
    lines = (tmp_path / "table" / "labels.csv").read_text().splitlines()
    assert lines == ["image,class", "images/black dog/b.jpg,black dog", "images/cat/a.jpg,cat"]


@pytest.mark.parametrize(
    ("options", "status", "reason"),
    [
        (["gone", "out", "--to", "txt"], 2, "SOURCE: gone is not a folder"),
        (["source", "source/out", "--to", "txt"], 2, "OUT: source/out lies in SOURCE"),
        (["source", "full", "--to", "txt"], 2, "OUT: full is not empty"),
        (["source", "out", "--to", "voc", "--task", "landmark"], 2, "--to voc: cannot hold landmark"),
        (["source", "out", "--to", "csv"], 2, "--to csv: it holds classes of images"),
        (["source", "out", "--to", "txt", "--from", "coco"], 3, "no COCO file is there"),
        (
            ["source", "out", "--to", "txt"],
            3,
            "no image of the set in SOURCE can be read: source/a.txt: there is no",
        ),
        (["source", "out", "--to", "coco", "--from", "pts"], 3, "has no annotations for detection"),
    ],
)
def test_what_cannot_be_converted_ends_with_one_line(
    tmp_path: Path, options: list[str], status: int, reason: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    image(tmp_path / "source" / "a.jpg")
    image(tmp_path / "full" / "a.jpg")
    assert convert.main(options) == status
    assert reason in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "out").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "source"]


def test_what_was_done_is_said_in_chinese_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images(tmp_path / "source", *(f"{number}.jpg" for number in range(25)))
    for number in range(25):
        text(tmp_path / "source" / f"{number}.xml", voc(("cat", 500, 1, 600, 4)))
    assert run(tmp_path / "source", tmp_path / "out", "yolo", "--lang", "zh") == 0
    out, err = capsys.readouterr()
    assert re.search(r"source: voc（.*），25 张图像", out)
    assert "已写出 25 张图像、" in out
    assert re.search(r"……另有 \d+ 条，见 ", err.splitlines()[-1])


def test_the_command_runs_from_the_root_of_the_project(tmp_path: Path) -> None:
    image(tmp_path / "source" / "a.jpg")
    text(tmp_path / "source" / "a.json", labelme())
    command: list[Any] = [
        sys.executable,
        "-m",
        "common.convert",
        tmp_path / "source",
        tmp_path / "out",
        "--to",
        "voc",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "source: labelme (" in done.stdout
    assert "1 images, 0 objects written" in done.stdout
