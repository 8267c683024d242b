"""What lies where annotations belong, and is none, costs neither the job nor its time."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import pytest

from common.data.formats import plain_yaml
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
