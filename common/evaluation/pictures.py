"""Pictures of predictions: small ones for a report, and whole ones with what was predicted drawn into them."""

from __future__ import annotations

import functools
import io
import lzma
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import simplejpeg
from PIL import Image, ImageDraw, ImageFont

from common.images.decoding import decode

# Chinese and Japanese letters of Droid Sans Fallback (Apache-2.0, see NOTICE), those of GB 2312 and Big5; the others
# come from matplotlib's DejaVu Sans.
_CJK_FONT = Path(__file__).with_name("fonts") / "DroidSansFallback-subset.ttf.xz"
_FIRST_CJK = 0x2E80
# Of smaller pictures an enlarged one is drawn into, so that names can be read.
_LEAST_SIDE = 320
_MOST_ENLARGED = 16
_GOLDEN = 0.61803398875


@dataclass(frozen=True)
class Box:
    """A box with a line of text: corners x1, y1, x2, y2 in pixels. kind: what decides about its colour."""

    corners: tuple[float, float, float, float]
    text: str
    kind: int


@dataclass(frozen=True)
class Points:
    """Keypoints (k, 2) in pixels; rows that are not finite are left out."""

    points: np.ndarray


@dataclass(frozen=True)
class Caption:
    """A line of text at the top of the picture. kind: what decides about its colour."""

    text: str
    kind: int


Mark = Box | Points | Caption


def thumbnail(path: str, longest: int, quality: int = 75) -> tuple[bytes, tuple[int, int]]:
    """An image as a JPEG of at most `longest` pixels a side, and its width and height before. Raises ImageError."""
    pixels, size = decode(path, (longest, longest))
    height, width = pixels.shape[:2]
    scale = longest / max(width, height)
    if scale < 1:
        shape = max(1, round(width * scale)), max(1, round(height * scale))
        pixels = cv2.resize(pixels, shape, interpolation=cv2.INTER_AREA)
    return encode_jpeg(pixels, quality), size


def encode_jpeg(pixels: np.ndarray, quality: int = 90) -> bytes:
    """Pixels (H, W, 3) uint8 RGB as a JPEG file's bytes."""
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420")
    return data


def draw(pixels: np.ndarray, marks: Sequence[Mark]) -> np.ndarray:
    """`pixels` (H, W, 3) uint8 with marks in their colours; a small picture is enlarged by a whole number first.

    Lines and letters grow with the picture, and letters are kept within it.
    """
    height, width = pixels.shape[:2]
    factor = min(_MOST_ENLARGED, max(1, math.ceil(_LEAST_SIDE / max(width, height))))
    picture = Image.fromarray(pixels)
    if factor > 1:
        picture = picture.resize((width * factor, height * factor), Image.Resampling.BICUBIC)
    canvas = ImageDraw.Draw(picture)
    side = math.sqrt(picture.width * picture.height)
    line, letter = max(1, round(side / 320)), max(11, round(side / 42))
    # The largest boxes first, so that small ones and their names lie on top.
    boxes = [mark for mark in marks if isinstance(mark, Box)]
    for box in sorted(boxes, key=lambda box: -_area(box.corners)):
        corners = tuple(value * factor for value in box.corners)
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            canvas.rectangle(corners, outline=colour(box.kind), width=line)
            _label(canvas, picture.size, box.text, corners[:2], letter, colour(box.kind), above=True)
    for mark in marks:
        if isinstance(mark, Points):
            radius = max(1.5, side / 250)
            for x, y in (mark.points[np.isfinite(mark.points).all(axis=1)] * factor).tolist():
                canvas.ellipse(
                    (x - radius, y - radius, x + radius, y + radius), fill=(0, 230, 118), outline=(0, 0, 0)
                )
        elif isinstance(mark, Caption):
            _label(canvas, picture.size, mark.text, (0, 0), letter, colour(mark.kind), above=False)
    return np.asarray(picture)


def save_picture(source: str | np.ndarray, marks: Sequence[Mark], path: str) -> None:
    """Write a JPEG of an image, by its path or pixels, with marks. Raises ImageError, OSError."""
    pixels = decode(source)[0] if isinstance(source, str) else source
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(encode_jpeg(draw(pixels, marks)))


def colour(kind: int) -> tuple[int, int, int]:
    """A bright colour, far from those of the numbers beside it."""
    hue = (0.08 + kind * _GOLDEN) % 1.0
    pixel = np.array([[[hue * 360, 0.85, 0.95]]], np.float32)
    red, green, blue = (cv2.cvtColor(pixel, cv2.COLOR_HSV2RGB)[0, 0] * 255).round().astype(int).tolist()
    return red, green, blue


def _area(corners: Sequence[float]) -> float:
    return (corners[2] - corners[0]) * (corners[3] - corners[1])


def _label(
    canvas: ImageDraw.ImageDraw,
    size: tuple[int, int],
    text: str,
    corner: Sequence[float],
    letter: int,
    fill: tuple[int, int, int],
    *,
    above: bool,
) -> None:
    """Text on a ground of its colour: above the corner where there is room, else below it; shortened to the picture."""
    if not text:
        return
    runs = _runs(text.replace("\n", " "), letter)
    pad = max(1, letter // 8)
    while len(runs) > 1 and _width(runs) + 2 * pad > size[0]:
        runs = _runs("".join(part for part, _ in runs)[:-2].rstrip("…") + "…", letter)
        if len("".join(part for part, _ in runs)) <= 2:
            break
    while _width(runs) + 2 * pad > size[0] and len(runs) == 1 and len(runs[0][0]) > 2:
        runs = _runs(runs[0][0][:-2].rstrip("…") + "…", letter)
    width, height = _width(runs) + 2 * pad, letter + 2 * pad
    left = min(max(corner[0], 0), max(size[0] - width, 0))
    top = corner[1] - height if above else corner[1]
    if top < 0:
        top = max(corner[1], 0)
    top = min(top, max(size[1] - height, 0))
    canvas.rectangle((left, top, left + width, top + height), fill=fill)
    bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] > 140
    for part, font in runs:
        canvas.text(
            (left + pad, top + pad + letter * 0.85),
            part,
            font=font,
            fill=(0, 0, 0) if bright else (255,) * 3,
            anchor="ls",
        )
        left += font.getlength(part)


def _runs(text: str, letter: int) -> list[tuple[str, ImageFont.FreeTypeFont]]:
    """`text` in parts of one font each."""
    parts: list[tuple[str, ImageFont.FreeTypeFont]] = []
    for character in text:
        if not character.isprintable():
            character = "\N{REPLACEMENT CHARACTER}"
        font = _font(ord(character) >= _FIRST_CJK and character != "\N{REPLACEMENT CHARACTER}", letter)
        if parts and parts[-1][1] is font:
            parts[-1] = parts[-1][0] + character, font
        else:
            parts.append((character, font))
    return parts


def _width(runs: Sequence[tuple[str, ImageFont.FreeTypeFont]]) -> float:
    return sum(font.getlength(part) for part, font in runs)


@functools.lru_cache(maxsize=16)
def _font(cjk: bool, size: int) -> ImageFont.FreeTypeFont:
    if cjk:
        return ImageFont.truetype(io.BytesIO(_cjk_file()), size)
    spec = find_spec("matplotlib")  # located, not imported
    folder = Path(str(spec.origin)).parent if spec and spec.origin else Path()
    path = folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
    return ImageFont.truetype(str(path), size) if path.is_file() else ImageFont.load_default(size)


@functools.lru_cache(maxsize=1)
def _cjk_file() -> bytes:
    return lzma.decompress(_CJK_FONT.read_bytes())
