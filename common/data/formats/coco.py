"""COCO: one JSON file with images, categories and annotations (https://cocodataset.org/#format-data).

Boxes are x, y, width, height; ids may have gaps. Crowd regions (`iscrowd`) are neither objects nor background. An
annotation without a box has that of its polygons. An image that is listed without annotations has no objects.
"""

from __future__ import annotations

import array
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.formats import json_stream
from common.data.formats.base import (
    MOST_CLASSES,
    MOST_IMAGES,
    MOST_OBJECTS,
    AnnotatedSet,
    Box,
    FormatError,
    ImageFinder,
    Object,
    Place,
    Point,
    Problems,
    Record,
    bad,
    beginning,
    excerpt,
    finite_list,
    hull,
    label_text,
    pairs,
    size,
    whole_id,
)
from common.data.formats.parts import part_of
from common.data.formats.writing import Target
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.images.decoding import printable

TASKS = ("detection", "landmark")

_PEEK = 1 << 20
_FILE_NAME = re.compile(r'"file_name"\s*:\s*"((?:[^"\\]|\\.)*)"')


def recognise(place: Place, listing: Listing) -> str | None:
    """Why a set is COCO's; None: it is not. Raises DataError where several files could be meant."""
    file = _find(place, listing)
    return f"{printable(file)} lists images, categories and annotations" if file else None


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


class _Columns:
    """Annotations of a file as columns: a million of them take 70 MB."""

    def __init__(self) -> None:
        self.image = array.array("i")
        self.category = array.array("i")
        self.box = array.array("d")
        self.crowd = array.array("b")
        self.line = array.array("i")
        self.points = array.array("d")
        self.points_end = array.array("i")


