"""CVAT: annotations.xml of "CVAT for images 1.1".

Boxes and other shapes of an image, in pixels; the box of a shape is that around its points. Images may have a subset.
"""

from __future__ import annotations

import math
import os

from common.data.formats import xml_tree
from common.data.formats.base import (
    MOST_IMAGES,
    MOST_OBJECTS,
    AnnotatedSet,
    AnnotationProblems,
    Box,
    FormatError,
    ImageFinder,
    Object,
    Place,
    Record,
    RecordProblems,
    bad,
    beginning,
    finite,
    finite_list,
    hull,
    label_text,
    size,
    snapped,
    sorted_box,
)
from common.data.formats.parts import part_of, those_of
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection",)

_LIMIT = 2 << 30
_PEEK = 64 << 10
_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "mask", "skeleton")


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is CVAT's; None: it is not."""
    file = _find(place, listing)
    return (
        (f"{printable(file)} is an export of CVAT", f"{printable(file)} 是 CVAT 的导出文件") if file else None
    )


def _find(place: Place, listing: Listing) -> str | None:
    if place.annotations is not None:
        named = (
            [place.annotations]
            if os.path.isfile(place.annotations)
            else [os.path.join(place.annotations, "annotations.xml")]
        )
        return next((file for file in named if _is_cvat(file)), None)
    near = [os.path.join(folder, "annotations.xml") for folder in place.above()]
    for file in [*near, *listing.with_extension(".xml")[:20]]:
        if _is_cvat(file):
            return file
    return None


def _is_cvat(file: str) -> bool:
    return b"<annotations>" in beginning(file, _PEEK)


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with CVAT's annotations. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(f"{printable(place.folder)}: no annotations.xml of CVAT is there, nor above it")
    finder = ImageFinder(listing, place.root)
    problems, within = AnnotationProblems(), RecordProblems()
    entries: list[tuple[str, str, Record]] = []
    seen: set[str] = set()
    try:
        for element in xml_tree.elements(file, _LIMIT, 2):
            if element.tag == "track":
                raise FormatError(
                    file, element.line, "a track: export as `CVAT for images 1.1`, not for video"
                )
            if element.tag != "image":
                continue
            if len(entries) >= MOST_IMAGES:
                raise FormatError(file, element.line, f"more than {MOST_IMAGES} images")
            path, reason = finder.find(element.attributes.get("name", ""), file)
            if path is None:
                problems.add(file, element.line, reason)
            elif path in seen:
                problems.add(file, element.line, f"{printable(path)} stands there twice")
            else:
                seen.add(path)
                if element.cut:
                    most = xml_tree.MOST_WITHIN
                    problems.add(
                        file,
                        element.line,
                        f"{printable(path)}: more than {most} elements of one image; left out",
                    )
                else:
                    record = _record(file, element)
                    record.problems = within.kept(record.problems)
                    entries.append((path, part_of(element.attributes.get("subset")), record))
    except BadSample as error:
        problem = error.problems[0]
        raise FormatError(problem.file, problem.line, problem.reason) from None
    if not entries and not problems:
        raise FormatError(file, None, "names no image")
    entries, others = those_of(place.part, entries)
    entries.sort(key=lambda entry: finder.order(entry[0]))
    skipped = [Problem(path, None, f"belongs to the subset {part!r}") for path, part, _ in others]
    skipped += [
        Problem(path, None, f"{os.path.basename(file)} does not name it")
        for path in listing.images
        if path not in seen
    ]
    return AnnotatedSet(
        "cvat", [path for path, _, _ in entries], [record for _, _, record in entries], parse,
        problems=problems.closed(file), skipped=skipped, files=[file],
    )  # fmt: skip


def parse(image: str, entry: Record, width: int, height: int) -> Record:
    """The objects of an image."""
    if len(entry.objects) > MOST_OBJECTS:
        raise bad(
            entry.source, None, f"{len(entry.objects)} shapes of one image; at most {MOST_OBJECTS} are read"
        )
    return entry


def _record(file: str, image: xml_tree.Element) -> Record:
    record = Record(
        file, width=size(image.attributes.get("width")), height=size(image.attributes.get("height"))
    )
    for shape in image.children:
        if shape.tag not in _SHAPES:
            continue
        label = label_text(shape.attributes.get("label"))
        box = _box(shape)
        if label is None or box is None:
            what = "has no label" if label is None else f"{label!r} has no box"
            record.problems.append(Problem(file, shape.line, f"<{shape.tag}> {what}"))
        else:
            record.objects.append(Object(label, box, line=shape.line))
    return record


def _box(shape: xml_tree.Element) -> Box | None:
    values = shape.attributes
    if shape.tag == "box":
        corners = finite_list([values.get(name) for name in ("xtl", "ytl", "xbr", "ybr")])
        if corners is None:
            return None
        box = sorted_box(*corners)
        angle = finite(values.get("rotation", "0"))
        return box if not angle else _turned(box, angle)
    if shape.tag == "ellipse":
        numbers = finite_list([values.get(name) for name in ("cx", "cy", "rx", "ry")])
        if numbers is None:
            return None
        x, y, across, down = numbers
        angle = math.radians(finite(values.get("rotation", "0")) or 0.0)
        half_width = math.hypot(across * math.cos(angle), down * math.sin(angle))
        half_height = math.hypot(across * math.sin(angle), down * math.cos(angle))
        return x - half_width, y - half_height, x + half_width, y + half_height
    if shape.tag == "mask":
        numbers = finite_list([values.get(name) for name in ("left", "top", "width", "height")])
        return (
            None
            if numbers is None
            else (numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3])
        )
    if shape.tag == "cuboid":
        names = [
            f"{axis}{end}"
            for axis in "xy"
            for end in ("tl1", "bl1", "tr1", "br1", "tl2", "bl2", "tr2", "br2")
        ]
        numbers = finite_list([values.get(name) for name in names])
        return None if numbers is None else hull(list(zip(numbers[:8], numbers[8:], strict=True)))
    texts = [shape, *shape.children] if shape.tag == "skeleton" else [shape]
    points: list[tuple[float, float]] = []
    for text in texts:
        for pair in filter(None, text.attributes.get("points", "").split(";")):
            numbers = finite_list(pair.split(","), 2)
            if numbers is None:
                return None
            points.append((numbers[0], numbers[1]))
    return hull(points) if points else None


def _turned(box: Box, degrees: float) -> Box:
    """The box around a box that is turned about its centre."""
    x1, y1, x2, y2 = box
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = [(x1 - x, y1 - y), (x2 - x, y1 - y), (x2 - x, y2 - y), (x1 - x, y2 - y)]
    around = hull(
        [(x + across * cos - down * sin, y + across * sin + down * cos) for across, down in corners]
    )
    return snapped(around[0]), snapped(around[1]), snapped(around[2]), snapped(around[3])
