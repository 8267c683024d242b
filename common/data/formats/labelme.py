"""labelme: a JSON beside each image, with shapes: rectangle, polygon, circle, point and others.

The box of a shape is that around its points. `imagePath` may be of another machine, `imageData` is not looked at.
Points with a label are keypoints; those of a shape with the same `group_id` belong together.
"""

from __future__ import annotations

import json
import math
import os
import re
from dataclasses import dataclass
from typing import Any

from common.data.formats.base import (
    MOST_OBJECTS,
    AnnotatedSet,
    Box,
    ImageFinder,
    Object,
    Place,
    Point,
    Record,
    bad,
    beginning,
    closest,
    excerpt,
    hull,
    label_text,
    pairs,
    read_bytes,
    read_json,
    size,
)
from common.data.formats.writing import Target, stem
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "landmark")

_PEEK = 4096
# A file may hold the image itself, as Base64, which is not looked at.
_FILE_LIMIT = 64 << 20
_LIMIT = 8 << 20
_IMAGE_DATA = re.compile(rb'("imageData"\s*:\s*")[A-Za-z0-9+/=\\]*')
_OUTLINES = ("polygon", "linestrip", "line", "mask", "quad", "rotation", "points")


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is labelme's; None: it is not."""
    files = _files(place, listing)
    for file in files[:20]:
        if _is_labelme(file):
            name, count = printable(file), len(files)
            return (
                f"{name} is one of {count} JSON files that hold the shapes of an image",
                f"{name} 是 {count} 个保存图像标注形状的 JSON 文件之一",
            )
    return None


def _files(place: Place, listing: Listing) -> list[str]:
    if place.annotations is not None:
        return Listing(place.annotations).with_extension(".json") if os.path.isdir(place.annotations) else []
    return listing.with_extension(".json")


