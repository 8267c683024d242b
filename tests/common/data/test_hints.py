"""Many boxes that do not fit are told for what they look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.label_trees import coco, image, images, text
from tests.helpers.loaded_sets import load


def warned(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(record.message for record in caplog.records if record.levelname == "WARNING")


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    from common.reporting import warnings

    warnings.forget()


def test_widths_and_heights_in_the_place_of_edges(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    text(tmp_path / "train" / "a.txt", "0,50,10,30,20\n0,10,5,60,30\n")
    text(tmp_path / "train" / "b.txt", "0,40,30,20,8\n")
    load(tmp_path)
    assert "The training set: 2 boxes do not fit their images, but would as x,y,width,height" in warned(
        caplog
    )


def test_swapped_axes_and_images_that_are_turned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "train", "a.jpg", "b.jpg")
    text(tmp_path / "train" / "a.txt", "0,5,30,20,75\n0,5,50,20,75\n")
    text(tmp_path / "train" / "b.txt", "0,1,1,10,10\n")
    load(tmp_path)
    assert "2 boxes do not fit their images, but would with x and y swapped" in warned(caplog)
    caplog.clear()
    for name in "ab":
        image(tmp_path / "train" / f"{name}.jpg", orientation=6)
        text(tmp_path / "train" / f"{name}.txt", "0,50,10,75,30\n0,1,1,10,10\n")
    load(tmp_path)
    assert "2 boxes do not fit their images, but would fit them as they are stored" in warned(caplog)


def test_sizes_of_images_as_they_are_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in "ab":
        image(tmp_path / "train" / f"{name}.jpg", orientation=6)
    rows = [{"image_id": number, "category_id": 1, "bbox": [1, 1, 9, 9]} for number in (1, 2)]
    text(tmp_path / "train" / "_annotations.coco.json", coco(["a.jpg", "b.jpg"], rows, {1: "cat"}))
    assert len(load(tmp_path).train) == 2
    assert "fit them as they are stored" in warned(caplog)


def test_a_few_slips_are_no_pattern(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    images(tmp_path / "train", "a.jpg")
    rows = [f"0,{x},1,{x + 20},30" for x in range(50)]
    text(tmp_path / "train" / "a.txt", "\n".join(["0,60,1,90,30", "0,70,20,50,10", *rows]))
    load(tmp_path)
    assert "do not fit their images" not in warned(caplog)
