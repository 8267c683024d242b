"""What was read of a set's images and annotations, kept in log_dir so that a second start reads only what has changed.

An image counts as unchanged while size, time of modification and time of change (which no program can set) of both its
files are what they were before they were read, and while the code and the options that read them are the same. Only
images with nothing to report are kept; the others are read again, and reported again. The file is a
`common.container`, and one that is damaged, or larger than such a set needs, is ignored.
"""

from __future__ import annotations

import array
import hashlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.container import ContainerError, read_container, write_container
from common.data.formats.base import AnnotatedSet, Label
from common.data.rows import annotation_path
from common.images.header import PIXEL_LIMIT

log = logging.getLogger("visualtl")

LEAST_IMAGES = 1000
"""Sets of fewer images are read within a blink and not kept."""

# Files may change again within the tick of a clock that a file system takes times from; those are not kept.
_SETTLED_NS = 2_000_000_000

_READERS = ("data/boxes", "images/header", "images/decoding", "data/rows", "data/scan_cache")

# Most bytes of a file, and of those for each image of the set: room for 1,800 boxes.
_LARGEST, _LARGEST_PART = 1 << 20, 1 << 16
_ABSENT = (-1, -1, -1)
_CHANGED = (-2, -2, -2)

Known = tuple[int, int, list[np.ndarray], list[Label]]
"""Width, height and annotations of an image, and the labels that column 0 of these is an index into, if it is."""


def reader_key(annotate: Any, annotated: AnnotatedSet | None = None) -> str:
    """A text that differs where images or annotations would be read otherwise: options and code of the reader, and the
    files that annotate all images of a set in another format."""
    digest = hashlib.sha256(f"{type(annotate).__qualname__} {annotate!r}".encode())
    own = sys.modules[type(annotate).__module__].__file__
    files: list[Any] = [*(Path(__file__).parents[1] / f"{name}.py" for name in _READERS), own]
    if annotated is not None:
        digest.update(f"{annotated.format} {annotated.parse!r}".encode())
        for file in annotated.files:
            digest.update(f"{file} {_state(file)}".encode("utf-8", "surrogateescape"))
        files += sorted(Path(__file__).with_name("formats").glob("*.py"))
    for file in files:
        digest.update(Path(file or "").read_bytes())
    return digest.hexdigest()


