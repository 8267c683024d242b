"""How far keypoints are off: by point, over the images, and the images that show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from common.data.samples import Sample
from common.evaluation.document import evaluation_document
from landmark.annotations import points_of, visible
from landmark.metric import landmark_metric, span

# The cumulative curve goes to this error, and its area is a share of that up to here (Bulat & Tzimiropoulos 2017).
LIMIT = 0.07
_POINTS = 101
# An image is a suspect where its error is so many times the median of the set's.
_FAR = 4.0


def evaluate_keypoints(
    samples: Sequence[Sample],
    predicted: np.ndarray,
    *,
    which: str,
    names: Sequence[str] = (),
) -> dict[str, Any]:
    """The document of a set (`common.evaluation.document`).

    predicted (N, k, 2): keypoints in pixels of the images; those that are invisible in the annotation count nowhere.
    names: of the k points; none: their numbers from 0.
    """
    annotated = np.stack([points_of(sample) for sample in samples]).astype(np.float64)
    keypoints = np.nan_to_num(np.asarray(predicted, np.float64), nan=-1, posinf=-1, neginf=-1)
    seen = visible(annotated)
    metric = landmark_metric(keypoints, annotated)
    distance = np.where(seen, np.sqrt(((keypoints - annotated) ** 2).sum(axis=2)), np.nan)
    size = span(annotated, seen)
    share = distance / np.where(size > 0, size, np.nan)[:, None]
    error = _nanmean(share, axis=1)
    known = np.sort(error[~np.isnan(error)])
    levels = np.linspace(0.0, LIMIT, _POINTS)
    reached = np.searchsorted(known, levels, "right") / max(len(known), 1)
    names = list(names) or [str(index) for index in range(annotated.shape[1])]
    squares = _nanmean(np.where(seen[..., None], (keypoints - annotated) ** 2, np.nan), axis=(0, 2))
    order = np.argsort(-np.nan_to_num(error, nan=-1.0), kind="stable")
    entries = [
        {
            "image": samples[index].image,
            "width": samples[index].width,
            "height": samples[index].height,
            "nme": error[index],
            "keypoints": keypoints[index].round(2),
            "groundtruth_keypoints": np.where(seen[index][:, None], annotated[index], np.nan).round(2),
        }
        for index in order.tolist()[:100]
    ]
    usual = float(np.median(known)) if len(known) else 0.0
    return evaluation_document(
        "landmark",
        which,
        [],
        figures={
            "RMSE": metric.rmse,
            "NME": metric.nme,
            "AUC": area_of_errors(known),
            "failure_rate": float((known > LIMIT).mean()) if len(known) else None,
            "images": len(samples),
        },
        by_class={
            name: {
                "rmse": float(np.sqrt(squares[index])),
                "nme": float(_nanmean(share[:, index], axis=0)),
                "visible": int(seen[:, index].sum()),
            }
            for index, name in enumerate(names)
        },
        curves={"cumulative_error": {"nme": levels.round(5), "share": reached.round(5)}},
        worst=[entry for entry in entries if not np.isnan(entry["nme"])],
        suspects=[
            {**entry, "reason": "far_off"}
            for entry in entries
            if entry["nme"] > _FAR * usual and entry["nme"] > LIMIT
        ],
        limit=LIMIT,
    )


def area_of_errors(errors: np.ndarray) -> float:
    """Area below the cumulative curve of errors (N,) from 0 to LIMIT, as a share of the whole; nan without any.

    Exactly: each error below the limit adds the part of the range that lies above it.
    """
    return float(np.maximum(LIMIT - errors, 0.0).mean() / LIMIT) if len(errors) else float("nan")


def _nanmean(values: np.ndarray, axis: Any) -> np.ndarray:
    """Mean of the numbers among `values`, nan where there is none."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=axis) / known.sum(axis=axis))
