"""300-W's .pts: a text beside each image, with `n_points: 68` and the points in braces; coordinates count from 1.

(Sagonas et al., "300 Faces in-the-Wild Challenge", 2013)
"""

from __future__ import annotations

import os
import re

from common.data.formats.base import (
    AnnotatedSet,
    Object,
    Place,
    Point,
    Record,
    bad,
    excerpt,
    finite_list,
    read_text,
)
from common.data.formats.writing import stem
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("landmark",)

_LIMIT = 1 << 20
_COUNT = re.compile(r"n_points\s*:\s*(\d{1,6})\s*")


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is of .pts files; None: it is not."""
    files = _files(place, listing)
    if not files:
        return None
    name, count = printable(files[0]), len(files)
    return f"{name} is one of {count} .pts files", f"{name} 是 {count} 个 .pts 文件之一"


def _files(place: Place, listing: Listing) -> list[str]:
    if place.annotations is not None:
        return Listing(place.annotations).with_extension(".pts") if os.path.isdir(place.annotations) else []
    return listing.with_extension(".pts")


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with .pts files. Raises DataError."""
    files = _files(place, listing)
    if not files:
        raise DataError(f"{printable(place.folder)}: no .pts file is there")
    if place.annotations is None:
        by_stem = {stem(file): file for file in files}
        entries = {image: by_stem[stem(image)] for image in listing.images if stem(image) in by_stem}
    else:
        by_name = {os.path.basename(stem(file)): file for file in files}
        names = {image: os.path.basename(stem(image)) for image in listing.images}
        entries = {image: by_name[name] for image, name in names.items() if name in by_name}
    used = set(entries.values())
    images = list(entries)
    problems = [Problem(file, None, "its image is not there") for file in files if file not in used]
    skipped = [
        Problem(image, None, "there is no .pts of it") for image in listing.images if image not in entries
    ]
    own = [entries[image] for image in images]
    return AnnotatedSet("pts", images, own, parse, problems=problems, skipped=skipped, own_files=own)


def parse(image: str, entry: str, width: int, height: int) -> Record:
    """The points of an image, one thing."""
    lines = read_text(entry, _LIMIT).replace("\r\n", "\n").split("\n")
    stated = None
    inside = False
    points: list[Point] = []
    for number, text in enumerate(lines, start=1):
        text = text.strip()
        if not inside:
            match = _COUNT.fullmatch(text)
            stated = int(match[1]) if match else stated
            inside = text == "{"
            continue
        if text == "}":
            break
        if text:
            values = finite_list(text.replace(",", " ").split(), 2)
            if values is None:
                raise bad(entry, number, f"{excerpt(text)}: not x and y of a point")
            points.append(Point(values[0] - 1, values[1] - 1))
    else:
        raise bad(entry, len(lines), "not a .pts file: points in braces are missing")
    if stated is not None and stated != len(points):
        raise bad(entry, None, f"{len(points)} points where n_points says {stated}")
    return Record(entry, [Object("", points=tuple(points))])