class ScanCache:
    """The cache in `file` of the images below `folder`, read with `key`."""

    def __init__(self, file: Path, folder: Path, key: str) -> None:
        self._file = file
        self._start = len(os.path.join(str(folder), ""))
        self._key = key
        self._states = np.empty((0, 6), np.int64)
        self._began = 0

    def look_up(self, paths: Sequence[str], beside: Sequence[str] | None = None) -> dict[str, Known]:
        """What is known of those of the images `paths` that have not changed. beside: for each the file with its
        annotation; none: our text."""
        self._began = time.time_ns()
        states = array.array("q")  # a hundred thousand tuples would take as much memory as the samples
        for path, other in zip(paths, beside or map(annotation_path, paths), strict=True):
            states.extend(_state(path))
            states.extend(_state(other))
        self._states = np.frombuffer(states, np.int64).reshape(-1, 6)
        try:
            return self._known(read_container(self._file, _LARGEST + _LARGEST_PART * len(paths)), paths)
        except FileNotFoundError:
            return {}
        except (OSError, ContainerError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            log.warning("%s: not usable, everything is read again: %s", self._file, reason)
            return {}

    def _known(self, stored: dict[str, Any], paths: Sequence[str]) -> dict[str, Known]:
        """stored: the key; names as bytes, parted by 0; images (n, 9): six numbers of state, width, height, and how
        many annotations; rows (m, 2): numbers of each annotation and its columns, -1 where it has one dimension."""
        if not isinstance(stored.get("key"), str) or stored["key"] != self._key:
            return {}
        arrays: list[Any] = [stored.get(name) for name in ("names", "images", "rows", "numbers")]
        if not _fit(*arrays):
            raise ContainerError("its arrays do not fit each other")
        encoded, images, rows, numbers = arrays
        labels = stored.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, (str, int)) for label in labels):
            raise ContainerError("its labels are none")
        numbers = numbers.copy() if labels else numbers  # they change places with those of this job
        names = bytes(encoded).split(b"\0")
        place = {name: index for index, name in enumerate(names)}
        indices = [place.get(os.fsencode(path[self._start :]), -1) for path in paths]
        same = ((images[indices, :6] == self._states).all(axis=1) & (np.array(indices) >= 0)).tolist()
        ends = np.cumsum(images[:, 8]).tolist()
        number_ends = np.cumsum(rows[:, 0]).tolist()
        known = {}
        for path, index, unchanged in zip(paths, indices, same, strict=True):
            if unchanged:
                width, height, count = images[index, 6:].tolist()
                annotations = []
                for row in range(ends[index] - count, ends[index]):
                    size, columns = rows[row].tolist()
                    part = numbers[number_ends[row] - size : number_ends[row]]
                    part = part if columns < 0 else part.reshape(-1, columns)
                    annotations.append(part)
                    if labels and part.size and not _are_known(part[..., 0], len(labels)):
                        raise ContainerError("its annotations have labels that are none of its own")
                known[path] = width, height, annotations, labels
        return known

    def store(self, paths: Sequence[str], known: dict[str, Known], labels: Sequence[Label] = ()) -> None:
        """Keep what is `known` of the images `paths` that `look_up` was asked for; a disk that is full costs that.

        labels: what column 0 of all annotations is an index into, if it is.
        """
        settled = self._states[:, [1, 2, 4, 5]].max(axis=1, initial=0) < self._began - _SETTLED_NS
        settled &= (self._states > _CHANGED[0]).all(axis=1)
        kept = [index for index in np.flatnonzero(settled).tolist() if paths[index] in known]
        if not kept:
            return
        sizes = np.array([(known[paths[i]][0], known[paths[i]][1], len(known[paths[i]][2])) for i in kept])
        annotations = [annotation for i in kept for annotation in known[paths[i]][2]]
        rows = [
            (annotation.size, annotation.shape[1] if annotation.ndim == 2 else -1)
            for annotation in annotations
        ]
        names = b"\0".join(os.fsencode(paths[i][self._start :]) for i in kept)
        try:
            write_container(
                self._file,
                {
                    "key": self._key,
                    "labels": list(labels),
                    "names": np.frombuffer(names, np.uint8),
                    "images": np.concatenate([self._states[kept], sizes], axis=1).astype(np.int64),
                    "rows": np.array(rows, np.int64).reshape(-1, 2),
                    "numbers": np.concatenate(
                        annotations or [np.empty(0)], axis=None, dtype=np.float32, casting="same_kind"
                    ),
                },
            )
        except OSError as error:
            log.warning("%s cannot be written, the next start reads everything again: %s", self._file, error)


def _are_known(numbers: np.ndarray, count: int) -> bool:
    """Whether these are numbers of `count` labels, or stand in the place of one (`boxes.uncounted`)."""
    return bool(-2 - count < numbers.min() and numbers.max() < count)


def _fit(names: Any, images: Any, rows: Any, numbers: Any) -> bool:
    """Whether these are the arrays of a cache, and every number of them is one that can be."""
    kinds = ((names, np.uint8, 1), (images, np.int64, 2), (rows, np.int64, 2), (numbers, np.float32, 1))
    if not all(isinstance(a, np.ndarray) and (a.dtype, a.ndim) == (np.dtype(k), n) for a, k, n in kinds):
        return False
    if images.shape != (bytes(names).count(0) + 1, 9) or rows.shape[1] != 2:
        return False
    (_, _, counts), (sizes, columns) = images[:, 6:].T, rows.T
    within = [
        (counts, 0, len(rows)),
        (sizes, 0, len(numbers)),
        (columns, -1, 1 << 20),
        (images[:, 6:8], 1, PIXEL_LIMIT),
    ]
    return (
        all(low <= array.min(initial=low) and array.max(initial=low) <= high for array, low, high in within)
        and counts.sum() == len(rows)
        and sizes.sum() == len(numbers)
        and bool((columns != 0).all() and (sizes % columns == 0).all() and np.isfinite(numbers).all())
    )


def _state(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _CHANGED if os.path.lexists(path) else _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
