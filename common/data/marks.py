"""Which image files are the same, byte for byte, at the cost of a glance at each.

A mark is a number of 64 bits made of a file's size and of three pieces of it, or of all of a small file. Files whose
marks agree although only pieces were looked at are read whole, so that within one call equal marks mean equal files.
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
from common.processes.pool import WorkerPool

# Three pieces behind the header, which is much the same in all files of a camera: a few microseconds a file.
_PIECE = 512
_PIECES = 3
_WHOLE = 4 << 10
_BLOCK = 1 << 20


def image_marks(paths: Iterable[str], pool: WorkerPool) -> dict[str, int]:
    """The mark of each of the files `paths`; two have the same one if, and only if, they hold the same bytes.

    One that cannot be read is like no other.
    """
    distinct = list(dict.fromkeys(paths))
    chunk = max(1, min(256, len(distinct) // (8 * max(1, pool.count))))
    marks: dict[str, int] = {}
    alike: dict[int, list[str]] = defaultdict(list)
    for path, (mark, whole) in zip(distinct, pool.map(_glance, distinct, chunk), strict=True):
        marks[path] = mark
        if not whole:
            alike[mark].append(path)
    doubtful = [path for group in alike.values() if len(group) > 1 for path in group]
    contents: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path, content in zip(doubtful, pool.map(_content, doubtful, 8), strict=True):
        contents[marks[path]][content].append(path)
    for by_content in contents.values():
        if len(by_content) > 1:
            for content, group in by_content.items():
                marks.update(dict.fromkeys(group, _number(content.encode())))
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


def _glance(path: str) -> tuple[int, bool]:
    """The mark of a file, and whether all of it was looked at; carried out by workers."""
    try:
        descriptor = open_regular(path)
        try:
            size = os.fstat(descriptor).st_size
            if size <= _WHOLE:
                pieces = [os.pread(descriptor, size, 0)]
            else:
                step = (size - _PIECE) // _PIECES
                pieces = [os.pread(descriptor, _PIECE, number * step) for number in range(1, _PIECES + 1)]
        finally:
            os.close(descriptor)
    except OSError:
        return _number(b"unreadable " + os.fsencode(path)), True
    return _number(b"%d " % size + b"".join(pieces)), size <= _WHOLE


def _content(path: str) -> str:
    """A digest of all of a file; carried out by workers."""
    digest = hashlib.sha256()
    try:
        with os.fdopen(open_regular(path), "rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError:
        return path
    return digest.hexdigest()


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
