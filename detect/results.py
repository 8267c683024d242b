"""Detections: how they are read, what they are worth, and the result file with the text values that platforms read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from common.data.formats.base import Object
from common.data.samples import Sample
from common.evaluation.pictures import Box, Mark
from common.evaluator import Evaluation, Evaluator
from common.predictor import Decoder, whole
from common.trained import Reading
from detect.annotations import DetectionAnnotations
from detect.evaluation import evaluate_detections
from detect.geometry import clip_detections
from detect.metric import MeanAveragePrecision


def number_text(value: float) -> str:
    """The shortest text that reads back as `value`; "nan" for none."""
    return repr(float(value))


@dataclass(frozen=True)
class DetectionDecoder(Decoder):
    """Reads (ids, scores, boxes in pixels of the input), the outputs of every detector.

    A prediction (m, 6) has class id, score, x1, y1, x2, y2 in original pixels. Rows list the objects of a score of
    score_thresh or more, by falling score. classes: names by id.
    """

    classes: Sequence[str]
    score_thresh: float

    def predictions(
        self, outputs: Sequence[np.ndarray], matrices: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """See Decoder. An input is a part of its image scaled and moved, so that corners stay corners."""
        ids, scores, boxes = outputs
        scale, shift = matrices[:, [0, 1], [0, 1]], matrices[:, :, 2]
        original = boxes * np.tile(scale, (1, 2))[:, None] + np.tile(shift, (1, 2))[:, None]
        rows = np.concatenate([ids, scores, original], axis=-1)
        return [row[row[:, 0] >= 0] for row in rows]

    def row(self, sample: Sample, prediction: np.ndarray) -> dict[str, Any]:
        """See Decoder."""
        rows = clip_detections(prediction, sample.width, sample.height)
        # Scores are float32 where they come from: 0.3 there is a little more than 0.3 here, 0.01 a little less.
        scores = rows[:, 1].astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        return {
            "image": sample.image,
            "objects": [
                {
                    "predict_class": self.classes[int(rows[index, 0])],
                    "id": str(int(rows[index, 0])),
                    "score": np.format_float_positional(scores[index], unique=True, trim="0"),
                    "bbox": ", ".join(f"{value:.6f}" for value in rows[index, 2:].tolist()),
                }
                for index in order[scores[order] >= np.float32(self.score_thresh)].tolist()
            ],
        }

    def counting_from(self, score: float) -> DetectionDecoder:
        """See Decoder."""
        return replace(self, score_thresh=score)

    def marks(self, row: dict[str, Any]) -> list[Mark]:
        """See Decoder."""
        return [
            Box(corners_of(thing), f"{thing['predict_class']} {float(thing['score']):.2f}", int(thing["id"]))
            for thing in row["objects"]
        ]


def corners_of(thing: dict[str, str]) -> tuple[float, float, float, float]:
    """The box of an object of a row: x1, y1, x2, y2."""
    x1, y1, x2, y2 = (float(value) for value in thing["bbox"].split(","))
    return x1, y1, x2, y2


class DetectionEvaluator(Evaluator):
    """Average precision by class and its mean; see `detect.metric` for iou_thresh and method."""

    metric = "mAP"

    def __init__(self, decoder: DetectionDecoder, iou_thresh: float, method: str) -> None:
        self._decoder = decoder
        self._iou_thresh = iou_thresh
        self._method = method

    def evaluate(self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> Evaluation:
        """See Evaluator. Detections of any score count."""
        metric = MeanAveragePrecision(len(self._decoder.classes), self._iou_thresh, self._method)
        for sample, prediction in zip(samples, predictions, strict=True):
            metric.update(sample.annotation, clip_detections(prediction, sample.width, sample.height))
        by_class, mean = metric.result()
        names = self._decoder.classes
        return Evaluation(mean, {f"AP/{name}": float(ap) for name, ap in zip(names, by_class, strict=True)})

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """See Evaluator."""
        evaluation = self.evaluate(samples, predictions)
        by_class = [{name: number_text(evaluation.curves[f"AP/{name}"])} for name in self._decoder.classes]
        rows = [self._decoder.row(*pair) for pair in zip(samples, predictions, strict=True)]
        return evaluation, {"AP": [*by_class, {"mAP": number_text(evaluation.value)}], "Result": rows}

    def document(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        which: str,
        score: float | None = None,
    ) -> dict[str, Any]:
        """See Evaluator."""
        return evaluate_detections(
            samples,
            predictions,
            self._decoder.classes,
            which=which,
            iou_thresh=self._iou_thresh,
            method=self._method,
            score_thresh=self._decoder.score_thresh,
            score=score,
        )


def reading(card: Mapping[str, Any]) -> Reading:
    """How the outputs of a detector with this `model.json` are read and judged."""
    decoder = DetectionDecoder(list(card["classes"]), float(card.get("score_thresh", 0.3)))
    evaluator = DetectionEvaluator(
        decoder, float(card.get("iou_thresh", 0.5)), str(card.get("average_precision", "voc"))
    )
    classes = len(decoder.classes)
    return Reading(decoder, evaluator, whole, lambda listing: (DetectionAnnotations(classes), ()), _labels)


def _labels(row: dict[str, Any]) -> list[Object]:
    return [Object(thing["predict_class"], corners_of(thing)) for thing in row["objects"]]
