"""A detector needs objects to learn from: a training set without any is an error, said with what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import DataError
from tests.helpers.label_trees import images, labelme, text
from tests.helpers.loaded_sets import load

CAT = {"label": "cat", "points": [[2, 3], [20, 10]], "shape_type": "rectangle"}


def test_classes_that_fit_no_object_are_told_with_those_of_the_labels(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    text(tmp_path / "train" / "a.json", labelme(CAT, name="a.jpg"))
    text(tmp_path / "train" / "b.json", labelme(CAT, {**CAT, "label": "dog"}, name="b.jpg"))
    with pytest.raises(DataError) as error:
        load(tmp_path, classes=["bird", "cow"])
    assert "an object of dataset.classes, which names bird, cow; its labels name cat (2), dog (1)" in str(
        error.value
    )
    assert load(tmp_path, classes=["bird", "dog"]).train  # some images with objects, others without


@pytest.mark.parametrize("form", ["txt", "labelme"])
def test_labels_that_are_all_empty_teach_nothing(tmp_path: Path, form: str) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    for name in "ab":
        empty = "-1,-1,-1,-1,-1\n" if form == "txt" else labelme(name=f"{name}.jpg")
        text(tmp_path / "train" / f"{name}{'.txt' if form == 'txt' else '.json'}", empty)
    with pytest.raises(
        DataError, match="no image of the training set shows an object: all its labels are empty"
    ):
        load(tmp_path, classes=["cat"])
    images(tmp_path / "train", "c.jpg")
    text(
        tmp_path / "train" / ("c.txt" if form == "txt" else "c.json"),
        "0,2,3,20,10\n" if form == "txt" else labelme(CAT, name="c.jpg"),
    )
    assert len(load(tmp_path, classes=["cat"]).train) == 3


def test_a_validation_set_may_be_without_objects(tmp_path: Path) -> None:
    images(tmp_path / "train", "a.jpg")
    images(tmp_path / "valid", "b.jpg")
    text(tmp_path / "train" / "a.txt", "0,2,3,20,10\n")
    text(tmp_path / "valid" / "b.txt", "-1,-1,-1,-1,-1\n")
    found = load(tmp_path, valid_dir="valid", classes=["cat"])
    assert len(found.valid or ()) == 1
