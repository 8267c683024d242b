"""Where detections are right and where not: by class, by score, by kind of error, and the images that show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.boxes import UNKNOWN, objects_of
from common.data.samples import Sample
from common.evaluation.curves import ScoreCurve, mean_or_nan
from common.evaluation.document import MOST_WORST, evaluation_document
from detect.coco_metric import CocoMetric
from detect.geometry import clip_detections
from detect.metric import MeanAveragePrecision, excused

#: Kinds of errors. `missed`: an object without a detection; the others are detections: a second one of an object, one
#: that is near an object of its class but not near enough, one on an object of another class, and one where there is
#: nothing ("TIDE: A General Toolbox for Identifying Object Detection Errors", Bolya et al. 2020).
ERRORS = ("missed", "twice", "wrong_place", "wrong_class", "background")
# A detection is near an object from this IoU on.
_NEAR = 0.1
# A label is a suspect where a detection of at least this score, and of the best threshold, contradicts it.
_SURE = 0.5


@dataclass(frozen=True)
class _Verdicts:
    """What is said of one image's detections (m,) and objects (n,).

    kinds: of ERRORS or "right"; detected: whether an object has a detection; partner (m,): the object that a detection
    is held against, -1 for none.
    """

    kinds: list[str]
    detected: np.ndarray
    partner: np.ndarray


def evaluate_detections(
    samples: Sequence[Sample],
    predictions: Sequence[np.ndarray],
    classes: Sequence[str],
    *,
    which: str,
    iou_thresh: float = 0.5,
    method: str = "voc",
    score_thresh: float = 0.3,
    score: float | None = None,
) -> dict[str, Any]:
    """The document of a set (`common.evaluation.document`).

    predictions: for each sample (m, 6): class id, score, x1, y1, x2, y2 in pixels of its image. iou_thresh, method: of
    the AP, as the result file has it. score_thresh: what counts where there is no best threshold, as nothing is right.
    score: what counts whatever the best threshold is.
    """
    average = MeanAveragePrecision(len(classes), iou_thresh, method)
    coco = CocoMetric(len(classes))
    clipped = [
        clip_detections(prediction, sample.width, sample.height)
        for sample, prediction in zip(samples, predictions, strict=True)
    ]
    for sample, rows in zip(samples, clipped, strict=True):
        average.update(sample.annotation, rows)
        regions = sample.annotation[sample.annotation[:, 0] >= UNKNOWN]
        truth, crowd = _with_crowds(sample.annotation)
        coco.update(truth, rows[~excused(regions, rows, iou_thresh)], crowd)
    precisions, mean = average.result()
    matches = average.matches()
    overall = ScoreCurve.of(matches.rows[:, 0], matches.right, int(matches.objects.sum()))
    best = overall.best()
    threshold = score if score is not None else score_thresh if best is None else best
    by_class: dict[str, dict[str, Any]] = {}
    curves: dict[str, Any] = {}
    for index, name in enumerate(classes):
        part = slice(matches.ends[index], matches.ends[index + 1])
        curve = ScoreCurve.of(matches.rows[part, 0], matches.right[part], int(matches.objects[index]))
        class_best = curve.best()
        precision, recall, f1 = curve.at(class_best)
        by_class[name] = {
            "objects": curve.count,
            "AP": precisions[index],
            "best_thresh": class_best,
            "precision": precision,
            "recall": recall,
            "f1": f1,
        }
        curves[name] = curve.thinned()
    # Scores are float32 where they come from: compared as such, as in the result file.
    kept = [
        rows[
            (rows[:, 1].astype(np.float32) >= np.float32(threshold))
            & ~excused(sample.annotation, rows, iou_thresh)
        ]
        for sample, rows in zip(samples, clipped, strict=True)
    ]
    verdicts = [
        _judge(objects_of(sample.annotation), rows, iou_thresh)
        for sample, rows in zip(samples, kept, strict=True)
    ]
    errors = [_errors(verdict) for verdict in verdicts]
    # By falling number of errors: so are the images that a cell of the confusion matrix and the worst name.
    ranked = np.argsort([-sum(error.values()) for error in errors], kind="stable").tolist()
    counts, images = _confusion(samples, kept, verdicts, ranked, len(classes))
    totals = dict.fromkeys(ERRORS, 0)
    for error in errors:
        for kind, count in error.items():
            totals[kind] += count
    precision, recall, f1 = overall.at(threshold)
    return evaluation_document(
        "detection",
        which,
        classes,
        figures={
            "mAP": mean,
            **{f"COCO_{name}": value for name, value in coco.result().items()},
            "best_thresh": best,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "mean_f1": mean_or_nan([row["f1"] for row in by_class.values()]),
            "objects": overall.count,
            "images": len(samples),
            **totals,
        },
        by_class=by_class,
        curves={"overall": overall.thinned(), "precision_recall": curves},
        confusion=counts,
        confusion_images=images,
        worst=_worst(samples, kept, verdicts, errors, ranked, classes),
        suspects=_suspects(samples, clipped, classes, max(threshold, _SURE), iou_thresh),
        iou_thresh=iou_thresh,
        threshold=threshold,
        reported=sum(
            int((rows[:, 1].astype(np.float32) >= np.float32(score_thresh)).sum()) for rows in clipped
        ),
    )


def _with_crowds(annotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (n, 5) with the class of what is not counted in its place again, and which those are (n,)."""
    rows = np.array(annotation[annotation[:, 0] != UNKNOWN], np.float64)
    crowd = rows[:, 0] < UNKNOWN
    rows[crowd, 0] = -2 - rows[crowd, 0]
    return rows, crowd


