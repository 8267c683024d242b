"""The result file is the one that platforms read."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from landmark.results import LandmarkDecoder, LandmarkEvaluator

SAMPLES = [
    Sample("/data/1.jpg", 230, 98, np.array([[13.58, 15.03], [20, 30]], np.float32)),
    Sample("/data/2.jpg", 230, 98, np.array([[0, 0], [10, 40]], np.float32)),
]


def written(predicted: np.ndarray) -> dict[str, Any]:
    return LandmarkEvaluator(LandmarkDecoder()).results(SAMPLES, list(predicted))[1]


def test_keypoints_stand_in_pixels_beside_their_annotation() -> None:
    predicted = np.array([[[13.58, 18.03], [24, 30]], [[0, 0], [10, 40]]])
    document = json.loads(json.dumps(written(predicted), allow_nan=False))
    assert document["RMSE"] == pytest.approx(np.sqrt((9 + 16) / 8), rel=1e-6)
    sides = np.sqrt((20 - 13.58) * (30 - 15.03))
    assert document["NME"] == pytest.approx((3 + 4) / 2 / sides / 2, rel=1e-5)
    first = document["Result"][0]
    assert first["image"] == "/data/1.jpg"
    assert first["keypoints"] == [{"x": 13.58, "y": 18.03}, {"x": 24.0, "y": 30.0}]
    assert [(round(p["x"], 4), round(p["y"], 4)) for p in first["groundtruth"]] == [(13.58, 15.03), (20, 30)]


def test_a_network_gone_astray_still_gives_a_file_of_numbers() -> None:
    document = written(np.full((2, 2, 2), np.nan))
    json.dumps(document, allow_nan=False)
    assert document["Result"][1]["keypoints"] == [{"x": -1.0, "y": -1.0}, {"x": -1.0, "y": -1.0}]
    assert document["RMSE"] > 1
