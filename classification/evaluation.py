"""How good a classifier is by class, whether its probabilities are what they say, and the images that show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from classification.metric import classification_metric
from classification.transforms import box_of, is_whole
from common.data.samples import Sample
from common.evaluation.curves import ScoreCurve, mean_or_nan
from common.evaluation.document import MOST_SUSPECTS, MOST_WORST, evaluation_document

_BINS = 15
# Of more classes than this nobody looks at a curve each.
_MOST_CURVES = 100


def evaluate_classes(
    samples: Sequence[Sample], probabilities: np.ndarray, classes: Sequence[str], *, which: str
) -> dict[str, Any]:
    """The document of a set (`common.evaluation.document`) for probabilities (N, C) of samples of known classes."""
    labels = np.array([sample.annotation[0] for sample in samples], np.int64)
    values = np.nan_to_num(np.asarray(probabilities, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    metric = classification_metric(probabilities, labels)
    predicted = (
        np.where(np.isnan(probabilities), -np.inf, probabilities).argmax(axis=1)
        if len(labels)
        else np.zeros(0, np.int64)
    )
    confidence = values[np.arange(len(labels)), predicted]
    counts = metric.confusion
    f1 = 2 * counts.diagonal() / np.maximum(counts.sum(axis=0) + counts.sum(axis=1), 1)
    f1 = np.where(counts.sum(axis=1) > 0, f1, np.nan)
    error, reliability = calibration(confidence, predicted == labels)
    curves = {
        name: ScoreCurve.of(values[:, index], labels == index, int((labels == index).sum())).thinned()
        for index, name in enumerate(classes)
        if len(classes) <= _MOST_CURVES and len(labels)
    }
    images: dict[tuple[int, int], list[str]] = defaultdict(list)
    wrong = np.flatnonzero(predicted != labels)
    for index in wrong[np.argsort(-confidence[wrong], kind="stable")].tolist():
        images[int(labels[index]), int(predicted[index])].append(samples[index].image)
    return evaluation_document(
        "classification",
        which,
        classes,
        figures={
            "accuracy": metric.accuracy,
            "top5": metric.top5,
            "mean_precision": mean_or_nan(metric.precision),
            "mean_recall": mean_or_nan(metric.recall),
            "mean_f1": mean_or_nan(f1),
            "calibration_error": error,
            "images": len(samples),
        },
        by_class={
            name: {
                "samples": int(counts[index].sum()),
                "predicted": int(counts[:, index].sum()),
                "precision": metric.precision[index],
                "recall": metric.recall[index],
                "f1": f1[index],
            }
            for index, name in enumerate(classes)
        },
        curves={"precision_recall": curves, "reliability": reliability},
        confusion=counts,
        confusion_images=images,
        worst=_worst(samples, values, labels, predicted, classes),
        suspects=_suspects(samples, values, labels, predicted, classes),
    )


def calibration(confidence: np.ndarray, right: np.ndarray) -> tuple[float, dict[str, list[float]]]:
    """Expected calibration error, and the bins that it is made of ("On Calibration of Modern Neural Networks", Guo et
    al. 2017): mean distance of confidence (N,) and accuracy over 15 bins of equal width; nan without predictions."""
    if not len(confidence):
        return float("nan"), {"confidence": [], "accuracy": [], "count": []}
    bins = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    count = np.bincount(bins, minlength=_BINS)
    used = np.flatnonzero(count)
    mean = np.bincount(bins, confidence, _BINS)[used] / count[used]
    accuracy = np.bincount(bins, right, _BINS)[used] / count[used]
    error = float((np.abs(mean - accuracy) * count[used]).sum() / len(confidence))
    return error, {
        "confidence": mean.round(5).tolist(),
        "accuracy": accuracy.round(5).tolist(),
        "count": count[used].tolist(),
    }


def _worst(
    samples: Sequence[Sample],
    values: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """What is wrong, the surest first."""
    wrong = np.flatnonzero(predicted != labels)
    sure = values[wrong, predicted[wrong]]
    return [
        _entry(samples[index], values[index], labels[index], classes)
        for index in wrong[np.argsort(-sure, kind="stable")].tolist()[:MOST_WORST]
    ]


def _suspects(
    samples: Sequence[Sample],
    values: np.ndarray,
    labels: np.ndarray,
    predicted: np.ndarray,
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Labels that look wrong: the prediction is another class, as sure as those of that class's own images are on the
    mean ("Confident Learning", Northcutt et al. 2021); by the distance of the two probabilities."""
    usual = np.full(len(classes), 1.0)
    for index in np.unique(labels).tolist():
        usual[index] = values[labels == index, index].mean()
    places = np.arange(len(labels))
    sure = (predicted != labels) & (values[places, predicted] >= usual[predicted])
    margin = values[places, predicted] - values[places, labels]
    doubtful = np.flatnonzero(sure)
    return [
        {**_entry(samples[index], values[index], labels[index], classes), "reason": "other_class"}
        for index in doubtful[np.argsort(-margin[doubtful], kind="stable")].tolist()[:MOST_SUSPECTS]
    ]


def _entry(sample: Sample, values: np.ndarray, label: int, classes: Sequence[str]) -> dict[str, Any]:
    best = np.argsort(-values, kind="stable")[:3]
    entry: dict[str, Any] = {
        "image": sample.image,
        "width": sample.width,
        "height": sample.height,
        "groundtruth": classes[label],
        "predicted": classes[int(best[0])],
        "score": float(values[best[0]]),
        "score_of_groundtruth": float(values[label]),
        "best": [{"class": classes[int(index)], "score": float(values[index])} for index in best],
    }
    if not is_whole(sample):
        entry["bbox"] = np.round(box_of(sample), 2)
    return entry
