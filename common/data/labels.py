"""From numbers of labels, which samples have while their sets are read, to ids of classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from common.data.boxes import UNKNOWN
from common.data.formats.base import Label
from common.data.samples import Labels, Sample, renumbered

# Of labels that are of no class: no id, nor what may stand in the place of one.
_ABSENT = 1 << 20


def numbers_in(samples: Sequence[Sample]) -> set[int]:
    """Numbers of the labels of all objects, of those too that do not count; none of samples of keypoints alone."""
    numbers = np.unique(_ids_of([sample for sample in samples if _has_ids(sample)])).tolist()
    return {-2 - number if number < UNKNOWN else number for number in numbers if number != UNKNOWN}


def _has_ids(sample: Sample) -> bool:
    return sample.annotation.ndim == 1 or sample.annotation.shape[1] == 5


def _ids_of(samples: Sequence[Sample]) -> np.ndarray:
    """Column 0 of all annotations, one after the other."""
    columns = [np.atleast_1d(sample.annotation[..., 0]) for sample in samples]
    return np.concatenate([np.empty(0), *columns]).astype(int)


def with_labels(sample: Sample, names: Sequence[str], labels: Labels) -> Sample:
    """A sample of our own texts with numbers of labels: its ids are those of `names`, or are labels themselves."""
    annotation = np.array(sample.annotation)
    ids = annotation[..., 0].astype(int)
    known = sorted({int(value) for value in np.atleast_1d(ids) if value >= 0})
    annotation[..., 0] = np.where(ids >= 0, np.searchsorted(known, ids), ids)
    labels.renumber([annotation], [names[value] if names else value for value in known])
    return replace(sample, annotation=annotation)


def with_class_ids(
    samples: Sequence[Sample], numbers: Sequence[Label], ids: Mapping[Label, int], names: Mapping[int, str]
) -> tuple[list[Sample], Counter[str]]:
    """Samples with ids of classes in the place of numbers of labels, and how many objects there are of no class.

    numbers: labels by number. ids: of each label; one without is of no class: its objects are left out, and samples
    that are nothing else. names: labels of samples that are of one class, by id. Annotations are changed in place.
    """
    table = np.array([ids.get(label, _ABSENT) for label in numbers] or [_ABSENT], np.float32)
    own = _ids_of(samples)
    which = np.where(own < UNKNOWN, -2 - own, own)
    kept = (own == UNKNOWN) | (table[np.maximum(which, 0)] != _ABSENT)
    lost, counts = np.unique(which[~kept], return_counts=True)
    absent: Counter[str] = Counter()
    for number, count in zip(lost.tolist(), counts.tolist(), strict=True):
        absent[str(numbers[number])] += count
    new = renumbered(own, table)
    settled: list[Sample] = []
    end = 0
    for sample in samples:
        rows = sample.annotation
        start, end = end, end + (len(rows) if rows.ndim == 2 else 1)
        if rows.ndim == 2:
            rows[:, 0] = new[start:end]
            all_kept = not absent or kept[start:end].all()
            settled.append(sample if all_kept else replace(sample, annotation=rows[kept[start:end]]))
        elif kept[start]:
            rows[0] = new[start]
            settled.append(replace(sample, label=names[int(rows[0])]))
    return settled, absent
