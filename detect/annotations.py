"""Reading the objects of a detection image, and what a set of them looks like.

A line is `id,x1,y1,x2,y2`: class id from 0, then left, top, right, bottom in pixels of the image as a person
sees it. An image without objects has the one line `-1,-1,-1,-1,-1`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.data.boxes import UNKNOWN, objects_of, settle_boxes, uncounted
from common.data.figures import listed, spread, unevenness
from common.data.formats.base import Label, Object, Record
from common.data.samples import BadSample, Problem, Row, Sample, read_rows
from common.errors import DataError
from common.images.decoding import printable
from detect.geometry import all_objects

HIGHEST_ID = 9999
"""The highest class id there can be where the classes are not named; one beyond is a mistake, not a class."""

_NONE = [-1.0] * 5
_TINY = 2.0
# An anchor that overlaps an object by this IoU is trained to find it; of so large a share that none does, it is told.
_COVERED = 0.5
_MANY_UNCOVERED = 0.1


@dataclass(frozen=True)
class DetectionAnnotations:
    """Reads the txt file beside an image into (n, 5) float32 rows of class id, x1, y1, x2, y2.

    class_count: number of classes, or None if any id up to HIGHEST_ID is one.

    Boxes are made fit and reported as `common.data.boxes.settle_boxes` says; rows with an id below 0 are places that
    are neither object nor background. If no object is left of an image that has some, the image is left out: as a
    sample without objects it would teach that what it shows is none.
    """

    class_count: int | None

    layouts = ((None, 5),)

    @property
    def id_limit(self) -> int:
        """Ids are below it."""
        return HIGHEST_ID + 1 if self.class_count is None else self.class_count

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        """The objects of `image`, one array, and notes on what was clipped or left out.

        Raises BadSample if the file is missing or malformed or no object is left, DataError for a class id
        that is none of class_count.
        """
        path, rows = read_rows(image, 5)
        if not rows:
            reason = "is empty; of an image without objects it has the line -1,-1,-1,-1,-1"
            raise BadSample(Problem(path, None, reason))
        for row in rows:
            if row.values == _NONE:
                if len(rows) > 1:
                    reason = f"{row.text} says that there are no objects, but there are other lines"
                    raise BadSample(Problem(path, row.line, reason))
                return [np.empty((0, 5), np.float32)], []
            self._check_id(path, row)
        boxes = ((int(row.values[0]), row.values[1:], row.line) for row in rows)
        annotation, problems = settle_boxes(boxes, path, width, height)
        if not len(objects_of(annotation)):
            nothing = Problem(image, None, "none of its objects is left, so it is left out as well")
            raise BadSample(*problems, nothing)
        return [annotation], problems

    def of_record(
        self, image: str, record: Record, width: int, height: int
    ) -> tuple[list[np.ndarray], list[Label], list[Problem]]:
        """The objects of a record (see `common.data.samples.Annotate`).

        Raises BadSample if no object is left of some, DataError for a class id that is none of class_count.
        """
        labels: dict[Label, int] = {}
        rows: list[tuple[int, Sequence[float], int | None]] = []
        objects = 0
        for thing in record.objects:
            if thing.box is None:
                continue
            self._check_label(thing, record.source)
            number = UNKNOWN if thing.crowd else labels.setdefault(thing.label, len(labels))
            rows.append(
                (uncounted(number) if thing.difficult and not thing.crowd else number, thing.box, thing.line)
            )
            objects += not (thing.crowd or thing.difficult)
        annotation, problems = settle_boxes(rows, record.source, width, height)
        if os.path.splitext(record.source)[0] != os.path.splitext(image)[0]:
            name = printable(os.path.basename(image))
            problems = [replace(problem, reason=f"{name}: {problem.reason}") for problem in problems]
        if objects and not len(objects_of(annotation)):
            nothing = Problem(image, None, "none of its objects is left, so it is left out as well")
            raise BadSample(*record.problems, *problems, nothing)
        return [annotation], list(labels), problems

    def _check_label(self, thing: Object, source: str) -> None:
        if isinstance(thing.label, int) and self.class_count is not None and thing.label >= self.class_count:
            place = "" if thing.line is None else f":{thing.line}"
            raise DataError(
                f"{printable(source)}{place}: class id {thing.label} is beyond dataset.classes, which has ids from 0 "
                f"to {self.class_count - 1}"
            )

    def _check_id(self, path: str, row: Row) -> None:
        """Raise BadSample for what is no class id at all, DataError for one that is none of the classes."""
        class_id = row.values[0]
        highest = self.id_limit - 1
        if class_id < 0 or class_id != int(class_id) or (self.class_count is None and class_id > highest):
            reason = f"{row.text}: class id {class_id:.10g} is no whole number from 0 to {highest}"
            raise BadSample(Problem(path, row.line, reason))
        if class_id > highest:
            raise DataError(
                f"{printable(path)}:{row.line}: class id {class_id:.0f} is beyond dataset.classes,"
                f" which has ids from 0 to {highest}: {row.text}"
            )


def summary(
    samples: Sequence[Sample], names: Sequence[str], overlaps: np.ndarray | None = None
) -> dict[str, Any]:
    """What a set looks like, for the data report.

    For each class the number of objects, of images that show it, and the least, median and greatest width,
    height (pixels) and area (share of the image); how many images have no objects, and how many places are neither
    object nor background; warnings in words. overlaps (n,): of detectors with anchors, the IoU of each object with the
    anchor that fits it best; their spread, and how many objects no anchor overlaps by half.
    """
    rows, owners = all_objects(samples)
    counts = np.bincount(owners, minlength=len(samples))
    surfaces = np.array([float(sample.width * sample.height) for sample in samples])
    ids = rows[:, 0].astype(int)
    sides = rows[:, 3:5].astype(np.float64) - rows[:, 1:3]
    areas = sides.prod(axis=1) / surfaces[owners] if len(samples) else np.empty(0)
    classes = {}
    for class_id, name in enumerate(names):
        of_class = ids == class_id
        classes[name] = {
            "id": class_id,
            "objects": int(of_class.sum()),
            "images": len(np.unique(owners[of_class])),
            "width": spread(sides[of_class, 0], 1),
            "height": spread(sides[of_class, 1], 1),
            "area": spread(areas[of_class], 6),
        }
    anchors: dict[str, Any] = {}
    warnings = list(_warnings(ids, sides, names))
    if overlaps is not None and len(overlaps):
        uncovered = int((overlaps < _COVERED).sum())
        anchors = {"anchor_iou": spread(overlaps, 3), "objects_without_anchor": uncovered}
        if uncovered > _MANY_UNCOVERED * len(overlaps):
            warnings.append(
                f"{uncovered} of {len(overlaps)} boxes overlap no anchor by half, and are harder to learn: their sizes "
                "or aspect ratios are none of the anchors'"
            )
    return {
        "images_without_objects": int((counts == 0).sum()),
        "objects": len(rows),
        "places_unknown": sum(len(sample.annotation) for sample in samples) - len(rows),
        "most_objects_in_an_image": int(counts.max(initial=0)),
        **anchors,
        "classes": classes,
        "warnings": warnings,
    }


def _warnings(ids: np.ndarray, sides: np.ndarray, names: Sequence[str]) -> list[str]:
    """What may be meant otherwise, or will be hard to learn."""
    counts = np.bincount(ids, minlength=len(names))[: len(names)].tolist()
    if not len(sides):
        return ["no image shows an object"]
    warnings = list(unevenness(dict(zip(names, counts, strict=True)), "object"))
    beyond = np.unique(ids[ids >= len(names)]).tolist()
    if beyond:
        warnings.append(f"class ids without a name: {listed([str(value) for value in beyond])}")
    tiny = int((sides < _TINY).any(axis=1).sum())
    if tiny:
        warnings.append(f"{tiny} of {len(sides)} boxes are less than {_TINY:g} pixels wide or high")
    return warnings
