"""COCO's twelve figures are those of pycocotools."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detect.coco_metric import FIGURES, CocoMetric

ROOT = Path(__file__).resolve().parents[2]
# The environment that `make bench` installs has pycocotools; PEERS_PYTHON names another Python that has it.
PEERS = Path(os.environ.get("PEERS_PYTHON", ROOT / ".venv-peers" / "bin" / "python"))
# What pycocotools 2.0.11 gave for `random_set(seed, 12, 3)`.
KNOWN = {
    0: [
        0.07283995526440909,
        0.11172580726548204,
        0.07001588696246794,
        0.10708161564352857,
        0.12218241467598036,
        0.13963535175858727,
        0.13558823529411768,
        0.29666666666666663,
        0.40215686274509804,
        0.297037037037037,
        0.49656565656565654,
        0.6666666666666666,
    ],
    1: [
        0.04301505754684831,
        0.0890641810961707,
        0.0291487879254465,
        0.08787209296011946,
        0.063712304526681,
        0.046299852540361966,
        0.11206140350877193,
        0.33255360623781677,
        0.368201754385965,
        0.2181818181818182,
        0.3707070707070707,
        0.8416666666666667,
    ],
    2: [
        0.10040191380372467,
        0.17155592625797889,
        0.08537848538846513,
        0.11293171333940116,
        0.10810977476465658,
        0.3114582696861602,
        0.13641381766381763,
        0.3127492877492877,
        0.3656695156695156,
        0.22833333333333333,
        0.41448412698412695,
        0.55,
    ],
}


def random_set(seed: int, images: int, classes: int) -> dict[str, Any]:
    """Objects of all sizes, some crowds, some twice in the same place; detections about them and elsewhere, with
    equal scores, and more of some than count."""
    rng = np.random.default_rng(seed)
    entries = []
    for _ in range(images):
        count = int(rng.integers(0, 12))
        # Whole pixels: IoUs are often equal, and often exactly at a threshold.
        corner = rng.integers(0, 400, (count, 2))
        side = rng.choice([8, 20, 30, 32, 40, 90, 96, 97, 200], (count, 2))
        boxes = np.concatenate([corner, corner + side], axis=1)
        if count > 1 and rng.random() < 0.3:
            boxes[1] = boxes[0]
        ids = rng.integers(0, classes, (count, 1))
        truth = np.concatenate([ids, boxes], axis=1).astype(float)
        crowd = rng.random(count) < 0.15
        areas = side.prod(axis=1) * rng.choice([0.5, 1.0], count)
        near = np.repeat(truth, rng.integers(0, 5, count), axis=0)
        near[:, 1:] += rng.integers(-6, 7, near[:, 1:].shape)
        many = int(rng.choice([0, 5, 150]))
        far = np.concatenate(
            [rng.integers(0, classes, (many, 1)), rng.integers(0, 300, (many, 2)), np.zeros((many, 2))],
            axis=1,
        )
        far[:, 3:] = far[:, 1:3] + rng.integers(1, 200, (many, 2))
        rows = np.concatenate([near, far])
        rows = rows[(rows[:, 3:] > rows[:, 1:3]).all(axis=1)]
        scores = rng.integers(0, 20, (len(rows), 1)) / 20
        detections = np.concatenate([rows[:, :1], scores, rows[:, 1:]], axis=1)
        entries.append(
            {
                "truth": truth.tolist(),
                "crowd": crowd.tolist(),
                "areas": areas.tolist(),
                "detections": detections.tolist(),
            }
        )
    return {"classes": classes, "images": entries}


def measured(entry: dict[str, Any]) -> dict[str, float]:
    metric = CocoMetric(entry["classes"])
    for image in entry["images"]:
        metric.update(
            np.array(image["truth"]).reshape(-1, 5),
            np.array(image["detections"]).reshape(-1, 6),
            np.array(image["crowd"], bool),
            np.array(image["areas"]),
        )
    return metric.result()


def assert_equal(found: dict[str, float], expected: list[float]) -> None:
    values = [-1.0 if math.isnan(found[name]) else found[name] for name in FIGURES]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("seed", KNOWN)
def test_the_figures_are_those_that_pycocotools_gave(seed: int) -> None:
    assert_equal(measured(random_set(seed, 12, 3)), KNOWN[seed])


def asked(sets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if not PEERS.is_file():
        pytest.skip(f"there is no Python with pycocotools at {PEERS} (`make bench` makes one)")
    done = subprocess.run(
        [str(PEERS), str(ROOT / "tests" / "helpers" / "coco_oracle.py")],
        input=json.dumps(sets),
        capture_output=True,
        text=True,
        check=True,
    )
    return list(json.loads(done.stdout))


def test_the_figures_are_those_of_pycocotools_on_random_boxes() -> None:
    sets = [random_set(seed, images, 1 + seed % 4) for seed in range(40) for images in (1, 9)]
    for entry, answer in zip(sets, asked(sets), strict=True):
        assert_equal(measured(entry), answer["figures"])


def test_the_figures_come_faster_than_those_of_pycocotools() -> None:
    entry = random_set(7, 300, 5)
    [answer] = asked([entry])
    began = time.perf_counter()
    found = measured(entry)
    assert time.perf_counter() - began < answer["seconds"]
    assert_equal(found, answer["figures"])


BOX = [10.0, 10.0, 50.0, 50.0]


def test_a_set_without_objects_allows_no_figure() -> None:
    metric = CocoMetric(1)
    metric.update(np.empty((0, 5)), np.array([[0, 0.5, *BOX]]))
    assert all(math.isnan(value) for value in metric.result().values())
    assert all(math.isnan(value) for value in CocoMetric(1).result().values())


def test_detections_in_a_crowd_are_neither_right_nor_wrong() -> None:
    metric = CocoMetric(1)
    truth = np.array([[0, *BOX], [0, 100, 100, 300, 300]])
    inside = [[0, 0.9, 110 + 40 * k, 110, 140 + 40 * k, 140] for k in range(4)]
    metric.update(truth, np.array([*inside, [0, 0.5, *BOX]]), np.array([False, True]))
    assert metric.result()["AP"] == pytest.approx(1.0)


def test_padding_and_boxes_that_are_no_numbers_are_borne() -> None:
    metric = CocoMetric(1)
    rows = [[-1.0] * 6, [0, math.nan, *BOX], [0, 0.9, math.nan, 0, 1, 1], [0, 0.5, *BOX]]
    metric.update(np.array([[0, *BOX], [-1.0] * 5]), np.array(rows))
    assert metric.result()["AP"] == pytest.approx(0.5)


def test_wrong_arguments_are_refused() -> None:
    metric = CocoMetric(2)
    with pytest.raises(ValueError, match=r"detections has shape \(0, 5\)"):
        metric.update(np.empty((0, 5)), np.empty((0, 5)))
    with pytest.raises(ValueError, match="class id 2 is given; the highest is 1"):
        metric.update(np.array([[2, *BOX]]), np.empty((0, 6)))
