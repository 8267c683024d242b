"""What a COCO file says, whatever images there are: read object by object, and packed to be kept for the next start."""

from __future__ import annotations

import array
from collections import Counter
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from common.container import ContainerError
from common.data.formats import json_stream
from common.data.formats.base import (
    LARGEST,
    MOST_CLASSES,
    MOST_IMAGES,
    AnnotationProblems,
    FormatError,
    excerpt,
    finite_list,
    hull,
    label_text,
    pairs,
    size,
    whole_id,
)


@dataclass(slots=True)
class _Category:
    """A category as it stands in the file. keypoints: names of its points."""

    id: int | str
    name: str
    parent: str
    keypoints: list[str]


class ListedImage(NamedTuple):
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
class Content:
    """What a file says, whatever images there are.

    names: of the classes in the order of their ids. labels: of all categories. keypoints: names of points. images: by
    number. Annotations, sorted by image: number of the image; category, a place in `labels`, -1 where it is none;
    box (n, 4) of x, y, width, height; crowd: 1 for a crowd, 2 for what is to be ignored; line; points: those of all, x,
    y and visibility each, and where each annotation's end.
    """

    names: list[str]
    labels: list[str]
    keypoints: list[str]
    images: dict[int, ListedImage]
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


def read_content(file: str) -> Content:
    """Raises FormatError."""
    problems = AnnotationProblems()
    image_ids, category_ids = _Ids(), _Ids()
    categories: dict[int, _Category] = {}
    images: dict[int, ListedImage] = {}
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
    return Content(names, labels, keypoints, images, problems=problems, **arrays)


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


def packed(content: Content) -> dict[str, Any] | None:
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


def unpacked(stored: dict[str, Any]) -> Content:
    """Raises ContainerError for what is nothing that was packed."""
    try:
        return _checked(stored)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ContainerError(f"its content is none of a COCO file ({type(error).__name__})") from None


def _checked(stored: dict[str, Any]) -> Content:
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
        number: ListedImage(name, *rest)
        for name, (number, *rest) in zip(names, numbers.tolist(), strict=True)
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
    return Content(classes, labels, keypoints, images, problems=problems, **arrays)


def _demand(holds: bool) -> None:
    if not holds:
        raise ValueError


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
    images: dict[int, ListedImage],
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
        images[number] = ListedImage(name, size(item.get("width")), size(item.get("height")), line)


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
