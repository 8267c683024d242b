"""The odd files that may stand beside the project: each has its outcome."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.images.decoding import ImageError, decode, probe

EDGE = {
    "animated.gif": "GIF",
    "bilevel.png": (320, 240),
    "cmyk_adobe.jpg": (320, 240),
    "exif6_gray.jpg": (240, 320),
    "exif9_invalid.jpg": (320, 240),
    "gif_named.jpg": "GIF",
    "gray.jpg": (320, 240),
    "gray16.png": (320, 240),
    "gray_alpha.png": (320, 240),
    "half.jpg": "truncated",
    "half.png": "truncated",
    "header_only.jpg": "truncated",
    "html_named.png": "HTML",
    "huge_12000x9000_gray.png": "108000000 pixels",
    "huge_8000x6000.jpg": (8000, 6000),
    "jpeg_named.png": (320, 240),
    "name with space ü漢.jpg": (320, 240),
    "one_pixel.jpg": (1, 1),
    "one_pixel.png": (1, 1),
    "png_named.jpg": (320, 240),
    "progressive.jpg": (320, 240),
    "rgba.png": (320, 240),
    "strip_1x3000.jpg": (1, 3000),
    "strip_3000x1.jpg": (3000, 1),
    "text_named.jpg": "text",
    "trailing_junk.jpg": (320, 240),
    "two_by_two.jpg": (2, 2),
    "UPPERCASE.JPG": (320, 240),
    "webp_named.jpg": "WebP",
    "zero_bytes.jpg": "empty file",
}


@pytest.mark.shared
@pytest.mark.parametrize("name", EDGE)
def test_the_odd_files_have_the_right_outcome(shared_data: Path, name: str) -> None:
    path = str(shared_data / "edge" / name)
    expected = EDGE[name]
    if isinstance(expected, str):
        for function in (decode, probe):
            with pytest.raises(ImageError, match=expected):
                function(path)
    else:
        pixels, size = decode(path)
        assert probe(path) == size == expected
        assert pixels.shape == (expected[1], expected[0], 3)
        # All of them show the same gradients, or one colour: half a picture or a wrong range would show here.
        if expected == (320, 240):
            assert abs(pixels.mean() - 127.6) < 1


@pytest.mark.shared
def test_the_odd_files_are_all_known(shared_data: Path) -> None:
    assert {path.name for path in (shared_data / "edge").iterdir()} == set(EDGE)
