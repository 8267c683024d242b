"""What predictions are worth: the seam between a task's figures and everything that asks for them.

An evaluator knows annotations and predictions, and neither network nor training: the job's validation, its result files
and `common.evaluate` use the same one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.data.samples import Sample


@dataclass(frozen=True)
class Evaluation:
    """How good predictions are. value: what the best checkpoint and early stopping watch, larger is better, nan where
    the set allows no statement. curves: further figures for the progress page and the log, by name. tie_break: decides
    which of two equal values is the better one, larger is better. unsettled: the model can become better even where
    the value cannot, so that early stopping must not take the largest value for the end."""

    value: float
    curves: dict[str, float] = field(default_factory=dict)
    tie_break: float = 0.0
    unsettled: bool = False


class Evaluator(ABC):
    """Holds predictions against annotations. metric: name of `Evaluation.value`."""

    metric: str

    @abstractmethod
    def evaluate(self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> Evaluation:
        """The figures of a set."""

    @abstractmethod
    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """The figures, and the content of the result file."""

    def search(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        gallery: Sequence[Sample],
        gallery_predictions: Sequence[np.ndarray],
        which: str,
    ) -> dict[str, Any]:
        """The document of queries that look for their identity in another set, where a task has such."""
        raise NotImplementedError

    @abstractmethod
    def document(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        which: str,
        score: float | None = None,
    ) -> dict[str, Any]:
        """Everything that is said of a set (`common.evaluation.document`). which: the set's name. Figures that the
        result file has are those of it, digit for digit. score: from which predictions are counted, where the task has
        scores; None: the best of the set."""
