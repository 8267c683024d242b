"""The folder says the class, the txt says the box, and what is wrong is said with its place."""

from __future__ import annotations

import os
import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from classification.annotations import (
    ClassAnnotations,
    class_folders,
    summary,
    tell_deeper,
    unknown_folders,
)
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.data.samples import Sample
from common.errors import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of two classes."""
    for name in ("bee", "ant", ".hidden"):
        (tmp_path / "train" / name).mkdir(parents=True)
    (tmp_path / "train" / "notes.txt").write_text("no class")
    return tmp_path / "train"


def read(folder: Path, text: str | None, name: str = "bee/1.jpg") -> tuple[list[list[float]], list[Problem]]:
    image = folder / name
    if text is not None:
        image.with_suffix(".txt").write_text(text, encoding="utf-8")
    annotate = pickle.loads(pickle.dumps(ClassAnnotations(("ant", "bee"), (str(folder),))))
    arrays, problems = annotate(str(image), 100, 50)
    assert all(array.dtype == np.float32 and array.shape in ((1,), (5,)) for array in arrays)
    return [array.tolist() for array in arrays], problems


def test_classes_are_the_folders_in_sorted_order(folder: Path) -> None:
    assert class_folders(Listing(str(folder))) == ["ant", "bee"]
    with pytest.raises(DataError, match="no class folders"):
        class_folders(Listing(str(folder / "ant")))


@pytest.mark.parametrize("text", [None, "", "-1,-1,-1,-1,-1\n"])
def test_an_image_without_a_box_is_one_sample(folder: Path, text: str | None) -> None:
    assert read(folder, text) == ([[1]], [])
    assert read(folder, text, "ant/1.jpg") == ([[0]], [])


def test_a_box_as_large_as_the_image_is_a_box(folder: Path) -> None:
    assert read(folder, "0,0,0,100,50\n") == ([[1, 0, 0, 100, 50]], [])


def test_each_box_is_a_sample_whatever_its_id(folder: Path) -> None:
    text = "0,1,2,30.5,40\n7，50，5，100，50\n"
    assert read(folder, text) == ([[1, 1, 2, 30.5, 40], [1, 50, 5, 100, 50]], [])


def test_a_box_that_sticks_out_is_clipped_and_one_outside_is_left_out(folder: Path) -> None:
    boxes, problems = read(folder, "0,-5,10,120,40\n0,200,10,210,20\n0,10,10,10,30\n0,3,4,5,6\n")
    assert boxes == [[1, 0, 10, 100, 40], [1, 3, 4, 5, 6]]
    path = str(folder / "bee" / "1.txt")
    assert [(problem.file, problem.line) for problem in problems] == [(path, 1), (path, 2), (path, 3)]
    assert [problem.clipped for problem in problems] == [True, False, False]
    assert "sticks out" in problems[0].reason
    assert "outside of the 100x50 image" in problems[1].reason
    assert "without area" in problems[2].reason


@pytest.mark.parametrize("text", ["0,1,2,3\n", "a,b,c,d,e\n", "0,200,0,300,10\n", "0,5,5,5,9\n"])
def test_an_image_without_a_good_box_is_left_out(folder: Path, text: str) -> None:
    with pytest.raises(BadSample):
        read(folder, text)


def test_an_unknown_class_folder_ends_the_job_by_its_name(folder: Path) -> None:
    (folder / "wasp").mkdir()
    with pytest.raises(DataError, match=r"wasp.*'wasp' is not in the training set, which has 'ant', 'bee'"):
        read(folder, None, "wasp/1.jpg")


def test_an_image_in_no_class_folder_is_left_out(folder: Path) -> None:
    with pytest.raises(BadSample, match="beside the class folders"):
        read(folder, None, "1.jpg")


@pytest.mark.parametrize("deep", ["bee/deep/1.jpg", "bee/ant/1.jpg", "bee/x/ant/1.jpg"])
def test_the_class_is_the_folder_directly_below_the_set_however_deep_an_image_lies(
    folder: Path, deep: str, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / deep).parent.mkdir(parents=True)
    (folder / deep).write_bytes(b"")
    (folder / "ant" / "2.jpg").write_bytes(b"")
    assert read(folder, None, deep)[0] == [[1]]
    tell_deeper(Listing(str(folder)))
    assert caplog.messages == [
        f"{folder}: 1 images lie deeper than in the folder directly below the set, which is their class all the same: "
        f"{Path(deep).parent} (1)"
    ]


def test_a_folder_of_no_class_is_unknown_where_it_holds_images_and_else_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "empty" / "er").mkdir(parents=True)
    (folder / "wasp" / "deep").mkdir(parents=True)
    (folder / "wasp" / "deep" / "1.jpg").write_bytes(b"")
    assert unknown_folders(Listing(str(folder)), ["ant", "bee"]) == ["wasp"]
    assert caplog.messages == [f"{folder}: folders of no class, without images: empty"]


def test_identities_beyond_training_have_ids_after_those_of_training() -> None:
    annotate = ClassAnnotations(("b", "c"), ("/set",), others=("a", "c", "d"))
    assert [annotate(f"/set/{name}/1.jpg", 4, 4)[0][0][0] for name in "abcd"] == [2, 0, 1, 3]
    with pytest.raises(DataError, match="'e'"):
        annotate("/set/e/1.jpg", 4, 4)


def test_sets_within_sets_have_the_classes_of_the_inner_one() -> None:
    annotate = ClassAnnotations(("a", "b"), ("/set", "/set/a/valid"))
    assert annotate("/set/a/1.jpg", 4, 4)[0][0][0] == 0
    assert annotate("/set/a/valid/b/1.jpg", 4, 4)[0][0][0] == 1


def test_a_class_in_another_unicode_form_is_the_same_and_one_in_gbk_is_readable() -> None:
    annotate = ClassAnnotations(("é", "缺陷"), ("/set",))
    decomposed, gbk = unicodedata.normalize("NFD", "é"), os.fsdecode("缺陷".encode("gbk"))
    assert [annotate(f"/set/{name}/1.jpg", 4, 4)[0][0][0] for name in (decomposed, gbk)] == [0, 1]


def test_the_summary_counts_each_class() -> None:
    samples = [Sample("a.jpg", 4, 4, np.array([i], np.float32)) for i in (1, 1, 0)]
    told = summary(samples, ["ant", "bee", "cat"])
    assert told["samples_by_class"] == {"ant": 1, "bee": 2, "cat": 0}
    assert told["warnings"] == ["no sample of 1 of the 3 classes: cat"]
