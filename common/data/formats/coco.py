"""COCO: one JSON file with images, categories and annotations (https://cocodataset.org/#format-data).

Boxes are x, y, width, height; ids may have gaps. Crowd regions (`iscrowd`) are neither objects nor background. An
annotation without a box has that of its polygons. An image that is listed without annotations has no objects.
"""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.data.formats import json_stream
from common.data.formats.base import (
    MOST_OBJECTS,
    AnnotatedSet,
    AnnotationProblems,
    Box,
    ImageFinder,
    Object,
    Place,
    Point,
    Record,
    bad,
    beginning,
    box_to_write,
    excerpt,
)
from common.data.formats.coco_content import Content, ListedImage, packed, read_content, unpacked
from common.data.formats.kept_file import read_or_keep
from common.data.formats.parts import part_of
from common.data.formats.writing import Exported, Target
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "landmark")

_PEEK = 1 << 20
_FILE_NAME = re.compile(r'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is COCO's; None: it is not. Raises DataError where several files could be meant."""
    file = _find(place, listing)
    if not file:
        return None
    name = printable(file)
    return f"{name} lists images, categories and annotations", f"{name} 列出了图像、类别和标注"


def _find(place: Place, listing: Listing) -> str | None:
    """The file of a set's annotations."""
    if place.annotations is not None:
        files = [place.annotations] if os.path.isfile(place.annotations) else _json_files(place.annotations)
        files = [file for file in files if _looks_like_coco(file)]
        return _chosen(files, place, listing) if len(files) > 1 else next(iter(files), None)
    own = os.path.join(place.folder, "_annotations.coco.json")
    if os.path.isfile(own):
        return own
    name = os.path.basename(os.path.normpath(place.folder))
    for folder in place.above():
        for stem in ("instances_", "person_keypoints_"):
            usual = os.path.join(folder, "annotations", f"{stem}{name}.json")
            if os.path.isfile(usual) and (place.task == "landmark") == (stem != "instances_"):
                return usual
    for folder in place.above():
        for files in (_json_files(os.path.join(folder, "annotations")), _json_files(folder)):
            named = [file for file in files if _looks_like_coco(file) and _names_images(file, place, listing)]
            if named:
                return _chosen(named, place, listing)
    return None


def _chosen(files: Sequence[str], place: Place, listing: Listing) -> str:
    """The one of several files that serves the task and names images of the set."""
    named = [file for file in files if _names_images(file, place, listing)]
    with_points = [file for file in named if "keypoints" in os.path.basename(file)]
    suited = with_points if place.task == "landmark" else [file for file in named if file not in with_points]
    left = suited or named
    if len(left) > 1 and place.part:
        own = [
            file
            for file in left
            if place.part in map(part_of, re.split(r"[^a-z]+", os.path.basename(file).lower()))
        ]
        left = own if len(own) == 1 else left
    if len(left) > 1:
        key = f"dataset.{place.part or 'train'}_annotations"
        listed = ", ".join(printable(file) for file in left[:5])
        raise DataError(
            f"{printable(place.folder)}: its images stand in {len(left)} files, {listed}: name one with {key}"
        )
    if not left:
        raise DataError(f"{printable(place.folder)}: none of {len(files)} JSON files names an image of it")
    return left[0]


def _json_files(folder: str) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.path for entry in entries if entry.name.lower().endswith(".json") and entry.is_file()
            )
    except OSError:
        return []


def _beginning(file: str) -> str:
    return beginning(file, _PEEK).decode("utf-8", "replace").lstrip("\ufeff \t\r\n")


def _looks_like_coco(file: str) -> bool:
    """Judged by the keys at the beginning, or by all of them where that does not tell."""
    text = _beginning(file)
    if not text.startswith("{") or '"shapes"' in text[:4096]:
        return False
    if '"images"' in text and ('"annotations"' in text or '"categories"' in text):
        return True
    if len(text) < _PEEK // 2 or not ('"images"' in text or '"annotations"' in text):
        return False
    seen: set[str | None] = set()
    for key, _, _ in json_stream.items(file):
        seen.add(key)
        if {"images", "annotations"} <= seen:
            return True
    return False


def _names_images(file: str, place: Place, listing: Listing) -> bool:
    """Whether one of the first images that the file names is one of the set."""
    names = {os.path.basename(image) for image in listing.images}
    listed = _FILE_NAME.findall(_beginning(file)) or (
        str(item.get("file_name"))
        for key, item, _ in json_stream.items(file)
        if key == "images" and isinstance(item, dict)
    )
    return any(re.split(r"[/\\]+", name)[-1] in names for name in listed)


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with COCO annotations. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(
            f"{printable(place.folder)}: no COCO file is there: neither _annotations.coco.json in it nor "
            "annotations/*.json that names these images"
        )
    content = read_or_keep(file, place.kept, read_content, packed, unpacked)
    problems = content.problems
    numbers, paths = _find_images(file, content.images, ImageFinder(listing, place.root), problems)
    parser = CocoParser(file, tuple(content.labels), tuple(content.keypoints))
    known = set(paths)
    skipped = [image for image in listing.images if image not in known]
    result = AnnotatedSet(
        "coco", paths, _Entries(content, numbers), parser, content.names, problems.closed(file), files=[file],
        keypoints=content.keypoints,
    )  # fmt: skip
    _skip(result, skipped, file)
    return result


def _skip(result: AnnotatedSet, images: Iterable[str], file: str) -> None:
    name = os.path.basename(file)
    result.skipped.extend(Problem(image, None, f"{name} does not list it") for image in images)


