"""What is said of a detector's errors is what a person sees in the boxes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from detect.evaluation import evaluate_detections
from detect.metric import MeanAveragePrecision

A, B, C = [10.0, 10, 50, 50], [60.0, 60, 90, 90], [10.0, 60, 40, 90]


def evaluated(images: list[tuple[list, list]], classes: list[str] | None = None) -> dict[str, Any]:
    """The document of images of objects and detections, through JSON and back."""
    samples = [
        Sample(f"/data/{number}.jpg", 100, 100, np.array(truth, np.float32).reshape(-1, 5))
        for number, (truth, _) in enumerate(images)
    ]
    predictions = [np.array(found, float).reshape(-1, 6) for _, found in images]
    document = evaluate_detections(samples, predictions, classes or ["cat", "dog"], which="valid")
    return dict(json.loads(json.dumps(document, allow_nan=False)))


def shifted(box: list[float], by: float) -> list[float]:
    return [box[0] + by, box[1], box[2] + by, box[3]]


def test_every_kind_of_error_is_counted_once() -> None:
    document = evaluated(
        [
            (
                [[0, *A], [1, *B], [0, *C]],
                [[0, 0.95, *A], [0, 0.94, *A], [0, 0.93, *B], [0, 0.92, *shifted(C, 20)]],
            ),
            ([[0, *A]], [[0, 0.9, *A], [0, 0.91, *B]]),
            ([[0, *A]], [[0, 0.9, *A]]),
            ([[0, *A]], [[0, 0.9, *A]]),
        ]
    )
    figures = document["figures"]
    assert {
        name: figures[name] for name in ("missed", "twice", "wrong_place", "wrong_class", "background")
    } == {
        "missed": 1,
        "twice": 1,
        "wrong_place": 1,
        "wrong_class": 1,
        "background": 1,
    }
    # Rows are what is annotated, columns what is predicted; the last is background.
    assert document["confusion"] == [[4, 0, 1], [1, 0, 0], [3, 0, 0]]
    cells = {(cell["row"], cell["column"]): cell["images"] for cell in document["confusion_images"]}
    assert cells == {
        (0, 2): ["/data/0.jpg"],
        (1, 0): ["/data/0.jpg"],
        (2, 0): ["/data/0.jpg", "/data/1.jpg"],
    }
    assert [entry["image"] for entry in document["worst"]] == ["/data/0.jpg", "/data/1.jpg"]
    first = document["worst"][0]
    assert [row["verdict"] for row in first["objects"]] == ["right", "twice", "wrong_class", "wrong_place"]
    assert [row["verdict"] for row in first["groundtruth"]] == ["found", "found", "missed"]


def test_the_best_threshold_leaves_out_what_is_wrong() -> None:
    document = evaluated(
        [([[0, *A]], [[0, 0.9, *A], [0, 0.4, *C]]), ([[1, *B]], [[1, 0.7, *B], [1, 0.1, *A], [0, 0.2, *A]])]
    )
    assert document["figures"]["best_thresh"] == 0.6
    assert document["figures"]["f1"] == document["figures"]["precision"] == 1.0
    assert document["by_class"]["cat"]["best_thresh"] == 0.7
    assert document["by_class"]["dog"]["best_thresh"] == 0.4
    assert document["threshold"] == 0.6
    assert document["figures"]["background"] == 0


def test_average_precision_is_that_of_the_result_file_to_the_last_digit() -> None:
    rng = np.random.default_rng(1)
    images = []
    metric = MeanAveragePrecision(3)
    for _ in range(30):
        corners = rng.integers(0, 60, (5, 2))
        truth = np.concatenate([rng.integers(0, 3, (5, 1)), corners, corners + 30], axis=1).astype(float)
        found = np.concatenate(
            [truth[:, :1], rng.random((5, 1)), truth[:, 1:] + rng.integers(-9, 9, (5, 4))], axis=1
        )
        found[:, 2:] = np.clip(found[:, 2:], 0, 100)
        metric.update(truth, found)
        images.append((truth.tolist(), found.tolist()))
    by_class, mean = metric.result()
    document = evaluated(images, ["a", "b", "c"])
    assert document["figures"]["mAP"] == mean
    assert [document["by_class"][name]["AP"] for name in "abc"] == by_class.tolist()
    right = sum(document["confusion"][index][index] for index in range(3))
    assert right / document["figures"]["objects"] == pytest.approx(document["figures"]["recall"])


def test_labels_that_a_sure_detection_contradicts_are_suspects() -> None:
    good = [([[0, *A]], [[0, 0.9, *A]])] * 10
    document = evaluated(
        [
            *good,
            ([[0, *A]], [[1, 0.99, *A]]),
            ([[0, *A]], [[0, 0.9, *A], [1, 0.98, *B]]),
            ([[0, *A]], []),
        ]
    )
    assert [
        (row["image"], row["reason"], row["predicted"], row["groundtruth"]) for row in document["suspects"]
    ] == [
        ("/data/10.jpg", "other_class", "dog", "cat"),
        ("/data/11.jpg", "not_labelled", "dog", None),
        ("/data/12.jpg", "nothing_there", None, "cat"),
    ]


def test_a_set_without_objects_or_detections_is_borne() -> None:
    document = evaluated([([], []), ([], [])])
    assert document["figures"]["mAP"] is None
    assert document["figures"]["best_thresh"] is None
    assert document["threshold"] == 0.3
    assert document["worst"] == document["suspects"] == []
    assert evaluated([([[0, *A]], [])])["figures"]["missed"] == 1
