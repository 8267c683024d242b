"""The anchors of SSD: which boxes stand where in an input, which of them fit the boxes of a set, and how well.

"SSD: Single Shot MultiBox Detector", Liu et al. 2016, 2.2; for mobilenetv2_1.0_lite the sizes of SSDLite
("MobileNetV2", Sandler et al. 2018, 6.2), and smaller ones on a finer map before its first; for pyramids those of
"Feature Pyramid Networks" and "Focal Loss for Dense Object Detection" (Lin et al. 2017): three aspect ratios at two
sizes an octave.

Sizes are shares of the input's width and height, so that a network has them at any input size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.samples import Sample
from detect.geometry import object_shares

# What a layer does to the width and to the height of its map.
_HALVE, _SHRINK, _SHRINK_BY_ONE = "halve", "shrink", "shrink by one"

# A box is covered by an anchor that overlaps it by this IoU: training takes it for the object then.
COVERED = 0.5

_FIT_ROUNDS = 50
# Digits to which shares of an image are told apart: objects of equal sizes at different places differ in the last bits.
_DIGITS = 6


@dataclass(frozen=True)
class Level:
    """A map that predicts: anchors (A, 2) at each of its cells, width and height as shares of the input.

    steps: what the layers since the map of the level before have done to its size, the first from the input on.
    stretch: distance of two centres in cells (Liu's code for VGG at 300 px has a fixed number of pixels, which is a
    little more than a cell).
    """

    anchors: np.ndarray
    steps: tuple[str, ...]
    stretch: float = 1.0


def levels(base_network: str, size: int, dataset: str) -> list[Level]:
    """The levels of a network, finest first.

    size: 300 or 512, of the two networks on VGG. dataset: voc or coco, on which published parameters were trained.
    """
    if base_network.endswith("_fpn"):
        octaves = [0.05 * 2.0**k for k in range(5)]
        boxes = [_boxes((s, s * math.sqrt(2)), (1.0, 2.0, 0.5)) for s in octaves]
        return [Level(b, (_HALVE,) * (3 if i == 0 else 1)) for i, b in enumerate(boxes)]
    few: tuple[float, ...] = (1.0, 2.0, 0.5)
    many = (*few, 3.0, 1 / 3)
    halvings: list[tuple[str, ...]] = [(_HALVE,) * 4, *[(_HALVE,)] * 5]
    stretches = [1.0] * 6
    if base_network == "mobilenetv2_1.0_lite":
        # 0.05 and, by the rule for squares between two sizes, 0.07, which Liu et al. have for COCO's small objects.
        sizes, ratios = [0.05, 0.1, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95], [few, *[many] * 6]
        halvings = [(_HALVE,) * 3, *[(_HALVE,)] * 6]
        stretches = [1.0] * 7
    elif base_network == "vgg16_atrous" and size == 300:
        voc, coco = (30, 60, 111, 162, 213, 264, 315), (21, 45, 99, 153, 207, 261, 315)
        sizes = [s / 300 for s in (voc if dataset == "voc" else coco)]
        ratios = [few, many, many, many, few, few]
        halvings = [(_HALVE,) * 3, *[(_HALVE,)] * 3, (_SHRINK,), (_SHRINK,)]
        stretches = [8 * 38 / 300, 16 * 19 / 300, 32 * 10 / 300, 64 * 5 / 300, 1.0, 1.0]
    elif base_network == "vgg16_atrous":
        sizes = [s / 512 for s in (51.2, 76.8, 153.6, 230.4, 307.2, 384.0, 460.8, 537.6)]
        ratios = [few, *[many] * 4, few, few]
        halvings = [(_HALVE,) * 3, *[(_HALVE,)] * 5, (_SHRINK_BY_ONE,)]
        stretches = [1.0] * 7
    else:
        sizes = [s / 512 for s in (51.2, 102.4, 189.4, 276.4, 363.52, 450.6, 492)]
        if base_network == "resnet50_v1" and dataset == "coco":
            sizes = [s / 512 for s in (51.2, 133.12, 215.04, 296.96, 378.88, 460.8, 542.72)]
        ratios = [few, many, many, many, few, few]
    return [
        Level(_boxes((small, math.sqrt(small * large)), shapes, of_second=False), steps, stretch)
        for small, large, shapes, steps, stretch in zip(
            sizes[:-1], sizes[1:], ratios, halvings, stretches, strict=True
        )
    ]


def _boxes(sizes: Sequence[float], ratios: Sequence[float], *, of_second: bool = True) -> np.ndarray:
    """Anchors of a cell: squares of both sizes, then of the first, or of both, those of the other aspect ratios."""
    shapes = [(size, 1.0) for size in sizes]
    shapes += [(size, ratio) for size in (sizes if of_second else sizes[:1]) for ratio in ratios[1:]]
    return np.array([(size * math.sqrt(ratio), size / math.sqrt(ratio)) for size, ratio in shapes])


def map_sizes(plan: Sequence[Level], shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Columns and rows of each level's map for an input of `shape` (width, height)."""
    sizes, size = [], shape
    for level in plan:
        for step in level.steps:
            size = (_after(step, size[0]), _after(step, size[1]))
        sizes.append(size)
    return sizes


