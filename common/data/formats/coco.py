"""COCO: one JSON file with images, categories and annotations (https://cocodataset.org/#format-data).

Boxes are x, y, width, height; ids may have gaps. Crowd regions (`iscrowd`) are neither objects nor background. An
annotation without a box has that of its polygons. An image that is listed without annotations has no objects.
"""

from __future__ import annotations

import array
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.container import ContainerError
from common.data.formats import json_stream
from common.data.formats.base import (
    LARGEST,
    MOST_CLASSES,
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
    beginning,
    box_to_write,
    excerpt,
    finite_list,
    hull,
    label_text,
    pairs,
    size,
    whole_id,
)
from common.data.formats.kept_file import read_or_keep
from common.data.formats.parts import part_of
from common.data.formats.writing import Exported, Target
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


@dataclass(slots=True)
class _Category:
    """A category as it stands in the file. keypoints: names of its points."""

    id: int | str
    name: str
    parent: str
    keypoints: list[str]


class _Listed(NamedTuple):
    """An image that a file lists. width, height: 0 where it states none."""

    name: str
    width: int
    height: int
    line: int


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


@dataclass
class _Content:
    """What a file says, whatever images there are.

    names: of the classes in the order of their ids. labels: of all categories. keypoints: names of points. images: by
    number. Annotations, sorted by image: number of the image; category, a place in `labels`, -1 where it is none;
    box (n, 4) of x, y, width, height; crowd: 1 for a crowd, 2 for what is to be ignored; line; points: those of all, x,
    y and visibility each, and where each annotation's end.
    """

    names: list[str]
    labels: list[str]
    keypoints: list[str]
    images: dict[int, _Listed]
    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    crowd: np.ndarray
    line: np.ndarray
    points: np.ndarray
    points_end: np.ndarray
    problems: AnnotationProblems


_ARRAYS = {
    "image": (np.int32, 1), "category": (np.int32, 1), "box": (np.float64, 2), "crowd": (np.int8, 1),
    "line": (np.int32, 1), "points": (np.float64, 1), "points_end": (np.int32, 1),
}  # fmt: skip


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with COCO annotations. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(
            f"{printable(place.folder)}: no COCO file is there: neither _annotations.coco.json in it nor "
            "annotations/*.json that names these images"
        )
    content = read_or_keep(file, place.kept, _read_file, _packed, _unpacked)
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


def _read_file(file: str) -> _Content:
    """Raises FormatError."""
    problems = AnnotationProblems()
    image_ids, category_ids = _Ids(), _Ids()
    categories: dict[int, _Category] = {}
    images: dict[int, _Listed] = {}
    columns = _Columns()
    seen = set()
    for key, item, line in json_stream.items(file):
        if key == "annotations":
            _add_annotation(file, item, line, image_ids, category_ids, columns, problems)
        elif key == "categories":
            _add_category(file, item, line, category_ids, categories)
        elif key == "images":
            _add_image(file, item, line, image_ids, images, problems)
        seen.add(key)
    if not images:
        what = "lists no image" if "images" in seen else "is no COCO file: it has no list of images"
        raise FormatError(file, None, what)
    if columns.image and not categories:
        raise FormatError(file, None, "lists no categories, so that nothing says what its annotations are")
    arrays = {
        name: np.frombuffer(column, kind) if (column := getattr(columns, name)) else np.empty(0, kind)
        for name, (kind, _) in _ARRAYS.items()
    }
    arrays["box"] = arrays["box"].reshape(-1, 4)
    listed = np.zeros(len(image_ids.numbers), bool)
    listed[list(images)] = True
    for row in np.flatnonzero(~listed[arrays["image"]]).tolist():
        problems.add(file, columns.line[row], "an annotation of an image that is not listed")
    ranked = sorted(categories, key=lambda number: _sort_key(categories[number].id))
    unused = _supercategory(categories, arrays["category"])
    names = list(dict.fromkeys(categories[number].name for number in ranked if number != unused))
    keypoints: list[str] = next((categories[n].keypoints for n in ranked if categories[n].keypoints), [])
    labels = list(dict.fromkeys(own.name for own in categories.values()))
    table = np.full(len(category_ids.numbers) + 1, -1, np.int32)
    place_of = {label: index for index, label in enumerate(labels)}
    for number, own in categories.items():
        table[number] = place_of[own.name]
    arrays["category"] = table[arrays["category"]]
    order = np.argsort(arrays["image"], kind="stable")
    if (np.diff(order) != 1).any():
        arrays = _sorted(arrays, order)
    return _Content(names, labels, keypoints, images, problems=problems, **arrays)


