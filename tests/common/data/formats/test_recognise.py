"""A set is taken for what it is, and our own texts never for anything else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from common.data.formats.base import Place, inside
from common.data.formats.recognise import recognise
from common.data.listing import Listing
from common.errors import DataError
from tests.helpers.label_trees import coco, images, labelme, opened, text, voc

ROOT = Path(__file__).resolve().parents[4]


def format_of(folder: Path, task: str = "detection", root: Path | None = None) -> str:
    return recognise(Place(str(root or folder), str(folder), None, "train", task), Listing(str(folder)))[0]


@pytest.mark.parametrize("part", ["detect_train", "detect_valid"])
def test_the_shipped_set_is_ours(part: str) -> None:
    root = ROOT / "tests" / "data" / "blood_cells"
    assert format_of(root / part, root=root) == "txt"


def test_all_real_sets_are_ours(shared_data: Path) -> None:
    tasks = {
        "bccd": "detection", "coco128": "detection", "microcontroller": "detection", "trashnet": "classification",
        "hymenoptera": "classification", "orl": "reid", "orl_openset": "reid", "ytf68": "landmark",
    }  # fmt: skip
    for name, task in tasks.items():
        for folder in (path for path in (shared_data / name).iterdir() if path.is_dir()):
            assert format_of(folder, task, shared_data) == "txt", folder


@pytest.mark.parametrize("folder", ["photos", "deep/photos"])
def test_a_root_may_be_the_current_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    images(tmp_path / folder, "a.jpg")
    text(tmp_path / folder / "a.json", labelme(name="a.jpg"))
    place = Place(".", folder)
    assert list(place.above()) == [folder, *map(str, Path(folder).parents)]
    assert format_of(Path(folder), root=Path()) == "labelme"
    (tmp_path / folder / "a.json").unlink()
    text(tmp_path / "annotations" / "instances_photos.json", coco(["a.jpg"], [], {1: "cat"}))
    assert format_of(Path(folder), root=Path()) == "coco"
    assert not any(inside(path, ".") for path in ("..", "../a", "/a"))


def test_ours_stays_ours_whatever_lies_beside_it(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    text(tmp_path / "train" / "a.txt", "0,10,5,30,13\n")
    text(tmp_path / "train" / "b.txt", "-1，-1，-1，-1，-1\n")
    text(tmp_path / "train" / "_annotations.coco.json", coco(["a.jpg"], [], {1: "cat"}))
    text(tmp_path / "train" / "a.xml", voc(("cat", 1, 1, 2, 2)))
    text(tmp_path / "train" / "a.json", labelme())
    text(tmp_path / "train.txt", "a.jpg 1,1,5,5,1\n")
    text(tmp_path / "data.yaml", "names: [cat]\n")
    text(tmp_path / "classes.txt", "cat\n")
    assert format_of(tmp_path / "train", root=tmp_path) == "txt"


def test_one_pixel_boxes_are_ours_and_shares_are_not(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    text(tmp_path / "a.txt", "0,0,0,1,1\n")
    text(tmp_path / "b.txt", "0 0 0 1 1\n")
    assert format_of(tmp_path) == "txt"
    text(tmp_path / "a.txt", "0,0.5,0.5,1,1\n")
    assert format_of(tmp_path) == "yolo"
    text(tmp_path / "b.txt", "0 0.5 0.5 2 1\n")
    assert format_of(tmp_path) == "txt"


def test_images_without_anything_stay_ours(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    assert format_of(tmp_path) == "txt"
    text(tmp_path / "a.txt", "what is this\n")
    assert format_of(tmp_path) == "txt"


def test_two_other_formats_are_an_error_that_names_them(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(tmp_path / "_annotations.coco.json", coco(["a.jpg"], [], {1: "cat"}))
    text(tmp_path / "a.xml", voc(("cat", 1, 1, 2, 2)))
    with pytest.raises(
        DataError, match=r"may be of 2 formats; name one with dataset.format \(coco: .*; voc: "
    ):
        format_of(tmp_path)
    assert opened(tmp_path, format_name="voc").format == "voc"


def test_a_class_named_like_a_folder_of_a_format_is_a_class(tmp_path: Path) -> None:
    images(tmp_path, "cat/a.jpg", "query/0001_c1s1_000001_00.jpg")
    assert format_of(tmp_path, "classification") == "txt"
    assert format_of(tmp_path, "reid") == "txt"


def test_annotations_that_are_named_are_of_that_format(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg")
    text(tmp_path / "train" / "a.txt", "0,10,5,30,13\n")
    file = text(tmp_path / "labels.json", coco(["a.jpg"], [], {1: "cat"}))
    assert opened(tmp_path / "train", root=tmp_path, annotations=file).format == "coco"
    with pytest.raises(DataError, match="annotations of no known format for detection"):
        opened(tmp_path / "train", root=tmp_path, annotations=text(tmp_path / "x.json", "{}"))
    with pytest.raises(DataError, match=r"dataset.train_annotations: .*gone.json does not exist"):
        opened(tmp_path / "train", root=tmp_path, annotations=tmp_path / "gone.json")


# As tools lay exports out


def test_coco_as_roboflow_and_as_the_data_set_itself(tmp_path: Path) -> None:
    images(tmp_path / "roboflow" / "train", "a_jpg.rf.0123.jpg")
    text(
        tmp_path / "roboflow" / "train" / "_annotations.coco.json", coco(["a_jpg.rf.0123.jpg"], [], {0: "x"})
    )
    text(tmp_path / "roboflow" / "README.roboflow.txt", "Exported\nhttps://example.org/a.jpg some words\n")
    text(tmp_path / "roboflow" / "README.dataset.txt", "words\n")
    assert format_of(tmp_path / "roboflow" / "train", root=tmp_path / "roboflow") == "coco"
    images(tmp_path / "coco" / "val2017", "000000000139.jpg")
    content = coco(["000000000139.jpg"], [], {1: "person"})
    text(tmp_path / "coco" / "annotations" / "instances_val2017.json", content)
    text(tmp_path / "coco" / "annotations" / "person_keypoints_val2017.json", content)
    text(
        tmp_path / "coco" / "annotations" / "captions_val2017.json",
        {"images": content["images"], "annotations": []},
    )
    assert format_of(tmp_path / "coco" / "val2017", root=tmp_path / "coco") == "coco"
    assert format_of(tmp_path / "coco" / "val2017", "landmark", tmp_path / "coco") == "coco"


def test_yolo_as_roboflow_label_studio_and_its_tools(tmp_path: Path) -> None:
    line = "0 0.5 0.5 0.25 0.25\n"
    images(tmp_path / "roboflow" / "train" / "images", "a.jpg")
    text(tmp_path / "roboflow" / "train" / "labels" / "a.txt", line)
    text(tmp_path / "roboflow" / "data.yaml", "names: [x]\ntrain: ../train/images\n")
    assert format_of(tmp_path / "roboflow" / "train", root=tmp_path / "roboflow") == "yolo"
    images(tmp_path / "studio" / "images", "0123abcd-a.jpg")
    text(tmp_path / "studio" / "labels" / "0123abcd-a.txt", line)
    text(tmp_path / "studio" / "classes.txt", "x\n")
    text(tmp_path / "studio" / "notes.json", {"categories": [{"id": 0, "name": "x"}], "info": {"year": 2022}})
    assert format_of(tmp_path / "studio") == "yolo"
    images(tmp_path / "coco8" / "images" / "train", "a.jpg")
    text(tmp_path / "coco8" / "labels" / "train" / "a.txt", line)
    text(tmp_path / "coco8" / "train.txt", "./images/train/a.jpg\n")
    assert format_of(tmp_path / "coco8" / "images" / "train", root=tmp_path / "coco8") == "yolo"
    images(tmp_path / "darknet" / "train", "a.jpg")
    text(tmp_path / "darknet" / "train" / "a.txt", line)
    text(tmp_path / "darknet" / "train" / "_darknet.labels", "x\n")
    assert opened(tmp_path / "darknet" / "train").names == ["x"]


def test_voc_as_the_data_set_itself_and_as_labelimg(tmp_path: Path) -> None:
    images(tmp_path / "VOC2007" / "JPEGImages", "000005.jpg")
    text(tmp_path / "VOC2007" / "Annotations" / "000005.xml", voc(("chair", 1, 1, 2, 2)))
    for name in ("train", "val", "trainval"):
        text(tmp_path / "VOC2007" / "ImageSets" / "Main" / f"{name}.txt", "000005\n")
    text(tmp_path / "VOC2007" / "ImageSets" / "Main" / "chair_train.txt", "000005  1\n")
    assert format_of(tmp_path / "VOC2007") == "voc"
    assert format_of(tmp_path / "VOC2007" / "JPEGImages", root=tmp_path) == "voc"
    images(tmp_path / "labelimg", "a.jpg")
    text(tmp_path / "labelimg" / "a.xml", voc(("cat", 1, 1, 2, 2)))
    text(tmp_path / "labelimg" / "predefined_classes.txt", "cat\n")
    assert format_of(tmp_path / "labelimg") == "voc"


def test_labelme_cvat_and_label_studio(tmp_path: Path) -> None:
    images(tmp_path / "labelme", "a.jpg", "b.jpg")
    text(tmp_path / "labelme" / "a.json", labelme())
    text(tmp_path / "labelme" / "labels.txt", "__ignore__\n_background_\ncat\n")
    assert format_of(tmp_path / "labelme") == "labelme"
    images(tmp_path / "cvat" / "images", "a.jpg")
    text(
        tmp_path / "cvat" / "annotations.xml",
        '<annotations><version>1.1</version><image id="0" name="a.jpg"/></annotations>',
    )
    assert format_of(tmp_path / "cvat") == "cvat"
    images(tmp_path / "studio", "a.jpg")
    text(
        tmp_path / "studio" / "project-1-at-2024-01-01.json",
        [{"id": 1, "annotations": [], "data": {"image": "/data/upload/1/a.jpg"}}],
    )
    assert format_of(tmp_path / "studio") == "labelstudio"


def test_ours_packed_with_a_list_or_manifest_is_what_its_texts_are(tmp_path: Path) -> None:
    folder = tmp_path / "detect_train"
    shutil.copytree(ROOT / "tests" / "data" / "blood_cells" / "detect_valid", folder)
    name = next(folder.glob("*.jpg")).name
    text(tmp_path / "detect_train.txt", f"{name} 1,1,5,5,1\n")
    text(tmp_path / "v1.manifest", f'{{"source": "{name}"}}\n')
    assert format_of(folder, root=tmp_path) == "txt"
