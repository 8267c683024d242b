"""What is drawn into a picture can be read, at any size and in any script that class names have."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.evaluation.pictures import Box, Caption, Points, colour, draw, encode_jpeg, thumbnail
from common.images.decoding import ImageError


def grey(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_a_box_is_drawn_where_it_is() -> None:
    drawn = draw(grey(640, 480), [Box((100, 200, 300, 400), "", 0)])
    assert drawn.shape == (480, 640, 3)
    changed = np.argwhere((drawn != 90).any(axis=2))
    assert changed.min(axis=0).tolist() == [200, 100]
    assert changed.max(axis=0).tolist() == [400, 300]
    assert drawn[300, 200].tolist() == [90, 90, 90]
    assert drawn[200, 150].tolist() == list(colour(0))


@pytest.mark.parametrize("size", [(1, 1), (16, 24), (3000, 1), (1, 3000), (640, 480), (4000, 3000)])
def test_any_picture_can_be_drawn_into(size: tuple[int, int]) -> None:
    before = grey(*size)
    marks = [
        Box((0, 0, *size), "a name of many letters that is longer than the picture", 1),
        Box((-50, -50, size[0] * 3, size[1] * 3), "outside", 2),
        Points(np.array([[0, 0], [np.nan, 1], size], float)),
        Caption("dog 0.93", 3),
    ]
    drawn = draw(before, marks)
    factor = drawn.shape[0] // size[1]
    assert drawn.shape == (size[1] * factor, size[0] * factor, 3)
    assert (drawn != 90).any()
    assert (before == 90).all()


def test_small_pictures_are_enlarged_so_that_names_can_be_read() -> None:
    assert draw(grey(64, 32), []).shape == (160, 320, 3)
    assert draw(grey(640, 320), []).shape == (320, 640, 3)


def letters(text: str) -> np.ndarray:
    """The pixels of a text's line."""
    return draw(grey(600, 600), [Caption(text, 0)])[:30]


def test_chinese_and_japanese_names_are_drawn_in_letters_of_their_own() -> None:
    missing = letters("\N{CANADIAN SYLLABICS TYA}")  # of neither font
    shapes = [letters(text) for text in ("猫", "狗", "車", "车", "か", "é", "Ж", "A")]
    for index, shape in enumerate(shapes):
        assert (shape != missing).any()
        assert all((shape != other).any() for other in shapes[:index])


def test_control_characters_of_a_name_are_no_lines() -> None:
    assert (letters("a\nb\x1b\udcff") != 90).any()


def test_neighbouring_classes_have_different_colours() -> None:
    colours = np.array([colour(kind) for kind in range(8)], float)
    distances = np.abs(colours[:, None] - colours[None]).sum(axis=2) + np.eye(8) * 999
    assert distances.min() > 60


def test_a_thumbnail_is_small_and_tells_the_size_of_the_image(tmp_path: Path) -> None:
    path = tmp_path / "1.jpg"
    path.write_bytes(encode_jpeg(grey(2000, 1000)))
    data, size = thumbnail(str(path), 480)
    assert size == (2000, 1000)
    assert Image.open(io.BytesIO(data)).size == (480, 240)
    path.write_bytes(encode_jpeg(grey(20, 10)))
    assert Image.open(io.BytesIO(thumbnail(str(path), 480)[0])).size == (20, 10)
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError):
        thumbnail(str(path), 480)
