"""Label Studio: its JSON export (also JSON-MIN), a list of tasks; coordinates are per cent of the image.

Rectangles, ellipses and polygons with labels are objects. Of several annotations of a task the first that was not
cancelled counts, one marked as ground truth before it; a task that nobody has annotated is skipped.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from typing import Any

from common.data.formats import json_stream
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
    excerpt,
    finite,
    finite_list,
    hull,
    is_image,
    label_text,
    pairs,
    size,
    snapped,
    sorted_box,
)
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("detection",)

_PEEK = 64 << 10
# The last one: of shapes whose labels are another control than the shape.
_KINDS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "labels")
# What the server puts in front of the name of a file that is uploaded.
_UPLOADED = re.compile(r"^[0-9a-f]{8}-")
_LOCAL = re.compile(r"^/?data/local-files/\?d=")


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is Label Studio's; None: it is not."""
    file = _find(place, listing)
    if not file:
        return None
    name = printable(file)
    return f"{name} is a list of tasks of Label Studio", f"{name} 是 Label Studio 的任务列表"


def _find(place: Place, listing: Listing) -> str | None:
    if place.annotations is not None:
        if os.path.isfile(place.annotations):
            return place.annotations if _is_export(place.annotations) else None
        files = [os.path.join(place.annotations, name) for name in sorted(os.listdir(place.annotations))]
    else:
        files = listing.with_extension(".json")[:50]
        for folder in place.above():
            if folder != os.path.normpath(place.folder):
                files += [os.path.join(folder, name) for name in sorted(os.listdir(folder))[:1000]]
    return next((file for file in files if file.lower().endswith(".json") and _is_export(file)), None)


