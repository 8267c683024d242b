"""Classes of images: how they are read, what they are worth, and the result file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classification.annotations import ClassAnnotations
from classification.evaluation import evaluate_classes
from classification.metric import ClassificationMetric, classification_metric, number_or_null, softmax
from classification.transforms import region_of
from common.data.formats.base import Object
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.evaluation.pictures import Box, Caption, Mark
from common.evaluator import Evaluation, Evaluator
from common.predictor import Decoder
from common.trained import Reading


@dataclass(frozen=True)
class ClassDecoder(Decoder):
    """Reads logits, the output of every classifier. A prediction (C,) has the classes' probabilities.

    classes: names by id.
    """

    classes: Sequence[str]

    def predictions(
        self, outputs: Sequence[np.ndarray], matrices: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """See Decoder."""
        return list(softmax(outputs[0]))

    def row(self, sample: Sample, prediction: np.ndarray) -> dict[str, Any]:
        """The most probable class, its probability and id; of a sample that is a box of its image the box as well
        ("x1, y1, x2, y2" in pixels), as several may share an image."""
        predicted = int(np.where(np.isnan(prediction), -np.inf, prediction).argmax())
        row = {
            "class": self.classes[predicted],
            "score": float(np.nan_to_num(prediction[predicted])),
            "id": predicted,
            "image": sample.image,
        }
        box = region_of(sample)
        return row if box is None else {**row, "bbox": ", ".join(f"{edge:.6f}" for edge in box)}

    def marks(self, row: dict[str, Any]) -> list[Mark]:
        """See Decoder."""
        text = f"{row['class']} {row['score']:.2f}"
        return [Box(box, text, row["id"])] if (box := box_of_row(row)) else [Caption(text, row["id"])]


def box_of_row(row: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """The box that a row is about, None for a whole image."""
    if "bbox" not in row:
        return None
    x1, y1, x2, y2 = (float(value) for value in row["bbox"].split(","))
    return x1, y1, x2, y2


def result_rows(
    samples: Sequence[Sample], probabilities: Sequence[np.ndarray], decoder: ClassDecoder
) -> list[dict[str, Any]]:
    """One entry a sample: what is predicted, the folder's class, and whether they agree."""
    rows = []
    for sample, prediction in zip(samples, probabilities, strict=True):
        row, truth = decoder.row(sample, prediction), decoder.classes[int(sample.annotation[0])]
        rows.append({**row, "groundtruth": truth, "result": str(row["class"] == truth)})
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
    samples: Sequence[Sample], probabilities: Sequence[np.ndarray], decoder: ClassDecoder
) -> tuple[ClassificationMetric, dict[str, Any]]:
    """The figures and the result file's content for probabilities (N, C) of samples whose classes are all known."""
    labels = np.array([sample.annotation[0] for sample in samples])
    metric = classification_metric(np.reshape(probabilities, (-1, len(decoder.classes))), labels)
    return metric, {
        "Accuray": str(metric.accuracy),
        **class_report(metric, decoder.classes),
        "Result": result_rows(samples, probabilities, decoder),
    }


class ClassEvaluator(Evaluator):
    """Accuracy and top-5."""

    metric = "accuracy"

    def __init__(self, decoder: ClassDecoder) -> None:
        self._decoder = decoder

    def evaluate(self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> Evaluation:
        """See Evaluator."""
        labels = np.array([sample.annotation[0] for sample in samples])
        metric = classification_metric(np.reshape(predictions, (-1, len(self._decoder.classes))), labels)
        return _evaluation(metric)

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """See Evaluator."""
        metric, document = result_document(samples, predictions, self._decoder)
        return _evaluation(metric), document

    def document(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        which: str,
        score: float | None = None,
    ) -> dict[str, Any]:
        """See Evaluator."""
        rows = np.reshape(predictions, (-1, len(self._decoder.classes)))
        return evaluate_classes(samples, rows, self._decoder.classes, which=which)


def _evaluation(metric: ClassificationMetric) -> Evaluation:
    return Evaluation(metric.accuracy, {"top5": metric.top5})


def reading(card: Mapping[str, Any]) -> Reading:
    """How the outputs of a classifier with this `model.json` are read and judged."""
    decoder = ClassDecoder(list(card["classes"]))
    names = tuple(decoder.classes)

    def annotations(listing: Listing) -> tuple[Annotate, Sequence[str]]:
        return ClassAnnotations(names, (listing.folder,)), names

    return Reading(decoder, ClassEvaluator(decoder), region_of, annotations, labels_of)


def labels_of(row: dict[str, Any]) -> list[Object]:
    """What a row says, as a label."""
    return [Object(row["class"], box_of_row(row))] if row.get("class") is not None else []
