"""How good a classifier's predictions are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClassificationMetric:
    """accuracy and top5: 0 ... 1 (nan for no predictions). confusion (C, C): rows truth, columns predictions.

    top5: share of the samples whose class is among the five most probable (or all, of fewer classes).
    precision, recall (C,): nan where a class was never predicted, or never there.
    """

    accuracy: float
    top5: float
    precision: np.ndarray
    recall: np.ndarray
    confusion: np.ndarray


def classification_metric(probabilities: np.ndarray, labels: np.ndarray) -> ClassificationMetric:
    """Hold class probabilities (or logits) (N, C) against class ids (N,).

    Equal probabilities count in the order of the ids, as argmax takes them; a probability that is no number is the
    least of all.
    """
    scores = np.where(np.isnan(probabilities), -np.inf, probabilities).astype(np.float64)
    labels = np.asarray(labels, np.int64)
    count, classes = scores.shape
    true = scores[np.arange(count), labels][:, None]
    before = (scores > true) | ((scores == true) & (np.arange(classes) < labels[:, None]))
    rank = before.sum(axis=1)
    confusion = np.bincount(labels * classes + scores.argmax(axis=1), minlength=classes**2).reshape(
        classes, classes
    )
    right = confusion.diagonal().astype(np.float64)
    with np.errstate(invalid="ignore"):
        precision, recall = right / confusion.sum(axis=0), right / confusion.sum(axis=1)
    return ClassificationMetric(
        accuracy=float((rank == 0).mean()) if count else float("nan"),
        top5=float((rank < 5).mean()) if count else float("nan"),
        precision=precision,
        recall=recall,
        confusion=confusion,
    )


def number_or_null(value: float) -> float | None:
    """`value` for a JSON file, which has no nan."""
    return None if np.isnan(value) else float(value)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Logits (..., C) to probabilities in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))