def _sorted(arrays: dict[str, np.ndarray], order: np.ndarray) -> dict[str, np.ndarray]:
    """Annotations in another order, with their points."""
    ends = arrays["points_end"]
    counts = np.diff(ends, prepend=0)[order]
    new_ends = np.cumsum(counts, dtype=np.int32)
    starts = ends[order] - counts
    within = np.arange(counts.sum()) - np.repeat(new_ends - counts, counts)
    points = arrays["points"][np.repeat(starts, counts) + within]
    others = {name: array[order] for name, array in arrays.items() if not name.startswith("points")}
    return {**others, "points": points, "points_end": new_ends}


def _packed(content: _Content) -> dict[str, Any] | None:
    """As a container holds it; None: it cannot."""
    names = [listed.name for listed in content.images.values()]
    if any("\0" in name for name in names):
        return None
    numbers = [(number, *listed[1:]) for number, listed in content.images.items()]
    return {
        "classes": [content.names, content.labels, content.keypoints],
        "names": np.frombuffer("\0".join(names).encode("utf-8", "surrogatepass"), np.uint8),
        "images": np.array(numbers, np.int64),
        "problems": [[problem.file, problem.line, problem.reason] for problem in content.problems],
        "further": content.problems.further,
        **{name: getattr(content, name) for name in _ARRAYS},
    }


