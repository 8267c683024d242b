"""Reading the keypoints of an image: `x,y` a line, in pixels of the image as a person sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.figures import spread
from common.data.problems import BadSample, Problem
from common.data.rows import read_rows
from common.data.samples import Sample

# How a text says that a keypoint cannot be seen.
_INVISIBLE = [-1.0, -1.0]


@dataclass(frozen=True)
class LandmarkAnnotations:
    """Reads the txt file beside an image into (num_joints, 2) float32 points; one that is -1,-1 is invisible, and nan.

    Keypoints of something that is cut off by the image's edge lie outside, and are kept. A point further out
    than the image is large is a mistake, and the image is left out.
    """

    num_joints: int

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


def summary(samples: Sequence[Sample]) -> dict[str, Any]:
    """What a set looks like, for the data report."""
    points = [sample.annotation[visible(sample.annotation)] for sample in samples]
    outside = sum(
        bool(((sample.annotation < 0) | (sample.annotation > (sample.width, sample.height))).any())
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
    """Mean keypoints (num_joints, 2) as shares of the images' widths and heights: where a network begins.

    One that is visible in no image begins in the middle.
    """
    shapes = np.array([sample.annotation / (sample.width, sample.height) for sample in samples], np.float64)
    seen = ~np.isnan(shapes)
    counts = seen.sum(axis=0)
    means = np.where(seen, shapes, 0.0).sum(axis=0) / np.maximum(counts, 1)
    return np.where(counts > 0, means, 0.5).astype(np.float32)


def visible(points: np.ndarray) -> np.ndarray:
    """Which of keypoints (..., 2) are visible (...,): those that are numbers."""
    return ~np.isnan(points).any(axis=-1)
