"""Keypoints, classes of whole images, and identities are read as their formats mean them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.data.formats.base import Object
from common.data.problems import BadSample
from tests.helpers.label_trees import coco, images, labelme, objects, opened, records, text


def points(thing: Object) -> list[tuple[Any, ...]]:
    return [(point.x, point.y) if point.visible else None for point in thing.points]  # type: ignore[misc]


def things(folder: Path, **options: Any) -> dict[str, list[Object]]:
    found = opened(folder, task="landmark", **options)
    return {name: record.objects for name, record in records(found).items()}


def test_coco_keypoints_have_names_and_a_flag(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    rows = [
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "keypoints": [5, 6, 2, 0, 0, 0]},
        {"image_id": 1, "category_id": 1, "bbox": [1, 2, 30, 20], "keypoints": [7, 8, 1, 9, 10, 2]},
    ]
    text(
        tmp_path / "_annotations.coco.json",
        coco(["a.jpg"], rows, [{"id": 1, "name": "face", "keypoints": ["l", "r"]}]),
    )
    assert opened(tmp_path, task="landmark").keypoints == ["l", "r"]
    first, second = things(tmp_path)["a.jpg"]
    assert (first.box, points(first)) == ((1, 2, 31, 22), [(5, 6), None])
    assert (points(second), second.points[1].name) == ([(7, 8), (9, 10)], "r")


@pytest.mark.parametrize("columns", [2, 3])
def test_yolo_pose_has_its_points_behind_the_box(tmp_path: Path, columns: int) -> None:
    images(tmp_path, "a.jpg")
    flags = ("", "") if columns == 2 else (" 2", " 0")
    text(tmp_path / "a.txt", f"0 0.5 0.5 0.5 0.5 0.25 0.25{flags[0]} 0 0{flags[1]}\n")
    text(tmp_path / "data.yaml", f"names: [face]\nkpt_shape: [2, {columns}]\n")
    (thing,) = things(tmp_path)["a.jpg"]
    assert (thing.box, points(thing)) == ((20, 10, 60, 30), [(20, 10), None])


def test_labelme_points_belong_together_by_their_group(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")

    def point(label: str, x: float, group: int) -> dict[str, Any]:
        return {"label": label, "shape_type": "point", "points": [[x, 1]], "group_id": group}

    box = {"label": "face", "shape_type": "rectangle", "points": [[0, 0], [9, 9]], "group_id": 2}
    text(tmp_path / "a.json", labelme(point("1", 1, 1), point("0", 2, 1), box, point("0", 3, 2)))
    first, second = things(tmp_path)["a.jpg"]
    assert [(found.name, found.x) for found in first.points] == [("1", 1), ("0", 2)]
    assert (second.box, [found.name for found in second.points]) == ((0, 0, 9, 9), ["0"])


def test_pts_coordinates_count_from_1(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    text(tmp_path / "a.pts", "version: 1\nn_points:  2\n{\n1.0 1.0\n30.5 20\n}\n")
    text(tmp_path / "b.pts", "version: 1\nn_points: 3\n{\n1 1\n}\n")
    text(tmp_path / "z.pts", "version: 1\nn_points: 1\n{\n1 1\n}\n")
    found = opened(tmp_path, task="landmark")
    assert found.format == "pts"
    assert points(found.parse(found.images[0], found.entries[0], 80, 40).objects[0]) == [(0, 0), (29.5, 19)]
    with pytest.raises(BadSample, match=r"b\.pts: 1 points where n_points says 3"):
        found.parse(found.images[1], found.entries[1], 80, 40)
    assert "z.pts: its image is not there" in str(found.problems[0])
    assert "c.jpg: there is no .pts of it" in str(found.skipped[0])


@pytest.mark.parametrize("full", [False, True])
def test_wflw_lists_have_the_points_first_and_a_line_for_each_face(tmp_path: Path, full: bool) -> None:
    images(tmp_path / "images", "sub/a.jpg")
    rest = " 1 2 30 20 0 0 1 0 0 1" if full else ""
    lines = [" ".join(str(start + number) for number in range(196)) + f"{rest} sub/a.jpg" for start in (0, 1)]
    text(tmp_path / "list_98pt_rect_attr_train.txt", "\n".join(lines))
    first, second = things(tmp_path / "images", root=tmp_path)["a.jpg"]
    assert (points(first)[97], points(second)[0]) == ((194, 195), (1, 2))
    assert first.box == ((1, 2, 30, 20) if full else None)
    assert (first.line, second.line) == (1, 2)


def test_our_texts_hold_points_of_which_some_may_be_unseen(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(tmp_path / "a.txt", "1,2\n-1,-1\n")
    (thing,) = things(tmp_path)["a.jpg"]
    assert points(thing) == [(1, 2), None]


def test_lists_name_classes(tmp_path: Path) -> None:
    images(tmp_path / "pictures", "a.jpg", "b.jpg")
    text(tmp_path / "train.txt", "pictures/a.jpg black cat\npictures/b.jpg\tdog\n")
    found = opened(tmp_path / "pictures", root=tmp_path, task="classification")
    assert found.format == "list"
    assert objects(found) == {"a.jpg": [("black cat",)], "b.jpg": [("dog",)]}


def test_manifests_name_classes(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    label = '{{"type":"modelarts/image_classification","name":"{}"}}'
    cat, dog = label.format("cat"), label.format("dog")
    text(
        tmp_path / "x.manifest",
        f'{{"source":"s3://x/a.jpg","annotation":[{cat}]}}\n{{"source":"b.jpg","annotation":[{cat},{dog}]}}',
    )
    found = opened(tmp_path, task="classification")
    assert objects(found) == {"a.jpg": [("cat",)]}
    assert "x.manifest:2: 2 classes of one image, cat, dog" in str(found.problems[0])


def test_market1501_names_say_the_person(tmp_path: Path) -> None:
    names = [
        "0002_c1s1_000451_03.jpg",
        "0002_c3s2_000001_00.jpg",
        "-1_c1s1_000001_00.jpg",
        "0000_c1s1_000001_00.jpg",
        "thumbs.jpg",
    ]
    images(tmp_path / "bounding_box_train", *names)
    found = opened(tmp_path / "bounding_box_train", root=tmp_path, task="reid")
    assert found.format == "market1501"
    assert objects(found) == {names[0]: [("0002",)], names[1]: [("0002",)]}
    assert [problem.reason.split(":")[0] for problem in found.skipped] == ["junk", "a distractor"]
    assert "thumbs.jpg: its name is not like" in str(found.problems[0])


def test_market1501_sets_to_evaluate_on_keep_distractors(tmp_path: Path) -> None:
    images(tmp_path / "query", "0001_c1s1_000001_00.jpg")
    images(
        tmp_path / "bounding_box_test",
        "0001_c2s1_000001_00.jpg",
        "0000_c1s1_000001_00.jpg",
        "-1_c1s1_000001_00.jpg",
    )
    images(tmp_path / "gt_bbox", "0001_c3s1_000001_00.jpg")
    assert sorted(objects(opened(tmp_path, task="reid"))) == [
        "0000_c1s1_000001_00.jpg", "0001_c1s1_000001_00.jpg", "0001_c2s1_000001_00.jpg"
    ]  # fmt: skip
