"""Training targets of CenterNet ("Objects as Points", Zhou et al. 2019, section 3), an image at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.loading.batches import Layout, Shape

SCALES = (2, 4, 8, 16, 32)

# The loss of what is no centre has the weight (1 - target)^4: 1e-8 here. Nearer to 1 it would be a centre in 16 bits.
_NOTHING_KNOWN = 0.99


def check_scale(scale: float) -> int:
    """The scale (input size / map size) as a whole number. Raises ValueError if no network has it."""
    if scale not in SCALES:
        raise ValueError(f"scale is {scale:g}; it must be one of {', '.join(map(str, SCALES))}")
    return int(scale)


def map_shape(shape: tuple[int, int], scale: float = 4) -> tuple[int, int]:
    """Width and height of the network's maps for input of `shape` (width, height).

    The backbone's five halvings round up, so that a map covers its input up to the next multiple of 32 pixels.
    """
    cells = 32 // check_scale(scale)
    return -(-shape[0] // 32) * cells, -(-shape[1] // 32) * cells


@dataclass(frozen=True)
class CenterNetTargets:
    """Targets of boxes; see `common.loading.batches.Targets`. max_classes: the most classes that an image shows."""

    max_classes: int
    scale: float = 4

    def layout(self, shape: Shape, given: Layout) -> Layout:
        """See `target_layout`."""
        (max_objects, _), _ = given["boxes"]
        return target_layout(self.max_classes, shape, max_objects, self.scale)

    def __call__(self, shape: Shape, row: dict[str, np.ndarray]) -> None:
        """See `fill_targets`."""
        fill_targets(row["boxes"], row, self.scale)


def target_layout(max_classes: int, shape: tuple[int, int], max_objects: int, scale: float = 4) -> Layout:
    """Arrays of one image that `fill_targets` fills, by name: shape and type.

    max_classes, max_objects: the most of them an image shows (0 counts as 1). shape: width and height of the input.
    """
    width, height = map_shape(shape, scale)
    objects, classes = max(max_objects, 1), max(max_classes, 1)
    return {
        "heatmap": ((1 + classes, height, width), "float32"),
        "classes": ((classes,), "float32"),
        "cells": ((objects,), "float32"),
        "sizes": ((objects, 2), "float32"),
        "offsets": ((objects, 2), "float32"),
        "weights": ((objects,), "float32"),
    }


def fill_targets(boxes: np.ndarray, out: Mapping[str, np.ndarray], scale: float = 4) -> None:
    """Fill `out`, arrays as `target_layout` describes them, for the objects of one image.

    boxes (n, 5): x1, y1, x2, y2 in input pixels and class id; rows with a negative id, and what is without area
    inside the input, are no objects. A row with a negative id and an area is a place of which nothing is known:
    all classes have just less than 1 there, which the loss takes neither for a centre nor for background.
    heatmap: 1 at an object's centre, falling off as a Gaussian around it: the first map is that of all classes that
    the image does not show, the others are those of `classes`, whose unused rows are -1 (of the 80 maps of a set, most
    images have three to themselves). cells: index of the centre's cell (row *
    columns + column) with weights 1; there sizes (width, height) and offsets (x, y of the centre within the cell),
    in cells. Unused rows are 0. Of several objects whose centres share a cell the last one gives size and offset,
    as in GluonCV.

    Raises ValueError for more objects or classes than `out` has rows.
    """
    heatmap, weights = out["heatmap"], out["weights"]
    _, height, width = heatmap.shape
    for name in ("heatmap", "cells", "sizes", "offsets", "weights"):
        out[name][...] = 0
    out["classes"][...] = -1

    boxes = np.asarray(boxes, np.float32)
    corners = np.clip(boxes[:, :4] / scale, 0, (width, height, width, height)).astype(np.float32)
    sizes = corners[:, 2:] - corners[:, :2]
    inside = (sizes > 0).all(axis=1)
    for x1, y1, x2, y2 in corners[inside & (boxes[:, 4] < 0)].tolist():
        heatmap[:, int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)] = _NOTHING_KNOWN
    valid = inside & (boxes[:, 4] >= 0)
    corners, sizes, ids = corners[valid], sizes[valid], boxes[valid, 4].astype(np.intp)
    if not len(ids):
        return
    shown, ranks = np.unique(ids, return_inverse=True)
    if len(shown) > len(out["classes"]):
        raise ValueError(f"{len(shown)} classes in an image; there is room for {len(out['classes'])}")
    out["classes"][: len(shown)] = shown
    centres = (corners[:, :2] + corners[:, 2:]) / 2
    places = np.minimum(centres.astype(np.intp), (width - 1, height - 1))
    _draw(heatmap, 1 + ranks, places, gaussian_radius(np.ceil(sizes)))

    cells = places[:, 1] * width + places[:, 0]
    # The first of the reversed order is the last object of each cell.
    last = np.sort(len(cells) - 1 - np.unique(cells[::-1], return_index=True)[1])
    if len(last) > len(weights):
        raise ValueError(f"{len(last)} objects in an image; there is room for {len(weights)}")
    rows = slice(0, len(last))
    out["cells"][rows] = cells[last]
    out["sizes"][rows] = sizes[last]
    out["offsets"][rows] = (centres - places)[last]
    weights[rows] = 1


def maps_of_classes(classes: np.ndarray, count: int) -> tuple[np.ndarray, int]:
    """Which map of its image's heatmap each of `count` classes has (B, count), and how many maps are to be kept.

    classes (B, n): those of the images, as `fill_targets` leaves them. 2, 3, 5, 9, ... maps are kept, so that batches
    come in few shapes: each has a graph of its own. Raises ValueError for an id beyond `count`.
    """
    if classes.max() >= count:
        raise ValueError(f"class id {classes.max():g} of an object; {count} classes go up to {count - 1}")
    maps = np.zeros((len(classes), count), np.float32)
    images, places = np.nonzero(classes >= 0)
    maps[images, classes[images, places].astype(np.intp)] = 1 + places
    most = 1
    while most < places.max(initial=0) + 1:
        most *= 2
    return maps, 1 + min(most, classes.shape[1])


def gaussian_radius(sizes: np.ndarray, min_overlap: float = 0.7) -> np.ndarray:
    """Radius in cells (n,), rounded down, of the Gaussian of objects of `sizes` (n, 2).

    Corners moved by less leave an IoU of at least `min_overlap`: "CornerNet", Law & Deng 2018, 3.2, with the
    roots as CornerNet's, CenterNet's and GluonCV's code have them (not divided by 2a), which published
    parameters are trained with.
    """
    # Products of two sides need more digits than float32 has.
    total, area = sizes.sum(axis=1, dtype=np.float64), sizes.prod(axis=1, dtype=np.float64)
    roots = []
    for a, b, c in (
        (1.0, total, area * (1 - min_overlap) / (1 + min_overlap)),
        (4.0, 2 * total, (1 - min_overlap) * area),
        (4 * min_overlap, -2 * min_overlap * total, (min_overlap - 1) * area),
    ):
        roots.append((b + np.sqrt(b * b - 4 * a * c)) / 2)
    return np.maximum(np.min(roots, axis=0), 0).astype(np.intp)


@lru_cache(maxsize=1024)
def _profile(radius: int) -> np.ndarray:
    """The Gaussian along one axis (2 * radius + 1,), read-only; that of the plane is its outer product."""
    distance = np.arange(-radius, radius + 1)
    values = np.exp(-(distance**2) / (2 * ((2 * radius + 1) / 6) ** 2)).astype(np.float32)
    values.flags.writeable = False
    return values


def _draw(heatmap: np.ndarray, maps: np.ndarray, places: np.ndarray, radii: np.ndarray) -> None:
    """Draw each object's Gaussian into its map; where several of a map meet the highest counts."""
    _, height, width = heatmap.shape
    for number, (x, y), radius in zip(maps.tolist(), places.tolist(), radii.tolist(), strict=True):
        profile = _profile(radius)
        left, right = max(x - radius, 0), min(x + radius + 1, width)
        top, bottom = max(y - radius, 0), min(y + radius + 1, height)
        across = profile[left - x + radius : right - x + radius]
        down = profile[top - y + radius : bottom - y + radius]
        window = heatmap[number, top:bottom, left:right]
        np.maximum(window, down[:, None] * across, out=window)
