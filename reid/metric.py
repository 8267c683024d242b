"""How well embeddings retrieve images of the same identity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

# Rows of queries that are compared at a time: what keeps memory bounded for large sets.
_CHUNK = 256

#: The largest set of which every image is a query: time grows with the square of the number of images.
MOST_QUERIES = 5000


@dataclass(frozen=True)
class RetrievalMetric:
    """rank1, rank5, rank10: share of the queries that have an image of their identity among the first one, five or ten.

    mean_average_precision: mean over the queries of the mean precision at the places of their identity's
    images. queries: those that have an image of their identity in the gallery; nan without any. places,
    precisions (Q,): of each query, the place (from 1) of the first image of its identity and the mean precision; nan
    for those that have none.
    """

    rank1: float
    rank5: float
    rank10: float
    mean_average_precision: float
    queries: int
    places: np.ndarray = field(compare=False)
    precisions: np.ndarray = field(compare=False)


@dataclass(frozen=True)
class Cameras:
    """Which camera took the queries (Q,) and the gallery (G,), by number."""

    query: np.ndarray
    gallery: np.ndarray


#: Identities that are nobody's, and that no query finds: images that count for nothing, and such as count as wrong ones
#: (Market-1501 names them -1 and 0000).
JUNK, DISTRACTOR = -1, -2


def retrieval(
    query: np.ndarray,
    query_identity: np.ndarray,
    gallery: np.ndarray,
    gallery_identity: np.ndarray,
    cameras: Cameras | None = None,
) -> RetrievalMetric:
    """Rank a gallery (G, D) by cosine for each of the queries (Q, D); identities are (Q,) and (G,) ids.

    Queries without an image of their identity in the gallery are left out. Of equally similar images (to six
    decimals) those of other identities come first, so that a network that gives all images one embedding earns
    nothing. cameras: with them, as Market-1501 has it ("Scalable Person Re-identification: A Benchmark", Zheng et
    al. 2015), images of the query's identity from its own camera are left out. Images of JUNK never count, those of
    DISTRACTOR are found wrongly.
    """
    return _retrieval(query, query_identity, gallery, gallery_identity, cameras, leave_out_self=False)


def leave_one_out(embeddings: np.ndarray, identities: np.ndarray) -> RetrievalMetric:
    """Each image of a set (N, D) as a query against all the others; identities (N,). See `retrieval`.

    Images that are the only one of their identity are no queries, but belong to the gallery.
    """
    return _retrieval(embeddings, identities, embeddings, identities, None, leave_out_self=True)


def nearest_others(embeddings: np.ndarray, identities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each image of a set (N, D) the index of the most similar other one (N,), and their cosine (N,).

    -1 and 0 where there is no other. Equally similar images stand as in `retrieval`.
    """
    unit = _unit(embeddings)
    nearest, cosines = np.full(len(unit), -1), np.zeros(len(unit))
    if len(unit) < 2:
        return nearest, cosines
    for start in range(0, len(unit), _CHUNK):
        own = np.arange(start, min(start + _CHUNK, len(unit)))
        similarity = np.round(unit[own] @ unit.T, 6)
        similarity[own - start, own] = -np.inf
        # A step far below what is rounded away decides between equals.
        match = identities[own, None] == identities[None, :]
        nearest[own] = (similarity - 1e-9 * match).argmax(axis=1)
        cosines[own] = similarity[own - start, nearest[own]]
    return nearest, cosines


def query_gallery_split(identities: np.ndarray, seed: int = 0) -> np.ndarray:
    """A fixed choice of queries (N,) bool: one image of each identity that has more than one."""
    rng = np.random.default_rng(seed)
    queries = np.zeros(len(identities), bool)
    for identity in np.unique(identities):
        members = np.flatnonzero(identities == identity)
        if len(members) > 1:
            queries[rng.choice(members)] = True
    return queries


def retrieval_of(embeddings: np.ndarray, identities: np.ndarray) -> RetrievalMetric:
    """How well the images of a set (N, D) find each other; identities (N,).

    Each image is a query against all the others; of a set above MOST_QUERIES, one image of each identity is,
    against the rest.
    """
    query = queries_of(identities)
    if query.all():
        return leave_one_out(embeddings, identities)
    return retrieval(embeddings[query], identities[query], embeddings[~query], identities[~query])


def queries_of(identities: np.ndarray) -> np.ndarray:
    """Which images of a set (N,) are queries, bool; see `retrieval_of`."""
    if len(identities) <= MOST_QUERIES:
        return np.ones(len(identities), bool)
    return query_gallery_split(identities)


def ranking(
    query: np.ndarray,
    query_identity: np.ndarray,
    gallery: np.ndarray,
    gallery_identity: np.ndarray,
    cameras: Cameras | None = None,
    *,
    leave_out_self: bool,
) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """For some queries at a time: which they are, and of the gallery, by falling likeness, indices, cosines and whether
    each is of the query's identity, (q, G) each; cosine -inf: the image is left out for this query. As `retrieval`."""
    unit_query, unit_gallery = _unit(query), _unit(gallery)
    for start in range(0, len(unit_query), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(unit_query)))
        similarity = np.round(unit_query[rows] @ unit_gallery.T, 6)
        match = (query_identity[rows, None] == gallery_identity[None, :]) & (gallery_identity >= 0)
        left_out = np.broadcast_to(gallery_identity == JUNK, match.shape).copy()
        if cameras is not None:
            left_out |= match & (cameras.query[rows, None] == cameras.gallery[None, :])
        if leave_out_self:
            own = np.arange(rows.start, rows.stop)
            left_out[own - start, own] = True
        similarity[left_out] = -np.inf
        match &= ~left_out
        order = np.lexsort((match, -similarity))
        yield (
            rows,
            order,
            np.take_along_axis(similarity, order, axis=1),
            np.take_along_axis(match, order, axis=1),
        )


def _retrieval(
    query: np.ndarray,
    query_identity: np.ndarray,
    gallery: np.ndarray,
    gallery_identity: np.ndarray,
    cameras: Cameras | None,
    *,
    leave_out_self: bool,
) -> RetrievalMetric:
    first, precision = np.full(len(query), np.nan), np.full(len(query), np.nan)
    for rows, _, _, hits in ranking(
        query, query_identity, gallery, gallery_identity, cameras, leave_out_self=leave_out_self
    ):
        having = np.flatnonzero(hits.any(axis=1))
        hits = hits[having]
        places = np.arange(1, hits.shape[1] + 1)
        first[having + rows.start] = hits.argmax(axis=1) + 1.0
        precision[having + rows.start] = (hits * (hits.cumsum(axis=1) / places)).sum(axis=1) / hits.sum(
            axis=1
        )
    counted = ~np.isnan(first)
    places, precisions = first[counted], precision[counted]
    if not len(places):
        nan = float("nan")
        return RetrievalMetric(nan, nan, nan, nan, 0, first, precision)
    return RetrievalMetric(
        rank1=float((places <= 1).mean()),
        rank5=float((places <= 5).mean()),
        rank10=float((places <= 10).mean()),
        mean_average_precision=float(precisions.mean()),
        queries=len(places),
        places=first,
        precisions=precision,
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of length 1 in float64; rows that are zero or no numbers become zero, like to nothing."""
    values = np.nan_to_num(np.asarray(rows, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
