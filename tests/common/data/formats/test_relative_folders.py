"""A set is the same wherever one stands when one names it: as ".", below "." or "..", with a slash at its end."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from common import convert
from common.data.samples import Sample
from tests.helpers.label_trees import coco, images, text
from tests.helpers.loaded_sets import load

BOXES = {"a.jpg": ("cat", [2, 3, 20, 10]), "b.jpg": ("dog", [5, 6, 30, 20]), "c.jpg": ("cat", [1, 1, 9, 9])}
WRITTEN = ("txt", "coco", "voc", "yolo", "labelme")
FORMATS = (*WRITTEN, "cvat")


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder `place`, below which is a set `train` in the format that the test names."""
    form, folder = request.param, tmp_path / "place"
    if form == "cvat":
        rows = "".join(
            f'<image id="{number}" name="{name}" width="80" height="40"><box label="{label}" xtl="{x}" ytl="{y}" '
            f'xbr="{x + width}" ybr="{y + height}"/></image>'
            for number, (name, (label, (x, y, width, height))) in enumerate(BOXES.items())
        )
        images(folder / "train", *BOXES)
        text(folder / "annotations.xml", f"<annotations><version>1.1</version>{rows}</annotations>")
        return folder
    source = tmp_path / "source" / "train"
    images(source, *BOXES)
    rows_ = [
        {"image_id": number, "category_id": int(label == "dog"), "bbox": box}
        for number, (label, box) in enumerate(BOXES.values(), 1)
    ]
    text(source / "_annotations.coco.json", coco(list(BOXES), rows_, {0: "cat", 1: "dog"}))
    assert convert.main([str(source.parent), str(folder), "--to", form]) == 0
    return folder


def told(samples: list[Sample]) -> dict[str, list[list[float]]]:
    return {Path(sample.image).name: np.asarray(sample.annotation).tolist() for sample in samples}


def train_dir(place: Path) -> str:
    """Where the images of the set are."""
    for name in ("images/train", "train/images", "train"):
        if (place / name).is_dir():
            return name
    return "."


@pytest.mark.parametrize("place", FORMATS, indirect=True)
def test_a_relative_data_root_reads_what_an_absolute_one_does(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner, log_dir = train_dir(place), tmp_path / "log"
    expected = load(place, log_dir=log_dir, train_dir=inner)
    assert len(expected.train) == 3
    assert sum(len(sample.annotation) for sample in expected.train) == 3
    for standing, root, folder in (
        (place, ".", inner),
        (place, "./", f"./{inner}/"),
        (place, "../place", inner),
        (tmp_path, "place", inner),
        (tmp_path, "place/", f"{inner}/"),
        (tmp_path, ".", f"place/{inner}"),
        (place / inner, os.path.relpath(place, place / inner), inner),
    ):
        monkeypatch.chdir(standing)
        found = load(place, log_dir=log_dir, data_root=root, train_dir=folder)
        assert told(found.train) == told(expected.train)
        assert found.classes == expected.classes


@pytest.mark.parametrize(
    ("place", "form"), [(form, form) for form in ("txt", "coco", "voc", "labelme")], indirect=["place"]
)
def test_the_set_may_be_the_root_itself(
    place: Path, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = {"coco": tmp_path / "source" / "train", "voc": place}.get(form, place / "train")
    monkeypatch.chdir(own if own.is_dir() else place)
    expected = load(Path.cwd(), log_dir=tmp_path / "log", train_dir=".")
    assert len(expected.train) == 3
    for folder in (".", "./"):
        found = load(place, log_dir=tmp_path / "log", data_root=".", train_dir=folder)
        assert told(found.train) == told(expected.train)


@pytest.mark.parametrize("place", FORMATS, indirect=True)
def test_convert_reads_the_folder_one_stands_in(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    for source, out in ((".", "one"), ("./", "two"), ("../place", "three")):
        assert convert.main([source, str(tmp_path / out), "--to", "labelme"]) == 0
        assert len(list((tmp_path / out).rglob("*.json"))) == 3
