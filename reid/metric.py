"""How well embeddings retrieve images of the same identity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Rows of queries that are compared at a time: what keeps memory bounded for large sets.
_CHUNK = 256


@dataclass(frozen=True)
class RetrievalMetric:
    """rank1, rank5: share of the queries that have an image of their identity among the first one, or five.

    mean_average_precision: mean over the queries of the mean precision at the places of their identity's
    images. queries: those that have an image of their identity in the gallery; nan without any.
    """

    rank1: float
    rank5: float
    mean_average_precision: float
    queries: int


def retrieval(
    query: np.ndarray, query_identity: np.ndarray, gallery: np.ndarray, gallery_identity: np.ndarray
) -> RetrievalMetric:
    """Rank a gallery (G, D) by cosine for each of the queries (Q, D); identities are (Q,) and (G,) ids.

    Queries without an image of their identity in the gallery are left out. Of equally similar images (to six
    decimals) those of other identities come first, so that a network that gives all images one embedding
    earns nothing.
    """
    return _retrieval(query, query_identity, gallery, gallery_identity, leave_out_self=False)


def leave_one_out(embeddings: np.ndarray, identities: np.ndarray) -> RetrievalMetric:
    """Each image of a set (N, D) as a query against all the others; identities (N,). See `retrieval`.

    Images that are the only one of their identity are no queries, but belong to the gallery.
    """
    return _retrieval(embeddings, identities, embeddings, identities, leave_out_self=True)


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


def _retrieval(
    query: np.ndarray,
    query_identity: np.ndarray,
    gallery: np.ndarray,
    gallery_identity: np.ndarray,
    *,
    leave_out_self: bool,
) -> RetrievalMetric:
    unit_query, unit_gallery = _unit(query), _unit(gallery)
    first, precision = [np.zeros(0)], [np.zeros(0)]
    for start in range(0, len(unit_query), _CHUNK):
        rows = slice(start, min(start + _CHUNK, len(unit_query)))
        similarity = np.round(unit_query[rows] @ unit_gallery.T, 6)
        match = query_identity[rows, None] == gallery_identity[None, :]
        if leave_out_self:
            own = np.arange(rows.start, rows.stop)
            similarity[own - start, own], match[own - start, own] = -np.inf, False
        order = np.lexsort((match, -similarity))
        hits = np.take_along_axis(match, order, axis=1)
        hits = hits[hits.any(axis=1)]
        places = np.arange(1, hits.shape[1] + 1)
        first.append(hits.argmax(axis=1) + 1.0)
        precision.append((hits * (hits.cumsum(axis=1) / places)).sum(axis=1) / hits.sum(axis=1))
    places, precisions = np.concatenate(first), np.concatenate(precision)
    if not len(places):
        return RetrievalMetric(float("nan"), float("nan"), float("nan"), 0)
    return RetrievalMetric(
        rank1=float((places <= 1).mean()),
        rank5=float((places <= 5).mean()),
        mean_average_precision=float(precisions.mean()),
        queries=len(places),
    )


def _unit(rows: np.ndarray) -> np.ndarray:
    """Rows (N, D) of length 1 in float64; rows that are zero or no numbers become zero, like to nothing."""
    values = np.nan_to_num(np.asarray(rows, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
