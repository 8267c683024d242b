"""The pictures of a report: each image once, small, and what is drawn over it as shapes and letters of the page."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from common.evaluation.markup import escaped, said
from common.images.decoding import ImageError

#: An image as a small JPEG, by its path and longest side, and its size in pixels; raises ImageError.
Thumbnail = Callable[[str, int], tuple[bytes, tuple[int, int]]]

# Bytes of all pictures before they become text, which makes them a third larger: the file stays below 5 MB.
_PICTURE_BYTES = 3_000_000
_PICTURE_SIDE = 480
# How much of the width of a picture a letter is high.
_LETTER = 1 / 26
# Of more objects than this the right ones have no names.
_MOST_NAMED = 8


class Album:
    """The pictures of a report, as long as there is room."""

    def __init__(self, thumbnail: Thumbnail) -> None:
        self._thumbnail = thumbnail
        self._numbers: dict[str, int | None] = {}
        self._images: list[str] = []
        self._sizes: dict[str, tuple[int, int]] = {}
        self._room = _PICTURE_BYTES

    def add(self, path: str) -> int | None:
        """The number of a picture; None: it cannot be shown."""
        if path not in self._numbers:
            self._numbers[path] = self._take_in(path) if self._room > 0 else None
        return self._numbers[path]

    def _take_in(self, path: str) -> int | None:
        try:
            data, size = self._thumbnail(path, _PICTURE_SIDE)
        except ImageError:
            return None
        if len(data) > self._room:
            return None
        number = len(self._images)
        self._room -= len(data)
        self._sizes[path] = size
        self._images.append(
            f'<image id="p{number}" width="{size[0]}" height="{size[1]}" preserveAspectRatio="none" '
            f'href="data:image/jpeg;base64,{base64.b64encode(data).decode()}"/>'
        )
        return number

    def figure(self, path: str, entry: Mapping[str, Any] | None = None) -> str:
        """The picture, with what `entry` (of a document's worst or suspects) says of it drawn over it."""
        number = self.add(path)
        if number is None:
            return f'<p class="soft">{said(("no picture", "无图"))}</p>'
        width, height = self._sizes[path]
        letter = max(width, height * 0.8) * _LETTER
        marks = "" if entry is None else "".join(_marks(entry, width, letter))
        return f'<svg class="picture" viewBox="0 0 {width} {height}" role="img"><use href="#p{number}"/>{marks}</svg>'

    def images(self) -> str:
        """The pictures themselves, for the end of the page."""
        return f'<svg width="0" height="0" aria-hidden="true"><defs>{"".join(self._images)}</defs></svg>'


def _marks(entry: Mapping[str, Any], width: int, letter: float) -> Iterator[str]:
    annotated, objects = entry.get("groundtruth"), entry.get("objects") or ()
    for row in annotated if isinstance(annotated, list) else ():
        yield _box(row["bbox"], row["verdict"], "annotated")
        if row["verdict"] == "missed":
            yield _name(row["bbox"], row["class"], row["verdict"], width, letter, inside=True)
    for row in objects:
        yield _box(row["bbox"], row["verdict"])
    for row in objects:
        if row["verdict"] != "right" or len(objects) <= _MOST_NAMED:
            yield _name(row["bbox"], f"{row['class']} {row['score']:.2f}", row["verdict"], width, letter)
    if "bbox" in entry:
        verdict = "wrong_class" if entry.get("reason") else "found"
        yield _box(entry["bbox"], verdict)
        if entry.get("reason"):
            yield _name(entry["bbox"], entry.get("predicted") or entry["groundtruth"], verdict, width, letter)
    yield from _points(entry.get("keypoints") or (), entry.get("groundtruth_keypoints") or (), letter / 7)


def _points(
    predicted: Sequence[Sequence[float]], annotated: Sequence[Sequence[float | None]], radius: float
) -> Iterator[str]:
    for (x, y), (true_x, true_y) in zip(predicted, annotated, strict=True):
        if true_x is not None and true_y is not None:
            yield (
                f'<line class="error" x1="{true_x}" y1="{true_y}" x2="{x}" y2="{y}"/>'
                f'<circle class="truth" cx="{true_x}" cy="{true_y}" r="{radius:.2f}"/>'
            )
        yield f'<circle class="point" cx="{x}" cy="{y}" r="{radius / 1.4:.2f}"/>'


def _box(bbox: Sequence[float], verdict: str, kind: str = "") -> str:
    x1, y1, x2, y2 = bbox
    width, height = max(x2 - x1, 0), max(y2 - y1, 0)
    return (
        f'<rect class="box s-{verdict} {kind}" x="{x1}" y="{y1}" width="{width:.2f}" height="{height:.2f}"/>'
    )


def _name(
    bbox: Sequence[float], text: str, verdict: str, width: int, letter: float, *, inside: bool = False
) -> str:
    """A name above its box, or in it below; on the right of a picture it ends where its box does."""
    x, anchor = (bbox[0], "start") if bbox[0] < width * 0.6 else (bbox[2], "end")
    y = bbox[3] - letter * 0.3 if inside else max(bbox[1] - letter * 0.25, letter)
    return (
        f'<text class="f-{verdict}" x="{x}" y="{y:.2f}" text-anchor="{anchor}" font-size="{letter:.2f}" '
        f'stroke-width="{letter / 6:.2f}">{escaped(text)}</text>'
    )