class _Ids:
    """Numbers from 0 for ids of any kind, in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: dict[int | str, int] = {}

    def __call__(self, value: Any) -> int | None:
        if type(value) is int and value in self.numbers:
            return self.numbers[value]
        key = whole_id(value)
        return None if key is None else self.numbers.setdefault(key, len(self.numbers))


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with COCO annotations. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(
            f"{printable(place.folder)}: no COCO file is there: neither _annotations.coco.json in it nor "
            "annotations/*.json that names these images"
        )
    problems = Problems()
    image_ids, category_ids = _Ids(), _Ids()
    categories: dict[int, tuple[int | str, str, str, list[str]]] = {}
    images: dict[int, tuple[str, int, int, int]] = {}
    columns = _Columns()
    seen = set()
    for key, item, line in json_stream.items(file):
        seen.add(key)
        if key == "categories":
            _add_category(file, item, line, category_ids, categories)
        elif key == "images":
            _add_image(file, item, line, image_ids, images, problems)
        elif key == "annotations":
            _add_annotation(file, item, line, image_ids, category_ids, columns, problems)
    if not images:
        what = "lists no image" if "images" in seen else "is no COCO file: it has no list of images"
        raise FormatError(file, None, what)
    order = sorted(categories, key=lambda number: _sort_key(categories[number][0]))
    unused = _supercategory(categories, columns)
    names = list(dict.fromkeys(categories[number][1] for number in order if number != unused))
    keypoints: list[str] = next((categories[number][3] for number in order if categories[number][3]), [])
    place_of, paths = _find_images(file, images, ImageFinder(listing, place.root), problems)
    entries = _Entries(
        columns,
        [categories.get(number, (0, "", "", []))[1] for number in range(len(category_ids.numbers))],
        keypoints,
        images,
        place_of,
        file,
        problems,
    )
    known = set(paths)
    skipped = [image for image in listing.images if image not in known]
    result = AnnotatedSet(
        "coco", paths, entries, parse, names, problems.closed(file), files=[file], keypoints=keypoints
    )
    _skip(result, skipped, file)
    return result


def _skip(result: AnnotatedSet, images: Iterable[str], file: str) -> None:
    name = os.path.basename(file)
    result.skipped.extend(Problem(image, None, f"{name} does not list it") for image in images)


def _sort_key(value: int | str) -> tuple[bool, int, str]:
    return (True, 0, value) if isinstance(value, str) else (False, value, "")


def _add_category(
    file: str, item: Any, line: int, ids: _Ids, categories: dict[int, tuple[int | str, str, str, list[str]]]
) -> None:
    name = label_text(item.get("name")) if isinstance(item, dict) else None
    number = ids(item.get("id")) if isinstance(item, dict) else None
    if name is None or number is None:
        raise FormatError(file, line, f"{excerpt(item)} is no category: it needs id and name")
    if len(categories) >= MOST_CLASSES:
        raise FormatError(file, line, f"more than {MOST_CLASSES} categories")
    own = whole_id(item["id"])
    assert own is not None
    if number in categories and categories[number][1] != name:
        raise FormatError(
            file,
            line,
            f"category id {excerpt(own)} is both {excerpt(categories[number][1])} and {excerpt(name)}",
        )
    points = item.get("keypoints")
    labels = [label_text(point) or "" for point in points] if isinstance(points, list) else []
    categories[number] = own, name, label_text(item.get("supercategory")) or "", labels


def _add_image(
    file: str,
    item: Any,
    line: int,
    ids: _Ids,
    images: dict[int, tuple[str, int, int, int]],
    problems: Problems,
) -> None:
    number = ids(item.get("id")) if isinstance(item, dict) else None
    name = item.get("file_name") if isinstance(item, dict) else None
    if number is None or not isinstance(name, str):
        problems.add(file, line, f"{excerpt(item)} is no image: it needs id and file_name")
    elif number in images:
        problems.add(
            file,
            line,
            f"image id {excerpt(item['id'])} stands there twice, for {excerpt(images[number][0])} and {excerpt(name)}",
        )
    elif len(images) >= MOST_IMAGES:
        raise FormatError(file, line, f"more than {MOST_IMAGES} images")
    else:
        images[number] = name, size(item.get("width")), size(item.get("height")), line


def _add_annotation(
    file: str,
    item: Any,
    line: int,
    image_ids: _Ids,
    category_ids: _Ids,
    columns: _Columns,
    problems: Problems,
) -> None:
    if not isinstance(item, dict):
        problems.add(file, line, f"{excerpt(item)} is no annotation")
        return
    image, category = image_ids(item.get("image_id")), category_ids(item.get("category_id"))
    if image is None or category is None:
        missing = "image_id" if image is None else "category_id"
        problems.add(file, line, f"annotation {excerpt(item.get('id'))} has no {missing}")
        return
    box = item.get("bbox")
    numbers = finite_list(box, 4) if box else _outline(item.get("segmentation"))
    points = item.get("keypoints")
    flat = finite_list(points) if points else []
    if numbers is None or flat is None or len(flat) % 3:
        what = (
            f"bbox {excerpt(box)} is not x, y, width, height"
            if numbers is None
            else "keypoints are not x, y, v"
        )
        problems.add(file, line, f"annotation {excerpt(item.get('id'))}: {what}")
        return
    columns.image.append(image)
    columns.category.append(category)
    columns.box.extend(numbers)
    columns.crowd.append(
        1 if item.get("iscrowd") in (1, True, "1") else 2 if item.get("ignore") in (1, True) else 0
    )
    columns.line.append(line)
    columns.points.extend(flat)
    columns.points_end.append(len(columns.points))


def _outline(segmentation: Any) -> list[float] | None:
    """x, y, width, height of polygons."""
    if not isinstance(segmentation, list):
        return None
    corners: list[tuple[float, float]] = []
    for polygon in segmentation:
        corners.extend(pairs(polygon) or [])
    if not corners:
        return None
    x1, y1, x2, y2 = hull(corners)
    return [x1, y1, x2 - x1, y2 - y1]


def _supercategory(
    categories: dict[int, tuple[int | str, str, str, list[str]]], columns: _Columns
) -> int | None:
    """The category that only says what the others are: exports of Roboflow list one, with id 0 and no objects."""
    used = set(columns.category)
    said = Counter(parent for _, _, parent, _ in categories.values())
    for number, (_, name, parent, _) in categories.items():
        others = len(categories) - 1
        if number not in used and others and said[name] - (parent == name) == others:
            return number
    return None


def _find_images(
    file: str, images: dict[int, tuple[str, int, int, int]], finder: ImageFinder, problems: Problems
) -> tuple[list[int], list[str]]:
    """Numbers and paths of the images that are there, in the order of the listing."""
    numbers: dict[str, int] = {}
    for number, (name, _, _, line) in images.items():
        path, reason = finder.find(name, file)
        if path is None:
            problems.add(file, line, reason)
        elif path in numbers:
            problems.add(
                file, line, f"{excerpt(name)} is the same file as {excerpt(images[numbers[path]][0])}"
            )
        else:
            numbers[path] = number
    paths = sorted(numbers, key=finder.order)
    return [numbers[path] for path in paths], paths


@dataclass(frozen=True, slots=True)
class Entry:
    """An image's part of a file. rows: (n, 7) of index into names (-1: none such), x, y, width, height, crowd, line."""

    file: str
    line: int
    width: int
    height: int
    names: tuple[str, ...]
    rows: np.ndarray
    points: tuple[tuple[float, ...], ...]
    keypoints: tuple[str, ...]


