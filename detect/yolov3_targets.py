"""Which predictions of YOLOv3 answer for which objects ("YOLOv3: An Incremental Improvement", Redmon, Farhadi 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Anchor boxes in pixels (width, height) of the three scales, and the scales' strides, finest first: those of the
# paper, which the published parameters were trained with.
ANCHORS = (
    ((10.0, 13.0), (16.0, 30.0), (33.0, 23.0)),
    ((30.0, 61.0), (62.0, 45.0), (59.0, 119.0)),
    ((116.0, 90.0), (156.0, 198.0), (373.0, 326.0)),
)
STRIDES = (8, 16, 32)

# Places for positives come in such multiples: for every new shape the memory of a graph is planned and taken anew,
# which costs time and leaves holes in it.
_POSITIVES = 64


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


def assign(boxes: np.ndarray, layout: Grid, extra_iou: float) -> tuple[np.ndarray, np.ndarray]:
    """Positives of a batch: for every object the anchors that answer for it.

    boxes (B, M, 5): x1, y1, x2, y2 in input pixels and class id; rows with a negative id are no objects. The cell is
    the one that holds the object's centre; the anchor is the one of all nine with the highest IoU when both stand on
    the same centre (the paper), and beside it every other whose IoU so measured exceeds `extra_iou`.

    Returns index (B, P) into the predictions, -1 where unused, and owner (B, P), the object's row in `boxes`. P is the
    largest number of positives in an image of this batch, rounded up to a multiple of 64.
    """
    batch = len(boxes)
    sizes = np.maximum(boxes[..., 2:4] - boxes[..., :2], 1e-3)
    centres = (boxes[..., :2] + boxes[..., 2:4]) / 2
    flat = np.asarray(ANCHORS[::-1], np.float32).reshape(-1, 2)
    overlap = np.minimum(sizes[:, :, None], flat).prod(-1)
    iou = overlap / (sizes.prod(-1)[..., None] + flat.prod(-1) - overlap)
    chosen = iou > extra_iou
    np.put_along_axis(chosen, iou.argmax(-1)[..., None], True, axis=-1)
    chosen &= boxes[..., 4:5] >= 0
    image, owner, anchor = np.nonzero(chosen)
    scale, within = anchor // 3, anchor % 3
    stride = np.asarray(STRIDES[::-1])[scale]
    columns, rows = np.asarray(layout.columns)[scale], np.asarray(layout.rows)[scale]
    column = np.clip((centres[image, owner, 0] / stride).astype(np.int64), 0, columns - 1)
    row = np.clip((centres[image, owner, 1] / stride).astype(np.int64), 0, rows - 1)
    flat_index = np.asarray(layout.starts)[scale] + (row * columns + column) * 3 + within
    counts = np.bincount(image, minlength=batch)
    width = max(-(-int(counts.max(initial=0)) // _POSITIVES), 1) * _POSITIVES
    place = np.arange(len(image)) - np.repeat(np.cumsum(counts) - counts, counts)
    index = np.full((batch, width), -1, np.int64)
    owners = np.zeros((batch, width), np.int64)
    index[image, place] = flat_index
    owners[image, place] = owner
    return index, owners
