"""Non-maximum suppression as MXNet's box_nms has it, around ONNX's NonMaxSuppression."""

from __future__ import annotations

import numpy as np

from common.export.onnx.graph import Graph, Tensor


def box_nms(
    graph: Graph,
    rows: Tensor,
    *,
    classes: int,
    overlap: float,
    least_score: float,
    candidates: int,
    name: str,
) -> Tensor:
    """Rows (B, N, 6) of class id, score, x1, y1, x2, y2 to rows (B, N, 6): those that stay, by falling score, then -1.

    candidates: so many of the best take part, all if below 1. overlap: a box of the same class with a greater IoU and a
    higher score removes another one; so does a score of `least_score` or less.
    """
    batch, count, width = rows.shape
    taking_part = min(count, candidates) if candidates > 0 else count
    scores = graph.reshape(graph.slice(rows, 2, 1, 2), [batch, count])
    scores, order = top(graph, scores, taking_part)
    best = gather_rows(graph, rows, order)
    ids = graph.reshape(graph.slice(best, 2, 0, 1), [batch, taking_part])
    boxes = graph.slice(best, 2, 2, 6)
    scores = suppress(graph, ids, scores, boxes, classes=classes, overlap=overlap, least_score=least_score)
    kept = sorted_detections(graph, ids, scores, boxes, taking_part)
    if taking_part == count:
        return kept
    empty = graph.expand(graph.constant(-1, rows.dtype), [batch, count - taking_part, width], rows)
    return graph.concat([kept, empty], 1, name)


def suppress(
    graph: Graph,
    ids: Tensor,
    scores: Tensor,
    boxes: Tensor,
    *,
    classes: int,
    overlap: float,
    least_score: float,
) -> Tensor:
    """The scores (B, K), -1 for what a better box of its class suppresses, and for a score of `least_score` or less.

    ids (B, K), as float32; boxes (B, K, 4).
    """
    batch, count = scores.shape
    # Each class sees the scores of its own boxes alone, which is the operator's way of telling classes apart.
    every = graph.constant(np.arange(classes).reshape(1, classes, 1), ids.dtype)
    own = graph.binary("Equal", graph.reshape(ids, [batch, 1, count]), every, np.bool_)
    by_class = graph.add(
        "Where",
        [own, graph.reshape(scores, [batch, 1, count]), graph.constant(-1, scores.dtype)],
        [batch, classes, count],
        scores.dtype,
    )
    # A box turned inside out has no area; ONNX would turn it back.
    near, far = graph.slice(boxes, 2, 0, 2), graph.slice(boxes, 2, 2, 4)
    chosen = graph.add(
        "NonMaxSuppression",
        [
            graph.concat([near, graph.binary("Max", near, far)], 2),
            by_class,
            graph.constant([count], np.int64),
            graph.constant([overlap], np.float32),
            graph.constant([least_score], np.float32),
        ],
        [0, 3],  # as many rows as boxes stay
        np.int64,
    )
    where = graph.add("Gather", [chosen, graph.constant([0, 2], np.int64)], [0, 2], np.int64, axis=1)
    # A score is found again at its own place, and -1 is left everywhere else.
    stays = graph.add("GatherND", [scores, where], [0], scores.dtype)
    nothing = graph.expand(graph.constant(-1, scores.dtype), scores.shape, scores)
    return graph.add("ScatterND", [nothing, where, stays], scores.shape, scores.dtype)


def sorted_detections(graph: Graph, ids: Tensor, scores: Tensor, boxes: Tensor, count: int) -> Tensor:
    """The `count` best rows (B, count, 6) of class id, score, x1, y1, x2, y2; -1 where the score is negative."""
    batch = scores.shape[0]
    best, order = top(graph, scores, count)
    columns = [graph.reshape(each, [batch, each.shape[1], 1]) for each in (ids, scores)]
    rows = gather_rows(graph, graph.concat([*columns, boxes], 2), order)
    there = graph.binary("Less", best, 0.0, np.bool_)
    there = graph.reshape(there, [batch, count, 1])
    return graph.add("Where", [there, graph.constant(-1, rows.dtype), rows], rows.shape, rows.dtype)


def top(graph: Graph, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` highest scores (B, count) of (B, N), falling, and their places as int64."""
    shape = [scores.shape[0], count]
    number = graph.constant([count], np.int64)
    values, places = graph.add_all(
        "TopK", [scores, number], [(shape, scores.dtype), (shape, np.int64)], axis=1, largest=1, sorted=1
    )
    return values, places


def gather_rows(graph: Graph, rows: Tensor, places: Tensor) -> Tensor:
    """Rows (B, K, D) of (B, N, D) at places (B, K), int64."""
    batch, count, width = rows.shape
    table = graph.reshape(rows, [batch * count, width])
    images = graph.reshape(graph.binary("Mul", graph.images(rows), count), [batch, 1])
    index = graph.binary("Add", places, images)
    return graph.add("Gather", [table, index], [batch, places.shape[1], width], rows.dtype, axis=0)