def _unpacked(stored: dict[str, Any]) -> _Content:
    """Raises ContainerError for what is nothing that was packed."""
    try:
        return _checked(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContainerError(f"its content is none of a COCO file ({type(error).__name__})") from None


def _checked(stored: dict[str, Any]) -> _Content:
    """Raises ValueError and its like."""
    arrays = {name: stored[name] for name in _ARRAYS}
    for name, (kind, dimensions) in _ARRAYS.items():
        _demand(arrays[name].dtype == kind and arrays[name].ndim == dimensions)
    count = len(arrays["image"])
    _demand(arrays["box"].shape == (count, 4))
    _demand(all(len(arrays[name]) == count for name in _ARRAYS if name != "points"))
    numbers, encoded = stored["images"], stored["names"]
    _demand(numbers.dtype == np.int64 and numbers.ndim == 2 and numbers.shape[1] == 4 and len(numbers) > 0)
    _demand(encoded.dtype == np.uint8 and encoded.ndim == 1)
    _demand(len(numbers) <= MOST_IMAGES and numbers.min() >= 0 and numbers[:, 0].max() < 1 << 31)
    _demand(numbers[:, 1:3].max() <= LARGEST and numbers[:, 3].max() < 1 << 31)
    names = bytes(encoded).decode("utf-8", "surrogatepass").split("\0")
    images = {
        number: _Listed(name, *rest) for name, (number, *rest) in zip(names, numbers.tolist(), strict=True)
    }
    _demand(len(images) == len(numbers))
    classes, labels, keypoints = stored["classes"]
    for listed in (classes, labels, keypoints):
        _demand(isinstance(listed, list) and all(isinstance(name, str) for name in listed))
    _demand(set(classes) <= set(labels) and len(classes) == len(set(classes)) <= MOST_CLASSES)
    problems = AnnotationProblems()
    for file, line, reason in stored["problems"]:
        _demand(isinstance(file, str) and isinstance(reason, str) and (line is None or type(line) is int))
        problems.add(file, line, reason)
    _demand(type(stored["further"]) is int and stored["further"] >= 0)
    problems.further += stored["further"]
    if count:
        _demand(arrays["image"].min() >= 0 and bool((np.diff(arrays["image"]) >= 0).all()))
        _demand(arrays["category"].min() >= -1 and arrays["category"].max() < len(labels))
        _demand(arrays["crowd"].min() >= 0 and arrays["crowd"].max() <= 2 and arrays["line"].min() >= 0)
        _demand(bool((np.abs(arrays["box"]) <= LARGEST).all()))
    counts = np.diff(arrays["points_end"], prepend=0)
    _demand(bool((counts >= 0).all() and (counts % 3 == 0).all() and counts.sum() == len(arrays["points"])))
    _demand(bool((np.abs(arrays["points"]) <= LARGEST).all()))
    return _Content(classes, labels, keypoints, images, problems=problems, **arrays)


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError


def _skip(result: AnnotatedSet, images: Iterable[str], file: str) -> None:
    name = os.path.basename(file)
    result.skipped.extend(Problem(image, None, f"{name} does not list it") for image in images)


def _sort_key(value: int | str) -> tuple[bool, int, str]:
    return (True, 0, value) if isinstance(value, str) else (False, value, "")


def _add_category(file: str, item: Any, line: int, ids: _Ids, categories: dict[int, _Category]) -> None:
    name = label_text(item.get("name")) if isinstance(item, dict) else None
    number = ids(item.get("id")) if isinstance(item, dict) else None
    if name is None or number is None:
        raise FormatError(file, line, f"{excerpt(item)} is no category: it needs id and name")
    if len(categories) >= MOST_CLASSES:
        raise FormatError(file, line, f"more than {MOST_CLASSES} categories")
    own = whole_id(item["id"])
    assert own is not None
    if number in categories and categories[number].name != name:
        raise FormatError(
            file,
            line,
            f"category id {excerpt(own)} is both {excerpt(categories[number].name)} and {excerpt(name)}",
        )
    points = item.get("keypoints")
    labels = [label_text(point) or "" for point in points] if isinstance(points, list) else []
    categories[number] = _Category(own, name, label_text(item.get("supercategory")) or "", labels)


def _add_image(
    file: str,
    item: Any,
    line: int,
    ids: _Ids,
    images: dict[int, _Listed],
    problems: AnnotationProblems,
) -> None:
    number = ids(item.get("id")) if isinstance(item, dict) else None
    name = item.get("file_name") if isinstance(item, dict) else None
    if number is None or not isinstance(name, str):
        problems.add(file, line, f"{excerpt(item)} is no image: it needs id and file_name")
    elif number in images:
        problems.add(
            file,
            line,
            f"image id {excerpt(item['id'])} stands there twice, for {excerpt(images[number].name)} and "
            f"{excerpt(name)}",
        )
    elif len(images) >= MOST_IMAGES:
        raise FormatError(file, line, f"more than {MOST_IMAGES} images")
    else:
        images[number] = _Listed(name, size(item.get("width")), size(item.get("height")), line)


def _add_annotation(
    file: str,
    item: Any,
    line: int,
    image_ids: _Ids,
    category_ids: _Ids,
    columns: _Columns,
    problems: AnnotationProblems,
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
    crowd, ignored = item.get("iscrowd"), item.get("ignore")
    columns.crowd.append(
        1 if crowd and crowd in (1, True, "1") else 2 if ignored and ignored in (1, True) else 0
    )
    columns.line.append(line)
    if flat:
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


def _supercategory(categories: dict[int, _Category], used: np.ndarray) -> int | None:
    """The category that only says what the others are: exports of Roboflow list one, with id 0 and no objects."""
    numbers = set(np.unique(used).tolist())
    said = Counter(own.parent for own in categories.values())
    for number, own in categories.items():
        others = len(categories) - 1
        if number not in numbers and others and said[own.name] - (own.parent == own.name) == others:
            return number
    return None


def _find_images(
    file: str, images: dict[int, _Listed], finder: ImageFinder, problems: AnnotationProblems
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

    def __init__(self, content: _Content, numbers: Sequence[int]) -> None:
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
