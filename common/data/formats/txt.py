"""Our own texts beside images, `id,x1,y1,x2,y2` or for landmarks `x,y` a line, and our folders of classes."""

from __future__ import annotations

import os
from dataclasses import dataclass

from common.data.formats.base import (
    MOST_OBJECTS,
    AnnotatedSet,
    Object,
    Place,
    Point,
    Record,
    bad,
    label_text,
    read_text,
)
from common.data.formats.writing import Exported, Target, number, stem
from common.data.listing import Listing
from common.data.problems import IMAGE_EXTENSIONS, BadSample, Problem
from common.data.rows import annotation_path, read_rows
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection", "classification", "reid", "landmark")

NONE = [-1.0] * 5
"""The line of an image without objects."""

_LOOKED_AT = 200
# Folders of other formats: where there are no others these are no classes.
_NO_CLASSES = {
    "images", "JPEGImages", "query", "bounding_box_test", "bounding_box_train", "gt_bbox", "gt_query",
}  # fmt: skip
_COLUMNS = {"detection": 5, "landmark": 2}


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is one of ours; None: it is not, or its coordinates are shares, which only YOLO's are."""
    if place.annotations is not None:
        return None
    if place.task not in _COLUMNS:
        inner = {os.path.relpath(image, listing.folder).split(os.sep)[0] for image in listing.images}
        classes = sorted(name for name in inner if os.path.isdir(os.path.join(listing.folder, name)))
        if classes and not set(classes) <= _NO_CLASSES:
            name = printable(classes[0])
            return (
                f"images lie in folders of classes, such as {name}",
                f"图像按类别放在文件夹中，例如 {name}",
            )
        return None
    texts = [path for path in map(annotation_path, listing.images) if os.path.isfile(path)]
    looked_at = texts[:: max(1, len(texts) // _LOOKED_AT)]
    readable = [path for path in looked_at if _is_ours(path, _COLUMNS[place.task])]
    if not readable or len(readable) * 2 <= len(looked_at):
        return None
    if place.task == "detection" and holds_shares(listing):
        return None
    name = printable(readable[0])
    columns = _rule(place.task)
    return (
        f"{name} and others beside the images read as {columns} in pixels",
        f"{name} 等图像旁的文本内容为 {columns}（单位：像素）",
    )


def _rule(task: str) -> str:
    return "id,x1,y1,x2,y2" if task == "detection" else "x,y"


def _is_ours(path: str, columns: int) -> bool:
    try:
        return bool(read_rows(stem(path) + ".jpg", columns)[1])
    except BadSample:
        return False


def holds_shares(listing: Listing) -> bool:
    """Whether all coordinates of the texts beside images are from 0 to 1, and one is a fraction: YOLO's are."""
    texts = [path for path in map(annotation_path, listing.images) if os.path.isfile(path)]
    fraction = False
    # A few of all over the set tell nearly always.
    for paths in (texts[:: max(1, len(texts) // _LOOKED_AT)], texts):
        for path in paths:
            try:
                rows = read_rows(stem(path) + ".jpg", 5)[1]
            except BadSample:
                continue
            for row in rows:
                coordinates = row.values[1:]
                if row.values == NONE:
                    continue
                if not all(0 <= value <= 1 for value in coordinates):
                    return False
                fraction = fraction or any(value not in (0, 1) for value in coordinates)
    return fraction


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with our texts, or folders of classes."""
    if not listing.images:
        raise DataError(f"{printable(place.folder)} holds no image ({' '.join(IMAGE_EXTENSIONS)})")
    skipped = [
        Problem(path, None, f"extension must be lower case: {os.path.splitext(path)[1].lower()}")
        for path in listing.images if os.path.splitext(path)[1] not in IMAGE_EXTENSIONS
    ]  # fmt: skip
    images = [path for path in listing.images if os.path.splitext(path)[1] in IMAGE_EXTENSIONS]
    if place.task in _COLUMNS:
        entries = list(map(annotation_path, images))
        return AnnotatedSet("txt", images, entries, TxtParser(place.task), skipped=skipped, own_files=entries)
    classes = {path: os.path.relpath(path, listing.folder).split(os.sep) for path in images}
    problems = [
        Problem(path, None, "lies beside the class folders, not in one")
        for path in images
        if len(classes[path]) < 2
    ]
    images = [path for path in images if len(classes[path]) > 1]
    entries = [classes[path][0] for path in images]
    return AnnotatedSet(
        "txt", images, entries, parse_class, sorted(set(entries)), problems=problems, skipped=skipped
    )


def names_beside(place: Place) -> list[str]:
    """Names by id, where a classes.txt in the set's folder or above has them: `write` leaves one."""
    for folder in place.above():
        file = os.path.join(folder, "classes.txt")
        if os.path.isfile(file):
            try:
                lines = [label_text(line) for line in read_text(file, 1 << 20).split("\n")]
            except BadSample:
                return []
            while lines and lines[-1] is None:
                lines.pop()
            return [line or f"class{index}" for index, line in enumerate(lines)]
    return []


def parse_class(image: str, entry: str, width: int, height: int) -> Record:
    """The class of an image, and its boxes where there are some."""
    if not os.path.lexists(annotation_path(image)):
        return Record(image, [Object(entry)])
    path, rows = read_rows(image, 5)
    boxes = [
        Object(entry, (row.values[1], row.values[2], row.values[3], row.values[4]), line=row.line)
        for row in rows if row.values != NONE
    ]  # fmt: skip
    return Record(path, boxes or [Object(entry)])


@dataclass(frozen=True)
class TxtParser:
    """Reads the text beside an image."""

    task: str

    def __call__(self, image: str, entry: str, width: int, height: int) -> Record:
        path, rows = read_rows(image, _COLUMNS[self.task])
        record = Record(path)
        if len(rows) > MOST_OBJECTS:
            raise bad(path, None, f"{len(rows)} lines of one image; at most {MOST_OBJECTS} are read")
        if self.task == "landmark":
            points = tuple(Point(row.values[0], row.values[1], row.values != [-1, -1]) for row in rows)
            record.objects.append(Object("", points=points))
            return record
        if not rows:
            raise bad(path, None, "is empty; of an image without objects it has the line -1,-1,-1,-1,-1")
        for row in rows:
            class_id, x1, y1, x2, y2 = row.values
            if row.values == NONE:
                if len(rows) > 1:
                    raise bad(
                        path,
                        row.line,
                        f"{row.text} says that there are no objects, but there are other lines",
                    )
                continue
            if class_id < 0 or class_id != int(class_id):
                raise bad(path, row.line, f"{row.text}: {class_id:.10g} is no class id")
            record.objects.append(Object(int(class_id), (x1, y1, x2, y2), line=row.line))
        return record


def write(target: Target) -> None:
    """Images with a text beside each, and classes.txt; classification and ReID: a folder a class."""
    if target.task not in _COLUMNS:
        _write_classes(target)
        return
    numbers = {label: index for index, label in enumerate(target.classes)}
    for image in target.images:
        name = os.path.join(target.part, image.name)
        if target.task == "landmark":
            _write_points(target, name, image)
            continue
        target.place(image, name)
        with target.text(stem(name) + ".txt") as file:
            count = 0
            for thing in image.objects:
                if thing.crowd or thing.difficult or thing.box is None:
                    target.lost["crowd or difficult regions, which our texts cannot mark"] += 1
                    continue
                count += 1
                file.write(",".join([str(numbers[str(thing.label)]), *map(number, thing.box)]) + "\n")
            if not count:
                file.write("-1,-1,-1,-1,-1\n")
    if target.task == "detection" and target.classes and not (target.out / "classes.txt").exists():
        with target.text("classes.txt") as file:
            file.writelines(f"{label}\n" for label in target.classes)


def _write_points(target: Target, name: str, image: Exported) -> None:
    things = [thing for thing in image.objects if thing.points]
    if not things:
        target.lost["images without points"] += 1
        return
    if len(things) > 1:
        target.lost["further things with points of an image that has several"] += len(things) - 1
    if things[0].box not in (None, (0, 0, image.width, image.height)):
        target.lost["boxes beside the points"] += 1
    target.place(image, name)
    with target.text(stem(name) + ".txt") as file:
        for point in things[0].points:
            file.write(f"{number(point.x)},{number(point.y)}\n" if point.visible else "-1,-1\n")


def _write_classes(target: Target) -> None:
    for image in target.images:
        labels = sorted({str(thing.label) for thing in image.objects})
        if len(labels) != 1:
            target.lost["images without a class or with several"] += 1
            continue
        folder = labels[0].replace("/", "_").replace("\\", "_").strip(". ") or "_"
        base = os.path.basename(image.name)
        name = os.path.join(target.part, folder, base)
        if (target.out / name).exists():
            name = os.path.join(target.part, folder, image.name.replace(os.sep, "_"))
        target.place(image, name)
        boxes = [thing.box for thing in image.objects if thing.box is not None]
        if boxes:
            with target.text(stem(name) + ".txt") as file:
                file.writelines(",".join(["0", *map(number, box)]) + "\n" for box in boxes)
