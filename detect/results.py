"""The result file of a detection set, with the text values that platforms read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from common.data.samples import Sample


def clip_detections(detections: np.ndarray, width: int, height: int) -> np.ndarray:
    """Clip the boxes of detections (m, 6: class id, score, x1, y1, x2, y2) to an image of width x height.

    Padding (an id below 0) and boxes without area inside of the image are left out, and so are rows with a
    number that is not finite. Returns float64 rows in the given order.
    """
    rows = np.array(detections, np.float64).reshape(-1, 6)
    rows = rows[np.isfinite(rows).all(axis=1) & (rows[:, 0] >= 0)]
    # As exact as the text of the result file, so that a box with area keeps it there.
    rows[:, 2:] = np.clip(rows[:, 2:], 0, (width, height, width, height)).round(6)
    return rows[(rows[:, 4:] > rows[:, 2:4]).all(axis=1)]


def result_document(
    samples: Iterable[Sample],
    detections: Iterable[np.ndarray],
    names: Sequence[str],
    average_precision: np.ndarray,
    mean: float,
    score_thresh: float,
) -> dict[str, Any]:
    """The content of valid_data_result.json and test_data_result.json.

    `detections`: for each sample (m, 6) rows of class id, score, x1, y1, x2, y2 in pixels of the original
    image; `names`: the classes in the order of their ids; `average_precision` (classes,) and `mean` as the
    metric gives them. Objects are sorted by falling score; those below `score_thresh` are left out.
    """
    scores = [{name: number_text(value)} for name, value in zip(names, average_precision, strict=True)]
    return {
        "AP": [*scores, {"mAP": number_text(mean)}],
        "Result": [
            {"image": sample.image, "objects": _objects(sample, found, names, score_thresh)}
            for sample, found in zip(samples, detections, strict=True)
        ],
    }


def number_text(value: float) -> str:
    """The shortest text that reads back as `value`; "nan" for none."""
    return repr(float(value))


def _objects(
    sample: Sample, detections: np.ndarray, names: Sequence[str], score_thresh: float
) -> list[dict[str, str]]:
    rows = clip_detections(detections, sample.width, sample.height)
    # Scores are float32 where they come from: 0.3 there is a little more than 0.3 here, 0.01 a little less.
    scores = rows[:, 1].astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    return [
        {
            "predict_class": names[int(rows[index, 0])],
            "id": str(int(rows[index, 0])),
            "score": np.format_float_positional(scores[index], unique=True, trim="0"),
            "bbox": ", ".join(f"{value:.6f}" for value in rows[index, 2:].tolist()),
        }
        for index in order[scores[order] >= np.float32(score_thresh)].tolist()
    ]