def _after(step: str, cells: int) -> int:
    if step == _HALVE:
        return -(-cells // 2)
    kernel, padding = (3, 0) if step == _SHRINK else (4, 1)
    return cells + 2 * padding_for(cells, kernel, padding) - kernel + 1


def padding_for(cells: int, kernel: int, padding: int) -> int:
    """The padding of a convolution that does not halve: the paper's, or more where there would be nothing left."""
    return padding + max(-(-(kernel - 2 * padding - cells) // 2), 0)


def anchor_boxes(plan: Sequence[Level], shape: tuple[int, int]) -> np.ndarray:
    """All anchors (N, 4), float32: centre x, centre y, width, height in pixels of an input of `shape` (width, height).

    The order is finest level first, then row, column and anchor of the cell.
    """
    every = []
    for level, (columns, rows) in zip(plan, map_sizes(plan, shape), strict=True):
        y, x = np.mgrid[:rows, :columns]
        centres = np.stack([(x + 0.5) / columns, (y + 0.5) / rows], -1) * level.stretch
        count = len(level.anchors)
        boxes = np.empty((rows, columns, count, 4))
        boxes[..., :2] = centres[:, :, None]
        boxes[..., 2:] = level.anchors
        every.append(boxes.reshape(-1, 4))
    return (np.concatenate(every) * np.tile(shape, 2)).astype(np.float32)


def corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes (..., 4) of centre and size as x1, y1, x2, y2."""
    half = boxes[..., 2:] / 2
    return np.concatenate([boxes[..., :2] - half, boxes[..., :2] + half], axis=-1)


def fitted(plan: Sequence[Level], samples: Sequence[Sample]) -> list[Level]:
    """The plan with anchors of the sizes that the objects of a training set have.

    A level gets the objects whose size (square root of the area) is nearest to that of its anchors, so that small
    objects stay where cells are small. Its anchors are the means of as many clusters by IoU ("YOLO9000", Redmon &
    Farhadi 2017, 2). Where a level has no more different objects than anchors, the anchors that are left stay.
    """
    boxes = object_shares(samples)
    sizes = (boxes[:, 2:] - boxes[:, :2]).round(_DIGITS).clip(10.0**-_DIGITS)
    if not len(sizes):
        return list(plan)
    typical = np.log([np.sqrt(level.anchors.prod(1)).mean() for level in plan])
    owner = np.abs(np.log(np.sqrt(sizes.prod(1)))[:, None] - typical).argmin(1)
    return [_fitted_level(level, sizes[owner == number]) for number, level in enumerate(plan)]


def _fitted_level(level: Level, sizes: np.ndarray) -> Level:
    different = np.unique(sizes, axis=0)
    count = len(level.anchors)
    if len(different) <= count:
        # Each takes the place of the anchor that is most like it.
        anchors = level.anchors.copy()
        free = np.ones(count, bool)
        for size in different:
            best = np.where(free, iou_of_sizes(size[None], level.anchors)[0], -1.0).argmax()
            anchors[best], free[best] = size, False
    else:
        anchors = cluster(sizes, count)
    return Level(anchors, level.steps, level.stretch)


def cluster(sizes: np.ndarray, count: int) -> np.ndarray:
    """k-means of sizes (n, 2) by IoU: `count` means (count, 2), smallest area first. n > count different sizes."""
    rng = np.random.default_rng(0)
    chosen = [int(rng.integers(len(sizes)))]
    while len(chosen) < count:  # k-means++ (Arthur & Vassilvitskii 2007)
        distance = 1 - iou_of_sizes(sizes, sizes[chosen]).max(1)
        weight = distance**2
        chosen.append(int(rng.choice(len(sizes), p=weight / weight.sum())))
    means = sizes[chosen]
    owner = np.full(len(sizes), -1)
    for _ in range(_FIT_ROUNDS):
        nearest = iou_of_sizes(sizes, means).argmax(1)
        if (nearest == owner).all():
            break
        owner = nearest
        for number in range(count):
            if (owner == number).any():
                means[number] = sizes[owner == number].mean(0)
    return means[np.argsort(means.prod(1))]


def iou_of_sizes(sizes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (n, m) of sizes (n, 2) and (m, 2) that stand on the same centre."""
    both = np.minimum(sizes[:, None], others).prod(-1)
    overlap: np.ndarray = both / (sizes.prod(-1)[:, None] + others.prod(-1) - both)
    return overlap


def best_overlaps(plan: Sequence[Level], shape: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """For boxes (n, 4), x1, y1, x2, y2 as shares of an input of `shape`, the IoU with the anchor that fits best."""
    best = np.zeros(len(boxes))
    low, high = boxes[:, :2], boxes[:, 2:]
    areas = (high - low).prod(1)
    for level, cells in zip(plan, map_sizes(plan, shape), strict=True):
        grid = np.array(cells)
        # Of anchors of one size the one whose centre is nearest overlaps most.
        place = ((low + high) / 2 / level.stretch * grid - 0.5).round().clip(0, grid - 1)
        centre = (place + 0.5) / grid * level.stretch
        for size in level.anchors:
            overlap = np.minimum(high, centre + size / 2) - np.maximum(low, centre - size / 2)
            both = overlap.clip(0).prod(1)
            best = np.maximum(best, both / (areas + size.prod() - both))
    return best