def _is_export(file: str) -> bool:
    data = beginning(file, _PEEK).lstrip(b"\xef\xbb\xbf \t\r\n")
    if not data.startswith(b"["):
        return False
    keys = (b'"annotations"', b'"completions"', b'"rectanglelabels"', b'"polygonlabels"', b'"annotator"')
    return any(key in data for key in keys)


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set with an export of Label Studio. Raises DataError."""
    file = _find(place, listing)
    if file is None:
        raise DataError(f"{printable(place.folder)}: no JSON export of Label Studio is there, nor above it")
    finder = ImageFinder(listing, place.root)
    problems, within = AnnotationProblems(), RecordProblems()
    records: dict[str, Record] = {}
    unlabelled: list[Problem] = []
    for count, (key, task, line) in enumerate(json_stream.items(file)):
        if key is not None:
            raise FormatError(file, line, "not an export of Label Studio: that is a list of tasks")
        if count >= MOST_IMAGES:
            raise FormatError(file, line, f"more than {MOST_IMAGES} tasks")
        path, reason = _image(task, finder, file)
        if path is None:
            problems.add(file, line, reason)
            continue
        results = _results(task)
        if path in records:
            problems.add(file, line, f"{printable(path)} is the image of another task as well")
        elif results is None:
            unlabelled.append(
                Problem(path, None, f"nobody has annotated it ({os.path.basename(file)}:{line})")
            )
        else:
            records[path] = _record(file, line, results)
            records[path].problems = within.kept(records[path].problems)
    if not records and not problems and not unlabelled:
        raise FormatError(file, None, "holds no task")
    images = sorted(records, key=finder.order)
    known = {*records, *(problem.file for problem in unlabelled)}
    skipped = [
        Problem(path, None, f"{os.path.basename(file)} has no task of it")
        for path in listing.images
        if path not in known
    ]
    return AnnotatedSet(
        "labelstudio", images, [records[image] for image in images], parse, problems=problems.closed(file),
        skipped=[*unlabelled, *skipped], files=[file],
    )  # fmt: skip


def _image(task: Any, finder: ImageFinder, file: str) -> tuple[str | None, str]:
    """The image of a task: in its `data` (JSON-MIN: in the task itself), under whatever name."""
    if not isinstance(task, dict):
        return None, f"{excerpt(task)} is no task"
    own = task.get("data")
    data = own if isinstance(own, dict) else task
    names = [data.get("image"), data.get("img"), *data.values(), task.get("file_upload")]
    reason = "the task names no image"
    for name in dict.fromkeys(name for name in names if isinstance(name, str) and len(name) < 4096):
        local = _LOCAL.sub("", name).split("?")[0]
        if not is_image(local):
            continue
        path, why = finder.find(local, file)
        if path is None:
            folder, base = os.path.split(local)
            path, _ = finder.find(os.path.join(folder, _UPLOADED.sub("", base)), file)
        if path is not None:
            return path, ""
        reason = why
    return None, reason


def _results(task: dict[str, Any]) -> list[Any] | None:
    """What is annotated in a task; None: nothing is yet."""
    annotations = task.get("annotations", task.get("completions"))
    if annotations is None:
        # JSON-MIN has the values themselves, under the names of the controls.
        lists = [value for value in task.values() if isinstance(value, list) and _are_values(value)]
        done = lists or "annotator" in task or "annotation_id" in task
        return [{"value": value} for values in lists for value in values] if done else None
    if not isinstance(annotations, list):
        return None
    kept = [entry for entry in annotations if isinstance(entry, dict) and not entry.get("was_cancelled")]
    kept.sort(key=lambda entry: not entry.get("ground_truth"))
    if not kept:
        return None
    results = kept[0].get("result")
    return results if isinstance(results, list) else None


def _are_values(values: list[Any]) -> bool:
    return bool(values) and all(
        isinstance(value, dict) and any(kind in value for kind in _KINDS) for value in values
    )


def _record(file: str, line: int, results: list[Any]) -> Record:
    """A record whose boxes are still in per cent."""
    record = Record(file)
    for result in results:
        value = result.get("value") if isinstance(result, dict) else None
        if not isinstance(value, dict):
            continue
        kind = next((kind for kind in _KINDS if kind in value), None)
        if kind is None:  # a relation, a choice, a comment
            continue
        width, height = (
            size(result.get(name, value.get(name))) for name in ("original_width", "original_height")
        )
        record.width, record.height = record.width or width, record.height or height
        labels = value[kind]
        label = label_text(labels[0]) if isinstance(labels, list) and labels else None
        if label is not None and len(labels) > 1:
            reason = f"a region with {len(labels)} labels: {label!r} counts, the first"
            record.problems.append(Problem(file, line, reason, True, "several labels"))
        box = _box(value, width, height)
        if label is None or box is None:
            what = "a region without a label" if label is None else f"{label!r}: a region without a box"
            record.problems.append(Problem(file, line, what))
        else:
            record.objects.append(Object(label, box, line=line))
    return record


def _box(value: dict[str, Any], width: int, height: int) -> Box | None:
    """In per cent of the image; None for what is no rectangle, ellipse or polygon."""
    aspect = width / height if width and height else 1.0
    if "points" in value:
        points = pairs(value["points"])
        return hull(points) if points else None
    if "radiusX" in value:
        numbers = finite_list([value.get(name) for name in ("x", "y", "radiusX", "radiusY")])
        if numbers is None:
            return None
        x, y, across, down = numbers
        cos, sin = _direction(value)
        # A turned ellipse; per cents differ in both directions.
        half_width, half_height = (
            math.hypot(across * cos, down * sin / aspect),
            math.hypot(across * sin * aspect, down * cos),
        )
        return x - half_width, y - half_height, x + half_width, y + half_height
    numbers = finite_list([value.get(name) for name in ("x", "y", "width", "height")])
    if numbers is None:
        return None
    x, y, across, down = numbers
    cos, sin = _direction(value)
    if not sin and cos == 1:
        # Drawn from the right or from below, sides are negative.
        return sorted_box(x, y, x + across, y + down)
    # Turned about the corner x, y.
    corners = [(0.0, 0.0), (across, 0.0), (across, down), (0.0, down)]
    return hull([(x + u * cos - v * sin / aspect, y + u * sin * aspect + v * cos) for u, v in corners])


def _direction(value: dict[str, Any]) -> tuple[float, float]:
    """Cosine and sine of the angle by which a shape is turned."""
    radians = math.radians(finite(value.get("rotation") or 0) or 0.0)
    return math.cos(radians), math.sin(radians)


def parse(image: str, entry: Record, width: int, height: int) -> Record:
    """The objects of an image, in its pixels."""
    if len(entry.objects) > MOST_OBJECTS:
        raise bad(
            entry.source, None, f"{len(entry.objects)} regions of one image; at most {MOST_OBJECTS} are read"
        )
    record = replace(entry, objects=[])
    for thing in entry.objects:
        x1, y1, x2, y2 = thing.box or (0.0, 0.0, 0.0, 0.0)
        left, top = snapped(x1 * width / 100), snapped(y1 * height / 100)
        box = left, top, snapped(x2 * width / 100), snapped(y2 * height / 100)
        record.objects.append(replace(thing, box=box))
    return record
