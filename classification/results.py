"""The result file of a classifier."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classification.metric import ClassificationMetric, classification_metric, number_or_null
from common.data.samples import Sample


def result_rows(
    samples: Sequence[Sample], probabilities: np.ndarray, classes: Sequence[str]
) -> list[dict[str, Any]]:
    """One entry a sample: the most probable class, its probability and id, and the folder's class.

    A sample that is a box of its image has the box too ("x1, y1, x2, y2" in pixels), as several may share an
    image.
    """
    rows = []
    for sample, row in zip(samples, probabilities, strict=True):
        predicted = int(np.where(np.isnan(row), -np.inf, row).argmax())
        truth = Path(sample.image).parent.name
        entry = {
            "class": classes[predicted],
            "score": float(np.nan_to_num(row[predicted])),
            "id": predicted,
            "image": sample.image,
            "groundtruth": truth,
            "result": str(classes[predicted] == truth),
        }
        box = sample.annotation[1:5]
        if not np.array_equal(box, (0, 0, sample.width, sample.height)):
            entry["bbox"] = ", ".join(f"{float(edge):.6f}" for edge in box)
        rows.append(entry)
    return rows


def class_report(metric: ClassificationMetric, classes: Sequence[str]) -> dict[str, Any]:
    """What stands beside `Accuray` and `Result`: top-5, precision and recall by class, confusion matrix."""
    return {
        "Top5Accuracy": number_or_null(metric.top5),
        "Classes": [
            {
                "class": name,
                "precision": number_or_null(metric.precision[index]),
                "recall": number_or_null(metric.recall[index]),
                "samples": int(metric.confusion[index].sum()),
            }
            for index, name in enumerate(classes)
        ],
        "ConfusionMatrix": {"rows": "groundtruth", "columns": "class", "counts": metric.confusion.tolist()},
    }


def result_document(
    samples: Sequence[Sample], probabilities: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The result file's content for probabilities (N, C) of samples whose classes are all among `classes`."""
    metric = classification_metric(probabilities, np.array([sample.annotation[0] for sample in samples]))
    return {
        "Accuray": str(metric.accuracy),
        **class_report(metric, classes),
        "Result": result_rows(samples, probabilities, classes),
    }