def _is_labelme(file: str) -> bool:
    data = beginning(file, _PEEK)
    return data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{") and b'"shapes"' in data


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with labelme's files. Raises DataError."""
    files = _files(place, listing)
    by_stem: dict[str, list[str]] = {}
    for image in listing.images:
        by_stem.setdefault(os.path.basename(stem(image)), []).append(image)
    finder = ImageFinder(listing, place.root)
    entries: dict[str, str] = {}
    problems, skipped = [], []
    for file in files:
        name = os.path.basename(stem(file))
        own = closest(file, by_stem.get(name, []))
        path: str | None
        if len(own) == 1:
            path = own[0]
        elif not _is_labelme(file):
            skipped.append(Problem(file, None, "not a file of labelme: it has no shapes"))
            continue
        else:
            path, problem = _named(file, finder)
            if problem is not None:
                problems.append(problem)
        if path is None:
            continue
        if path in entries:
            problems.append(
                Problem(file, None, f"{printable(path)} has another JSON, {printable(entries[path])}")
            )
        else:
            entries[path] = file
    if not entries:
        raise DataError(f"{printable(place.folder)}: no JSON of labelme is there that belongs to an image")
    images = sorted(entries, key=finder.order)
    skipped += [
        Problem(image, None, "there is no JSON of it") for image in listing.images if image not in entries
    ]
    own = [entries[image] for image in images]
    return AnnotatedSet(
        "labelme", images, own, LabelmeParser(place.task == "landmark"), problems=problems, skipped=skipped,
        own_files=own,
    )  # fmt: skip


def _content(file: str) -> Any:
    """What a file holds, without the image. Raises BadSample."""
    data = _IMAGE_DATA.sub(rb"\1", read_bytes(file, _FILE_LIMIT))
    if len(data) > _LIMIT:
        raise bad(
            file, None, f"its {len(data)} bytes beside imageData are more than the {_LIMIT} that are read"
        )
    return read_json(file, data)


def _named(file: str, finder: ImageFinder) -> tuple[str | None, Problem | None]:
    """The image that a file names."""
    try:
        content = _content(file)
    except BadSample as error:
        return None, error.problems[0]
    written = content.get("imagePath") if isinstance(content, dict) else None
    if not isinstance(written, str):
        return None, Problem(file, None, f"imagePath {excerpt(written)} names no image")
    path, reason = finder.find(written, file)
    return (path, None) if path else (None, Problem(file, None, f"imagePath {reason}"))


@dataclass(frozen=True)
class LabelmeParser:
    """Reads the shapes of an image. points: points are what counts; else they are not looked at."""

    points: bool

    def __call__(self, image: str, entry: str, width: int, height: int) -> Record:
        content = _content(entry)
        shapes = content.get("shapes") if isinstance(content, dict) else None
        if not isinstance(shapes, list):
            raise bad(entry, None, "not a file of labelme: it has no list of shapes")
        if len(shapes) > MOST_OBJECTS:
            raise bad(entry, None, f"{len(shapes)} shapes of one image; at most {MOST_OBJECTS} are read")
        record = Record(entry, width=size(content.get("imageWidth")), height=size(content.get("imageHeight")))
        points: dict[Any, list[Point]] = {}
        boxes: dict[Any, Object] = {}
        for place, shape in enumerate(shapes):
            problem = self._add(entry, place, shape, record, points, boxes)
            if problem:
                record.problems.append(Problem(entry, None, f"shape {place + 1}: {problem}"))
        if self.points:
            record.objects = _with_points(points, boxes)
        return record

    def _add(
        self,
        file: str,
        place: int,
        shape: Any,
        record: Record,
        points: dict[Any, list[Point]],
        boxes: dict[Any, Object],
    ) -> str | None:
        """Take a shape into what is found so far; the reason where it cannot be."""
        label = label_text(shape.get("label")) if isinstance(shape, dict) else None
        if label is None:
            return "has no label"
        corners = pairs(shape.get("points"))
        if not corners:
            return f"{label!r}: its points are not pairs of numbers"
        kind = shape.get("shape_type") or "polygon"
        group = shape.get("group_id")
        group = group if isinstance(group, (int, str)) else None
        if kind == "point":
            if self.points:
                flags = shape.get("flags")
                hidden = isinstance(flags, dict) and any(
                    flags.get(name) for name in ("occluded", "invisible", "hidden")
                )
                points.setdefault(group, []).append(Point(*corners[0], not hidden, label))
            return None
        box = _box(kind, corners)
        if box is None:
            return f"{label!r}: a shape of kind {excerpt(kind)} has no box"
        flags = shape.get("flags")
        difficult = bool(shape.get("difficult")) or (isinstance(flags, dict) and bool(flags.get("difficult")))
        thing = Object(label, box, difficult=difficult)
        record.objects.append(thing)
        boxes.setdefault(group, thing)
        return None


def _with_points(points: dict[Any, list[Point]], boxes: dict[Any, Object]) -> list[Object]:
    """A thing for each group of points; its box is the shape of the same group."""
    things = []
    for group, members in points.items():
        thing = boxes.get(group)
        things.append(Object(thing.label if thing else "", thing.box if thing else None, tuple(members)))
    return things


def _box(kind: str, corners: list[tuple[float, float]]) -> Box | None:
    if kind == "circle":
        if len(corners) != 2:
            return None
        (x, y), on_edge = corners
        radius = math.dist((x, y), on_edge)
        return x - radius, y - radius, x + radius, y + radius
    if kind == "rectangle" or kind in _OUTLINES:
        return hull(corners)
    return None


def write(target: Target) -> None:
    """A JSON beside each image."""
    for image in target.images:
        name = os.path.join(target.part, image.name)
        target.place(image, name)
        shapes = [
            shape for group, thing in enumerate(image.objects) for shape in _shapes(group, thing, target)
        ]
        content: dict[str, Any] = {
            "version": "5.5.0",
            "flags": {},
            "shapes": shapes,
            "imagePath": os.path.basename(image.name),
            "imageData": None,
            "imageHeight": image.height,
            "imageWidth": image.width,
        }
        with target.text(stem(name) + ".json") as file:
            json.dump(content, file, ensure_ascii=False, indent=1)


def _shapes(group: int, thing: Object, target: Target) -> list[dict[str, Any]]:
    number = group if thing.points else None
    shapes = []
    if thing.box is not None:
        if thing.crowd:
            target.lost["crowd regions, written as difficult objects"] += 1
        x1, y1, x2, y2 = thing.box
        flags = {"difficult": True} if thing.difficult or thing.crowd else {}
        shapes.append(_shape(str(thing.label), [[x1, y1], [x2, y2]], number, "rectangle", flags))
    for place, point in enumerate(thing.points):
        label = point.name or (target.keypoints[place] if place < len(target.keypoints) else str(place))
        flags = {} if point.visible else {"invisible": True}
        shapes.append(_shape(label, [[point.x, point.y]], number, "point", flags))
    return shapes


def _shape(
    label: str, points: list[list[float]], group: int | None, kind: str, flags: dict[str, bool]
) -> dict[str, Any]:
    return {"label": label, "points": points, "group_id": group, "shape_type": kind, "flags": flags}
