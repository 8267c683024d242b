"""Which anchors of SSD answer for which objects (Liu et al. 2016, 2.2), and what they are to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.loading.batches import Layout, Shape

# Offsets are predicted in these units: of an anchor's size, and of the logarithm of the sizes' ratio.
CENTRE_UNIT, SIZE_UNIT = 0.1, 0.2

# Beyond those that overlap it enough, an object gets no anchor that overlaps it by less than so much of its best.
_LEAST_SHARE = 0.5

# An anchor answers for an object that it overlaps by this IoU. The paper's 0.5 (Liu et al. 2016, 2.2) gives an object
# four anchors at 300 px, which is little to learn from where a set has a hundred images; 0.4 gives it ten.
MATCH_IOU = 0.4

# An object has so many anchors even where fewer overlap it by that, as in "Bridging the Gap Between Anchor-based and
# Anchor-free Detection via Adaptive Training Sample Selection" (Zhang et al. 2020): a small one has two otherwise, and
# beside others with ten it is hardly learnt (benchmarks/QUALITY.md).
LEAST_ANCHORS = 9

# An anchor of which so much lies in a place of which nothing is known is no background.
_UNKNOWN_SHARE = 0.5


@dataclass(frozen=True)
class Negatives:
    """Which anchors may be background: the others that hold no object are in no loss.

    min_size: square root of the anchor's area, as a share of the input's. region: x1, y1, x2, y2 as shares of the
    input, in which the centre lies; None: anywhere.
    """

    min_size: float = 0.0
    region: Sequence[float] | None = None

    def allowed(self, anchors: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
        """Whether anchors (N, 4), centre and size in pixels of an input of `shape`, may be (N,)."""
        sizes = np.sqrt(anchors[:, 2:].prod(1) / np.prod(shape))
        allowed = sizes >= self.min_size
        if self.region is not None:
            x1, y1, x2, y2 = self.region
            centre = anchors[:, :2] / shape
            allowed &= ((centre >= (x1, y1)) & (centre <= (x2, y2))).all(1)
        return allowed


@dataclass(frozen=True, eq=False)
class SSDTargets:
    """Targets of boxes; see `common.loading.batches.Targets`.

    anchors (N, 4): centre and size. anchor_corners (N, 4): x1, y1, x2, y2. allowed (N,): see `Negatives`. offsets:
    boxes are offsets from the anchors, else corners; see `box_targets`.
    """

    anchors: np.ndarray
    anchor_corners: np.ndarray
    allowed: np.ndarray
    offsets: bool

    def layout(self, shape: Shape, given: Layout) -> Layout:
        """Arrays of one image: what `class_targets` and `box_targets` give."""
        count = len(self.anchors)
        return {"target_class": ((count,), "float32"), "target_box": ((count, 4), "float32")}

    def __call__(self, shape: Shape, row: dict[str, np.ndarray]) -> None:
        """Fill them."""
        boxes = row["boxes"][None]
        owner = assign(boxes, self.anchor_corners, MATCH_IOU, LEAST_ANCHORS)
        classes = class_targets(boxes, owner, self.allowed, self.anchor_corners, shape)
        row["target_class"][:] = classes[0]
        row["target_box"][:] = box_targets(boxes, owner, self.anchors if self.offsets else None)[0]


def assign(boxes: np.ndarray, anchor_corners: np.ndarray, iou_thresh: float, least: int = 1) -> np.ndarray:
    """The row of the object that each anchor answers for (B, N), -1 for none.

    boxes (B, M, 5): x1, y1, x2, y2 in input pixels and class id; rows with a negative id are no objects.
    anchor_corners (N, 4): x1, y1, x2, y2. First every object gets an anchor of its own, the pair with the highest IoU
    of all coming first; then an anchor that is left belongs to the object that it overlaps most, if by `iou_thresh` or
    as much as any anchor does. Objects that have fewer than `least` anchors so far get the best of those that are left,
    up to that number, as far as these overlap them at least half as much as their best.
    """
    owner = np.full((len(boxes), len(anchor_corners)), -1, np.int64)
    for image, rows in enumerate(boxes):
        objects = np.flatnonzero(rows[:, 4] >= 0)
        if len(objects):
            iou = iou_matrix(rows[objects, :4], anchor_corners)
            number = _assign_image(iou, iou_thresh, least)
            owner[image] = np.where(number >= 0, objects[number], -1)
    return owner


def _assign_image(iou: np.ndarray, iou_thresh: float, least: int) -> np.ndarray:
    """As `assign`, for an image: from iou (n, N) the object of each anchor (N,), 0 to n - 1 or -1."""
    most = iou.max(axis=1)
    # Of thousands of anchors a few hundred come into question.
    enough = np.where(most > 0, np.minimum(iou_thresh, _LEAST_SHARE * most), np.inf)
    columns = np.flatnonzero((iou >= enough[:, None]).any(axis=0))
    near = iou[:, columns]
    pairs = _pairs(near, most)
    if len(pairs) < (most > 0).sum() or any(near[pair] < enough[pair[0]] for pair in pairs):
        # All that overlap an object well have gone to others.
        columns, near = np.arange(iou.shape[1]), iou
        pairs = _pairs(near, most)
    owner = np.full(iou.shape[1], -1)
    owner[columns] = _owners(near, most, pairs, iou_thresh, least)
    return owner


def _owners(
    iou: np.ndarray, most: np.ndarray, pairs: list[tuple[int, int]], iou_thresh: float, least: int
) -> np.ndarray:
    """The object of each anchor (N,), given the largest IoU of each object (n,) and the `_pairs` of their own."""
    best, highest = iou.argmax(axis=0), iou.max(axis=0)
    taken = (highest >= iou_thresh) | ((highest >= most[best]) & (highest > 0))
    owner = np.where(taken, best, -1)
    for number, anchor in pairs:
        owner[anchor] = number
    missing = least - np.bincount(owner[owner >= 0], minlength=len(iou))
    few = np.flatnonzero((missing > 0) & (most > 0))
    if len(few):
        _add(owner, iou, few, missing, _LEAST_SHARE * most)
    return owner


def _add(
    owner: np.ndarray, iou: np.ndarray, few: np.ndarray, missing: np.ndarray, from_iou: np.ndarray
) -> None:
    """Give each of the objects `few` up to `missing` anchors that have none yet and overlap it by `from_iou`."""
    place, anchor = np.nonzero((iou[few] >= from_iou[few, None]) & (owner < 0))
    number = few[place]
    overlap = iou[number, anchor]
    order = np.lexsort((-overlap, number))
    number, anchor, overlap = number[order], anchor[order], overlap[order]
    rank = np.arange(len(number)) - np.searchsorted(number, number)
    kept = np.flatnonzero(rank < missing[number])
    # Where several want the same anchor, the last that is written has it: the one that overlaps it most.
    kept = kept[np.argsort(overlap[kept], kind="stable")]
    owner[anchor[kept]] = number[kept]


def _pairs(iou: np.ndarray, most: np.ndarray) -> list[tuple[int, int]]:
    """Object and anchor, each at most once, by falling IoU; objects that overlap no free anchor have none."""
    iou, most = iou.copy(), most.copy()
    at = iou.argmax(axis=1)
    pairs = []
    for _ in range(len(iou)):
        number = int(most.argmax())
        if most[number] <= 0:
            break
        anchor = int(at[number])
        pairs.append((number, anchor))
        iou[:, anchor] = most[number] = -1.0
        again = (at == anchor) & (most > 0)
        if again.any():
            at[again], most[again] = iou[again].argmax(axis=1), iou[again].max(axis=1)
    return pairs


def iou_matrix(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """IoU (n, N), float32, of boxes (n, 4) and others (N, 4): x1, y1, x2, y2; 0 where neither has an area."""
    rows, columns = _sides(boxes), _sides(others)
    both = _common(rows, columns)
    areas = _areas(rows)[:, None] + _areas(columns)
    areas -= both
    np.maximum(areas, np.finfo(np.float32).tiny, out=areas)
    overlap: np.ndarray = np.divide(both, areas, out=both)
    return overlap


def intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Area (n, N), float32, that boxes (n, 4) and others (N, 4) have in common."""
    return _common(_sides(boxes), _sides(others))


