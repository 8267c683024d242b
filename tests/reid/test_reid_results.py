"""Retrieval figures and the rows of a set whose identities training does not know."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from common.data.samples import Sample
from reid import metric
from reid.metric import leave_one_out, nearest_others, retrieval_of
from reid.results import ReIDDecoder, ReIDEvaluator


def samples(identities: list[int], names: str = "abcdef") -> list[Sample]:
    return [
        Sample(f"set/{names[i]}/{n}.jpg", 8, 8, np.array([i], np.float32), names[i])
        for n, i in enumerate(identities)
    ]


def reid_document(
    shown: list[Sample], probabilities: np.ndarray, vectors: np.ndarray, names: list[str]
) -> dict[str, Any]:
    evaluator = ReIDEvaluator(ReIDDecoder(names, vectors.shape[1]), "accuracy")
    return evaluator.results(shown, list(np.concatenate([probabilities, vectors], axis=1)))[1]


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 8))


def test_identities_of_training_get_a_classifiers_rows_and_the_retrieval_figures() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]])
    vectors = np.array([[1.0, 0.0], [0.0, 1.0], [0.9, 0.1]])
    found = reid_document(samples([0, 1, 0]), probabilities, vectors, ["a", "b"])
    assert next(iter(found)) == "Accuray"
    assert found["Accuray"] == "1.0"
    assert (found["Rank1"], found["mAP"], found["Queries"]) == (1.0, 1.0, 2)
    assert [row["class"] for row in found["Result"]] == ["a", "b", "a"]


def test_new_identities_get_the_nearest_image_and_the_accuracy_of_its_identity() -> None:
    identities = [2, 3, 2, 3, 2, 4]
    vectors = embeddings(6)
    found = reid_document(samples(identities), np.full((6, 2), 0.5), vectors, ["a", "b"])
    rows = found["Result"]
    assert float(found["Accuray"]) == pytest.approx(np.mean([row["result"] == "True" for row in rows]))
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit.T - 9 * np.eye(6)
    for index, row in enumerate(rows):
        nearest = int(cosines[index].argmax())
        assert row["nearest"] == samples(identities)[nearest].image
        assert row["id"] == identities[nearest]
        assert row["class"] == "abcdef"[identities[nearest]]
        assert row["score"] == pytest.approx(cosines[index].max(), abs=1e-5)
        assert row["result"] == str(row["class"] == row["groundtruth"])
    right = [row["result"] == "True" for row, i in zip(rows, identities, strict=True) if i != 4]
    assert found["Rank1"] == pytest.approx(np.mean(right))
    assert found["Queries"] == 5


def test_a_network_that_gives_all_images_one_embedding_earns_nothing_in_rows_either() -> None:
    others, cosines = nearest_others(np.ones((4, 3)), np.array([0, 0, 1, 1]))
    np.testing.assert_array_equal(others // 2, [1, 1, 0, 0])
    np.testing.assert_allclose(cosines, 1.0)


def test_a_single_image_has_no_nearest() -> None:
    found = reid_document(samples([3]), np.full((1, 2), 0.5), embeddings(1), ["a", "b"])
    (row,) = found["Result"]
    assert (row["class"], row["id"], row["nearest"], row["result"]) == (None, -1, None, "False")
    assert (found["Rank1"], found["mAP"], found["Queries"]) == (None, None, 0)


def test_large_sets_have_one_query_an_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    identities, vectors = np.arange(40) % 5, embeddings(40)
    assert retrieval_of(vectors, identities) == leave_one_out(vectors, identities)
    monkeypatch.setattr(metric, "MOST_QUERIES", 39)
    assert retrieval_of(vectors, identities).queries == 5


def market(names: list[str]) -> list[Sample]:
    people = sorted({name.split("/")[1].split("_")[0] for name in names})
    found = []
    for name in names:
        person = name.split("/")[1].split("_")[0]
        array = np.array([people.index(person)], np.float32)
        found.append(Sample(f"/set/{name}_000001_01.jpg", 64, 128, array, person))
    return found


def test_market1501_ranks_queries_by_the_gallery_without_their_own_camera() -> None:
    samples = market(
        ["query/0002_c1s1", "query/0003_c1s1", "bounding_box_test/0002_c1s1", "bounding_box_test/0002_c2s1",
         "bounding_box_test/0003_c2s1", "bounding_box_test/0000_c2s1"]
    )  # fmt: skip
    degrees = np.radians([0, 90, 0, 30, 120, 91])
    embeddings = np.stack([np.cos(degrees), np.sin(degrees)], axis=1)
    decoder = ReIDDecoder([], 2)
    evaluation, document = ReIDEvaluator(decoder, "rank1").results(samples, list(embeddings))
    rows = document["Result"]
    assert [row["image"] for row in rows] == [samples[0].image, samples[1].image]
    # The image at 0 degrees is of the query's own camera; the distractor at 91 is nearer than the right one at 120.
    assert [row["nearest"] for row in rows] == [samples[3].image, samples[5].image]
    assert [row["result"] for row in rows] == ["True", "False"]
    assert (document["Rank1"], document["Queries"], document["Accuray"]) == (0.5, 2, "0.5")
    assert document["mAP"] == pytest.approx((1 + 1 / 2) / 2)
    assert evaluation.value == 0.5
    told = ReIDEvaluator(decoder, "rank1").document(samples, list(embeddings), "test")
    assert told["figures"]["rank1"] == 0.5
    assert told["figures"]["images"] == 2
