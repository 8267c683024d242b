"""What is said of keypoints is what measuring gives, over the points that are annotated."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from landmark.evaluation import LIMIT, evaluate_keypoints
from landmark.results import LandmarkDecoder, LandmarkEvaluator

SQUARE = np.array([[0, 0], [100, 0], [100, 100], [0, 100]], np.float32)


def evaluated(offsets: list[float], visible: np.ndarray | None = None, **options: Any) -> dict[str, Any]:
    """The document of images whose first point is so many pixels off; visible (N, 4) bool: points that can be seen."""
    seen = np.ones((len(offsets), 4), bool) if visible is None else visible
    annotations = np.where(seen[..., None], SQUARE, np.nan).astype(np.float32)
    samples = [Sample(f"/data/{n}.jpg", 200, 200, points) for n, points in enumerate(annotations)]
    predicted = np.stack([SQUARE] * len(offsets)).astype(np.float64)
    predicted[:, 0, 0] += offsets
    document = evaluate_keypoints(samples, predicted, which="valid", **options)
    return dict(json.loads(json.dumps(document, allow_nan=False)))


def test_figures_are_those_of_the_result_file_to_the_last_digit() -> None:
    rng = np.random.default_rng(0)
    samples = [Sample(f"{n}.jpg", 9, 9, rng.random((5, 2)).astype(np.float32) * 99) for n in range(20)]
    predicted = np.stack([sample.annotation for sample in samples]) + rng.normal(size=(20, 5, 2))
    result = LandmarkEvaluator(LandmarkDecoder()).results(samples, list(predicted))[1]
    figures = evaluate_keypoints(samples, predicted, which="valid")["figures"]
    assert (figures["RMSE"], figures["NME"]) == (result["RMSE"], result["NME"])


def test_errors_are_told_by_point_and_by_image() -> None:
    document = evaluated([0.0, 4.0, 40.0], names=["nose", "ear", "eye", "lip"])
    # A point of four that is 4 px off, in a face of 100 px: 1 % on the mean.
    assert document["figures"]["NME"] == pytest.approx((0 + 0.01 + 0.10) / 3)
    assert document["by_class"]["nose"]["nme"] == pytest.approx((0 + 0.04 + 0.4) / 3)
    assert document["by_class"]["nose"]["rmse"] == pytest.approx(np.sqrt((16 + 1600) / 6))
    assert document["by_class"]["ear"]["rmse"] == 0.0
    assert document["worst"][0]["image"] == "/data/2.jpg"
    assert document["figures"]["failure_rate"] == pytest.approx(1 / 3)
    assert document["figures"]["AUC"] == pytest.approx((LIMIT + LIMIT - 0.01) / (3 * LIMIT))
    curve = document["curves"]["cumulative_error"]
    assert curve["share"][0] == pytest.approx(1 / 3, abs=1e-5)
    assert curve["share"][-1] == pytest.approx(2 / 3, abs=1e-5)
    assert [entry["image"] for entry in document["suspects"]] == ["/data/2.jpg"]


def test_points_that_are_not_annotated_count_nowhere() -> None:
    visible = np.ones((2, 4), bool)
    visible[1, 0] = False
    document = evaluated([4.0, 1000.0], visible)
    # The face of the second image spans the same box without its first point.
    assert document["figures"]["NME"] == pytest.approx(0.005)
    assert document["figures"]["RMSE"] == pytest.approx(np.sqrt(16 / 14))
    assert document["by_class"]["0"] == {
        "rmse": pytest.approx(np.sqrt(8)),
        "nme": pytest.approx(0.04),
        "visible": 1,
    }
    hidden = next(entry for entry in document["worst"] if entry["image"] == "/data/1.jpg")
    assert hidden["groundtruth_keypoints"][0] == [None, None]


def test_points_without_extent_and_predictions_that_are_no_numbers_are_borne() -> None:
    samples = [Sample("1.jpg", 9, 9, np.zeros((2, 2), np.float32))]
    document = evaluate_keypoints(samples, np.full((1, 2, 2), np.nan), which="valid")
    assert document["figures"]["NME"] is None
    assert document["figures"]["RMSE"] == 1.0
