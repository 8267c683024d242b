"""Mean average precision of detections (PASCAL VOC), vectorised over a whole data set.

"The PASCAL Visual Object Classes (VOC) Challenge", Everingham et al. 2010: detections of a class in order of
falling score, over all images; one is right if the object of its class that it overlaps most has at least the
IoU asked for and was not taken by a detection before it. Boxes are continuous (a width is x2 - x1, without
VOC's + 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METHODS = ("voc", "voc07")
# As many boxes as leave all the columns in a processor's cache.
_BOXES_AT_A_TIME = 1 << 14


@dataclass(frozen=True)
class Matches:
    """The detections of a set (m,), one class after the other, by falling score within each.

    ends (classes + 1,): where the detections of a class begin, and those of the class before end. images (m,): numbers
    in the order of the updates. rows (m, 5): score, x1, y1, x2, y2. right (m,): whether each is the first to hit an
    object. objects (classes,): how many there are.
    """

    ends: np.ndarray
    images: np.ndarray
    rows: np.ndarray
    right: np.ndarray
    objects: np.ndarray


class MeanAveragePrecision:
    """Collects the objects and detections of images, and computes AP of each class and their mean.

    `iou_thresh`: IoU from which a detection counts as right. `method`: "voc" is the area under the curve of
    precision (made monotonic) over recall, "voc07" the mean of the precision at the recalls 0, 0.1 … 1.
    """

    def __init__(self, class_count: int, iou_thresh: float = 0.5, method: str = "voc") -> None:
        if method not in METHODS:
            raise ValueError(f"method is {method!r}; allowed: {', '.join(METHODS)}")
        self.class_count = class_count
        self.iou_thresh = iou_thresh
        self.method = method
        self.reset()

    def reset(self) -> None:
        """Forget all images."""
        self._truth: list[np.ndarray] = []
        self._detections: list[np.ndarray] = []

    def update(self, truth: np.ndarray, detections: np.ndarray) -> None:
        """Add one image.

        `truth` is (n, 5): class id, x1, y1, x2, y2; `detections` is (m, 6): class id, score, x1, y1, x2, y2, in the
        same pixels and in any order (of equal scores the earlier one counts first, also across images). Rows with an
        id below 0 are padding, but those of `truth` with an area: detections in these places count for nothing (see
        `excused`). Raises ValueError for other shapes.
        """
        for name, array, columns in (("truth", truth, 5), ("detections", detections, 6)):
            if array.ndim != 2 or array.shape[1] != columns:
                raise ValueError(f"{name} has shape {array.shape}; (n, {columns}) is wanted")
        truth, detections = np.array(truth, np.float64), np.array(detections, np.float64)
        self._truth.append(truth[truth[:, 0] >= 0])
        self._detections.append(detections[~excused(truth, detections, self.iou_thresh)])

    def result(self) -> tuple[np.ndarray, float]:
        """AP of each class (class_count,), nan where the set has no object of it, and the mean of the others.

        The mean is nan if no class has objects. A detection with a score that is no number counts last. Raises
        ValueError for an id of class_count or more.
        """
        matches = self.matches()
        area = _area_under_curve if self.method == "voc" else _eleven_points
        average_precision = np.full(self.class_count, np.nan)
        for index in np.flatnonzero(matches.objects):
            of_class = matches.right[matches.ends[index] : matches.ends[index + 1]]
            average_precision[index] = area(of_class, int(matches.objects[index]))
        known = average_precision[matches.objects > 0]
        return average_precision, float(known.mean()) if known.size else float("nan")

    def matches(self) -> Matches:
        """Which detections are right, by class and falling score. Raises ValueError for too high an id."""
        truth_ids, truth_images, truth_boxes = _flatten(self._truth, 5, self.class_count)
        ids, images, rows = _flatten(self._detections, 6, self.class_count)
        best, overlap = _best_objects(
            ids + images * self.class_count,
            rows[:, 1:],
            truth_ids + truth_images * self.class_count,
            truth_boxes,
        )
        best[overlap < self.iou_thresh] = -1
        ends = np.cumsum(np.bincount(ids, minlength=self.class_count))
        order = np.argsort(ids.astype(np.min_scalar_type(self.class_count)), kind="stable")
        right = np.zeros(len(ids), bool)
        starts = np.concatenate([[0], ends]).astype(np.int64)
        for start, end in zip(starts, ends, strict=False):
            of_class = order[start:end]
            order[start:end] = of_class[np.argsort(-rows[of_class, 0], kind="stable")]
            right[start:end] = _first_matches(best[order[start:end]], len(truth_ids))
        objects = np.bincount(truth_ids, minlength=self.class_count)
        return Matches(starts, images[order], rows[order], right, objects)


def excused(truth: np.ndarray, detections: np.ndarray, iou_thresh: float) -> np.ndarray:
    """Which detections (m,) of an image find what counts for nothing, and are neither right nor wrong.

    truth (n, 5), detections (m, 6) as in `MeanAveragePrecision.update`; ids below 0 as in `common.data.boxes`. They
    are those whose best object of their class is an `uncounted` one, by an IoU of at least iou_thresh (as VOC has
    "difficult" ones), and those that find no object and have at least the share iou_thresh in an UNKNOWN place.
    """
    none = np.zeros(len(detections), bool)
    special = truth[(truth[:, 0] < 0) & (truth[:, 3:5] > truth[:, 1:3]).all(axis=1)]
    if not len(special) or not len(detections):
        return none
    boxes = detections[:, 2:6]
    of_class = detections[:, :1] == truth[:, 0]
    best = np.where(of_class, _pairs(boxes, truth[:, 1:])[0], 0.0).max(axis=1, initial=0.0)
    iou, share = _pairs(boxes, special[:, 1:])
    of_class = detections[:, :1] == -2 - special[:, 0]
    uncounted = np.where(of_class, iou, 0.0).max(axis=1, initial=0.0)
    unknown = np.where(special[:, 0] == -1, share, 0.0).max(axis=1, initial=0.0)
    taken = (uncounted >= iou_thresh) & (uncounted > best)
    return taken | ((unknown >= iou_thresh) & (best < iou_thresh))


def _pairs(boxes: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """IoU of each of boxes (m, 4) with each of others (n, 4), and the share of the box in the other, both (m, n)."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        both = np.maximum(high - low, 0.0).prod(axis=2)
        own, other = (np.maximum(b[:, 2:] - b[:, :2], 0.0).prod(axis=1) for b in (boxes, others))
        return np.nan_to_num(both / (own[:, None] + other - both)), np.nan_to_num(both / own[:, None])