def _find_images(
    file: str, images: dict[int, ListedImage], finder: ImageFinder, problems: AnnotationProblems
) -> tuple[list[int], list[str]]:
    """Numbers and paths of the images that are there, in the order of the listing."""
    numbers: dict[str, int] = {}
    for number, (name, _, _, line) in images.items():
        path, reason = finder.find(name, file)
        if path is None:
            problems.add(file, line, reason)
        elif path in numbers:
            problems.add(
                file, line, f"{excerpt(name)} is the same file as {excerpt(images[numbers[path]].name)}"
            )
        else:
            numbers[path] = number
    paths = sorted(numbers, key=finder.order)
    return [numbers[path] for path in paths], paths


class CocoEntry(NamedTuple):
    """An image's part of a file. rows (n, 7): place among the labels (-1: none), x, y, width, height, crowd, line."""

    width: int
    height: int
    line: int
    rows: np.ndarray
    points: tuple[list[float], ...]


class _Entries(Sequence[CocoEntry]):
    """Entries of all images, made when they are asked for: as objects they would take many times the memory."""

    def __init__(self, content: Content, numbers: Sequence[int]) -> None:
        """numbers: of the images."""
        self._content = content
        self._numbers = numbers
        self._starts = np.searchsorted(content.image, numbers, "left").tolist()
        self._ends = np.searchsorted(content.image, numbers, "right").tolist()

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: Any) -> Any:
        content = self._content
        listed = content.images[self._numbers[index]]
        start, end = self._starts[index], self._ends[index]
        rows = np.empty((end - start, 7))
        rows[:, 0] = content.category[start:end]
        rows[:, 1:5] = content.box[start:end]
        rows[:, 5] = content.crowd[start:end]
        rows[:, 6] = content.line[start:end]
        points: tuple[list[float], ...] = ()
        if len(content.points):
            ends = [content.points_end[start - 1] if start else 0, *content.points_end[start:end]]
            points = tuple(content.points[a:b].tolist() for a, b in itertools.pairwise(ends))
        return CocoEntry(listed.width, listed.height, listed.line, rows, points)


@dataclass(frozen=True)
class CocoParser:
    """Makes the objects of an image. labels: of the categories; keypoints: names of points."""

    file: str
    labels: tuple[str, ...]
    keypoints: tuple[str, ...]

    def __call__(self, image: str, entry: CocoEntry, width: int, height: int) -> Record:
        record = Record(self.file, width=entry.width, height=entry.height)
        if len(entry.rows) > MOST_OBJECTS:
            raise bad(
                self.file,
                entry.line,
                f"{len(entry.rows)} annotations of one image; at most {MOST_OBJECTS} are read",
            )
        named: tuple[Point, ...] = ()
        for place, (category, x, y, box_width, box_height, flag, line) in enumerate(entry.rows.tolist()):
            if category < 0:
                record.problems.append(
                    Problem(self.file, int(line), "its category_id is none of the categories")
                )
                continue
            box: Box = (x, y, x + box_width, y + box_height)
            if entry.points:
                named = self._points(entry.points[place])
            label = self.labels[int(category)]
            record.objects.append(Object(label, box, named, flag == 1, flag == 2, int(line)))
        return record

    def _points(self, points: Sequence[float]) -> tuple[Point, ...]:
        return tuple(
            Point(points[at], points[at + 1], points[at + 2] > 0, _at(self.keypoints, at // 3))
            for at in range(0, len(points), 3)
        )


def _at(names: Sequence[str], index: int) -> str | None:
    return names[index] if index < len(names) else None


def write(target: Target) -> None:
    """SET/ with the images and annotations/instances_SET.json (person_keypoints_SET.json for keypoints)."""
    kind = "person_keypoints" if target.task == "landmark" else "instances"
    name = target.part or "set"
    numbers = {label: number for number, label in enumerate(target.classes, start=1)}
    folder = target.part or "images"
    with target.text(
        os.path.join("annotations", f"{kind}_{folder if not target.part else name}.json")
    ) as file:
        categories: list[dict[str, Any]] = [
            {"id": number, "name": label, "supercategory": ""} for label, number in numbers.items()
        ]
        if target.task == "landmark":
            for category in categories:
                category["keypoints"], category["skeleton"] = target.keypoints, []
        file.write('{"categories": ' + json.dumps(categories, ensure_ascii=False) + ',\n"images": [')
        for number, image in enumerate(target.images, start=1):
            target.place(image, os.path.join(folder, image.name))
            entry = {"id": number, "file_name": image.name, "width": image.width, "height": image.height}
            file.write((",\n" if number > 1 else "\n") + json.dumps(entry, ensure_ascii=False))
        file.write('],\n"annotations": [')
        count = 0
        for number, image in enumerate(target.images, start=1):
            for thing in image.objects:
                count += 1
                entry = _annotation(count, number, numbers[str(thing.label)], thing, image)
                if thing.difficult:
                    entry["ignore"] = 1
                file.write((",\n" if count > 1 else "\n") + json.dumps(entry))
        file.write("]}\n")


def _annotation(number: int, image_id: int, category: int, thing: Object, image: Exported) -> dict[str, Any]:
    points = [(point.x, point.y, 2 if point.visible else 0) for point in thing.points]
    x1, y1, x2, y2 = box_to_write(thing, len(image.objects), image.width, image.height)
    width, height = x2 - x1, y2 - y1
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": int(thing.crowd),
    }
    if points:
        entry["keypoints"] = [value for point in points for value in (point if point[2] else (0, 0, 0))]
        entry["num_keypoints"] = sum(point[2] > 0 for point in points)
    return entry