def _judge(truth: np.ndarray, rows: np.ndarray, iou_thresh: float) -> _Verdicts:
    """Hold detections (m, 6), those of all scores that count, against objects (n, 5).

    The right ones are those of the metric: by falling score, each on the object of its class that it overlaps most. Of
    what is left, a detection on a free object of another class stands for it.
    """
    truth = truth.astype(np.float64)
    kinds = ["background"] * len(rows)
    partner = np.full(len(rows), -1)
    detected = np.zeros(len(truth), bool)
    if not len(rows) or not len(truth):
        return _Verdicts(kinds, detected, partner)
    iou = box_iou(rows[:, 2:], truth[:, 1:])
    same = rows[:, :1] == truth[None, :, 0]
    own = np.where(same, iou, -1.0)
    order = np.argsort(-rows[:, 1], kind="stable").tolist()
    for index in order:
        target = int(own[index].argmax())
        overlap = own[index, target]
        if overlap >= iou_thresh:
            partner[index] = target
            kinds[index] = "twice" if detected[target] else "right"
            detected[target] = True
        elif overlap >= _NEAR:
            partner[index], kinds[index] = target, "wrong_place"
    other = np.where(same, -1.0, iou)
    for index in order:
        if kinds[index] in ("right", "twice"):
            continue
        free = np.where(detected, -1.0, other[index])
        target = int(free.argmax())
        if free[target] >= iou_thresh:
            partner[index], kinds[index] = target, "wrong_class"
            detected[target] = True
        elif kinds[index] == "background" and other[index].max() >= iou_thresh:
            # On an object that has its detection already: of the wrong class, and it takes nothing.
            partner[index], kinds[index] = int(other[index].argmax()), "wrong_class"
    return _Verdicts(kinds, detected, partner)


def _errors(verdict: _Verdicts) -> dict[str, int]:
    counts = dict.fromkeys(ERRORS, 0)
    counts["missed"] = int((~verdict.detected).sum())
    for kind in verdict.kinds:
        if kind != "right":
            counts[kind] += 1
    return counts


def _confusion(
    samples: Sequence[Sample],
    kept: Sequence[np.ndarray],
    verdicts: Sequence[_Verdicts],
    ranked: Sequence[int],
    classes: int,
) -> tuple[np.ndarray, dict[tuple[int, int], list[str]]]:
    """Counts (classes + 1, classes + 1), the last row and column for background, and images of each cell off the
    diagonal. An object counts once: with the detection that found it, or with background."""
    counts = np.zeros((classes + 1, classes + 1), np.int64)
    images: dict[tuple[int, int], list[str]] = defaultdict(list)
    for place in ranked:
        sample, rows, verdict = samples[place], kept[place], verdicts[place]
        for row, column in _cells(objects_of(sample.annotation), rows, verdict, classes):
            counts[row, column] += 1
            if row != column:
                images[row, column].append(sample.image)
    return counts, images


