"""A job takes any folder of labels: the same images and boxes are the same samples, whatever format they stand in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import convert
from common.data.samples import Sample
from common.errors import DataError
from tests.helpers.label_trees import coco, image, images, labelme, text, voc
from tests.helpers.loaded_sets import load, report_of

ROOT = Path(__file__).resolve().parents[1]
BLOOD_CELLS = ROOT / "tests" / "data" / "blood_cells"
NAMES = "RBC,WBC,Platelets"


def told(samples: list[Sample]) -> list[tuple[Any, ...]]:
    return [(Path(s.image).name, s.width, s.height, s.label, s.annotation.tolist()) for s in samples]


@pytest.fixture(scope="module")
def formats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped set in five formats, each a folder with the sets train and valid."""
    folder = tmp_path_factory.mktemp("formats")
    source = folder / "source"
    source.mkdir()
    for part in ("train", "valid"):
        (source / part).symlink_to(BLOOD_CELLS / f"detect_{part}")
    for name in ("txt", "coco", "voc", "yolo", "labelme"):
        assert convert.main([str(source), str(folder / name), "--to", name, "--classes", NAMES]) == 0
    return folder


@pytest.mark.parametrize("name", ["coco", "voc", "yolo", "labelme"])
def test_the_same_boxes_are_the_same_samples_bit_for_bit(
    formats: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keys = {"valid_dir": "valid", "classes": NAMES}
    expected = load(formats / "txt", **keys)
    found = load(formats / name, **keys)
    assert found.classes == NAMES.split(",")
    for part in ("train", "valid"):
        mine, others = getattr(found, part), getattr(expected, part)
        assert len(mine) >= 40
        assert told(mine) == told(others)
        assert all(
            a.annotation.tobytes() == b.annotation.tobytes() for a, b in zip(mine, others, strict=True)
        )
        assert all(a.annotation.dtype == np.float32 for a in mine)
    assert any(f"{name}/train: the labels are {name}: " in message for message in caplog.messages)
    assert report_of(formats / name)["train"]["format"] == name


def test_classes_have_the_order_of_their_ids_or_of_their_names(formats: Path) -> None:
    assert load(formats / "coco").classes == NAMES.split(",")
    assert load(formats / "yolo").classes == NAMES.split(",")
    assert load(formats / "voc").classes == sorted(NAMES.split(","))
    assert load(formats / "labelme").classes == sorted(NAMES.split(","))


def test_classes_that_are_not_named_count_as_absent_and_are_counted(formats: Path) -> None:
    found = load(formats / "coco", classes="Platelets,RBC")
    assert found.classes == ["Platelets", "RBC"]
    all_of_it = load(formats / "coco")
    assert len(found.train) == len(all_of_it.train)
    white = sum(int((sample.annotation[:, 0] == 1).sum()) for sample in all_of_it.train)
    assert report_of(formats / "coco")["absent_classes"] == {}
    load(formats / "coco", classes="Platelets,RBC")
    assert report_of(formats / "coco")["absent_classes"] == {"train": {"WBC": white}}


def test_several_folders_are_one_set(formats: Path) -> None:
    folders = ["coco/train", "voc/valid", "txt/valid"]
    found = load(formats, train_dir=json.dumps(folders[:2]), classes=NAMES)
    apart = [load(formats, train_dir=folder, classes=NAMES).train for folder in folders[:2]]
    assert told(found.train) == told(apart[0] + apart[1])
    mixed = load(formats, train_dir=[folders[0], folders[2]], classes=NAMES, format=["coco", "txt"])
    assert told(mixed.train) == told(found.train)
    assert report_of(formats)["train"]["format"] == "coco, txt"


def test_large_sets_are_known_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.data.samples.LEAST_IMAGES", 1)
    monkeypatch.setattr("common.data.scan_cache.SETTLED_NS", -(10**18))
    images(tmp_path / "train", "a.jpg", "b.jpg", "c.jpg")
    rows = [
        {"image_id": 1, "category_id": 7, "bbox": [1, 2, 3, 4]},
        {"image_id": 2, "category_id": 3, "bbox": [5, 6, 7, 8]},
        {"image_id": 3, "category_id": 3, "bbox": [70, 6, 20, 8]},
    ]
    file = text(
        tmp_path / "train" / "_annotations.coco.json",
        coco(["a.jpg", "b.jpg", "c.jpg"], rows, {3: "x", 7: "y"}),
    )
    first = load(tmp_path, keep=True)
    read: list[str] = []
    from common.data import samples

    probe = samples.probe_marked
    monkeypatch.setattr(samples, "probe_marked", lambda path: read.append(Path(path).name) or probe(path))
    second = load(tmp_path, keep=True)
    assert told(second.train) == told(first.train)
    assert read == ["c.jpg"]  # it has something to report
    assert report_of(tmp_path)["train"]["clipped"]
    image(tmp_path / "train" / "b.jpg", (60, 40))
    content = json.loads(file.read_text())
    del content["images"][1]["width"]
    text(file, content)
    third = load(tmp_path, keep=True)
    assert sorted(read[1:]) == ["a.jpg", "b.jpg", "c.jpg"]
    assert third.train[1].width == 60


def test_faults_are_reported_with_file_and_line(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg", "c.jpg", "d.JPG", "e.jpg")
    text(tmp_path / "train" / "a.xml", voc(("cat", 1, 1, 20, 20), ("cat", 90, 1, 99, 20)))
    text(tmp_path / "train" / "b.xml", voc(("cat", 1, 1, 20, 20), size=(100, 50)))
    text(tmp_path / "train" / "c.xml", "<annotation>\n<object>")
    text(tmp_path / "train" / "d.xml", voc(("cat", 1, 1, 20, 20)))
    found = load(tmp_path)
    assert [Path(sample.image).name for sample in found.train] == ["a.jpg", "d.JPG"]
    report = report_of(tmp_path)["train"]
    left_out = [
        f"{Path(entry['file']).name}:{entry['line']}: {entry['reason']}" for entry in report["left_out"]
    ]
    assert left_out[0].startswith("a.xml:5: 89,0,99,20: a box outside of the 80x40 image")
    assert "b.xml:None:" in left_out[1]
    assert "annotated as 100x50, but the image is 80x40; left out" in left_out[1]
    assert left_out[2].startswith("c.xml:2: column 9: not XML")
    assert [Path(entry["file"]).name for entry in report["skipped"]] == ["e.jpg"]


@pytest.mark.parametrize("again", ["./train/", "link"])
def test_a_folder_counts_once_whatever_its_name(tmp_path: Path, again: str) -> None:
    images(tmp_path / "train", "a.jpg")
    text(tmp_path / "train" / "a.txt", "0,1,2,30,20\n")
    (tmp_path / "link").symlink_to("train")
    with pytest.raises(DataError, match=r"dataset.train_dir: .* are the same folder; name it once"):
        load(tmp_path, train_dir=["train", again])


def test_a_set_without_objects_says_what_was_left_out(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg")
    file = text(tmp_path / "train" / "_annotations.coco.json", coco(["a.jpg"], [{"image_id": 1}], {1: "x"}))
    with pytest.raises(DataError, match=r"1 entries were left out, such as .* has no category_id"):
        load(tmp_path)
    text(file, coco(["a.jpg"], [{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}], {}))
    with pytest.raises(DataError, match="lists no categories"):
        load(tmp_path)


@pytest.mark.parametrize("line", ["0 10 20 30 40", "cat 0.5 0.5 0.2 0.2"])
def test_texts_apart_from_the_images_are_yolos_whatever_is_in_them(
    tmp_path: Path, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "train" / "images", "a.jpg")
    text(tmp_path / "train" / "labels" / "a.txt", line)
    with pytest.raises(DataError, match=r"shares of the image|in numbers"):
        load(tmp_path)
    assert f"labels/a.txt:1: '{line}'" in caplog.text


def test_a_classes_txt_that_gives_ids_other_names_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    images(tmp_path / "train", "a.jpg")
    text(tmp_path / "train" / "a.txt", "0,1,2,30,20\n1,5,5,20,20\n")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    load(tmp_path, classes="cat,dog")
    load(tmp_path, classes="katze,hund")
    assert "classes.txt" not in caplog.text
    load(tmp_path, classes="dog,cat")
    assert "dog is 1 there and 0 in dataset.classes, cat is 0 there and 1" in caplog.text


def test_xmls_of_one_set_count_alike_in_all_its_folders(tmp_path: Path) -> None:
    for folder, box in (("train", (0, 0, 20, 20)), ("more", (5, 5, 20, 20))):
        images(tmp_path / folder, f"{folder}.jpg")
        text(tmp_path / folder / f"{folder}.xml", voc(("cat", *box), filename=f"{folder}.jpg"))
    boxes = [sample.annotation.tolist() for sample in load(tmp_path, train_dir=["train", "more"]).train]
    assert boxes == [[[0, 0, 0, 20, 20]], [[0, 5, 5, 20, 20]]]
    assert load(tmp_path, train_dir=["more"]).train[0].annotation.tolist() == [[0, 4, 4, 20, 20]]


def test_shares_are_yolos_and_an_error_as_txt(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg")
    text(tmp_path / "train" / "a.txt", "0 0.73 0.67 0.54 0.65\n")
    (sample,) = load(tmp_path).train
    np.testing.assert_allclose(sample.annotation, [[0, 36.8, 13.8, 80, 39.8]], rtol=1e-6)
    with pytest.raises(DataError, match="all coordinates are from 0 to 1, shares of the image as YOLO's are"):
        load(tmp_path, format="txt")


def test_lists_and_manifests_give_classes(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg", "c.jpg")
    text(tmp_path / "train.lst", "a.jpg cat\nb.jpg dog\nc.jpg emu\n")
    found = load(tmp_path, "classification")
    assert found.classes == ["cat", "dog", "emu"]
    assert [(sample.label, sample.annotation.tolist()) for sample in found.train] == [
        ("cat", [0]),
        ("dog", [1]),
        ("emu", [2]),
    ]
    chosen = load(tmp_path, "classification", classes="emu,cat")
    assert [(sample.label, sample.annotation.tolist()) for sample in chosen.train] == [
        ("cat", [1]),
        ("emu", [0]),
    ]
    assert report_of(tmp_path)["absent_classes"] == {"train": {"dog": 1}}
    images(tmp_path / "valid", "z.jpg")
    text(tmp_path / "valid.lst", "z.jpg owl\n")
    keys = {"train_annotations": "train.lst", "valid_dir": "valid", "valid_annotations": "valid.lst"}
    with pytest.raises(DataError, match="classes that the training set does not have: 'owl'"):
        load(tmp_path, "classification", **keys)


def test_class_folders_may_be_chosen_and_ordered(tmp_path: Path) -> None:
    for name in ("cat/a.jpg", "dog/b.jpg", "emu/c.jpg"):
        images(tmp_path / "train", name)
    found = load(tmp_path, "classification", classes="emu,cat")
    assert found.classes == ["emu", "cat"]
    assert [(sample.label, sample.annotation.tolist()) for sample in found.train] == [
        ("cat", [1]),
        ("emu", [0]),
    ]
    assert report_of(tmp_path)["absent_classes"] == {"train": {"dog": 1}}
    images(tmp_path / "more", "owl/d.jpg")
    both = load(tmp_path, "classification", train_dir=["train", "more"])
    assert both.classes == ["cat", "dog", "emu", "owl"]
    assert [sample.label for sample in both.train] == ["cat", "dog", "emu", "owl"]


def test_identities_of_market1501(tmp_path: Path) -> None:
    images(
        tmp_path / "train", "0002_c1s1_000001_01.jpg", "0007_c1s1_000001_01.jpg", "0000_c1s1_000001_01.jpg"
    )
    found = load(tmp_path, "reid")
    assert found.classes == ["0002", "0007"]
    assert [sample.label for sample in found.train] == ["0002", "0007"]


def test_faces_are_samples_with_their_boxes(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    face = {"image_id": 1, "category_id": 1, "bbox": [10, 5, 40, 20]}
    rows = [
        {**face, "keypoints": [12, 8, 2, 20, 9, 1]},
        {**face, "bbox": [30, 2, 60, 20], "keypoints": [35, 8, 2, 0, 0, 0]},
        {"image_id": 2, "category_id": 1, "keypoints": [1, 2, 2, 3, 4, 2]},
    ]
    rows[2]["bbox"] = [0, 0, 80, 40]
    text(
        tmp_path / "train" / "_annotations.coco.json",
        coco(["a.jpg", "b.jpg"], rows, [{"id": 1, "name": "face", "keypoints": ["l", "r"]}]),
    )
    found = load(tmp_path, "landmark", num_joints=2)
    assert [Path(sample.image).name for sample in found.train] == ["a.jpg", "a.jpg", "b.jpg"]
    assert found.train[0].annotation.tolist() == [[12, 8, 10, 5, 50, 25], [20, 9, 10, 5, 50, 25]]
    assert found.train[1].annotation[:, 2:].tolist() == [[30, 2, 80, 22]] * 2  # clipped to the image
    turned = load(tmp_path, "landmark", num_joints=2, keypoints="r,l")
    assert turned.train[0].annotation[:, :2].tolist() == [[20, 9], [12, 8]]


def test_points_with_labels_come_in_numeric_order(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    shapes = [{"label": str(n), "shape_type": "point", "points": [[n, n]]} for n in (10, 9, 1)]
    text(tmp_path / "train" / "a.json", labelme(*shapes))
    text(tmp_path / "train" / "b.json", labelme(*shapes[:2]))
    (sample,) = load(tmp_path, "landmark", num_joints=3).train
    assert sample.annotation.tolist() == [[1, 1], [9, 9], [10, 10]]
    assert "2 keypoints; dataset.num_joints is 3" in json.dumps(report_of(tmp_path)["train"]["left_out"])


def test_exports_of_several_sets_say_which_images_are_whose(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    listed = "".join(
        f'<image id="{n}" name="{name}.jpg" width="80" height="40" subset="{part}">'
        f'<box label="cat" xtl="1" ytl="1" xbr="9" ybr="9"/></image>'
        for n, (name, part) in enumerate((("a", "Train"), ("b", "Train"), ("c", "Validation")))
    )
    text(tmp_path / "annotations.xml", f"<annotations>{listed}</annotations>")
    found = load(tmp_path, train_dir="images", valid_dir="images")
    assert [Path(sample.image).name for sample in found.train] == ["a.jpg", "b.jpg"]
    assert [Path(sample.image).name for sample in found.valid or []] == ["c.jpg"]