def _flatten(
    arrays: list[np.ndarray], columns: int, class_count: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of all images without padding: class ids (n,), image numbers (n,), the rest (n, columns - 1)."""
    rows = np.concatenate([np.empty((0, columns)), *arrays])
    highest = rows[:, 0].max(initial=0.0)
    if highest >= class_count:
        raise ValueError(f"the class id {highest:g} is given; the highest is {class_count - 1}")
    images = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    real = rows[:, 0] >= 0
    if not real.all():
        rows, images = rows[real], images[real]
    return rows[:, 0].astype(np.int64), images, rows[:, 1:]


def _best_objects(
    keys: np.ndarray, boxes: np.ndarray, truth_keys: np.ndarray, truth_boxes: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """For each box the object with the same key (image and class) of the greatest IoU, the first of equals.

    Returns its row in `truth_boxes` (m,), -1 where no object overlaps, and the IoU (m,).
    """
    best, overlap = np.full(len(keys), -1), np.zeros(len(keys))
    if not len(truth_keys):
        return best, overlap
    order = np.argsort(truth_keys, kind="stable")
    columns = np.ascontiguousarray(truth_boxes[order].T)
    sorted_keys = truth_keys[order]
    starts = np.flatnonzero(np.diff(sorted_keys, prepend=-1))
    place = np.searchsorted(sorted_keys[starts], keys, "right") - 1
    first = starts[place]
    counts = np.diff(starts, append=len(order))[place]
    comparable = np.flatnonzero(sorted_keys[first] == keys)
    for start in range(0, len(comparable), _BOXES_AT_A_TIME):
        rows = comparable[start : start + _BOXES_AT_A_TIME]
        # With the boxes of most objects in front, the boxes that have a k-th object are a slice.
        most = counts[rows].max()
        missing = (most - counts[rows]).astype(np.min_scalar_type(most))
        ranked = np.argsort(missing, kind="stable")
        rows = rows[ranked]
        having = np.searchsorted(missing[ranked], np.arange(most, 0, -1, dtype=missing.dtype), "left")
        mine = np.ascontiguousarray(boxes[rows].T)
        greatest, chosen = np.zeros(len(rows)), np.full(len(rows), -1)
        objects = first[rows]
        for k, end in enumerate(having.tolist()):
            iou = _iou(mine[:, :end], columns[:, objects[:end] + k])
            better = iou > greatest[:end]
            np.copyto(greatest[:end], iou, where=better)
            np.copyto(chosen[:end], objects[:end] + k, where=better)
        best[rows] = np.where(chosen >= 0, order[chosen], -1)
        overlap[rows] = greatest
    return best, overlap


def _iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU of paired boxes (4, n); nan or infinite only where numbers of the boxes are."""
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        width = np.minimum(first[2], second[2]) - np.maximum(first[0], second[0])
        height = np.minimum(first[3], second[3]) - np.maximum(first[1], second[1])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        areas = (first[2] - first[0]) * (first[3] - first[1]) + (second[2] - second[0]) * (
            second[3] - second[1]
        )
        return intersection / (areas - intersection)


def _first_matches(objects: np.ndarray, count: int) -> np.ndarray:
    """Whether each entry of `objects` (n,), rows below `count` or -1 for none, is the first with its row."""
    matched = np.flatnonzero(objects >= 0)
    first = np.full(count, -1)
    # Of repeated indices the last assignment stays: from the back to the front that is the first.
    first[objects[matched[::-1]]] = matched[::-1]
    right = np.zeros(len(objects), bool)
    right[first[first >= 0]] = True
    return right


def _area_under_curve(right: np.ndarray, objects: int) -> float:
    """Sum over the steps of recall of the greatest precision at that recall or above."""
    hits = np.flatnonzero(right)
    precision = np.arange(1, len(hits) + 1) / (hits + 1)
    return float(np.maximum.accumulate(precision[::-1]).sum() / objects)


def _eleven_points(right: np.ndarray, objects: int) -> float:
    """Mean over the recalls k / 10 of the greatest precision at that recall or above.

    Recalls are compared as whole numbers: in floating point 3 of 10 objects would miss the recall "0.1 * 3".
    """
    hits = np.flatnonzero(right)
    precision = np.arange(1, len(hits) + 1) / (hits + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # The first number of hits, at least one, that reaches each recall.
    needed = np.maximum(-(-np.arange(11) * objects // 10), 1)
    reached = needed[needed <= len(hits)]
    return float(envelope[reached - 1].sum() / 11)
