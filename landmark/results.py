"""Keypoints: how they are read, what they are worth, and the result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.formats.base import Object, Point, hull
from common.data.samples import Sample
from common.evaluation.pictures import Mark, Points
from common.evaluator import Evaluation, Evaluator
from common.predictor import Decoder
from common.trained import Reading
from landmark.annotations import LandmarkAnnotations, part_of, points_of, visible
from landmark.evaluation import evaluate_keypoints
from landmark.metric import landmark_metric


def keypoints(points: np.ndarray) -> list[dict[str, float]]:
    """Points (k, 2) as the result file has them; what is no number (a network gone astray) stands as -1."""
    return [{"x": x, "y": y} for x, y in np.nan_to_num(points, nan=-1, posinf=-1, neginf=-1).tolist()]


def _groundtruth(points: np.ndarray) -> list[dict[str, float] | None]:
    """Annotated points (k, 2) as the result file has them: none in the place of one that is invisible."""
    seen = visible(points).tolist()
    return [point if there else None for point, there in zip(keypoints(points), seen, strict=True)]


@dataclass(frozen=True)
class LandmarkDecoder(Decoder):
    """Reads points as shares of the input's width and height. A prediction (k, 2) has x, y in original pixels."""

    def predictions(
        self, outputs: Sequence[np.ndarray], matrices: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """See Decoder."""
        pixels = np.asarray(outputs[0], np.float64) * shape
        return list(np.einsum("bkj,bij->bki", pixels, matrices[:, :, :2]) + matrices[:, None, :, 2])

    def row(self, sample: Sample, prediction: np.ndarray) -> dict[str, Any]:
        """See Decoder."""
        return {"keypoints": keypoints(prediction), "image": sample.image}

    def marks(self, row: dict[str, Any]) -> list[Mark]:
        """See Decoder."""
        return [Points(np.array([[point["x"], point["y"]] for point in row["keypoints"]], np.float64))]


class LandmarkEvaluator(Evaluator):
    """Errors of keypoints; see `landmark.metric`."""

    metric = "-RMSE"

    def __init__(self, decoder: LandmarkDecoder) -> None:
        self._decoder = decoder

    def evaluate(self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> Evaluation:
        """See Evaluator."""
        metric = landmark_metric(np.array(predictions), np.array([points_of(sample) for sample in samples]))
        return Evaluation(-metric.rmse, {"NME": metric.nme})

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """See Evaluator. In the file a point that is no number stands, and counts, as -1, -1."""
        finite = [np.nan_to_num(points, nan=-1, posinf=-1, neginf=-1) for points in predictions]
        written = self.evaluate(samples, finite)
        nme = written.curves["NME"]
        return self.evaluate(samples, predictions), {
            "RMSE": -written.value,
            "NME": None if np.isnan(nme) else nme,
            "Result": [
                {**self._decoder.row(sample, points), "groundtruth": _groundtruth(points_of(sample))}
                for sample, points in zip(samples, predictions, strict=True)
            ],
        }

    def document(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        which: str,
        score: float | None = None,
    ) -> dict[str, Any]:
        """See Evaluator."""
        return evaluate_keypoints(samples, np.array(predictions), which=which)


def reading(card: Mapping[str, Any]) -> Reading:
    """How the outputs of a landmark network with this `model.json` are read and judged."""
    decoder = LandmarkDecoder()
    joints = int(card["outputs"][0]["shape"][1])
    return Reading(
        decoder,
        LandmarkEvaluator(decoder),
        part_of,
        lambda listing: (LandmarkAnnotations(joints), ()),
        _labels,
    )


def _labels(row: dict[str, Any]) -> list[Object]:
    points = tuple(Point(point["x"], point["y"]) for point in row["keypoints"])
    return [Object("object", hull([(point.x, point.y) for point in points]), points)]
