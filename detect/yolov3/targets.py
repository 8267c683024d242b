"""Which predictions of YOLOv3 answer for which objects ("YOLOv3: An Incremental Improvement", Redmon, Farhadi 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.loading.batches import Layout, Shape

# Anchor boxes in pixels (width, height) of the three scales, and the scales' strides, finest first: those of the
# paper, which the published parameters were trained with.
ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
STRIDES = (8, 16, 32)
ANCHOR_COUNT = sum(map(len, ANCHORS))


@dataclass(frozen=True)
class Grid:
    """All predictions of one input size, in the network's order (coarsest scale first, then row, column, anchor).

    cells (N, 2): column and row of the cell; anchors (N, 2): width and height in pixels; strides (N, 1): pixels.
    starts: index of the first prediction of each scale; columns: cells in a row, by scale (coarsest first).
    """

    cells: np.ndarray
    anchors: np.ndarray
    strides: np.ndarray
    starts: tuple[int, ...]
    columns: tuple[int, ...]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class YOLOv3Targets:
    """Targets of boxes, by `assign`; see `common.loading.batches.Targets`.

    Arrays, with P places, one an anchor and row of boxes in turn: positive (P,), the index of the prediction that
    answers for the object, where weight (P,) is 1; target (P, 4) and target_class (P,) are the object's box and class
    id. objects (N,): 1 where a prediction answers for an object. known (N,): see `known_places`. Where weight is 0,
    positive and target_class are 0.
    """

    extra_iou: float

    def layout(self, shape: Shape, given: Layout) -> Layout:
        """Arrays of one image."""
        (rows, _), _ = given["boxes"]
        places, predictions = rows * ANCHOR_COUNT, len(grid(shape).cells)
        return {
            "positive": ((places,), "float32"),
            "weight": ((places,), "float32"),
            "target": ((places, 4), "float32"),
            "target_class": ((places,), "float32"),
            "objects": ((predictions,), "float32"),
            "known": ((predictions,), "float32"),
        }

    def __call__(self, shape: Shape, row: dict[str, np.ndarray]) -> None:
        """Fill them."""
        boxes, layout = row["boxes"], grid(shape)
        row["known"][:] = known_places(boxes[None], layout)[0]
        row["target"][:] = -1
        for name in ("positive", "weight", "target_class", "objects"):
            row[name][:] = 0
        used = boxes[: int(np.flatnonzero(boxes[:, 4] >= 0).max(initial=-1)) + 1]
        if not len(used):
            return
        (positive,), (owner,) = assign(used[None], layout, self.extra_iou)
        places = np.flatnonzero(positive >= 0)
        row["positive"][places] = positive[places]
        row["weight"][places] = 1
        row["target"][: len(owner)] = used[owner, :4]
        row["target_class"][places] = used[owner[places], 4]
        row["objects"][positive[places]] = 1


@lru_cache(maxsize=32)
def grid(shape: tuple[int, int]) -> Grid:
    """The predictions for input of `shape` (width, height); each stage halves its input, rounding up."""
    cells, anchors, strides, starts, columns, rows = [], [], [], [], [], []
    start = 0
    for scale_anchors, stride in zip(ANCHORS[::-1], STRIDES[::-1], strict=True):
        width, height = -(-shape[0] // stride), -(-shape[1] // stride)
        y, x = np.mgrid[:height, :width]
        cell = np.stack([x.ravel(), y.ravel()], 1).astype(np.float32)
        count = len(scale_anchors)
        cells.append(np.repeat(cell, count, 0))
        anchors.append(np.tile(np.asarray(scale_anchors, np.float32), (len(cell), 1)))
        strides.append(np.full((len(cell) * count, 1), stride, np.float32))
        starts.append(start)
        columns.append(width)
        rows.append(height)
        start += len(cell) * count
    return Grid(
        np.concatenate(cells),
        np.concatenate(anchors),
        np.concatenate(strides),
        tuple(starts),
        tuple(columns),
        tuple(rows),
    )


def known_places(boxes: np.ndarray, layout: Grid) -> np.ndarray:
    """Which predictions of a batch (B, N) may be trained to be empty: 1, or 0 for those of cells that touch a place of
    which nothing is known.

    boxes (B, M, 5) as in `assign`; such places are the rows with a negative id and an area.
    """
    known = np.ones((len(boxes), len(layout.cells)), np.float32)
    places = (boxes[..., 4] < 0) & (boxes[..., 2:4] > boxes[..., :2]).all(axis=-1)
    for image, row in np.argwhere(places).tolist():
        low = layout.cells * layout.strides
        touched = (low < boxes[image, row, 2:4]) & (low + layout.strides > boxes[image, row, :2])
        known[image, touched.all(axis=1)] = 0.0
    return known


def assign(boxes: np.ndarray, layout: Grid, extra_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Positives of a batch: for every object the anchors that answer for it.

    boxes (B, M, 5): x1, y1, x2, y2 in input pixels and class id; rows with a negative id are no objects. The cell is
    the one that holds the object's centre; the anchor is the one of all nine with the highest IoU when both stand on
    the same centre (the paper), and beside it every other whose IoU so measured exceeds `extra_iou`.

    Returns index (B, 9 M) into the predictions, for every anchor of every object in turn, -1 where it does not answer,
    and owner (B, 9 M), the object's row in `boxes`. Most places are unused, but all batches have as many: the memory of
    a graph is planned for a shape.
    """
    batch, rows = boxes.shape[:2]
    sizes = np.maximum(boxes[..., 2:4] - boxes[..., :2], 1e-3)
    centres = (boxes[..., :2] + boxes[..., 2:4]) / 2
    iou = _overlaps(sizes)
    chosen = iou > extra_iou
    np.put_along_axis(chosen, iou.argmax(-1)[..., None], True, axis=-1)
    chosen &= boxes[..., 4:5] >= 0
    scale, within = np.divmod(np.arange(iou.shape[-1]), len(ANCHORS[0]))
    places = np.asarray(STRIDES[::-1])[scale]
    column = np.clip(centres[..., :1] // places, 0, np.asarray(layout.columns)[scale] - 1).astype(np.int64)
    row = np.clip(centres[..., 1:] // places, 0, np.asarray(layout.rows)[scale] - 1).astype(np.int64)
    within_scale = (row * np.asarray(layout.columns)[scale] + column) * len(ANCHORS[0]) + within
    index = np.where(chosen, np.asarray(layout.starts)[scale] + within_scale, -1).reshape(batch, -1)
    owner = np.broadcast_to(np.repeat(np.arange(rows), iou.shape[-1]), index.shape)
    return index, owner


def best_overlaps(sizes: np.ndarray) -> np.ndarray:
    """For sizes (n, 2) in input pixels, the IoU with the anchor that fits best when both stand on the same centre."""
    best = np.zeros(len(sizes))
    for size in _sizes_of_anchors():  # one by one: a large set has millions of objects
        np.maximum(best, _overlap(sizes, size), out=best)
    return best


def _overlaps(sizes: np.ndarray) -> np.ndarray:
    """IoU (..., 9) of sizes (..., 2) with all anchors, coarsest scale first, on the same centre."""
    return _overlap(sizes[..., None, :], _sizes_of_anchors())


def _overlap(sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU of sizes (..., 2) and others (..., 2) on the same centre."""
    both = np.minimum(sizes, others).prod(-1)
    overlap: np.ndarray = both / (sizes.prod(-1) + others.prod(-1) - both)
    return overlap


def _sizes_of_anchors() -> np.ndarray:
    """Width and height of all anchors (9, 2), coarsest scale first."""
    return np.asarray(ANCHORS[::-1], np.float32).reshape(-1, 2)
