"""Precision and recall over the score, and the score that is the best threshold."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

# Points of a curve that a file holds: more cannot be seen.
_POINTS = 200


@dataclass(frozen=True)
class ScoreCurve:
    """Predictions by falling score, cut below each score that occurs.

    score, precision, recall, f1 (n,): what holds when the predictions of at least `score` count. count: objects.
    """

    score: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    count: int

    @classmethod
    def of(cls, scores: np.ndarray, right: np.ndarray, count: int) -> ScoreCurve:
        """The curve of predictions with `scores` (m,); those with `right` (m,) bool hit one of `count` objects.

        A score that is no number counts as the lowest of all.
        """
        scores = np.nan_to_num(np.asarray(scores, np.float64), nan=-np.inf, posinf=np.inf, neginf=-np.inf)
        order = np.argsort(-scores, kind="stable")
        scores, hits = scores[order], np.cumsum(np.asarray(right, np.float64)[order])
        # Equal scores are cut together.
        last = np.flatnonzero(np.append(scores[1:] != scores[:-1], [True] * bool(len(scores))))
        last = last[np.isfinite(scores[last])]
        hits, predicted = hits[last], last + 1.0
        recall = hits / count if count else np.full(len(last), np.nan)
        return cls(scores[last], hits / predicted, recall, 2 * hits / (predicted + count), count)

    def best(self) -> float | None:
        """The threshold with the greatest F1, of equals the highest; None where no prediction is right.

        It is the shortest number that cuts there, near the middle between the scores on both sides, so that scores that
        differ in their last digits elsewhere fall on the same side.
        """
        if not self.f1.size or not self.f1.max() > 0:
            return None
        index = int(self.f1.argmax())
        above = float(self.score[index])
        below = float(self.score[index + 1]) if index + 1 < len(self.score) else 0.0
        return shortest_between(below, above)

    def at(self, threshold: float | None) -> tuple[float, float, float]:
        """Precision, recall and F1 when the predictions of at least `threshold` count; nan where there is none."""
        index = -1 if threshold is None else int((self.score >= threshold).sum()) - 1
        if index < 0:
            return math.nan, 0.0 if self.count else math.nan, 0.0 if self.count else math.nan
        return float(self.precision[index]), float(self.recall[index]), float(self.f1[index])

    def thinned(self) -> dict[str, list[float]]:
        """Columns of at most a few hundred points, evenly spread over the recall, best threshold included."""
        if not len(self.score) or not self.count:
            return {"score": [], "precision": [], "recall": [], "f1": []}
        marks = np.searchsorted(self.recall, np.linspace(0, self.recall[-1], _POINTS), "left")
        spread = np.linspace(0, len(self.score) - 1, _POINTS).astype(np.int64)
        kept = np.unique([*marks, *spread, int(self.f1.argmax())])
        columns = {"score": self.score, "precision": self.precision, "recall": self.recall, "f1": self.f1}
        return {
            name: [round(value, 5) for value in column[kept].tolist()] for name, column in columns.items()
        }


def shortest_between(below: float, above: float) -> float:
    """The middle of (below, above], rounded to as few decimals as leave it there."""
    middle = (below + above) / 2
    for digits in range(1, 17):
        value = round(middle, digits)
        # Scores are float32 where they come from, and are compared as such.
        if below < value <= above and np.float32(value) > np.float32(below):
            return value
    return above


def mean_or_nan(values: Any) -> float:
    """The mean of the numbers among `values`; nan without any."""
    numbers = np.asarray(values, np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if numbers.size else math.nan
