"""The content of `valid_evaluation.json`, `test_evaluation.json` and `evaluation.json`: one form for all tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

# Images that stand in a document as the worst, and labels that stand there as suspects.
MOST_WORST = 40
MOST_SUSPECTS = 100
# Images that are named for one cell of a confusion matrix.
_IMAGES_OF_A_CELL = 3


def evaluation_document(
    task: str,
    which: str,
    classes: Sequence[str],
    *,
    figures: Mapping[str, float | None],
    by_class: Mapping[str, Mapping[str, Any]],
    curves: Mapping[str, Any],
    confusion: np.ndarray | None = None,
    confusion_images: Mapping[tuple[int, int], Sequence[str]] | None = None,
    worst: Sequence[Mapping[str, Any]] = (),
    suspects: Sequence[Mapping[str, Any]] = (),
    **further: Any,
) -> dict[str, Any]:
    """One evaluation of a set. which: the set's name, "valid", "test" or a folder.

    confusion (n, n): rows are what is annotated, columns what is predicted, in the order of the classes and, for
    detection, background after them. confusion_images: for a cell (row, column) images that are counted there. Numbers
    that are not finite become null.
    """
    counts = [] if confusion is None else confusion.tolist()
    images = [
        {"row": row, "column": column, "images": list(dict.fromkeys(names))[:_IMAGES_OF_A_CELL]}
        for (row, column), names in sorted((confusion_images or {}).items())
    ]
    document: dict[str, Any] = plain(
        {
            "task": task,
            "set": which,
            "classes": list(classes),
            "figures": dict(figures),
            "by_class": {name: dict(values) for name, values in by_class.items()},
            "curves": dict(curves),
            "confusion": counts,
            "confusion_images": images,
            "worst": list(worst)[:MOST_WORST],
            "suspects": list(suspects)[:MOST_SUSPECTS],
            **further,
        }
    )
    return document


def plain(value: Any) -> Any:
    """`value` as JSON has it: arrays as lists, numbers that are not finite as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