class _Entries(Sequence[Entry]):
    """Entries of all images, made when they are asked for: as objects they would take many times the memory."""

    def __init__(
        self,
        columns: _Columns,
        names: Sequence[str],
        keypoints: Sequence[str],
        images: dict[int, tuple[str, int, int, int]],
        places: Sequence[int],
        file: str,
        problems: Problems,
    ) -> None:
        owners = np.frombuffer(columns.image, np.int32) if columns.image else np.empty(0, np.int32)
        order = np.argsort(owners, kind="stable")
        self._order = order
        self._columns = columns
        self._box = (np.frombuffer(columns.box) if columns.box else np.empty(0)).reshape(-1, 4)
        ranks = np.arange(max(images, default=0) + 2)
        self._starts = np.searchsorted(owners[order], ranks)
        self._names = tuple(names)
        self._keypoints = tuple(keypoints)
        self._images = images
        self._places = places
        self._file = file
        listed = np.zeros(max(int(owners.max(initial=0)), max(images, default=0)) + 1, bool)
        listed[list(images)] = True
        for row in np.flatnonzero(~listed[owners]).tolist() if len(owners) else ():
            problems.add(file, columns.line[row], "an annotation of an image that is not listed")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        number = self._places[index]
        _, width, height, line = self._images[number]
        own = self._order[self._starts[number] : self._starts[number + 1]]
        columns = self._columns
        rows = np.empty((len(own), 7))
        rows[:, 1:5] = self._box[own]
        points = []
        for place, row in enumerate(own.tolist()):
            rows[place, 0] = columns.category[row]
            rows[place, 5] = columns.crowd[row]
            rows[place, 6] = columns.line[row]
            start = columns.points_end[row - 1] if row else 0
            points.append(tuple(columns.points[start : columns.points_end[row]]))
        used = sorted(set(rows[:, 0].astype(int).tolist()))
        rows[:, 0] = np.searchsorted(used, rows[:, 0]) if used else rows[:, 0]
        names = tuple(self._names[category] for category in used)
        return Entry(self._file, line, width, height, names, rows, tuple(points), self._keypoints)


def parse(image: str, entry: Entry, width: int, height: int) -> Record:
    """The objects of an image."""
    record = Record(entry.file, width=entry.width, height=entry.height)
    if len(entry.rows) > MOST_OBJECTS:
        raise bad(
            entry.file,
            entry.line,
            f"{len(entry.rows)} annotations of one image; at most {MOST_OBJECTS} are read",
        )
    for (category, x, y, box_width, box_height, flag, line), points in zip(
        entry.rows.tolist(), entry.points, strict=True
    ):
        name = entry.names[int(category)]
        if not name:
            record.problems.append(
                Problem(entry.file, int(line), "its category_id is none of the categories")
            )
            continue
        box: Box = (x, y, x + box_width, y + box_height)
        named = tuple(
            Point(points[at], points[at + 1], points[at + 2] > 0, _at(entry.keypoints, at // 3))
            for at in range(0, len(points), 3)
        )
        record.objects.append(Object(name, box, named, flag == 1, flag == 2, int(line)))
    return record


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
                entry = _annotation(count, number, numbers[str(thing.label)], thing)
                if thing.difficult:
                    entry["ignore"] = 1
                file.write((",\n" if count > 1 else "\n") + json.dumps(entry))
        file.write("]}\n")


def _annotation(number: int, image: int, category: int, thing: Object) -> dict[str, Any]:
    points = [(point.x, point.y, 2 if point.visible else 0) for point in thing.points]
    x1, y1, x2, y2 = thing.box or hull([(x, y) for x, y, visible in points if visible] or [(0.0, 0.0)])
    width, height = x2 - x1, y2 - y1
    entry: dict[str, Any] = {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, width, height],
        "area": width * height,
        "iscrowd": int(thing.crowd),
    }
    if points:
        entry["keypoints"] = [value for point in points for value in (point if point[2] else (0, 0, 0))]
        entry["num_keypoints"] = sum(point[2] > 0 for point in points)
    return entry
