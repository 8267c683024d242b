"""YOLO: a text for each image, `class x y width height` as shares of the image, x and y of the box's centre.

Labels lie in `labels/` where the images lie in `images/`, else beside the images. More numbers on a line are polygons
(their box counts) or, where data.yaml has `kpt_shape`, keypoints. An absent or empty text is an image without objects.
Names come from data.yaml, obj.names or classes.txt.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from common.data.formats import plain_yaml
from common.data.formats.base import (
    MOST_CLASSES,
    MOST_OBJECTS,
    AnnotatedSet,
    Box,
    FormatError,
    Object,
    Place,
    Point,
    Record,
    bad,
    beside,
    box_to_write,
    excerpt,
    finite_texts,
    hull,
    label_text,
    read_text,
    snapped,
)
from common.data.formats.writing import Target, number, stem
from common.data.listing import Listing
from common.data.problems import BadSample, Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "landmark")

_TEXT_LIMIT = 16 << 20
_NAMES_LIMIT = 1 << 20
_NAMES = ("classes.txt", "obj.names", "_darknet.labels", "predefined_classes.txt")
_NO_LABELS = (*_NAMES, "notes.json", "train.txt", "val.txt", "test.txt")
_LOOKED_AT = 50
# How far a share may be outside of 0 to 1: tools round.
_BEYOND = 1e-3


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is YOLO's; None: it is not."""
    roots = _label_roots(place)
    looked = 0
    good = 0
    for image in listing.images:
        path = _label_path(image, roots)
        if not os.path.isfile(path):
            continue
        looked += 1
        if _is_share_text(path):
            good += 1
        if looked >= _LOOKED_AT:
            break
    where, in_chinese = (printable(roots[0][1]),) * 2 if roots else ("beside the images", "图像旁")
    if looked and good == looked:
        return f"the texts {where} hold shares of the image", f"{in_chinese}的文本中是相对图像尺寸的比例"
    # Texts there are YOLO's, whatever is wrong with them: ours lie beside the images.
    apart = listing.images and not any(os.path.isfile(beside(image, ".txt")) for image in listing.images)
    if roots and apart and os.path.isdir(roots[0][1]):
        return f"the labels lie in {where}", f"标注位于 {in_chinese}"
    return None


def _is_share_text(path: str) -> bool:
    """Whether a text is empty, or its first lines are YOLO's."""
    try:
        lines = [_parts(line) for line in read_text(path, _TEXT_LIMIT).split("\n")[:200] if line.strip()]
    except BadSample:
        return False
    for parts in lines:
        numbers = finite_texts(parts)
        if len(parts) < 5 or numbers is None or numbers[0] != int(numbers[0]):
            return False
        if not all(-_BEYOND <= value <= 1 + _BEYOND for value in numbers[1:5]):
            return False
    return True


def _parts(line: str) -> tuple[str, ...]:
    return tuple(line.replace(",", " ").replace("，", " ").split())


def _label_roots(place: Place) -> list[tuple[str, str]]:
    """Prefixes of image paths and the folders of labels that stand for them."""
    folder = os.path.normpath(place.folder)
    if place.annotations is not None and os.path.isdir(place.annotations):
        return [(folder, os.path.normpath(place.annotations))]
    pairs = []
    inner = os.path.join(folder, "images"), os.path.join(folder, "labels")
    if all(map(os.path.isdir, inner)):
        pairs.append(inner)
    for current in place.above():
        # .../images/train and .../labels/train; .../train/images and .../train/labels
        parent, name = os.path.split(current)
        if name == "images" and current != os.path.normpath(place.root):
            labels = os.path.join(parent, "labels")
            if os.path.isdir(labels):
                pairs.append((current, labels))
    return pairs


def _label_path(image: str, roots: Sequence[tuple[str, str]]) -> str:
    for images, labels in roots:
        if image.startswith(os.path.join(images, "")):
            return beside(labels + image[len(images) :], ".txt")
    return beside(image, ".txt")


def _names(place: Place, roots: Sequence[tuple[str, str]]) -> tuple[list[str], str | None, int, list[str]]:
    """Names by id ("" for gaps), the file that has them, numbers of a keypoint, and names of the keypoints."""
    if place.annotations is not None and os.path.isfile(place.annotations):
        return _from_yaml(place.annotations)
    folders = [labels for _, labels in roots] + list(place.above())
    for folder in folders:
        for file in _yaml_files(folder):
            naming = _from_yaml(file)
            if naming[0]:
                return naming
    for folder in folders:
        for name in _NAMES:
            file = os.path.join(folder, name)
            if os.path.isfile(file):
                lines = [label_text(line) for line in _checked_text(file, _NAMES_LIMIT).split("\n")]
                while lines and lines[-1] is None:
                    lines.pop()
                return _named(file, [line or "" for line in lines]), file, 0, []
    return [], None, 0, []


