"""Reading the keypoints of an image: `x,y` a line, in pixels of the image as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.boxes import clip_box
from common.data.figures import spread
from common.data.formats.base import Label, Object, Point, Record, around_points
from common.data.formats.keypoints import ordered
from common.data.problems import BadSample, Problem
from common.data.rows import read_rows
from common.data.samples import Sample
from common.images.decoding import printable
from common.images.resize import Region

_UNSEEN = (np.nan, np.nan)

# How a text says that a keypoint cannot be seen.
_INVISIBLE = [-1.0, -1.0]


@dataclass(frozen=True)
class LandmarkAnnotations:
    """Reads the txt file beside an image into (num_joints, 2) float32 points; one that is -1,-1 is invisible, and nan.

    Keypoints of something that is cut off by the image's edge lie outside, and are kept. A point further out
    than the image is large is a mistake, and the image is left out.
    """

    num_joints: int
    keypoints: tuple[str, ...] | None = None

    id_limit = None

    @property
    def layouts(self) -> tuple[tuple[int, int], ...]:
        """Points alone, or with the box of their thing."""
        return (2 * self.num_joints, 2), (6 * self.num_joints, 6)

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        """The keypoints of `image`, one array; there are no lesser problems.

        Raises BadSample if the file is missing or malformed, has another number of keypoints, or one far outside, or
        none that is visible.
        """
        path, rows = read_rows(image, 2)
        if len(rows) != self.num_joints:
            raise BadSample(
                Problem(path, None, f"{len(rows)} keypoints; dataset.num_joints is {self.num_joints}")
            )
        for row in rows:
            x, y = row.values
            if row.values != _INVISIBLE and not (-width <= x <= 2 * width and -height <= y <= 2 * height):
                raise BadSample(
                    Problem(path, row.line, f"{row.text}: far outside of the {width}x{height} image")
                )
        points = np.array([row.values for row in rows], np.float32)
        points[[row.values == _INVISIBLE for row in rows]] = np.nan
        if np.isnan(points).all():
            raise BadSample(Problem(path, None, "none of its keypoints is visible: all are -1,-1"))
        return [points], []

    def of_record(
        self, image: str, record: Record, width: int, height: int
    ) -> tuple[list[np.ndarray], list[Label], list[Problem]]:
        """A sample for each thing of a record that has points (see `common.data.samples.Annotate`).

        One with a box is that part of the image: (num_joints, 6) of x, y, then x1, y1, x2, y2 of the box, the same in
        each row. So are several things without boxes, with boxes a quarter larger than what their points span.
        Raises BadSample if no thing is left.
        """
        annotations: list[np.ndarray] = []
        problems: list[Problem] = []
        things = [thing for thing in record.objects if thing.points]
        for thing in things:
            points = ordered(thing, self.keypoints)
            reason = self._problem(thing, points, width, height)
            if points is None or reason:
                problems.append(Problem(record.source, thing.line, f"{printable(image)}: {reason}; left out"))
                continue
            rows = np.array([(point.x, point.y) if point and point.visible else _UNSEEN for point in points])
            box = _part(thing, len(things) > 1, width, height)
            if box is not None:
                rows = np.concatenate([rows, np.tile(box, (len(rows), 1))], axis=1)
            annotations.append(rows.astype(np.float32))
        if not annotations:
            nothing = Problem(image, None, "nothing in it has keypoints that can be used; left out")
            raise BadSample(*record.problems, *problems, nothing)
        return annotations, [], problems

    def _problem(self, thing: Object, points: list[Point | None] | None, width: int, height: int) -> str:
        """Why a thing cannot be used; "" if it can."""
        if points is None:
            labels = ", ".join(str(point.name) for point in thing.points[:10])
            return f"its points are not those of dataset.keypoints, or one is there twice: {labels}"
        if len(points) != self.num_joints:
            return f"{len(points)} keypoints; dataset.num_joints is {self.num_joints}"
        seen = [point for point in points if point and point.visible]
        if not seen:
            return "none of its keypoints is annotated"
        far = [p for p in seen if not (-width <= p.x <= 2 * width and -height <= p.y <= 2 * height)]
        return f"{far[0].x:.10g},{far[0].y:.10g}: far outside of the {width}x{height} image" if far else ""


def _part(thing: Object, several: bool, width: int, height: int) -> Sequence[float] | None:
    """The box of a thing within its image; None for all of the image."""
    box = thing.box or (around_points(thing) if several else None)
    return None if box is None else clip_box(box, width, height)[0]


def points_of(sample: Sample) -> np.ndarray:
    """The sample's keypoints (num_joints, 2), float32, in pixels."""
    return sample.annotation[:, :2]


def part_of(sample: Sample) -> Region | None:
    """The part of its image that a sample is, x1, y1, x2, y2; None: all of it."""
    if sample.annotation.shape[1] < 6:
        return None
    x1, y1, x2, y2 = (float(edge) for edge in sample.annotation[0, 2:6])
    return x1, y1, x2, y2


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a set looks like, for the data report."""
    points = [points_of(sample)[visible(points_of(sample))] for sample in samples]
    outside = sum(
        bool(((points_of(sample) < 0) | (points_of(sample) > (sample.width, sample.height))).any())
        for sample in samples
    )
    spans = np.array([np.ptp(seen, axis=0) for seen in points]).reshape(-1, 2)
    return {
        "invisible_points": sum(len(sample.annotation) for sample in samples) - sum(map(len, points)),
        "images_with_points_outside": outside,
        "width_of_the_points": spread(spans[:, 0], 1),
        "height_of_the_points": spread(spans[:, 1], 1),
    }


def mean_shape(samples: Sequence[Sample]) -> np.ndarray:
    """Mean keypoints (num_joints, 2) as shares of the samples' widths and heights: where a network begins.

    One that is visible in no sample begins in the middle.
    """
    shares: list[np.ndarray] = []
    for sample in samples:
        x1, y1, x2, y2 = part_of(sample) or (0.0, 0.0, float(sample.width), float(sample.height))
        shares.append((points_of(sample) - np.array((x1, y1), np.float32)) / (x2 - x1, y2 - y1))
    shapes = np.array(shares, np.float64)
    seen = ~np.isnan(shapes)
    counts = seen.sum(axis=0)
    means = np.where(seen, shapes, 0.0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, 0.5).astype(np.float32)


def visible(points: np.ndarray) -> np.ndarray:
    """Which of keypoints (..., 2) are visible (...,): those that are numbers."""
    return ~np.isnan(points).any(axis=-1)
