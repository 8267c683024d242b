"""COCO's twelve figures of detections, vectorised over a whole data set.

"Microsoft COCO: Common Objects in Context", Lin et al. 2014, as `pycocotools.cocoeval` computes them for boxes: AP is
the mean precision at the recalls 0, 0.01 … 1, over the IoUs 0.5, 0.55 … 0.95 and over the classes that have objects; AR
the greatest recall with so many detections of an image and class, over the same IoUs and classes. Small objects are
those below 32 x 32 pixels, large ones those above 96 x 96.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

FIGURES = (
    "AP",
    "AP50",
    "AP75",
    "AP_small",
    "AP_medium",
    "AP_large",
    "AR1",
    "AR10",
    "AR100",
    "AR_small",
    "AR_medium",
    "AR_large",
)
_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST_DETECTIONS = (1, 10, 100)
# Least and greatest area of all objects, small, medium and large ones, both inclusive.
_AREAS = np.array([(0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10)], np.float64)
# As many pairs of boxes, or of states, as stay in tens of megabytes.
_PAIRS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class _Boxes:
    """Boxes of a set, ordered by group (an image and class): group (n,), x, y, width and height (4, n), area (n,)."""

    groups: np.ndarray
    columns: np.ndarray
    areas: np.ndarray

    @classmethod
    def of(cls, groups: np.ndarray, corners: np.ndarray, areas: np.ndarray | None = None) -> _Boxes:
        """From corners (n, 4): x1, y1, x2, y2."""
        columns = np.ascontiguousarray(corners.T)
        columns[2:] -= columns[:2]
        return cls(groups, columns, columns[2] * columns[3] if areas is None else areas)


class CocoMetric:
    """Collects the objects and detections of images, and computes COCO's figures."""

    def __init__(self, class_count: int) -> None:
        self.class_count = class_count
        self._truth: list[np.ndarray] = []
        self._crowd: list[np.ndarray] = []
        self._areas: list[np.ndarray] = []
        self._detections: list[np.ndarray] = []

    def update(
        self,
        truth: np.ndarray,
        detections: np.ndarray,
        crowd: np.ndarray | None = None,
        areas: np.ndarray | None = None,
    ) -> None:
        """Add one image.

        truth (n, 5): class id, x1, y1, x2, y2; detections (m, 6): class id, score, x1, y1, x2, y2, in the same pixels
        and in any order (of equal scores the earlier one counts first, also across images). Rows with an id below 0 are
        padding. crowd (n,) bool: regions that are neither objects nor background; a detection that lies in one by the
        IoU asked for (as a share of the detection) counts as nothing. areas (n,): of the objects, where it is not that
        of the box. Raises ValueError for other shapes, and for an id of class_count or more.
        """
        truth, detections = np.array(truth, np.float64), np.array(detections, np.float64)
        for name, array, columns in (("truth", truth, 5), ("detections", detections, 6)):
            if array.ndim != 2 or array.shape[1] != columns:
                raise ValueError(f"{name} has shape {array.shape}; (n, {columns}) is wanted")
            if (highest := array[:, 0].max(initial=0.0)) >= self.class_count:
                raise ValueError(f"the class id {highest:g} is given; the highest is {self.class_count - 1}")
        known = truth[:, 0] >= 0
        real = truth[known]
        self._truth.append(real)
        self._crowd.append(np.zeros(len(real), bool) if crowd is None else np.array(crowd, bool)[known])
        sides = real[:, 3:] - real[:, 1:3]
        self._areas.append(sides.prod(axis=1) if areas is None else np.array(areas, np.float64)[known])
        self._detections.append(_best_of_each_class(detections[detections[:, 0] >= 0]))

    def result(self) -> dict[str, float]:
        """The figures by name; nan where the set has no object that they speak of."""
        truth_groups, truth = self._ordered(self._truth, 5)
        order = np.argsort(truth_groups, kind="stable")
        crowd = np.concatenate([np.zeros(0, bool), *self._crowd])[order]
        areas = np.concatenate([np.zeros(0), *self._areas])[order]
        objects = _Boxes.of(truth_groups[order], truth[order, 1:], areas)
        groups, rows = self._ordered(self._detections, 6)
        order = np.argsort(groups, kind="stable")
        detections = _Boxes.of(groups[order], rows[order, 2:])
        scores, places = rows[order, 1], _places(groups[order])

        outside = (areas < _AREAS[:, :1]) | (areas > _AREAS[:, 1:])
        ignored = outside | crowd
        matched, matched_ignored = _match(detections, objects, crowd, ignored)
        beyond = (detections.areas < _AREAS[:, :1]) | (detections.areas > _AREAS[:, 1:])
        # (areas, IoUs, detections): an unmatched detection counts only where it has the size that is asked for.
        right = matched & ~matched_ignored
        wrong = ~matched & ~beyond[:, None]

        by_class = np.argsort(detections.groups % self.class_count, kind="stable")
        by_class = by_class[np.argsort(-scores[by_class], kind="stable")]
        classes, object_classes = detections.groups % self.class_count, objects.groups % self.class_count
        precision = np.full((self.class_count, len(_AREAS), len(_IOUS)), np.nan)
        recall = np.full_like(precision, np.nan)
        few_recall = np.full((self.class_count, 2, len(_IOUS)), np.nan)
        for index in np.unique(object_classes):
            counts = (~ignored[:, object_classes == index]).sum(axis=1)
            ranked = by_class[classes[by_class] == index]
            for size in np.flatnonzero(counts):
                hits, misses = right[size][:, ranked], wrong[size][:, ranked]
                precision[index, size] = _mean_precision(hits, misses, int(counts[size]))
                recall[index, size] = hits.sum(axis=1) / counts[size]
            if counts[0]:
                for few in (0, 1):
                    first = ranked[places[ranked] < _MOST_DETECTIONS[few]]
                    few_recall[index, few] = right[0][:, first].sum(axis=1) / counts[0]
        values = [
            precision[:, 0],
            precision[:, 0, 0],
            precision[:, 0, 5],
            *(precision[:, size] for size in (1, 2, 3)),
            few_recall[:, 0],
            few_recall[:, 1],
            *(recall[:, size] for size in (0, 1, 2, 3)),
        ]
        return {name: _mean(value) for name, value in zip(FIGURES, values, strict=True)}

    def _ordered(self, arrays: list[np.ndarray], columns: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of all images, and the group of each: image number times classes plus class."""
        rows = np.concatenate([np.empty((0, columns)), *arrays])
        images = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
        return images * self.class_count + rows[:, 0].astype(np.int64), rows


def _best_of_each_class(rows: np.ndarray) -> np.ndarray:
    """The detections that count, by falling score within each class; a score that is no number comes last."""
    rows = rows[np.argsort(-rows[:, 1], kind="stable")]
    by_class = np.argsort(rows[:, 0], kind="stable")
    return rows[by_class[_places(rows[by_class, 0]) < _MOST_DETECTIONS[-1]]]


def _places(groups: np.ndarray) -> np.ndarray:
    """How many rows of the same group stand before each row of ordered groups (n,)."""
    starts = np.flatnonzero(np.diff(groups, prepend=-1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))


def _match(
    detections: _Boxes, objects: _Boxes, crowd: np.ndarray, ignored: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection has an object, and whether that is one to ignore: both (areas, IoUs, detections).

    Detections of a group choose one after the other, all groups at once: the free object of the greatest IoU (the last
    of equals) among those that count, else among the ignored; a crowd is always free.
    """
    shape = len(_AREAS), len(_IOUS), len(detections.groups)
    matched, matched_ignored = np.zeros(shape, bool), np.zeros(shape, bool)
    row, candidate, iou = _overlapping(detections, objects, crowd)
    # Detections without any candidate are never matched; the others of a group have turns, 0, 1 …
    rows, starts, counts = np.unique(row, return_index=True, return_counts=True)
    turns = _places(detections.groups[rows])
    taken = np.zeros((*shape[:2], len(objects.groups)), bool)
    for turn in range(int(turns.max(initial=-1)) + 1):
        now = np.flatnonzero(turns == turn)
        now = now[np.argsort(counts[now], kind="stable")]
        while len(now):
            # Rows of about as many candidates together, so that little is padding.
            width = int(counts[now[0]]) * 2
            size = int(np.searchsorted(counts[now], width, "right"))
            size = max(1, min(size, _PAIRS_AT_A_TIME // (width * 40)))
            part, now = now[:size], now[size:]
            width = int(counts[part].max())
            pairs = starts[part, None] + np.arange(width)
            real = np.arange(width) < counts[part, None]
            pairs = np.where(real, pairs, starts[part, None])
            which, overlap = candidate[pairs], np.where(real, iou[pairs], -1.0)
            free = ~taken[:, :, which] | crowd[which]
            fits = free & (overlap >= np.minimum(_IOUS, 1 - 1e-10)[:, None, None])
            counting = fits & ~ignored[:, None, which]
            eligible = np.where(counting.any(axis=3, keepdims=True), counting, fits)
            value = np.where(eligible, overlap, -1.0)[..., ::-1]
            choice = width - 1 - value.argmax(axis=3)
            chosen = which[np.arange(len(part)), choice]
            area, threshold, place = np.nonzero(eligible.any(axis=3))
            index = chosen[area, threshold, place]
            taken[area, threshold, index] = True
            matched[area, threshold, rows[part[place]]] = True
            matched_ignored[area, threshold, rows[part[place]]] = ignored[area, index]
    return matched, matched_ignored


def _overlapping(
    detections: _Boxes, objects: _Boxes, crowd: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of a detection and an object of its group that overlap by the least IoU asked for: indices and IoU, (p,)
    each, by detection and then by object."""
    first = np.searchsorted(objects.groups, detections.groups, "left")
    counts = np.searchsorted(objects.groups, detections.groups, "right") - first
    ends = np.cumsum(counts)
    parts = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    start = 0
    while start < len(counts):
        before = ends[start - 1] if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + _PAIRS_AT_A_TIME, "right")))
        part = counts[start:end]
        row = np.repeat(np.arange(start, end), part)
        other = np.arange(len(row)) - np.repeat(ends[start:end] - part - before, part) + first[row]
        iou = _iou(detections, row, objects, other, crowd)
        near = iou >= _IOUS[0]
        parts.append((row[near], other[near], iou[near]))
        start = end
    row, other, iou = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return row, other, iou


def _iou(
    detections: _Boxes, row: np.ndarray, objects: _Boxes, other: np.ndarray, crowd: np.ndarray
) -> np.ndarray:
    """IoU of pairs; with a crowd the share of the detection that lies in it. As pycocotools computes it, to the bit."""
    x, y, width, height = detections.columns[:, row]
    other_x, other_y, other_width, other_height = objects.columns[:, other]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        across = np.minimum(width + x, other_width + other_x) - np.maximum(x, other_x)
        down = np.minimum(height + y, other_height + other_y) - np.maximum(y, other_y)
        shared = np.where((across > 0) & (down > 0), across * down, 0.0)
        area = width * height
        return shared / np.where(crowd[other], area, area + other_width * other_height - shared)


def _mean_precision(right: np.ndarray, wrong: np.ndarray, objects: int) -> np.ndarray:
    """Mean precision (IoUs,) at COCO's recalls. right, wrong (IoUs, n): detections by falling score."""
    hits, misses = right.cumsum(axis=1), wrong.cumsum(axis=1)
    recall, precision = hits / objects, hits / (hits + misses + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    precision = np.concatenate([precision, np.zeros((len(precision), 1))], axis=1)
    reached = [np.searchsorted(row, _RECALLS, "left") for row in recall]
    return np.take_along_axis(precision, np.array(reached), axis=1).mean(axis=1)


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