def _yaml_files(folder: str) -> list[str]:
    try:
        names = sorted(name for name in os.listdir(folder) if name.lower().endswith((".yaml", ".yml")))
    except OSError:
        return []
    names.sort(key=lambda name: name not in ("data.yaml", "data.yml", "dataset.yaml"))
    return [os.path.join(folder, name) for name in names[:20]]


def _checked_text(file: str, limit: int) -> str:
    try:
        return read_text(file, limit)
    except BadSample as error:
        raise FormatError(file, None, error.problems[0].reason) from None


def _from_yaml(file: str) -> tuple[list[str], str | None, int, list[str]]:
    content = plain_yaml.load(file, _checked_text(file, plain_yaml.LIMIT))
    if not isinstance(content, dict) or "names" not in content:
        return [], None, 0, []
    names = content["names"]
    if isinstance(names, dict):
        listed: list[str] = []
        for key, value in names.items():
            if not re.fullmatch("[0-9]{1,9}", key) or int(key) >= MOST_CLASSES:
                raise FormatError(
                    file, None, f"names: {excerpt(key)} is no class id from 0 to {MOST_CLASSES - 1}"
                )
            listed += [""] * (int(key) + 1 - len(listed))
            listed[int(key)] = label_text(value) or ""
    elif isinstance(names, list):
        listed = [label_text(name) or "" for name in names[: MOST_CLASSES + 1]]
    else:
        raise FormatError(file, None, f"names: {excerpt(names)} is neither a list nor a table of names")
    shape = content.get("kpt_shape")
    count = 0
    if isinstance(shape, list) and len(shape) == 2 and shape[1] in ("2", "3"):
        count = int(shape[1])
    points = content.get("kpt_names")
    points = points.get("0") if isinstance(points, dict) else points
    labels = [label_text(point) or "" for point in points] if isinstance(points, list) else []
    return _named(file, listed), file, count, labels


def _named(file: str, names: list[str]) -> list[str]:
    if len(names) > MOST_CLASSES:
        raise FormatError(file, None, f"more than {MOST_CLASSES} names")
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        raise FormatError(file, None, f"the name {excerpt(min(twice))} stands there twice")
    return names


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with YOLO's texts. Raises DataError."""
    roots = _label_roots(place)
    names, file, columns, keypoints = _names(place, roots)
    images = listing.images
    for inner, _ in roots:
        if inner == os.path.join(os.path.normpath(place.folder), "images"):
            images = [image for image in images if image.startswith(os.path.join(inner, ""))]
    entries = [_label_path(image, roots) for image in images]
    if images and not any(os.path.isfile(entry) for entry in entries):
        raise DataError(
            f"{printable(place.folder)}: no image has a text with labels: neither in labels/ nor beside it, such as "
            f"{printable(entries[0])}"
        )
    known = set(images)
    skipped = [Problem(path, None, "not below images/") for path in listing.images if path not in known]
    pose = 0 if place.task != "landmark" else columns or 3
    reader = YoloParser(tuple(names), os.path.basename(file) if file else "", pose, tuple(keypoints))
    return AnnotatedSet(
        "yolo", list(images), entries, reader, [name for name in names if name], skipped=skipped,
        files=[file] if file else [], own_files=entries, keypoints=keypoints,
    )  # fmt: skip


