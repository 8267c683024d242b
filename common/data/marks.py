"""Which image files are the same, byte for byte.

Every file is given a mark when it is probed (`common.images.marks`). Files whose marks agree although only pieces were
looked at are read whole, so that within one call equal marks mean equal files.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from common.data.samples import Sample
from common.files import open_regular
from common.images.marks import number_of
from common.processes.pool import WorkerPool

_BLOCK = 1 << 20


def image_marks(samples: Iterable[Sample], pool: WorkerPool) -> dict[str, int]:
    """The mark of each image of `samples`; two have the same one if, and only if, they hold the same bytes."""
    marks = {sample.image: sample.mark for sample in samples}
    count = Counter(marks.values())
    doubtful = [path for path, mark in marks.items() if mark & 1 and count[mark] > 1]
    contents: dict[int, dict[bytes, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, content in zip(doubtful, pool.map(_content, doubtful, 8), strict=True):
        contents[marks[path]][content].append(path)
    for by_content in contents.values():
        if len(by_content) > 1:
            for content, group in by_content.items():
                marks.update(dict.fromkeys(group, number_of(content)))
    return marks


def find_identical(sets: Mapping[str, Sequence[Sample]], marks: Mapping[str, int]) -> list[dict[str, Any]]:
    """Groups of image files with the same bytes, those that lie in more than one set first.

    An entry has the files by set, and whether what is annotated differs between them.
    """
    files = {(marks[sample.image], name, sample.image) for name, part in sets.items() for sample in part}
    count = Counter(mark for mark, _, _ in files)
    groups: dict[int, dict[str, dict[str, list[np.ndarray]]]] = {}
    for name, samples in sets.items():
        for sample in samples:
            if count[mark := marks[sample.image]] > 1:
                images = groups.setdefault(mark, {}).setdefault(name, {})
                images.setdefault(sample.image, []).append(sample.annotation)
    identical = []
    for by_set in groups.values():
        annotations = [rows for images in by_set.values() for rows in images.values()]
        # As bytes: a point that cannot be seen is no number, and equal to none.
        first = [rows.tobytes() for rows in annotations[0]]
        differ = any([rows.tobytes() for rows in other] != first for other in annotations[1:])
        by_name = {name: list(images) for name, images in by_set.items()}
        identical.append({"files": by_name, "annotated_differently": differ})
    return sorted(identical, key=lambda group: -len(group["files"]))


def _content(path: str) -> bytes:
    """A digest of all of a file, of its name where it cannot be read; carried out by workers."""
    digest = hashlib.sha256()
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return b"unreadable " + os.fsencode(path)
    return digest.digest()
