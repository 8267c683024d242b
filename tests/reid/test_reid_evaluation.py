"""What is said of embeddings is what ranking by hand gives, by Market-1501's rules where there are cameras."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from reid.evaluation import evaluate_embeddings
from reid.metric import DISTRACTOR, JUNK, Cameras, retrieval
from reid.results import ReIDDecoder, ReIDEvaluator


def at(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def samples_of(names: list[str]) -> list[Sample]:
    return [
        Sample(f"/data/{name}/{number}.jpg", 64, 128, np.array([0], np.float32), name)
        for number, name in enumerate(names)
    ]


def test_images_of_the_query_by_its_own_camera_are_left_out_and_junk_counts_for_nothing() -> None:
    gallery_ids = np.array([1, 1, JUNK, 2, DISTRACTOR, 1])
    gallery = at(0, 1, 2, 3, 4, 10)
    cameras = Cameras(np.array([1]), np.array([1, 1, 2, 2, 2, 2]))
    found = retrieval(at(0), np.array([1]), gallery, gallery_ids, cameras)
    # What is left: 2 and the distractor, wrong, then the right one.
    assert (found.rank1, found.rank5) == (0.0, 1.0)
    assert found.mean_average_precision == pytest.approx(1 / 3)
    assert retrieval(at(0), np.array([1]), gallery, gallery_ids).rank1 == 1.0


def test_distractors_and_junk_are_found_by_no_query() -> None:
    ids = np.array([DISTRACTOR, JUNK])
    assert retrieval(at(0, 1), ids, at(0, 1), ids).queries == 0


def plain_market(query: tuple, gallery: list[tuple]) -> tuple[float, float] | None:
    """Place of the first right one and AP by the rules in words: (identity, camera, angle) each."""
    identity, camera, angle = query
    left = [row for row in gallery if row[0] != JUNK and not (row[0] == identity and row[1] == camera)]
    left.sort(key=lambda row: (-round(math.cos(math.radians(row[2] - angle)), 6), row[0] == identity))
    hits = [row[0] == identity for row in left]
    if not any(hits):
        return None
    precisions = [sum(hits[: k + 1]) / (k + 1) for k, hit in enumerate(hits) if hit]
    return hits.index(True) + 1.0, sum(precisions) / len(precisions)


def test_the_figures_are_those_of_the_rules_in_words() -> None:
    rng = np.random.default_rng(3)
    draw = lambda count, ids: [  # noqa: E731
        (int(rng.choice(ids)), int(rng.integers(1, 4)), float(rng.integers(0, 180))) for _ in range(count)
    ]
    query, gallery = draw(40, [0, 1, 2, 3]), draw(90, [JUNK, DISTRACTOR, 0, 1, 2, 3, 3])
    expected = [answer for row in query if (answer := plain_market(row, gallery))]
    columns = [np.array(column) for column in zip(*query, strict=True)]
    others = [np.array(column) for column in zip(*gallery, strict=True)]
    found = retrieval(at(*columns[2]), columns[0], at(*others[2]), others[0], Cameras(columns[1], others[1]))
    assert found.queries == len(expected)
    assert found.rank1 == pytest.approx(np.mean([place <= 1 for place, _ in expected]))
    assert found.rank10 == pytest.approx(np.mean([place <= 10 for place, _ in expected]))
    assert found.mean_average_precision == pytest.approx(np.mean([precision for _, precision in expected]))


def evaluated(names: list[str], embeddings: np.ndarray) -> dict[str, Any]:
    ids = np.unique(names, return_inverse=True)[1]
    document = evaluate_embeddings(samples_of(names), embeddings, ids, which="test")
    return dict(json.loads(json.dumps(document, allow_nan=False)))


def test_figures_are_those_of_the_result_file_to_the_last_digit() -> None:
    rng = np.random.default_rng(0)
    names = [f"p{index % 7}" for index in range(40)]
    embeddings = rng.normal(size=(40, 8))
    ids = np.unique(names, return_inverse=True)[1].astype(np.float32)
    samples = [
        Sample(sample.image, 64, 128, np.array([identity], np.float32))
        for sample, identity in zip(samples_of(names), ids, strict=True)
    ]
    figures = evaluated(names, embeddings)["figures"]
    rows = list(np.concatenate([np.zeros((40, 1)), embeddings], axis=1))
    result = ReIDEvaluator(ReIDDecoder(["p0"], 8), "rank1").results(samples, rows)[1]
    assert [figures[name] for name in ("rank1", "rank5", "mAP", "queries")] == [
        result[name] for name in ("Rank1", "Rank5", "mAP", "Queries")
    ]


def test_the_worst_query_shows_whom_it_was_taken_for() -> None:
    names = ["ann", "ann", "bob", "bob", "bob", "ann"]
    document = evaluated(names, at(0, 2, 40, 42, 41, 43))
    worst = document["worst"][0]
    assert (worst["image"], worst["identity"]) == ("/data/ann/5.jpg", "ann")
    assert [(row["identity"], row["right"]) for row in worst["neighbours"]] == [
        ("bob", False),
        ("bob", False),
        ("bob", False),
        ("ann", True),
        ("ann", True),
    ]
    assert document["by_class"]["bob"]["queries"] == 3
    assert document["curves"]["ranks"]["share"][-1] == 1.0


def test_a_query_among_images_of_one_other_identity_is_a_suspect() -> None:
    names = ["ann", "ann", *["bob"] * 7, "ann"]
    document = evaluated(names, at(0, 2, *range(40, 47), 43.4))
    assert [(row["image"], row["predicted"]) for row in document["suspects"]] == [("/data/ann/9.jpg", "bob")]


def test_a_gallery_of_its_own_is_searched() -> None:
    document = evaluate_embeddings(
        samples_of(["ann"]),
        at(0),
        np.array([0]),
        which="query",
        gallery=samples_of(["bob", "ann"]),
        gallery_embeddings=at(5, 20),
        gallery_identities=np.array([1, 0]),
        cameras=Cameras(np.array([1]), np.array([2, 2])),
    )
    assert document["figures"]["rank1"] == 0.0
    assert document["figures"]["mAP"] == 0.5
    assert [row["identity"] for row in document["worst"][0]["neighbours"]] == ["bob", "ann"]


def test_identities_with_one_image_are_no_queries() -> None:
    document = evaluated(["ann", "bob"], at(0, 1))
    assert document["figures"]["rank1"] is None
    assert document["worst"] == []
