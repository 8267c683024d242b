"""How far predicted keypoints are from the annotated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LandmarkMetric:
    """rmse: root of the mean square over all coordinates of the set, in pixels of the original images.

    nme: mean over the images of the points' mean distance, divided by sqrt(width * height) of the box around
    the annotated keypoints (Bulat & Tzimiropoulos 2017); nan where no image's keypoints span an area. Both
    are nan for an empty set.
    """

    rmse: float
    nme: float


def landmark_metric(predicted: np.ndarray, annotated: np.ndarray) -> LandmarkMetric:
    """Hold predicted keypoints (N, k, 2) against annotated ones (N, k, 2), both in original pixels."""
    if not len(annotated):
        return LandmarkMetric(float("nan"), float("nan"))
    difference = np.asarray(predicted, np.float64) - np.asarray(annotated, np.float64)
    distance = np.sqrt((difference**2).sum(axis=2)).mean(axis=1)
    sides = np.ptp(np.asarray(annotated, np.float64), axis=1)
    size = np.sqrt(sides[:, 0] * sides[:, 1])
    spans = size > 0
    return LandmarkMetric(
        rmse=float(np.sqrt((difference**2).mean())),
        nme=float((distance[spans] / size[spans]).mean()) if spans.any() else float("nan"),
    )
