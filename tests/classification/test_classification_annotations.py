"""The folder says the class, the txt says the box, and what is wrong is said with its place."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest

from classification.annotations import ClassAnnotations, class_folders, summary
from common.data.problems import BadSample, Problem
from common.data.samples import Sample
from common.errors import DataError

ANNOTATE = ClassAnnotations(("ant", "bee"))


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
    arrays, problems = pickle.loads(pickle.dumps(ANNOTATE))(str(image), 100, 50)
    assert all(array.dtype == np.float32 and array.shape == (5,) for array in arrays)
    return [array.tolist() for array in arrays], problems


def test_classes_are_the_folders_in_sorted_order(folder: Path) -> None:
    assert class_folders(folder) == ["ant", "bee"]
    with pytest.raises(DataError, match="no class folders"):
        class_folders(folder / "ant")


@pytest.mark.parametrize("text", [None, "", "-1,-1,-1,-1,-1\n"])
def test_an_image_without_a_box_is_one_sample(folder: Path, text: str | None) -> None:
    assert read(folder, text) == ([[1, 0, 0, 100, 50]], [])
    assert read(folder, text, "ant/1.jpg") == ([[0, 0, 0, 100, 50]], [])


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


@pytest.mark.parametrize(
    ("name", "reason"), [("1.jpg", "beside the class"), ("bee/deep/1.jpg", "within the class folder 'bee'")]
)
def test_an_image_in_no_class_folder_is_left_out(folder: Path, name: str, reason: str) -> None:
    with pytest.raises(BadSample, match=reason):
        read(folder, None, name)


def test_identities_beyond_training_have_ids_after_those_of_training() -> None:
    annotate = ClassAnnotations(("b", "c"), others=("a", "c", "d"))
    assert annotate.names == ["b", "c", "a", "d"]
    assert [annotate(f"/set/{name}/1.jpg", 4, 4)[0][0][0] for name in "abcd"] == [2, 0, 1, 3]
    with pytest.raises(DataError, match="'e'"):
        annotate("/set/e/1.jpg", 4, 4)


def test_the_summary_counts_each_class() -> None:
    samples = [Sample("a.jpg", 4, 4, np.array([i, 0, 0, 4, 4], np.float32)) for i in (1, 1, 0)]
    told = summary(samples, ["ant", "bee", "cat"])
    assert told["samples_by_class"] == {"ant": 1, "bee": 2, "cat": 0}
    assert told["warnings"] == ["no sample of 1 of the 3 classes: cat"]