def _sides(boxes: np.ndarray) -> np.ndarray:
    """x1, y1, x2, y2 (4, n), each in one piece of memory, of boxes (n, 4): of thousands of them that saves half."""
    return np.ascontiguousarray(np.asarray(boxes, np.float32).T)


def _areas(sides: np.ndarray) -> np.ndarray:
    areas: np.ndarray = (sides[2] - sides[0]) * (sides[3] - sides[1])
    return areas


def _common(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """As `intersections`, from the sides of both (4, n) and (4, N)."""
    of_row = rows[..., None]
    width = np.minimum(of_row[2], columns[2])
    width -= np.maximum(of_row[0], columns[0])
    height = np.minimum(of_row[3], columns[3])
    height -= np.maximum(of_row[1], columns[1])
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    width *= height
    return width


def class_targets(
    boxes: np.ndarray,
    owner: np.ndarray,
    allowed: np.ndarray,
    anchor_corners: np.ndarray,
    shape: tuple[int, int],
) -> np.ndarray:
    """What each anchor is to be (B, N): class id + 1, 0 for background, -1 for neither, which is in no loss.

    boxes, owner: see `assign`. Rows of boxes with a negative id and an area are places of which nothing is known: an
    anchor of which half of what the input of `shape` shows lies in one is not background. allowed (N,): see Negatives.
    """
    ids = np.take_along_axis(boxes[..., 4], np.maximum(owner, 0), axis=1)
    targets = np.where(owner >= 0, ids + 1, np.where(allowed, 0, -1)).astype(np.float32)
    places = (boxes[..., 4] < 0) & (boxes[..., 2:4] > boxes[..., :2]).all(axis=-1)
    if places.any():
        shown = np.clip(anchor_corners, 0, np.tile(shape, 2))
        areas = (shown[:, 2:] - shown[:, :2]).prod(1)
        for image in np.flatnonzero(places.any(axis=1)).tolist():
            inside = intersections(boxes[image, places[image], :4], shown).max(axis=0)
            targets[image, (inside >= _UNKNOWN_SHARE * areas) & (owner[image] < 0)] = -1
    return targets


def box_targets(boxes: np.ndarray, owner: np.ndarray, anchors: np.ndarray | None) -> np.ndarray:
    """The object that each anchor answers for (B, N, 4), float32; 0 where it answers for none.

    boxes, owner: see `assign`. anchors (N, 4), centre and size: objects are offsets from them, in the units that are
    predicted; None: x1, y1, x2, y2 in input pixels.
    """
    targets = np.zeros((*owner.shape, 4), np.float32)
    image, anchor = np.nonzero(owner >= 0)
    objects = boxes[image, owner[image, anchor], :4]
    if anchors is not None:
        objects = encode(objects, anchors[anchor])
    targets[image, anchor] = objects
    return targets


def encode(objects: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Offsets (n, 4) from anchors (n, 4: centre and size) to objects (n, 4: x1, y1, x2, y2)."""
    sizes = np.maximum(objects[:, 2:] - objects[:, :2], 1e-3)
    centres = (objects[:, :2] + objects[:, 2:]) / 2
    return np.concatenate(
        [
            (centres - anchors[:, :2]) / (anchors[:, 2:] * CENTRE_UNIT),
            np.log(sizes / anchors[:, 2:]) / SIZE_UNIT,
        ],
        axis=1,
    )
