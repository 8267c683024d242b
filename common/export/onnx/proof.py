"""Whether an ONNX file predicts what MXNet does: predictions of the same images held against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np

#: So many images of the set, or all of a smaller one.
IMAGES = 32

# Beyond rounding. Detections: of score and, in pixels and as a share of its longer side, of a box's edges. A network in
# its first epochs carries the rounding of its first layers into the last ones as up to 1e-3, MXNet's (float32 against
# float64) and onnxruntime's alike, and a side grows with the exponential of such an output.
_SCORE = 1e-3
_EDGE = (0.01, 1e-3)
# Scores nearer to the threshold than this, and pairs nearer to the overlap that suppresses, may fall either way.
_NEAR_SCORE = 1e-3
_NEAR_OVERLAP = 1e-3
_SHARE = 0.9
_NUMBERS = {"probability": 1e-3, "embedding": 1e-3}
# Keypoints, in pixels of the original and as a share of their spread.
_POINT = (0.01, 2e-4)


@dataclass
class Comparison:
    """The largest differences by what they are of, and the first that is more than rounding, if one is."""

    largest: dict[str, float] = field(default_factory=dict)
    differs: str | None = None

    def note(self, what: str, difference: float, limit: float, image: str) -> None:
        """Take a difference into account."""
        self.largest[what] = max(self.largest.get(what, 0.0), float(difference))
        if not difference <= limit:
            self.refuse(image, f"{what} differs by {difference:.3g}")

    def refuse(self, image: str, reason: str) -> None:
        """Say what is more than rounding."""
        if self.differs is None:
            self.differs = f"{image}: {reason}"


def missing() -> list[str]:
    """The packages that writing and proving ONNX files needs and that are not installed."""
    return [name for name in ("onnx", "onnxruntime") if find_spec(name) is None]


def chosen(samples: Sequence[Any]) -> list[Any]:
    """Samples for the proof, from all over a set."""
    return list(samples[:: max(len(samples) // IMAGES, 1)][:IMAGES])


def compare(
    task: str,
    images: Sequence[str],
    wanted: Sequence[np.ndarray],
    exported: Sequence[np.ndarray],
    score_thresh: float | None = None,
    overlap: float = 1.0,
) -> Comparison:
    """Predictions of a task's decoder, `wanted` of MXNet and `exported` of an ONNX file, by image.

    score_thresh: of detections that count. overlap: of their suppression.
    """
    comparison = Comparison()
    if score_thresh is not None:  # of a network that is not sure of anything its best detections count
        highest = max((float(rows[:, 1].max()) for rows in wanted if len(rows)), default=0.0)
        score_thresh = min(score_thresh, _SHARE * highest)
    for image, one, other in zip(images, wanted, exported, strict=True):
        if score_thresh is not None:
            _compare_detections(comparison, image, one, other, score_thresh, overlap)
        elif task == "landmark":
            spread = float(np.ptp(one, axis=0).max()) if len(one) else 0.0
            limit = max(_POINT[0], _POINT[1] * spread)
            comparison.note("point", _largest(one - other), limit, image)
        elif task == "reid":
            comparison.note("embedding", _largest(one[-len(other) :] - other), _NUMBERS["embedding"], image)
        else:
            comparison.note("probability", _largest(one - other), _NUMBERS["probability"], image)
    return comparison


def _largest(difference: np.ndarray) -> float:
    return float(np.abs(difference).max(initial=0.0))


def _compare_detections(
    comparison: Comparison,
    image: str,
    wanted: np.ndarray,
    exported: np.ndarray,
    score_thresh: float,
    overlap: float,
) -> None:
    """Rows (m, 6) of class id, score, x1, y1, x2, y2 against each other, in both directions."""
    for rows, others, fault in (
        (wanted, exported, "of MXNet's missing"),
        (exported, wanted, "that MXNet does not make"),
    ):
        sure = rows[rows[:, 1] >= score_thresh]
        differences = np.abs(sure[:, None, 1:] - others[None, :, 1:])
        scores, edges = differences[:, :, 0], differences[:, :, 1:].max(axis=2, initial=0.0)
        limits = np.maximum(_EDGE[0], _EDGE[1] * (sure[:, 4:] - sure[:, 2:4]).max(axis=1, initial=0.0))
        away = np.maximum(scores / _SCORE, edges / limits[:, None])
        away[sure[:, None, 0] != others[None, :, 0]] = np.inf
        unmatched = []
        for number, row in enumerate(sure):
            nearest = int(away[number].argmin()) if len(others) else -1
            if nearest < 0 or not away[number, nearest] <= 1:
                if row[1] >= score_thresh + _NEAR_SCORE and not _nearly_suppressed(row, rows, overlap):
                    unmatched.append(float(row[1]))
                continue
            away[:, nearest] = np.inf  # taken
            comparison.note("score", scores[number, nearest], _SCORE, image)
            comparison.note("edge", edges[number, nearest], limits[number], image)
        if unmatched:
            count = "1 detection" if len(unmatched) == 1 else f"{len(unmatched)} detections"
            comparison.refuse(image, f"{count} {fault}, the best with score {max(unmatched):.3g}")


def _nearly_suppressed(row: np.ndarray, rows: np.ndarray, overlap: float) -> bool:
    """Whether another box of the class overlaps a detection by nearly as much as suppresses it."""
    others = rows[rows[:, 0] == row[0]]
    near, far = np.maximum(others[:, 2:4], row[2:4]), np.minimum(others[:, 4:], row[4:])
    shared = np.maximum(far - near, 0).prod(axis=1)
    areas = [np.maximum(each[:, 4:] - each[:, 2:4], 0).prod(axis=1) for each in (others, row[None])]
    iou = shared / np.maximum(areas[0] + areas[1] - shared, 1e-9)
    return bool((np.abs(iou - overlap) < _NEAR_OVERLAP).any())
