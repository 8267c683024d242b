"""Lists: a text with an image a line and what is annotated in it.

`path x1,y1,x2,y2,id x1,y1,x2,y2,id …` is detection's, where ids count from 1; `path` alone has no objects.
`path name` is classification's. Landmarks: `x1 y1 x2 y2 … path`, as WFLW has them: 98 points, of its full lists also a
box and six attributes; several lines may name one image, each is a face of it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

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
    Point,
    Record,
    bad,
    beside,
    decoded,
    excerpt,
    finite_list,
    is_image,
    label_text,
)
from common.data.formats.modelarts import lines
from common.data.formats.parts import part_of
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "classification", "landmark")

_LOOKED_AT = 20
_BOX = re.compile(r"(?:[^\s,]+,){4}[^\s,]+")
_NAMED = re.compile(r"(.+?\.(?:jpe?g|png|bmp))[\s,;]+(\S.*)", re.IGNORECASE)
_ATTRIBUTES = 6


@dataclass(frozen=True, slots=True)
class ListLine:
    """A line of a list: where it stands, the image as it is written, and what is said of it."""

    file: str
    line: int
    path: str
    boxes: tuple[tuple[float, ...], ...] = ()
    name: str = ""
    points: tuple[float, ...] = ()
    box: tuple[float, ...] = ()


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is a list's; None: it is not."""
    files = _find(place, listing)
    if not files:
        return None
    name = printable(files[0])
    return f"{name} lists images with their annotations", f"{name} 逐行列出图像及其标注"


def _find(place: Place, listing: Listing) -> list[str]:
    """The list of the set; the ones that name its part are before all others."""
    if place.annotations is not None:
        if os.path.isfile(place.annotations):
            return [place.annotations] if _is_list(place.annotations, place.task) else []
        names = [os.path.join(place.annotations, name) for name in sorted(os.listdir(place.annotations))]
        lists = [
            name
            for name in names
            if name.lower().endswith((".txt", ".lst", ".csv")) and _is_list(name, place.task)
        ]
        return _of_part(lists, place)
    images = {beside(image, ".txt") for image in listing.images}
    own = [path for path in listing.with_extension(".txt", ".lst") if path not in images]
    lists = [path for path in own[:50] if _is_list(path, place.task)]
    if not lists:
        name = os.path.basename(os.path.normpath(place.folder))
        for folder in place.above():
            near = sorted(
                entry.path for entry in os.scandir(folder) if entry.name.lower().endswith((".txt", ".lst"))
            )
            near = [path for path in near[:50] if path not in images and _is_list(path, place.task)]
            lists = [path for path in near if name in os.path.basename(path)] or near
            if lists:
                break
    return _of_part(lists, place)


def _of_part(files: list[str], place: Place) -> list[str]:
    if len(files) < 2:
        return files
    own = [file for file in files if place.part and _part(file) == place.part]
    if len(own) == 1:
        return own
    listed = ", ".join(map(printable, files[:5]))
    key = f"dataset.{place.part or 'train'}_annotations"
    raise DataError(f"{printable(place.folder)}: {len(files)} lists, {listed}: name one with {key}")


def _part(file: str) -> str:
    words = re.split(r"[^a-z]+", os.path.basename(file).lower())
    return next((part for part in map(part_of, words) if part), "")


def _is_list(file: str, task: str) -> bool:
    """Whether most of the first lines are of a list; one of paths alone says nothing and is not."""
    good = bad_lines = 0
    says_something = False
    try:
        for number, data in lines(file):
            if good + bad_lines >= _LOOKED_AT:
                break
            try:
                line = _line(file, number, decoded(file, data).strip(), task)
            except BadSample:
                bad_lines += 1
                continue
            good += 1
            says_something = says_something or bool(line.boxes or line.name or line.points)
    except DataError:
        return False
    return says_something and good > bad_lines