@dataclass(frozen=True)
class YoloParser:
    """Reads the text of an image. columns: numbers of a keypoint, 0 where there are none."""

    names: tuple[str, ...]
    names_file: str
    columns: int
    keypoints: tuple[str, ...] = ()

    def __call__(self, image: str, entry: str, width: int, height: int) -> Record:
        record = Record(entry)
        try:
            content = read_text(entry, _TEXT_LIMIT)
        except BadSample:
            if os.path.lexists(entry):
                raise
            return record
        seen: set[tuple[str, ...]] = set()
        lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
        for line, text in enumerate(lines, start=1):
            parts = _parts(text)
            if not parts:
                continue
            if parts in seen:
                record.problems.append(
                    Problem(entry, line, f"{excerpt(text)}: stands there twice; left out", True)
                )
                continue
            if len(seen) >= MOST_OBJECTS:
                raise bad(entry, line, f"more than {MOST_OBJECTS} lines of one image")
            seen.add(parts)
            thing = self._object(entry, line, text, parts, width, height)
            if isinstance(thing, Problem):
                record.problems.append(thing)
            else:
                record.objects.append(thing)
        return record

    def _object(
        self, file: str, line: int, text: str, parts: tuple[str, ...], width: int, height: int
    ) -> Object | Problem:
        values = finite_texts(parts)
        if len(parts) < 5 or values is None:
            raise bad(file, line, f"{excerpt(text)}: not `class x y width height` in numbers")
        class_id = values[0]
        if class_id < 0 or class_id != int(class_id) or class_id >= MOST_CLASSES:
            raise bad(file, line, f"{excerpt(text)}: {class_id:g} is no class id")
        label: str | int = int(class_id)
        if self.names:
            name = self.names[int(class_id)] if class_id < len(self.names) else ""
            if not name:
                return Problem(
                    file, line, f"{excerpt(text)}: class id {class_id:g} has no name in {self.names_file}"
                )
            label = name
        is_pose = self.columns and len(values) > 5 and (len(values) - 5) % self.columns == 0
        is_polygon = not is_pose and len(values) >= 7 and len(values) % 2
        if not (is_pose or is_polygon or len(values) in (5, 6)):
            raise bad(file, line, f"{excerpt(text)}: {len(values)} numbers are neither a box nor a polygon")
        shares = values[1:] if is_polygon else values[1:5]
        if max(shares) > 2 or min(shares) < -1:
            raise bad(file, line, f"{excerpt(text)}: not shares of the image, which are from 0 to 1")
        if is_polygon:
            x1, y1, x2, y2 = hull(list(zip(shares[::2], shares[1::2], strict=True)))
        else:
            x, y, box_width, box_height = shares
            x1, x2 = x - box_width / 2, x + box_width / 2
            y1, y2 = y - box_height / 2, y + box_height / 2
        box = snapped(x1 * width), snapped(y1 * height), snapped(x2 * width), snapped(y2 * height)
        points = self._points(values[5:], width, height) if is_pose else ()
        return Object(label, box, points, line=line)

    def _points(self, values: Sequence[float], width: int, height: int) -> tuple[Point, ...]:
        points: list[Point] = []
        for at in range(0, len(values), self.columns):
            x, y = values[at], values[at + 1]
            # Where points have no flag, the corner of the image stands for one that is not annotated.
            visible = values[at + 2] > 0 if self.columns == 3 else (x, y) != (0, 0)
            name = self.keypoints[len(points)] if len(points) < len(self.keypoints) else None
            points.append(Point(snapped(x * width), snapped(y * height), visible, name))
        return tuple(points)


def write(target: Target) -> None:
    """SET/images, SET/labels and data.yaml."""
    numbers = {label: index for index, label in enumerate(target.classes)}
    for image in target.images:
        target.place(image, os.path.join(target.part, "images", image.name))
        with target.text(os.path.join(target.part, "labels", stem(image.name) + ".txt")) as file:
            for thing in image.objects:
                if thing.crowd or thing.difficult:
                    target.lost["crowd or difficult regions, which YOLO's texts cannot mark"] += 1
                    continue
                box = box_to_write(thing, len(image.objects), image.width, image.height)
                file.write(_line(numbers[str(thing.label)], thing, box, image.width, image.height))
    if not target.classes and not target.keypoints:
        return
    if not (target.out / "data.yaml").exists():
        content: dict[str, Any] = {"names": dict(enumerate(target.classes))}
        if target.task == "landmark":
            content["kpt_shape"] = [len(target.keypoints), 3]
            content["kpt_names"] = {0: target.keypoints}
        with target.text("data.yaml") as file:
            yaml.safe_dump(content, file, allow_unicode=True, sort_keys=False)


def _line(class_id: int, thing: Object, box: Box, width: int, height: int) -> str:
    x1, y1, x2, y2 = box
    values = [(x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height]
    for point in thing.points:
        values += [point.x / width, point.y / height, 2] if point.visible else [0, 0, 0]
    # Twelve digits: a pixel of the largest image comes back as it was.
    return " ".join([str(class_id), *(number(round(value, 12)) for value in values)]) + "\n"
