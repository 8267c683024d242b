"""What lies where annotations belong, and is none, costs neither the job nor its time."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from common.data.formats import plain_yaml, xml_tree
from common.data.formats.base import MOST_CLASSES, FormatError, Place
from common.data.formats.recognise import READERS
from common.data.listing import Listing
from common.data.problems import BadSample
from common.errors import DataError
from tests.helpers.label_trees import coco, images, labelme, objects, opened, records, text
from tests.helpers.loaded_sets import load


def _read_all(folder: str) -> None:
    for name, module in READERS.items():
        for task in module.TASKS:
            place = Place(folder, folder, None, "train", task)
            try:
                module.recognise(place, Listing(folder))
                records(opened(Path(folder), task=task, format_name=name))
            except (BadSample, DataError):
                pass


def test_no_format_waits_for_a_pipe(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    names = (
        "a.xml",
        "b.json",
        "c.lst",
        "d.manifest",
        "data.yaml",
        "classes.txt",
        "e.txt",
        "f.pts",
        "annotations.xml",
    )
    for name in (*names, "_annotations.coco.json", "a.txt", "a.json"):
        os.mkfifo(tmp_path / name)
    process = multiprocessing.get_context("fork").Process(target=_read_all, args=(str(tmp_path),))
    process.start()
    process.join(20)
    waits = process.is_alive()
    if waits:
        process.kill()
        process.join()
    assert not waits
    assert process.exitcode == 0


def yolo_set(folder: Path, names: str) -> Path:
    images(folder, "a.jpg")
    text(folder / "a.txt", "1 0.5 0.5 0.5 0.5\n")
    text(folder / "data.yaml", names)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        "names: [cat, dog]",
        "names:\n  0: cat\n  1: dog\nnc: 2\nx: !!bool foo\ny: !!timestamp foo\nz: !!int ''\n",
        "all: &all [cat, dog]\nnames: *all",
        "names: {0: cat, 1: !!str dog}\nanchors: &a [*a]",
        "? [a, b]\n: c\nnames: [!own cat, 'dog']",
        '--- \nnames:\n- cat\n- "dog"\n',
        "names: [null, dog]",
    ],
)
def test_names_are_texts_whatever_yaml_makes_of_them(tmp_path: Path, names: str) -> None:
    assert objects(opened(yolo_set(tmp_path, names)))["a.jpg"] == [("dog", 20, 10, 60, 30)]


def test_names_that_yaml_has_other_types_for(tmp_path: Path) -> None:
    folder = yolo_set(tmp_path, "names: [no, yes, !!bool foo, !!int '', 2024-01-01, 007, 1.0, 1:30, ~]")
    assert opened(folder, format_name="yolo").names == [
        "no",
        "yes",
        "foo",
        "2024-01-01",
        "007",
        "1.0",
        "1:30",
    ]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("names: [a\n", r"data.yaml:2:1: not YAML: "),
        ("names: [a]\n---\nnames: [b]\n", r"data.yaml:2:1: not YAML that is read: a second document"),
        ("names: *a\n", r"data.yaml:1:8: not YAML that is read: an alias of nothing"),
        ("x: " + "[" * 200 + "]" * 200, "nested more than 100 deep"),
        ("names: {<<: {0: a}}", "'<<' is no class id"),
        (f"names: {{{MOST_CLASSES}: a}}", f"'{MOST_CLASSES}' is no class id"),
        ("names: [a, b, a]", "the name 'a' stands there twice"),
        ("x: " + "a" * plain_yaml.LIMIT, "bytes are more than"),
        ("names: 3", "names: '3' is neither a list nor a table of names"),
    ],
)
def test_names_that_cannot_be_read_are_refused(tmp_path: Path, content: str, reason: str) -> None:
    with pytest.raises(FormatError, match=reason):
        opened(yolo_set(tmp_path, content), format_name="yolo")


def test_yaml_that_grows_does_not(tmp_path: Path) -> None:
    many = {
        "merge": "a0: &a0 {k0: 1, k1: 1}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30)),
        "alias": "a0: &a0 [x, x]\n"
        + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30)),
        "numbers": "x: 1" + ":1" * 100_000 + "\n",
        "long": "x: [" + "a," * 100_000 + "a]\n",
    }
    began = time.monotonic()
    for name, content in many.items():
        assert opened(yolo_set(tmp_path / name, content + "names: [cat, dog]"), format_name="yolo").names
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("odd", [[[5, 5], -1], [[1, 1], None], [[1, 1], "12"], [[1, 2], [3]], [[]]])
def test_an_odd_point_leaves_out_its_shape_alone(tmp_path: Path, odd: list[Any]) -> None:
    good = [[1, 2], [3, 4]]
    images(tmp_path / "l", "a.jpg")
    shapes = [{"label": "cat", "points": points} for points in (odd, good)]
    text(tmp_path / "l" / "a.json", labelme(*shapes))
    images(tmp_path / "c", "a.jpg")
    rows = [{"image_id": 1, "category_id": 1, "segmentation": shape} for shape in ([odd], [good])]
    text(tmp_path / "c" / "_annotations.coco.json", coco(["a.jpg"], rows, {1: "cat"}))
    images(tmp_path / "s", "a.jpg")
    share = [[1.25, 5], [3.75, 10]]
    regions = [{"value": {"points": points, "polygonlabels": ["cat"]}} for points in (odd, share)]
    text(tmp_path / "s" / "a.json", [{"data": {"image": "a.jpg"}, "annotations": [{"result": regions}]}])
    for name in "lcs":
        found = opened(tmp_path / name)
        record = records(found)["a.jpg"]
        assert [thing.box for thing in record.objects] == [(1, 2, 3, 4)]
        assert len([*found.problems, *record.problems]) == 1


@pytest.mark.parametrize("outside", ["../secret.lst", "train/../../secret.lst", "ABSOLUTE"])
def test_annotations_lie_below_the_root(tmp_path: Path, outside: str) -> None:
    root = tmp_path / "root"
    images(root / "train", "a.jpg")
    secret = text(tmp_path / "secret.lst", "a.jpg 1,2,30,20,1\nthis is nobody's business\n")
    name = outside.replace("ABSOLUTE", str(secret))
    with pytest.raises(
        DataError, match=r"dataset.train_annotations: .* leads out of dataset.data_root"
    ) as error:
        load(root, train_annotations=name)
    assert "business" not in str(error.value)
    text(root / "list.lst", "a.jpg 1,2,30,20,1\n")
    for inside in ("train/../list.lst", str(root / "list.lst")):
        assert len(load(root, train_annotations=inside).train) == 1


@pytest.mark.slow
def test_an_image_has_only_so_much_said_of_it(tmp_path: Path) -> None:
    """Each of these took a hundred times its size in memory."""
    images(tmp_path, "a.jpg", "b.jpg")
    many = xml_tree.MOST_WITHIN + 1
    file = text(
        tmp_path / "annotations.xml",
        f'<annotations><image name="a.jpg">{"<box/>" * many}</image><image name="b.jpg">'
        '<box label="cat" xtl="1" ytl="2" xbr="3" ybr="4"/></image></annotations>',
    )
    found = opened(tmp_path)
    assert objects(found) == {"b.jpg": [("cat", 1, 2, 3, 4)]}
    assert [problem.reason.partition(": ")[2] for problem in found.problems] == [
        f"more than {xml_tree.MOST_WITHIN} elements of one image; left out"
    ]
    file.unlink()

    text(tmp_path / "a.xml", f"<annotation>{'<a/>' * many}</annotation>")
    with pytest.raises(BadSample, match=f"more than {xml_tree.MOST_WITHIN} elements"):
        records(opened(tmp_path, format_name="voc"))
    text(tmp_path / "a.xml", f"<annotation>{' ' * (4 << 20)}</annotation>")
    with pytest.raises(BadSample, match="bytes are more than"):
        records(opened(tmp_path, format_name="voc"))
    (tmp_path / "a.xml").unlink()

    good = labelme({"label": "cat", "points": [[1, 2], [3, 4]]})
    text(tmp_path / "a.json", {**good, "imageData": "Zm9v+/==" * (2 << 20)})
    assert objects(opened(tmp_path))["a.jpg"] == [("cat", 1, 2, 3, 4)]
    text(tmp_path / "a.json", {**good, "x": " " * (9 << 20)})
    with pytest.raises(BadSample, match="bytes beside imageData are more than"):
        records(opened(tmp_path))
    (tmp_path / "a.json").unlink()

    text(tmp_path / "a.lst", "a.jpg" + " 1,2,3,4,1" * 110_000)
    with pytest.raises(FormatError, match=r"a.lst:1: a line of more than"):
        opened(tmp_path, annotations=tmp_path / "a.lst", format_name="list")
    text(tmp_path / "_annotations.coco.json", {"images": [{"id": 1, "x": " " * (17 << 20)}]})
    with pytest.raises(FormatError, match=r"an item of more than|not JSON"):
        opened(tmp_path, format_name="coco")


def test_large_files_take_time_by_their_size(tmp_path: Path) -> None:
    began = time.monotonic()
    images(tmp_path / "v", "a.jpg")
    points = "".join(f"<x{place}>{place % 70}</x{place}><y{place}>1</y{place}>" for place in range(1, 40_001))
    thing = f"<object><name>cat</name><polygon>{points}</polygon></object>"
    text(tmp_path / "v" / "a.xml", f"<annotation>{thing}</annotation>")
    assert objects(opened(tmp_path / "v"))["a.jpg"] == [("cat", -1, 0, 69, 1)]
    images(tmp_path / "c", "a.jpg")
    classes = [
        {"id": number, "name": f"n{number}", "supercategory": "n9999"} for number in range(MOST_CLASSES)
    ]
    text(tmp_path / "c" / "_annotations.coco.json", coco(["a.jpg"], [], classes))
    assert len(opened(tmp_path / "c").names) == MOST_CLASSES - 1
    names = [f"n{number}" for number in range(MOST_CLASSES - 1)]
    text(yolo_set(tmp_path / "y", "") / "classes.txt", "\n".join([*names, "n7"]))
    with pytest.raises(FormatError, match="the name 'n7' stands there twice"):
        opened(tmp_path / "y", format_name="yolo")
    assert time.monotonic() - began < 20


def test_a_name_that_stands_there_twice_is_shown_on_one_short_line(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    content = coco(["a.jpg"], [], {1: "cat"})
    content["images"] += [{"id": "i\n\x1b[2J", "file_name": "x\n" * 100_000}] * 2
    text(tmp_path / "_annotations.coco.json", content)
    for problem in opened(tmp_path).problems:
        assert problem.reason.isprintable()
        assert len(problem.reason) < 300