def _line(file: str, number: int, text: str, task: str) -> ListLine:
    """Raises BadSample for a line that is none."""
    if task == "landmark":
        return _points_line(file, number, text)
    if task == "classification":
        match = _NAMED.fullmatch(text)
        if match is None:
            raise bad(file, number, f"{excerpt(text)}: not `path name`")
        return ListLine(file, number, match[1], name=label_text(match[2]) or "")
    parts = text.replace("，", ",").split()
    boxes = []
    while parts and len(parts) > 1 and _BOX.fullmatch(parts[-1]):
        values = finite_list(parts.pop().split(","))
        if values is None:
            raise bad(file, number, f"{excerpt(text)}: a box is x1,y1,x2,y2,id in numbers")
        boxes.append(tuple(values))
    path = " ".join(parts)
    if not is_image(path):
        raise bad(file, number, f"{excerpt(text)}: not `path x1,y1,x2,y2,id …`")
    return ListLine(file, number, path, boxes=tuple(reversed(boxes)))


def _points_line(file: str, number: int, text: str) -> ListLine:
    parts = text.replace("，", ",").replace(",", " ").split()
    count = 0
    while count < len(parts) and finite_list(parts[count : count + 1]) is not None:
        count += 1
    values = finite_list(parts[:count])
    path = " ".join(parts[count:])
    if not values or not is_image(path):
        raise bad(file, number, f"{excerpt(text)}: not `x1 y1 x2 y2 … path`")
    box: tuple[float, ...] = ()
    # WFLW's full lists: 98 points, a box, and six attributes that are 0 or 1.
    if len(values) == 196 + 4 + _ATTRIBUTES and all(value in (0, 1) for value in values[-_ATTRIBUTES:]):
        box, values = tuple(values[196:200]), values[:196]
    if len(values) % 2:
        raise bad(file, number, f"{excerpt(text)}: {len(values)} numbers are no pairs of x and y")
    return ListLine(file, number, path, points=tuple(values), box=box)


def _all_lines(file: str, task: str, problems: AnnotationProblems) -> Iterator[ListLine]:
    for number, data in lines(file):
        try:
            yield _line(file, number, decoded(file, data).strip(), task)
        except BadSample as error:
            problems.add(file, number, error.problems[0].reason)


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set that a list names. Raises DataError."""
    files = _find(place, listing)
    if not files:
        if place.annotations is None or not os.path.isfile(place.annotations):
            raise DataError(f"{printable(place.folder)}: no list of images is there, nor above it")
        files = [place.annotations]
    file = files[0]
    finder = ImageFinder(listing, place.root)
    problems = AnnotationProblems()
    lines_by_path: dict[str, list[ListLine]] = {}
    for line in _all_lines(file, place.task, problems):
        path, reason = finder.find(line.path, file)
        if path is None:
            problems.add(file, line.line, reason)
            continue
        own = lines_by_path.setdefault(path, [])
        if own and place.task != "landmark":
            problems.add(file, line.line, f"{excerpt(line.path)} stands in line {own[0].line} as well")
            continue
        own.append(line)
    if not lines_by_path and not problems:
        raise FormatError(file, None, f"holds no line; at most {MOST_IMAGES} are read")
    images = sorted(lines_by_path, key=finder.order)
    skipped = [
        Problem(path, None, f"{os.path.basename(file)} does not name it")
        for path in listing.images
        if path not in lines_by_path
    ]
    return AnnotatedSet(
        "list", images, [tuple(lines_by_path[image]) for image in images], parse, problems=problems.closed(file),
        skipped=skipped, files=[file],
    )  # fmt: skip


def parse(image: str, entry: tuple[ListLine, ...], width: int, height: int) -> Record:
    """What the lines of an image say."""
    record = Record(entry[0].file)
    for line in entry:
        if line.name:
            record.objects.append(Object(line.name, line=line.line))
        if line.points:
            points = tuple(Point(x, y) for x, y in zip(line.points[::2], line.points[1::2], strict=True))
            box: Box | None = line.box or None  # type: ignore[assignment]
            record.objects.append(Object("", box, points, line=line.line))
        if len(line.boxes) > MOST_OBJECTS:
            raise bad(
                line.file, line.line, f"{len(line.boxes)} boxes; at most {MOST_OBJECTS} of an image are read"
            )
        for x1, y1, x2, y2, class_id in line.boxes:
            text = f"{x1:.10g},{y1:.10g},{x2:.10g},{y2:.10g},{class_id:.10g}"
            if class_id != int(class_id) or class_id < 1:
                reason = f"{text}: {class_id:g} is no class id; they count from 1 in a list"
                record.problems.append(Problem(line.file, line.line, reason))
            else:
                record.objects.append(Object(int(class_id) - 1, (x1, y1, x2, y2), line=line.line))
    return record
