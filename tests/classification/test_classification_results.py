"""The result file is the one that platforms read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from classification.results import ClassDecoder, ClassEvaluator
from common.data.samples import Sample

CLASSES = ["brick", "hair", "木头"]


def sample_of(name: str, label: int, box: tuple[float, ...] = ()) -> Sample:
    return Sample(f"/data/{CLASSES[label]}/{name}", 64, 48, np.array([label, *box], np.float32))


def written(samples: list[Sample], probabilities: np.ndarray) -> dict[str, Any]:
    return ClassEvaluator(ClassDecoder(CLASSES)).results(samples, list(probabilities))[1]


def test_rows_and_accuracy_are_spelled_as_platforms_expect() -> None:
    samples = [sample_of("1.jpg", 0), sample_of("2.jpg", 0), sample_of("3.jpg", 2)]
    probabilities = np.array([[0.75, 0.25, 0.0], [0.25, 0.5, 0.25], [0.0, 0.0, 1.0]], np.float32)
    document = json.loads(json.dumps(written(samples, probabilities), allow_nan=False))
    assert document["Accuray"] == "0.6666666666666666"
    assert document["Result"] == [
        {
            "class": "brick",
            "score": 0.75,
            "id": 0,
            "image": "/data/brick/1.jpg",
            "groundtruth": "brick",
            "result": "True",
        },
        {
            "class": "hair",
            "score": 0.5,
            "id": 1,
            "image": "/data/brick/2.jpg",
            "groundtruth": "brick",
            "result": "False",
        },
        {
            "class": "木头",
            "score": 1.0,
            "id": 2,
            "image": "/data/木头/3.jpg",
            "groundtruth": "木头",
            "result": "True",
        },
    ]
    assert document["Top5Accuracy"] == 1.0
    assert document["Classes"] == [
        {"class": "brick", "precision": 1.0, "recall": 0.5, "samples": 2},
        {"class": "hair", "precision": 0.0, "recall": None, "samples": 0},
        {"class": "木头", "precision": 1.0, "recall": 1.0, "samples": 1},
    ]
    assert document["ConfusionMatrix"]["counts"] == [[1, 1, 0], [0, 0, 0], [0, 0, 1]]


def test_boxes_of_one_image_are_told_apart() -> None:
    samples = [sample_of("1.jpg", 0, (0, 0, 10, 20)), sample_of("1.jpg", 0, (30, 1.5, 64, 48))]
    rows = written(samples, np.eye(3)[[0, 0]])["Result"]
    assert [row["bbox"] for row in rows] == [
        "0.000000, 0.000000, 10.000000, 20.000000",
        "30.000000, 1.500000, 64.000000, 48.000000",
    ]


def test_a_network_gone_astray_still_gives_a_file_of_numbers(tmp_path: Path) -> None:
    document = written([sample_of("1.jpg", 1)], np.full((1, 3), np.nan))
    json.dumps(document, allow_nan=False)
    assert document["Accuray"] == "0.0"
    assert document["Result"][0]["result"] == "False"
