"""A platform that reads the result file finds what it was told it would."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from detect.geometry import clip_detections
from detect.results import DetectionDecoder, DetectionEvaluator

NAMES = ["dog", "cat"]


def sample(width: int = 640, height: int = 480) -> Sample:
    return Sample("/data/21.jpg", width, height, np.empty((0, 5), np.float32))


def objects(rows: list, score_thresh: float = 0.3, **size: int) -> list[dict[str, str]]:
    detections = np.array(rows, np.float32).reshape(-1, 6)
    row = DetectionDecoder(NAMES, score_thresh).row(sample(**size), detections)
    assert row["image"] == "/data/21.jpg"
    return row["objects"]


def written(samples: list[Sample], detections: list[np.ndarray]) -> dict[str, Any]:
    return DetectionEvaluator(DetectionDecoder(NAMES, 0.3), 0.5, "voc").results(samples, detections)[1]


def test_a_result_has_the_text_values_of_the_contract() -> None:
    rows = [[1, 0.49056703, 107.611855, 4.885638, 525.262024, 391.273621]]
    assert objects(rows) == [
        {
            "predict_class": "cat",
            "id": "1",
            "score": "0.49056703",
            "bbox": "107.611855, 4.885638, 525.262024, 391.273621",
        }
    ]


def test_average_precision_is_text_and_the_mean_comes_last() -> None:
    found = np.array([[0, 0.9, 0, 0, 10, 10], [0, 0.8, 90, 90, 99, 99], [0, 0.7, 50, 50, 60, 60]])
    annotated = np.array([[0, 0, 0, 10, 10], [0, 50, 50, 60, 60]], np.float32)
    result = written([Sample("/data/21.jpg", 100, 100, annotated)], [found])
    value = str(0.5 + 0.5 * 2 / 3)
    assert result["AP"] == [{"dog": value}, {"cat": "nan"}, {"mAP": value}]
    assert json.loads(json.dumps(result)) == result


def test_an_image_without_detections_has_no_objects() -> None:
    assert objects([]) == []
    assert objects([[-1.0] * 6]) == []


def test_objects_are_sorted_by_falling_score_and_equal_ones_keep_their_order() -> None:
    rows = [[0, 0.5, 0, 0, 10, 10], [1, 0.9, 0, 0, 10, 10], [1, 0.5, 0, 0, 20, 20], [0, 0.7, 0, 0, 10, 10]]
    found = objects(rows)
    assert [(entry["id"], entry["score"]) for entry in found] == [
        ("1", "0.9"),
        ("0", "0.7"),
        ("0", "0.5"),
        ("1", "0.5"),
    ]


@pytest.mark.parametrize("threshold", [0.01, 0.3, 0.7])
def test_a_score_at_the_threshold_stays_and_one_below_is_left_out(threshold: float) -> None:
    below = np.nextafter(np.float32(threshold), np.float32(0))
    rows = [[0, np.float32(threshold), 0, 0, 10, 10], [0, below, 0, 0, 10, 10]]
    assert [entry["score"] for entry in objects(rows, threshold)] == [str(threshold)]


def test_a_tiny_score_is_no_power_of_ten() -> None:
    assert objects([[0, 2.5e-7, 0, 0, 10, 10]], 0.0)[0]["score"] == "0.00000025"


def test_boxes_are_clipped_to_the_image_and_left_out_where_nothing_remains() -> None:
    rows = [
        [0, 0.9, -5, -5, 700, 500],
        [0, 0.8, 640, 10, 700, 20],
        [0, 0.7, 10, 10, 10, 20],
        [0, 0.6, 20, 20, 10, 30],
    ]
    assert [entry["bbox"] for entry in objects(rows)] == ["0.000000, 0.000000, 640.000000, 480.000000"]


def test_a_box_thinner_than_its_text_can_say_is_left_out() -> None:
    detections = np.array([[0, 0.9, 0.1, 0.1, 0.1000001, 5.0]])
    assert len(clip_detections(detections, 10, 10)) == 0


def test_numbers_that_are_not_finite_are_left_out() -> None:
    rows = [
        [0, math.nan, 0, 0, 9, 9],
        [0, 0.9, math.nan, 0, 9, 9],
        [0, 0.8, 0, 0, math.inf, 9],
        [0, 0.7, 0, 0, 9, 9],
    ]
    assert [entry["score"] for entry in objects(rows)] == ["0.7"]


def test_clipping_leaves_the_given_array_alone() -> None:
    detections = np.array([[0, 0.9, -5.0, -5, 700, 500]])
    clip_detections(detections, 640, 480)
    assert detections[0, 2] == -5


def test_samples_and_detections_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        written([sample()], [])


def test_outputs_become_detections_in_pixels_of_the_original() -> None:
    ids = np.array([[[1], [-1]], [[0], [0]]], np.float32)
    scores = np.array([[[0.9], [-1]], [[0.8], [0.7]]], np.float32)
    boxes = np.tile(np.array([[[1, 2, 3, 4]]], np.float32), (2, 2, 1))
    matrices = np.array([[[2, 0, 0], [0, 2, -7]], [[10, 0, 5], [0, 1, 0]]], np.float64)
    first, second = DetectionDecoder(NAMES, 0.3).predictions([ids, scores, boxes], matrices, (64, 32))
    np.testing.assert_allclose(first, [[1, 0.9, 2, -3, 6, 1]], rtol=1e-6)
    np.testing.assert_allclose(second[1], [0, 0.7, 15, 2, 35, 4], rtol=1e-6)
