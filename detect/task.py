"""What the detectors share: annotations, classes, the metric and the result file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from common.errors import DataError
from common.samples import Annotate, Sample
from common.task import Evaluation, Model, Task
from detect.annotations import DetectionAnnotations, summary
from detect.config import DetectConfig
from detect.metric import MeanAveragePrecision
from detect.results import clip_detections, result_document

D = TypeVar("D", bound=DetectConfig)


class DetectionTask(Task[D]):
    """Boxes with a class. A prediction is an array (m, 6): class id, score, x1, y1, x2, y2 in original pixels."""

    metric = "mAP"

    def annotations(self, train_folder: Path) -> Annotate:
        names = self.config.dataset.classes
        return DetectionAnnotations(len(names) if names else None)

    def classes(self, train_folder: Path, sets: Sequence[Sequence[Sample]]) -> list[str]:
        if self.config.dataset.classes:
            return list(self.config.dataset.classes)
        ids = [
            sample.annotation[:, 0].max() for samples in sets for sample in samples if len(sample.annotation)
        ]
        if not ids:
            raise DataError(
                "no annotation holds an object, so that dataset.classes cannot be found out; name them in dataset.classes"
            )
        return [f"class{i}" for i in range(int(max(ids)) + 1)]

    def groups(self, sample: Sample) -> Iterable[int]:
        return sorted({int(i) for i in sample.annotation[:, 0]})

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        return summary(samples, classes)

    @property
    def shape(self) -> tuple[int, int]:
        width, height = self.config.model.data_shape
        return width, height

    def evaluate(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray], model: Model
    ) -> Evaluation:
        metric = MeanAveragePrecision(
            len(model.classes), self.config.valid.iou_thresh, self.config.valid.metric
        )
        for sample, prediction in zip(samples, predictions, strict=True):
            metric.update(sample.annotation, clip_detections(prediction, sample.width, sample.height))
        by_class, mean = metric.result()
        return Evaluation(
            mean, {f"AP/{name}": float(ap) for name, ap in zip(model.classes, by_class, strict=True)}
        )

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray], model: Model
    ) -> tuple[Evaluation, dict[str, Any]]:
        evaluation = self.evaluate(samples, predictions, model)
        precisions = np.array([evaluation.curves[f"AP/{name}"] for name in model.classes])
        document = result_document(
            samples, predictions, model.classes, precisions, evaluation.value, self.config.valid.score_thresh
        )
        return evaluation, document


def most_objects(samples: Sequence[Sample]) -> int:
    """The largest number of objects in one image; at least 1, so that arrays of objects have a row."""
    return max((len(sample.annotation) for sample in samples), default=1) or 1
