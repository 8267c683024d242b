"""Retrieval figures equal those of a plain implementation, also with ties and lone images."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.metric import leave_one_out, query_gallery_split, retrieval


def plain_leave_one_out(embeddings: np.ndarray, identities: np.ndarray) -> tuple[float, float, float, int]:
    """Query by query, image by image, with sorted()."""
    rank1, rank5, precisions = [], [], []
    for q, own in enumerate(embeddings):
        gallery = []
        for g, other in enumerate(embeddings):
            if g != q:
                cosine = float(own @ other) / (math.sqrt(float(own @ own)) * math.sqrt(float(other @ other)))
                gallery.append((-round(cosine, 6), bool(identities[g] == identities[q])))
        hits = [hit for _, hit in sorted(gallery)]  # False sorts before True: other identities first
        if not any(hits):
            continue
        rank1.append(hits[0])
        rank5.append(any(hits[:5]))
        found, sum_of_precisions = 0, 0.0
        for place, hit in enumerate(hits, start=1):
            if hit:
                found += 1
                sum_of_precisions += found / place
        precisions.append(sum_of_precisions / found)
    if not precisions:
        return math.nan, math.nan, math.nan, 0
    return float(np.mean(rank1)), float(np.mean(rank5)), float(np.mean(precisions)), len(precisions)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 8), st.booleans())
def test_leave_one_out_equals_a_plain_implementation(
    seed: int, count: int, identities: int, coarse: bool
) -> None:
    rng = np.random.default_rng(seed)
    # Coarse embeddings bring ties.
    embeddings = rng.integers(1, 3, (count, 2)).astype(float) if coarse else rng.normal(size=(count, 5))
    names = rng.integers(0, identities, count)
    found = leave_one_out(embeddings, names)
    expected = plain_leave_one_out(embeddings, names)
    figures = (found.rank1, found.rank5, found.mean_average_precision, found.queries)
    np.testing.assert_allclose(figures, expected, rtol=1e-9)


def test_more_queries_than_are_compared_at_a_time_change_nothing() -> None:
    rng = np.random.default_rng(0)
    embeddings, names = rng.normal(size=(600, 6)), rng.integers(0, 50, 600)
    embeddings += rng.normal(size=(50, 6))[names]
    found, expected = leave_one_out(embeddings, names), plain_leave_one_out(embeddings, names)
    np.testing.assert_allclose(
        (found.rank1, found.rank5, found.mean_average_precision, found.queries), expected, rtol=1e-9
    )


def test_lone_images_are_no_queries_but_stand_in_the_gallery() -> None:
    embeddings = np.array([[1.0, 0.0], [0.8, 0.6], [1.0, 0.1]])
    with_lone = leave_one_out(embeddings, np.array([0, 0, 1]))
    assert (with_lone.queries, with_lone.rank1, with_lone.rank5) == (2, 0.0, 1.0)
    assert with_lone.mean_average_precision == 0.5
    assert leave_one_out(embeddings, np.array([0, 1, 2])).queries == 0


def test_a_network_that_gives_all_images_one_embedding_earns_nothing() -> None:
    names = np.repeat(np.arange(10), 10)
    rng = np.random.default_rng(0)
    collapsed = leave_one_out(1 + 1e-9 * rng.normal(size=(100, 8)), names)
    assert collapsed.rank1 == collapsed.rank5 == 0
    broken = leave_one_out(np.full((100, 8), np.nan), names)
    assert broken.rank1 == 0


def test_queries_and_gallery_may_be_apart() -> None:
    gallery, names = np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]), np.array([7, 8, 9])
    found = retrieval(np.array([[0.9, 0.1], [0.0, 1.0], [1.0, 1.0]]), np.array([7, 7, 5]), gallery, names)
    assert (found.queries, found.rank1, found.rank5) == (2, 0.5, 1.0)
    assert found.mean_average_precision == np.mean([1.0, 1 / 3])  # one tie, and it counts against


def test_the_split_has_one_query_of_each_identity_that_has_company() -> None:
    names = np.array([0, 0, 0, 1, 2, 2])
    queries = query_gallery_split(names)
    assert queries.sum() == 2
    assert sorted(names[queries].tolist()) == [0, 2]
    assert np.array_equal(queries, query_gallery_split(names))
