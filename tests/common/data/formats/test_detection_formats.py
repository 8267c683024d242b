"""Every format of boxes is read as its tools mean it: the traps that readers elsewhere fall into."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.data.formats.base import FormatError
from common.data.problems import BadSample
from common.errors import DataError
from tests.helpers.label_trees import (
    coco,
    image,
    images,
    labelme,
    objects,
    opened,
    records,
    text,
    voc,
)


def told(problems: Any) -> str:
    return "\n".join(map(str, problems))


# COCO


def test_coco_boxes_are_x_y_width_height_and_ids_may_have_gaps(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    rows = [
        {"image_id": 1, "category_id": 90, "bbox": [10, 5, 20, 8]},
        {"image_id": "1", "category_id": 3.0, "bbox": [0, 0, 80, 40]},
    ]
    text(
        tmp_path / "_annotations.coco.json", coco(["a.jpg", "b.jpg"], rows, {90: "dog", 3: "cat", 7: "bird"})
    )
    found = opened(tmp_path)
    assert found.format == "coco"
    assert found.names == ["cat", "bird", "dog"]
    assert objects(found) == {"a.jpg": [("dog", 10, 5, 30, 13), ("cat", 0, 0, 80, 40)], "b.jpg": []}


def test_coco_crowds_are_marked_and_polygons_become_their_box(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    rows = [
        {
            "image_id": 1,
            "category_id": 0,
            "bbox": [1, 1, 5, 5],
            "iscrowd": 1,
            "segmentation": {"counts": [3], "size": [1, 3]},
        },
        {"image_id": 1, "category_id": 0, "segmentation": [[10, 4, 20, 6, 12, 30], [11, 2, 13, 3]]},
        {"image_id": 1, "category_id": 0, "bbox": [1, 1, "x", 5]},
        {"image_id": 1, "category_id": 5, "bbox": [1, 1, 5, 5]},
        {"image_id": 9, "category_id": 0, "bbox": [1, 1, 5, 5]},
    ]
    file = text(tmp_path / "_annotations.coco.json", coco(["a.jpg"], rows, {0: "cat"}))
    found = opened(tmp_path)
    record = records(found)["a.jpg"]
    assert [(thing.crowd, thing.box) for thing in record.objects] == [
        (True, (1, 1, 6, 6)),
        (False, (10, 2, 20, 30)),
    ]
    assert told(record.problems) == f"{file}:1: its category_id is none of the categories"
    assert "annotation 3: bbox [1, 1, 'x', 5] is not x, y, width, height" in told(found.problems)
    assert "an annotation of an image that is not listed" in told(found.problems)


def test_coco_names_images_with_folders_and_reports_the_missing(tmp_path: Path) -> None:
    images(tmp_path / "train", "sub/a.JPG", "b.jpg", "extra.jpg")
    content = coco(["sub\\a.JPG", "/other/machine/b.jpg", "gone.jpg", "../../b.png"], [], {1: "cat"})
    file = text(tmp_path / "annotations" / "instances_train.json", content)
    found = opened(tmp_path / "train", root=tmp_path)
    assert [Path(path).name for path in found.images] == ["b.jpg", "a.JPG"]
    assert f"{file}:1: 'gone.jpg': there is no such file" in told(found.problems)
    assert "'../../b.png': not below" in told(found.problems)
    assert "extra.jpg: instances_train.json does not list it" in told(found.skipped)


def test_coco_gives_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    lines = [
        '{"images": [{"id": 1, "file_name": "a.jpg"}],',
        '"categories": [{"id": 1, "name": "cat"}],',
        '"annotations": [',
        '{"image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]},',
        '{"image_id": 1, "category_id": 1, "bbox": [1]}',
        "]}",
    ]
    file = text(tmp_path / "_annotations.coco.json", "\n".join(lines))
    found = opened(tmp_path)
    assert records(found)["a.jpg"].objects[0].line == 4
    assert told(found.problems).startswith(f"{file}:5: ")


def test_coco_of_roboflow_lists_a_category_that_only_names_the_others(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    categories = [
        {"id": 0, "name": "animals", "supercategory": "none"},
        {"id": 1, "name": "cat", "supercategory": "animals"},
        {"id": 2, "name": "dog", "supercategory": "animals"},
    ]
    rows = [{"image_id": 1, "category_id": 2, "bbox": [1, 1, 5, 5]}]
    text(tmp_path / "_annotations.coco.json", coco(["a.jpg"], rows, categories))
    assert opened(tmp_path).names == ["cat", "dog"]


def test_of_several_coco_files_the_one_that_names_the_images_counts(tmp_path: Path) -> None:
    images(tmp_path / "pictures", "a.jpg")
    text(tmp_path / "annotations" / "one.json", coco(["z.jpg"], [], {1: "cat"}))
    text(tmp_path / "annotations" / "two.json", coco(["a.jpg"], [], {1: "dog"}))
    assert opened(tmp_path / "pictures", root=tmp_path).names == ["dog"]
    text(tmp_path / "annotations" / "three.json", coco(["a.jpg"], [], {1: "bird"}))
    with pytest.raises(DataError, match=r"stand in 2 files.*name one with dataset.valid_annotations"):
        opened(tmp_path / "pictures", root=tmp_path, part="valid")
    named = opened(tmp_path / "pictures", root=tmp_path, annotations=tmp_path / "annotations" / "three.json")
    assert named.names == ["bird"]
    (tmp_path / "annotations" / "two.json").rename(tmp_path / "annotations" / "instances_val.json")
    assert opened(tmp_path / "pictures", root=tmp_path, part="valid").names == ["dog"]


# VOC


def test_voc_counts_from_1_and_both_ends_belong_to_the_box(tmp_path: Path) -> None:
    images(tmp_path / "JPEGImages", "a.jpg", "b.jpg")
    text(tmp_path / "Annotations" / "a.xml", voc(("cat", 1, 1, 80, 40), ("dog", 11, 6, 30, 13, 1)))
    text(tmp_path / "Annotations" / "b.xml", voc(("cat", 30, 13, 11, 6)))
    found = opened(tmp_path)
    assert found.format == "voc"
    assert objects(found) == {"a.jpg": [("cat", 0, 0, 80, 40)], "b.jpg": [("cat", 10, 5, 30, 13)]}
    assert [thing.difficult for thing in records(found)["a.jpg"].objects] == [False, True]
    assert [thing.line for thing in records(found)["a.jpg"].objects] == [4, 5]


def test_voc_with_a_0_holds_edges(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    text(tmp_path / "a.xml", voc(("cat", 0, 1, 80, 40)))
    text(tmp_path / "b.xml", voc(("cat", 10, 5, 30, 13)))
    assert objects(opened(tmp_path)) == {"a.jpg": [("cat", 0, 1, 80, 40)], "b.jpg": [("cat", 10, 5, 30, 13)]}


def test_voc_sets_come_from_their_lists(tmp_path: Path) -> None:
    images(tmp_path / "JPEGImages", "a.jpg", "b.jpg", "c.jpg")
    for name in "abc":
        text(tmp_path / "Annotations" / f"{name}.xml", voc(("cat", 1, 1, 8, 4)))
    text(tmp_path / "ImageSets" / "Main" / "train.txt", "a\nb\n")
    text(tmp_path / "ImageSets" / "Main" / "val.txt", "c\nd\n")
    assert list(objects(opened(tmp_path, part="train"))) == ["a.jpg", "b.jpg"]
    valid = opened(tmp_path / "JPEGImages", root=tmp_path, part="valid")
    assert list(objects(valid)) == ["c.jpg"]
    assert "val.txt:2: 'd': there is no XML of it" in told(valid.problems)
    only = opened(tmp_path, annotations=tmp_path / "ImageSets" / "Main" / "val.txt", part="train")
    assert list(objects(only)) == ["c.jpg"]


@pytest.mark.parametrize("encoding", ["utf-8", "gb2312"])
def test_voc_names_of_classes_are_read_in_their_encoding(tmp_path: Path, encoding: str) -> None:
    images(tmp_path, "a.jpg")
    content = f'<?xml version="1.0" encoding="{encoding}"?>\n' + voc(("猫", 1, 1, 8, 4))
    text(tmp_path / "a.xml", content.encode(encoding))
    assert objects(opened(tmp_path)) == {"a.jpg": [("猫", 0, 0, 8, 4)]}


def test_xml_with_entities_or_a_document_type_is_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    text(tmp_path / "secret.txt", "secret")
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>\n' + voc(
        ("&b;", 1, 1, 8, 4)
    )
    outside = f'<!DOCTYPE x [<!ENTITY a SYSTEM "file://{tmp_path}/secret.txt">]>\n' + voc(("&a;", 1, 1, 8, 4))
    text(tmp_path / "a.xml", bomb)
    text(tmp_path / "b.xml", outside)
    text(tmp_path / "c.xml", voc(("cat", 1, 1, 8, 4)) + "<again/>")
    found = opened(tmp_path)
    for path, entry in zip(found.images, found.entries, strict=True):
        with pytest.raises(BadSample) as caught:
            found.parse(path, entry, 80, 40)
        expected = (
            ":1: holds a document type or entities" if "c.jpg" not in path else ":6: column 1: not XML: junk"
        )
        assert expected in str(caught.value)


# YOLO


def test_yolo_shares_are_centre_and_size(tmp_path: Path) -> None:
    images(tmp_path / "images" / "train", "a.jpg", "b.jpg", "c.jpg")
    text(tmp_path / "labels" / "train" / "a.txt", "1 0.25 0.225 0.25 0.2\n0 0.5 0.5 1 1\n\n0 0.5 0.5 1 1\n")
    text(tmp_path / "labels" / "train" / "b.txt", "")
    text(tmp_path / "data.yaml", "names: {0: cat, 1: dog}\ntrain: ../elsewhere\n")
    found = opened(tmp_path / "images" / "train", root=tmp_path)
    assert found.format == "yolo"
    assert found.names == ["cat", "dog"]
    assert objects(found) == {
        "a.jpg": [("dog", 10, 5, 30, 13), ("cat", 0, 0, 80, 40)],
        "b.jpg": [],
        "c.jpg": [],
    }
    assert told(records(found)["a.jpg"].problems).endswith(
        "a.txt:4: '0 0.5 0.5 1 1': stands there twice; left out"
    )


def test_yolo_whole_pixels_come_back_from_six_digits(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg", (641, 479))
    x1, y1, x2, y2 = 13, 7, 600, 455
    shares = ((x1 + x2) / 2 / 641, (y1 + y2) / 2 / 479, (x2 - x1) / 641, (y2 - y1) / 479)
    text(tmp_path / "a.txt", " ".join(["0", *(f"{value:.6f}" for value in shares)]))
    assert objects(opened(tmp_path)) == {"a.jpg": [(0, 13, 7, 600, 455)]}


@pytest.mark.parametrize(
    "names", ["names: [cat, dog]", "names:\n- cat\n- dog\nnc: 2", "names:\n  0: cat\n  1: dog"]
)
def test_yolo_of_roboflow_has_images_and_labels_in_each_set(tmp_path: Path, names: str) -> None:
    for part in ("train", "valid"):
        images(tmp_path / part / "images", "a.jpg")
        text(tmp_path / part / "labels" / "a.txt", "1 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "data.yaml", names)
    for folder in (tmp_path / "train", tmp_path / "train" / "images"):
        found = opened(folder, root=tmp_path)
        assert (found.format, found.names) == ("yolo", ["cat", "dog"])
        assert objects(found) == {"a.jpg": [("dog", 20, 10, 60, 30)]}


def test_yolo_polygons_become_their_box_and_strangers_are_said(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.jpg")
    text(tmp_path / "classes.txt", "cat\ndog\n")
    text(tmp_path / "a.txt", "1 0.1 0.1 0.5 0.2 0.3 0.75\n2 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "b.txt", "0 0.5 0.5 0.5\n")
    found = opened(tmp_path, format_name="yolo")
    a, b = found.entries
    record = found.parse(found.images[0], a, 80, 40)
    assert [(thing.label, thing.box) for thing in record.objects] == [("dog", (8, 4, 40, 30))]
    assert told(record.problems) == f"{a}:2: '2 0.5 0.5 0.5 0.5': class id 2 has no name in classes.txt"
    with pytest.raises(BadSample, match=r"b\.txt:1: '0 0.5 0.5 0.5': not `class x y width height`"):
        found.parse(found.images[1], b, 80, 40)


def test_yaml_that_is_none_is_named_with_its_line(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.5\n")
    text(tmp_path / "data.yaml", "names:\n- [cat\n- dog\n")
    with pytest.raises(FormatError, match=r"data.yaml:4:1: not YAML"):
        opened(tmp_path)


# labelme


def test_labelme_shapes_become_boxes(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg", "b.png")
    shapes = [
        {"label": "cat", "shape_type": "rectangle", "points": [[30, 13], [10, 5]]},
        {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [8, 4], [3, 9]]},
        {"label": "ball", "shape_type": "circle", "points": [[20, 20], [23, 24]]},
        {"label": "eye", "shape_type": "point", "points": [[20, 20]]},
        {"label": "bad", "shape_type": "rectangle", "points": [[20, None]]},
    ]
    file = text(tmp_path / "a.json", labelme(*shapes, name="C:\\Users\\me\\a.jpg"))
    text(tmp_path / "b.json", labelme(name="b.png"))
    found = opened(tmp_path)
    assert found.format == "labelme"
    assert objects(found) == {
        "a.jpg": [("cat", 10, 5, 30, 13), ("dog", 1, 2, 8, 9), ("ball", 15, 15, 25, 25)],
        "b.png": [],
    }
    assert (
        told(records(found)["a.jpg"].problems)
        == f"{file}: shape 5: 'bad': its points are not pairs of numbers"
    )


def test_labelme_files_elsewhere_name_their_image(tmp_path: Path) -> None:
    images(tmp_path / "pictures", "a.jpg")
    text(tmp_path / "pictures" / "json" / "001.json", labelme(name="..\\..\\somewhere\\a.jpg"))
    text(tmp_path / "pictures" / "json" / "002.json", labelme(name="b.jpg"))
    found = opened(tmp_path / "pictures", root=tmp_path)
    assert objects(found) == {"a.jpg": []}
    assert "002.json: imagePath 'b.jpg': there is no such file" in told(found.problems)


def test_broken_json_is_named_with_line_and_column(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(tmp_path / "a.json", '{"shapes": [],\n "imagePath": }')
    found = opened(tmp_path)
    with pytest.raises(BadSample, match=r"a.json:2: column 15: not JSON: expecting value"):
        found.parse(found.images[0], found.entries[0], 80, 40)


# CVAT


CVAT = """<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><labels><label><name>cat</name></label></labels></task></meta>
<image id="0" name="a.jpg" width="80" height="40" subset="Train">
<box label="cat" occluded="0" xtl="10.00" ytl="5.00" xbr="30.00" ybr="13.00"><attribute name="x">y</attribute></box>
<box label="dog" xtl="30" ytl="10" xbr="50" ybr="20" rotation="90"/>
<polygon label="dog" points="1.0,2.0;8.0,4.0;3.0,9.0"/>
<tag label="outside"/>
<polygon label="dog" points="1.0"/>
</image>
<image id="1" name="sub/b.jpg" width="80" height="40" subset="Validation"/>
<image id="2" name="gone.jpg" width="80" height="40" subset="Train"/>
</annotations>
"""


def test_cvat_shapes_subsets_and_turned_boxes(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.jpg", "sub/b.jpg", "c.jpg")
    file = text(tmp_path / "annotations.xml", CVAT)
    found = opened(tmp_path / "images", root=tmp_path, part="train")
    assert found.format == "cvat"
    got = objects(found)
    assert got["a.jpg"][0] == ("cat", 10, 5, 30, 13)
    assert got["a.jpg"][1] == ("dog", 35, 5, 45, 25)
    assert got["a.jpg"][2] == ("dog", 1, 2, 8, 9)
    assert list(got) == ["a.jpg"]
    assert told(records(found)["a.jpg"].problems) == f"{file}:8: <polygon> 'dog' has no box"
    assert f"{file}:11: 'gone.jpg': there is no such file" in told(found.problems)
    assert objects(opened(tmp_path / "images", root=tmp_path, part="valid")) == {"b.jpg": []}
    assert len(opened(tmp_path, part="").images) == 2


def test_cvat_for_video_is_refused_with_what_to_do(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    text(
        tmp_path / "annotations.xml", '<annotations>\n<track id="0" label="cat"><box/></track></annotations>'
    )
    with pytest.raises(FormatError, match=r"annotations.xml:2: a track: export as `CVAT for images 1.1`"):
        opened(tmp_path)


# Label Studio


def region(
    x: float, y: float, width: float, height: float, label: str = "cat", **more: Any
) -> dict[str, Any]:
    value = {
        "x": x,
        "y": y,
        "width": width,
        "height": height,
        "rotation": 0,
        "rectanglelabels": [label],
        **more,
    }
    return {"type": "rectanglelabels", "original_width": 80, "original_height": 40, "value": value}


def test_label_studio_is_per_cent_and_sides_may_be_negative(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg", "d.jpg")
    tasks = [
        {
            "data": {"image": "/data/upload/1/0123abcd-a.jpg"},
            "annotations": [
                {"was_cancelled": True, "result": [region(0, 0, 100, 100, "wrong")]},
                {
                    "was_cancelled": False,
                    "result": [region(12.5, 12.5, 25, 20), region(37.5, 32.5, -25, -20, "dog")],
                },
            ],
        },
        {"data": {"image": "/data/local-files/?d=images/b.jpg"}, "annotations": [{"result": []}]},
        {"data": {"image": "s3://bucket/c.jpg"}, "annotations": []},
    ]
    text(tmp_path / "project-1.json", tasks)
    found = opened(tmp_path / "images", root=tmp_path)
    assert found.format == "labelstudio"
    box = (10, 5, 30, 13)
    assert objects(found) == {"a.jpg": [("cat", *box), ("dog", *box)], "b.jpg": []}
    assert "c.jpg: nobody has annotated it (project-1.json:1)" in told(found.skipped)
    assert "d.jpg: project-1.json has no task of it" in told(found.skipped)


def test_label_studio_turned_regions_and_json_min(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    # 20 x 10 px, turned about 40, 10
    turned = {**region(50, 25, 25, 25, rotation=90)["value"], "original_width": 80, "original_height": 40}
    text(tmp_path / "min.json", [{"id": 1, "image": "a.jpg", "label": [turned], "annotator": 1}])
    ((_, *box),) = objects(opened(tmp_path))["a.jpg"]
    assert box == [30, 10, 40, 30]


def test_label_studio_regions_whose_labels_are_another_control(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    shape = {"x": 25, "y": 25, "width": 25, "height": 50, "rotation": 0}
    ellipse = {"x": 50, "y": 50, "radiusX": 25, "radiusY": 10, "rotation": 90}
    size = {"original_width": 80, "original_height": 40}
    results = [
        {"id": "1", "type": "rectangle", "value": shape, **size},
        {"id": "1", "type": "labels", "value": {**shape, "labels": ["cat", "dog"]}, **size},
        {"id": "2", "type": "ellipselabels", "value": {**ellipse, "ellipselabels": ["emu"]}, **size},
    ]
    text(tmp_path / "a.json", [{"data": {"image": "a.jpg"}, "annotations": [{"result": results}]}])
    found = opened(tmp_path)
    # The ellipse reaches 20 px and 4 px from its centre, turned 4 px and 20 px.
    expected = {"a.jpg": [("cat", 20, 10, 40, 30), ("emu", 36, 0, 44, 40)]}
    assert objects(found) == expected
    assert objects(found) == expected  # what is read is not used up
    assert "a region with 2 labels: 'cat' counts, the first" in told(records(found)["a.jpg"].problems)


# ModelArts


def test_modelarts_boxes_are_in_xml_files_and_usage_says_the_set(tmp_path: Path) -> None:
    images(tmp_path / "images", "a.jpg", "b.jpg", "c.jpg")
    for name in "ab":
        text(tmp_path / "images" / "xml" / f"{name}.xml", voc(("cat", 11, 6, 30, 13)))

    def line(name: str, usage: str) -> str:
        place = f"obs://bucket/set/xml/{name}.xml"
        return (
            f'{{"source":"obs://bucket/set/{name}.jpg","usage":"{usage}","annotation":[{{"type":"modelarts/object_detection",'
            f'"annotation-loc":"{place}","annotation-format":"PASCAL VOC"}}]}}'
        )

    lines = [
        line("a", "TRAIN"),
        line("b", "EVAL"),
        '{"source":"obs://bucket/set/c.jpg","annotation":[]}',
        "{broken",
    ]
    file = text(tmp_path / "set.manifest", "\n".join(lines))
    found = opened(tmp_path / "images", root=tmp_path, part="train")
    assert found.format == "modelarts"
    assert objects(found) == {"a.jpg": [("cat", 10, 5, 30, 13)]}
    assert objects(opened(tmp_path / "images", root=tmp_path, part="valid")) == {
        "b.jpg": [("cat", 10, 5, 30, 13)]
    }
    assert told(found.problems).startswith(f"{file}:4: column 2: not JSON")
    assert "c.jpg: no annotation in set.manifest:3" in told(found.skipped)


# Lists


def test_list_ids_count_from_1(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b b.jpg", "c.jpg")
    content = (
        "train/a.jpg 10,5,30,13,1 0,0,80,40,2\n/data/x/b b.jpg\nc.jpg 1,1,5,5,0\nd.jpg 1,1,2,2,1\nnonsense\n"
    )
    file = text(tmp_path / "train.txt", content)
    found = opened(tmp_path / "train", root=tmp_path)
    assert found.format == "list"
    assert objects(found) == {"a.jpg": [(0, 10, 5, 30, 13), (1, 0, 0, 80, 40)], "b b.jpg": [], "c.jpg": []}
    assert "1,1,5,5,0: 0 is no class id; they count from 1" in told(records(found)["c.jpg"].problems)
    assert f"{file}:4: 'd.jpg': there is no such file" in told(found.problems)
    assert f"{file}:5: 'nonsense': not `path x1,y1,x2,y2,id …`" in told(found.problems)


# All of them


@pytest.mark.parametrize("written", ["/etc/passwd.jpg", "../../outside.jpg", "..\\..\\outside.jpg", "\0.jpg"])
def test_paths_never_leave_the_root(tmp_path: Path, written: str) -> None:
    images(tmp_path, "outside.jpg")
    root = tmp_path / "x" / "root"
    images(root, "a.jpg")
    text(root / "_annotations.coco.json", coco(["a.jpg", written], [], {1: "cat"}))
    found = opened(root)
    assert found.images == [str(root / "a.jpg")]
    assert len(found.problems) == 1


def test_an_unknown_format_for_the_task_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    with pytest.raises(
        DataError, match=r"dataset\.format pts has no annotations for detection; formats that have: txt, coco"
    ):
        opened(tmp_path, format_name="pts")
