"""How far predicted keypoints are from the annotated ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from landmark.annotations import visible


@dataclass(frozen=True)
class LandmarkMetric:
    """rmse: root of the mean square over all coordinates of the set's visible points, in pixels of the original
    images.

    nme: mean over the images of the points' mean distance, divided by sqrt(width * height) of the box around the
    annotated keypoints (Bulat & Tzimiropoulos 2017); nan where no image's keypoints span an area. Both are nan for
    an empty set.
    """

    rmse: float
    nme: float


def landmark_metric(predicted: np.ndarray, annotated: np.ndarray) -> LandmarkMetric:
    """Hold predicted keypoints (N, k, 2) against annotated ones (N, k, 2), both in original pixels.

    Annotated points that are nan are invisible, and count for nothing.
    """
    annotated = np.asarray(annotated, np.float64)
    seen = visible(annotated)
    if not seen.any():
        return LandmarkMetric(float("nan"), float("nan"))
    difference = np.asarray(predicted, np.float64) - annotated
    distance = np.sqrt((difference**2).sum(axis=2))
    size = span(annotated, seen)
    spans = size > 0
    means = np.where(seen, distance, 0.0).sum(axis=1)[spans] / seen.sum(axis=1)[spans]
    return LandmarkMetric(
        rmse=float(np.sqrt((difference[seen] ** 2).mean())),
        nme=float((means / size[spans]).mean()) if spans.any() else float("nan"),
    )


def span(annotated: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Root of the area (N,) of the box around the visible ones (N, k) of keypoints (N, k, 2); 0 where it has none."""
    low = np.where(visible[..., None], annotated, np.inf).min(axis=1)
    high = np.where(visible[..., None], annotated, -np.inf).max(axis=1)
    sides = np.maximum(high - low, 0.0)
    return np.sqrt(sides[:, 0] * sides[:, 1])
