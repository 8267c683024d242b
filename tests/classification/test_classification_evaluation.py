"""What is said of a classifier beyond its accuracy is what counting gives."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from classification.evaluation import calibration, evaluate_classes
from classification.results import ClassDecoder, ClassEvaluator
from common.data.samples import Sample

CLASSES = ["cat", "dog", "owl"]


def set_of(labels: list[int], probabilities: list[list[float]]) -> tuple[list[Sample], np.ndarray]:
    samples = [
        Sample(f"/data/{CLASSES[label]}/{number}.jpg", 80, 60, np.array([label], np.float32))
        for number, label in enumerate(labels)
    ]
    return samples, np.array(probabilities, np.float32).reshape(-1, len(CLASSES))


def evaluated(labels: list[int], probabilities: list[list[float]]) -> dict[str, Any]:
    document = evaluate_classes(*set_of(labels, probabilities), CLASSES, which="test")
    return dict(json.loads(json.dumps(document, allow_nan=False)))


LABELS = [0, 0, 0, 1, 1, 2]
PROBABILITIES = [
    [0.9, 0.1, 0.0],
    [0.8, 0.1, 0.1],
    [0.1, 0.8, 0.1],
    [0.2, 0.6, 0.2],
    [0.5, 0.4, 0.1],
    [0.2, 0.2, 0.6],
]


def test_figures_are_those_of_the_result_file_to_the_last_digit() -> None:
    document = evaluated(LABELS, PROBABILITIES)
    samples, probabilities = set_of(LABELS, PROBABILITIES)
    result = ClassEvaluator(ClassDecoder(CLASSES)).results(samples, list(probabilities))[1]
    assert str(document["figures"]["accuracy"]) == result["Accuray"]
    assert document["figures"]["top5"] == result["Top5Accuracy"]
    assert document["confusion"] == result["ConfusionMatrix"]["counts"] == [[2, 1, 0], [1, 1, 0], [0, 0, 1]]
    for row in result["Classes"]:
        of_class = document["by_class"][row["class"]]
        assert (of_class["precision"], of_class["recall"]) == (row["precision"], row["recall"])
    assert document["by_class"]["dog"]["f1"] == 0.5


def test_the_worst_are_the_surest_errors_and_cells_name_their_images() -> None:
    document = evaluated(LABELS, PROBABILITIES)
    assert [(row["image"], row["predicted"], row["groundtruth"]) for row in document["worst"]] == [
        ("/data/cat/2.jpg", "dog", "cat"),
        ("/data/dog/4.jpg", "cat", "dog"),
    ]
    assert document["confusion_images"] == [
        {"row": 0, "column": 1, "images": ["/data/cat/2.jpg"]},
        {"row": 1, "column": 0, "images": ["/data/dog/4.jpg"]},
    ]


def test_a_label_is_a_suspect_where_the_prediction_is_as_sure_as_usual() -> None:
    # dog's own images have 0.6 and 0.4: the 0.8 of the image that is labelled cat is surer than usual; the dog that
    # looks like a cat with 0.5 is not.
    assert [row["image"] for row in evaluated(LABELS, PROBABILITIES)["suspects"]] == ["/data/cat/2.jpg"]


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    confidence = np.array([0.95, 0.95, 0.55, 0.55])
    error, bins = calibration(confidence, np.array([True, False, True, True]))
    assert error == pytest.approx(0.5 * 0.45 + 0.5 * 0.45)
    assert bins == {"confidence": [0.55, 0.95], "accuracy": [1.0, 0.5], "count": [2, 2]}
    assert calibration(np.ones(3), np.ones(3, bool))[0] == 0.0


def test_classes_without_samples_and_probabilities_that_are_no_numbers_are_borne() -> None:
    document = evaluated([0, 1], [[np.nan] * 3, [0.1, 0.8, 0.1]])
    assert document["by_class"]["owl"]["recall"] is None
    assert document["figures"]["accuracy"] == 1.0