def _cells(
    truth: np.ndarray, rows: np.ndarray, verdict: _Verdicts, background: int
) -> Iterator[tuple[int, int]]:
    counted: set[int] = set()
    ranked = np.argsort(-rows[:, 1], kind="stable")
    for index in sorted(ranked.tolist(), key=lambda place: verdict.kinds[place] != "right"):
        target, kind = int(verdict.partner[index]), verdict.kinds[index]
        if kind in ("right", "wrong_class") and target not in counted:
            counted.add(target)
            yield int(truth[target, 0]), int(rows[index, 0])
        else:
            yield background, int(rows[index, 0])
    for target in np.flatnonzero(~verdict.detected).tolist():
        yield int(truth[target, 0]), background


def _worst(
    samples: Sequence[Sample],
    kept: Sequence[np.ndarray],
    verdicts: Sequence[_Verdicts],
    errors: Sequence[dict[str, int]],
    ranked: Sequence[int],
    classes: Sequence[str],
) -> list[dict[str, Any]]:
    """Images with errors, those with the most first."""
    entries = []
    for index in ranked[:MOST_WORST]:
        if not any(errors[index].values()):
            break
        sample, rows, verdict = samples[index], kept[index], verdicts[index]
        entries.append(
            {
                "image": sample.image,
                "width": sample.width,
                "height": sample.height,
                "errors": errors[index],
                "objects": [
                    {
                        "class": classes[int(row[0])],
                        "score": float(row[1]),
                        "bbox": row[2:].round(2),
                        "verdict": kind,
                    }
                    for row, kind in zip(rows, verdict.kinds, strict=True)
                ],
                "groundtruth": [
                    {
                        "class": classes[int(row[0])],
                        "bbox": row[1:].round(2),
                        "verdict": "found" if seen else "missed",
                    }
                    for row, seen in zip(
                        objects_of(sample.annotation).astype(np.float64), verdict.detected, strict=True
                    )
                ],
            }
        )
    return entries


def _suspects(
    samples: Sequence[Sample],
    detections: Sequence[np.ndarray],
    classes: Sequence[str],
    sure: float,
    iou_thresh: float,
) -> list[dict[str, Any]]:
    """Labels that a sure detection contradicts, the surest first.

    other_class: it lies on an object of another class, and none of its own class does. not_labelled: it lies where no
    object is. nothing_there: no detection of any score, of whatever class, is near an object, in a set where most
    objects have one.
    """
    entries: list[dict[str, Any]] = []
    lonely: list[dict[str, Any]] = []
    objects = 0
    for sample, rows in zip(samples, detections, strict=True):
        truth = objects_of(sample.annotation).astype(np.float64)
        objects += len(truth)
        iou = box_iou(rows[:, 2:], truth[:, 1:])
        size = {"image": sample.image, "width": sample.width, "height": sample.height}
        claimed: set[int] = set()
        for index in np.flatnonzero(rows[:, 1] >= sure).tolist():
            best = int(iou[index].argmax()) if len(truth) else -1
            overlap = iou[index, best] if len(truth) else 0.0
            entry = {
                **size,
                "score": float(rows[index, 1]),
                "predicted": classes[int(rows[index, 0])],
                "bbox": rows[index, 2:].round(2),
            }
            if overlap < _NEAR:
                entries.append({**entry, "reason": "not_labelled", "groundtruth": None})
            elif overlap >= iou_thresh and best not in claimed:
                own = (rows[:, 0] == truth[best, 0]) & (iou[:, best] >= iou_thresh)
                if not own.any() or rows[own, 1].max() < rows[index, 1] / 2:
                    claimed.add(best)
                    entries.append(
                        {**entry, "reason": "other_class", "groundtruth": classes[int(truth[best, 0])]}
                    )
        touched = iou.max(axis=0, initial=0.0) >= _NEAR
        lonely += [
            {
                **size,
                "score": None,
                "predicted": None,
                "bbox": truth[index, 1:].round(2),
                "reason": "nothing_there",
                "groundtruth": classes[int(truth[index, 0])],
            }
            for index in np.flatnonzero(~touched).tolist()
        ]
    entries.sort(key=lambda entry: -entry["score"])
    return entries + (lonely if len(lonely) * 10 <= objects else [])


def box_iou(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """IoU (m, n) of boxes (m, 4) and (n, 4): x1, y1, x2, y2; 0 for boxes without area."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = np.maximum(high - low, 0.0).prod(axis=2)
    areas = (first[:, 2:] - first[:, :2]).prod(axis=1)[:, None] + (second[:, 2:] - second[:, :2]).prod(axis=1)
    return shared / np.maximum(areas - shared, 1e-12)
