"""The result file of a landmark network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.samples import Sample
from landmark.metric import landmark_metric


def keypoints(points: np.ndarray) -> list[dict[str, float]]:
    """Points (k, 2) as the result file has them; what is no number (a network gone astray) stands as -1."""
    return [{"x": x, "y": y} for x, y in np.nan_to_num(points, nan=-1, posinf=-1, neginf=-1).tolist()]


def result_document(samples: Sequence[Sample], predicted: np.ndarray) -> dict[str, Any]:
    """The result file's content for keypoints (N, k, 2) in pixels of the original images."""
    annotated = np.stack([sample.annotation for sample in samples]).astype(np.float64)
    metric = landmark_metric(np.nan_to_num(predicted, nan=-1, posinf=-1, neginf=-1), annotated)
    return {
        "RMSE": metric.rmse,
        "NME": None if np.isnan(metric.nme) else metric.nme,
        "Result": [
            {
                "keypoints": keypoints(found),
                "image": sample.image,
                "groundtruth": keypoints(sample.annotation),
            }
            for sample, found in zip(samples, predicted, strict=True)
        ],
    }
