"""Whatever a file of annotations holds, the answer is a record, a report or an error of one line."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.data.formats import json_stream
from common.data.formats.base import MOST_IMAGES, MOST_OBJECTS, MOST_PROBLEMS, FormatError, Place
from common.data.formats.recognise import READERS
from common.data.listing import Listing
from common.data.problems import BadSample
from common.errors import DataError
from tests.helpers.label_trees import coco, images, labelme, opened, records, text, voc

anything = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def stream(path: Path) -> list[tuple[str | None, Any, int]]:
    return list(json_stream.items(str(path)))


@anything
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ),
    st.booleans(),
)
def test_a_stream_gives_what_the_file_holds(tmp_path: Path, value: Any, pretty: bool) -> None:
    file = text(
        tmp_path / "a.json", json.dumps({"a": value, "b": [value, value]}, indent=1 if pretty else None)
    )
    expected = [("a", item) for item in value] if isinstance(value, list) else [("a", value)]
    assert [(key, item) for key, item, _ in stream(file)] == [*expected, ("b", value), ("b", value)]


@pytest.mark.parametrize("size", [1, 5])
def test_a_stream_gives_the_same_wherever_the_file_is_cut(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_stream, "_CHUNK", size)
    content = (
        '{"a": [1, 2.5,\n3e2,-4\n,\n\n{"b": [{"c": 1.25}, {}]},"x\\ny", [ ]\n], "d": 2.5e1, "e":[], "f": 12}'
    )
    file = text(tmp_path / "a.json", content)
    items = [(1, 1), (2.5, 1), (300, 2), (-4, 2), ({"b": [{"c": 1.25}, {}]}, 5), ("x\ny", 5), ([], 5)]
    assert stream(file) == [*(("a", item, line) for item, line in items), ("d", 25, 6), ("f", 12, 6)]


def test_a_stream_goes_over_the_ends_of_what_is_read_at_once(tmp_path: Path) -> None:
    items = [{"id": number, "text": "ü漢" * (number % 50), "value": number / 7} for number in range(30_000)]
    file = text(
        tmp_path / "a.json",
        "{\n" + '"x": [\n' + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]}",
    )
    found = stream(file)
    assert [item for _, item, _ in found] == items
    assert [line for _, _, line in found] == list(range(3, 30_003))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("", "the file is empty"),
        ("7", ":1:1: not JSON: it must begin with { or ["),
        ('{"a": [1,\n 2,\n  ]}', ":3:3: not JSON: a value is missing"),
        ('{"a": [1,\n 2', ":2:3: not JSON: the file ends too early"),
        ('{"a": [1 2]}', ":1:10: not JSON: a comma or ] is missing"),
        ('{"a": 1,\n"b": {"c": }}', ":2:12: not JSON: a value is missing"),
        ('{"a" 1}', ":1:6: not JSON: a colon is missing"),
        ('[1]\n\n x', ":3:2: not JSON: something follows its end"),
        ('{"a": "x\n"}', ":1:9: not JSON: invalid control character at"),
        (b'{"a": "\xff"}', "byte 0xff is not UTF-8"),
        ("[" * 100_000, "brackets are nested too deeply"),
        ("[" + "1" * 10_000 + "]", "a number of thousands of digits"),
    ],
)  # fmt: skip
def test_broken_json_is_named_with_its_place(tmp_path: Path, content: str | bytes, place: str) -> None:
    file = text(tmp_path / "a.json", content)
    with pytest.raises(FormatError) as caught:
        stream(file)
    assert str(caught.value).startswith(str(file))
    assert place in str(caught.value)


def test_an_error_far_into_a_file_has_its_line(tmp_path: Path) -> None:
    lines = [json.dumps({"id": number, "pad": "x" * 100}) for number in range(40_000)]
    lines[30_000] = '{"id" 7}'
    file = text(tmp_path / "a.json", '{"images": [\n' + ",\n".join(lines) + "]}")
    with pytest.raises(FormatError, match=r":30002:7: not JSON: expecting ':' delimiter"):
        stream(file)


def one_line(error: Exception) -> None:
    assert "\n" not in str(error)
    assert str(error)


# A value that belongs there, or anything at all.
JUNK: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**30), 10**30),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.floats(), max_size=5),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)


def mixed(good: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.just(good), JUNK)


def table(**fields: Any) -> st.SearchStrategy[Any]:
    """A JSON object whose values are mostly those, or anything."""
    values = {
        key: value if isinstance(value, st.SearchStrategy) else mixed(value) for key, value in fields.items()
    }
    return st.one_of(JUNK, st.fixed_dictionaries(values))


def many(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(JUNK, st.lists(strategy, max_size=3))


ANNOTATION = table(
    image_id=1, category_id=1, bbox=[1, 2, 3, 4], segmentation=[[1, 2, 3, 4]], keypoints=[1, 2, 2], iscrowd=0
)  # fmt: skip
COCO = table(
    images=many(table(id=1, file_name="a.jpg", width=80)),
    categories=many(table(id=1, name="cat", keypoints=["a"])),
    annotations=many(ANNOTATION),
)
KINDS = st.sampled_from(["rectangle", "circle", "point", "polygon", None, 3])
SHAPE = table(label="cat", points=[[1, 2], [3, 4]], shape_type=KINDS, group_id=1, flags={})
LABELME = table(shapes=many(SHAPE), imagePath="a.jpg", imageWidth=80)
REGION = table(
    original_width=80,
    value=table(x=1, y=2, width=3, height=4, rotation=0, rectanglelabels=["cat"]),
)
STUDIO = st.lists(table(data={"image": "a.jpg"}, annotations=many(table(result=many(REGION)))), max_size=3)


@pytest.mark.parametrize("task", ["detection", "landmark"])
@pytest.mark.parametrize("name", ["coco", "labelme", "labelstudio"])
def test_any_json_is_read_or_refused(tmp_path: Path, name: str, task: str) -> None:
    if name == "labelstudio" and task == "landmark":
        pytest.skip("Label Studio's keypoints are not read")
    images(tmp_path, "a.jpg")
    strategy = {"coco": COCO, "labelme": LABELME, "labelstudio": STUDIO}[name]

    @anything
    @given(strategy)
    def read(content: Any) -> None:
        file = text(tmp_path / ("a.json" if name != "coco" else "_annotations.coco.json"), content)
        try:
            found = opened(
                tmp_path, annotations=file if name == "labelstudio" else None, task=task, format_name=name
            )
            for record in records(found).values():
                assert all(isinstance(thing.label, (str, int)) for thing in record.objects)
        except (BadSample, DataError) as error:
            one_line(error)

    read()


@anything
@given(st.binary(max_size=300), st.sampled_from(sorted(READERS)))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, name: str) -> None:
    images(tmp_path, "a.jpg")
    for file in (
        "a.txt",
        "a.xml",
        "a.json",
        "_annotations.coco.json",
        "a.pts",
        "data.yaml",
        "x.manifest",
        "list.lst",
        "annotations.xml",
    ):
        text(tmp_path / file, data)
    for task in READERS[name].TASKS:
        place = Place(str(tmp_path), str(tmp_path), None, "train", task)
        try:
            READERS[name].recognise(place, Listing(str(tmp_path)))
            records(opened(tmp_path, task=task, format_name=name))
        except (BadSample, DataError) as error:
            one_line(error)


def test_what_is_too_much_is_said_at_once(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    began = time.monotonic()
    text(tmp_path / "x.manifest", "\n" * (MOST_IMAGES + 5))
    with pytest.raises(FormatError, match=f"x.manifest:{MOST_IMAGES + 1}: more than {MOST_IMAGES} lines"):
        opened(tmp_path, format_name="modelarts")
    (tmp_path / "x.manifest").unlink()
    rows = [{"image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}] * (MOST_OBJECTS + 1)
    file = text(tmp_path / "_annotations.coco.json", coco(["a.jpg"], rows, {1: "cat"}))
    with pytest.raises(BadSample, match=f"{MOST_OBJECTS + 1} annotations of one image"):
        records(opened(tmp_path))
    file.unlink()
    text(tmp_path / "a.json", labelme(*[{"label": "a", "points": [[1, 1], [2, 2]]}] * (MOST_OBJECTS + 1)))
    with pytest.raises(BadSample, match="shapes of one image"):
        records(opened(tmp_path))
    (tmp_path / "a.json").unlink()
    text(tmp_path / "a.xml", voc(*[("cat", 1, 1, 2, 2)] * (MOST_OBJECTS + 1)))
    with pytest.raises(BadSample, match="objects of one image"):
        records(opened(tmp_path))
    (tmp_path / "a.xml").unlink()
    text(
        tmp_path / "a.txt",
        "".join(f"0 0.5 0.5 0.1 0.{number}\n" for number in range(100, MOST_OBJECTS + 102)),
    )
    with pytest.raises(BadSample, match=r"a.txt:\d+: more than 10000 lines of one image"):
        records(opened(tmp_path))
    assert time.monotonic() - began < 30


def test_a_list_of_strangers_is_reported_without_filling_memory(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    lines = ["a.jpg 1,1,5,5,1", *(f"b{number}.jpg 1,1,5,5,1" for number in range(MOST_PROBLEMS + 50))]
    text(tmp_path / "list.lst", "\n".join(lines))
    found = opened(tmp_path, format_name="list")
    assert len(found.images) == 1
    assert len(found.problems) == MOST_PROBLEMS + 1
    assert str(found.problems[-1]).endswith("list.lst: 50 more problems like those")


def test_pipes_and_folders_in_place_of_files_are_refused(tmp_path: Path) -> None:
    images(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "_annotations.coco.json")
    with pytest.raises(DataError):
        opened(tmp_path, annotations=tmp_path / "_annotations.coco.json", format_name="coco")


@pytest.mark.parametrize("kind", ["cvat", "labelstudio"])
def test_problems_of_one_file_are_counted_where_there_are_too_many(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.data.formats.base.MOST_PROBLEMS", 5)
    images(tmp_path, "a.jpg", "b.jpg")
    if kind == "cvat":
        boxes = '<box xtl="1" ytl="1" xbr="9" ybr="9"/>' * 4
        parts = "".join(
            f'<image id="{n}" name="{n}.jpg" width="80" height="40">{boxes}</image>' for n in "ab"
        )
        text(tmp_path / "annotations.xml", f"<annotations>{parts}</annotations>")
    else:
        result = {"original_width": 80, "original_height": 40, "value": {"rectanglelabels": [], "x": 1}}
        tasks = [{"data": {"image": f"{n}.jpg"}, "annotations": [{"result": [result] * 4}]} for n in "ab"]
        text(tmp_path / "export.json", tasks)
    found = records(opened(tmp_path))
    assert [len(found[f"{name}.jpg"].problems) for name in "ab"] == [4, 2]
    assert "; 2 more problems of this image" in found["b.jpg"].problems[-1].reason
