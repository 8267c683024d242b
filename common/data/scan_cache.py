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
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from common.container import ContainerError, read_container, write_container
from common.data.formats.base import AnnotatedSet, Label
from common.images.header import PIXEL_LIMIT

log = logging.getLogger("visualtl")

LEAST_IMAGES = 1000
"""Sets of fewer images are read within a blink and not kept."""

# Files may change again within the tick of a clock that a file system takes times from; those are not kept.
SETTLED_NS = 2_000_000_000

_READERS = ("data/boxes", "images/header", "images/decoding", "images/marks", "data/rows", "data/scan_cache")

# Most bytes of a file, and of those for each image of the set: room for 1,800 boxes.
_LARGEST, _LARGEST_PART = 1 << 20, 1 << 16
_ABSENT = (-1, -1, -1)
_CHANGED = (-2, -2, -2)


class Known(NamedTuple):
    """What is known of an image. labels: what column 0 of the annotations is an index into, if it is. mark: of its file
    (`common.images.marks`)."""

    width: int
    height: int
    mark: int
    annotations: list[np.ndarray]
    labels: list[Label]


def reader_key(annotate: Any, annotated: AnnotatedSet | None = None) -> str:
    """A text that differs where images or annotations would be read otherwise: options and code of the reader, and the
    files that annotate all images of a set in another format."""
    digest = hashlib.sha256(f"{type(annotate).__qualname__} {annotate!r}".encode())
    own = sys.modules[type(annotate).__module__].__file__
    files: list[Any] = [*(Path(__file__).parents[1] / f"{name}.py" for name in _READERS), own]
    if annotated is not None:
        digest.update(f"{annotated.format} {annotated.parse!r}".encode())
        for file in annotated.files:
            digest.update(f"{file} {state_of(file)}".encode("utf-8", "surrogateescape"))
        files += sorted(Path(__file__).with_name("formats").glob("*.py"))
    for file in files:
        digest.update(Path(file or "").read_bytes())
    return digest.hexdigest()


class ScanCache:
    """The cache in `file` of the images below `folder`, as `annotate` reads them, of the set `annotated` where another
    format says what is in them."""

    def __init__(self, file: Path, folder: Path, annotate: Any, annotated: AnnotatedSet | None) -> None:
        self._file = file
        self._start = len(os.path.join(str(folder), ""))
        self._key = reader_key(annotate, annotated)
        self._id_limit: int | None = annotate.id_limit
        self._layouts: Sequence[tuple[int | None, int]] = annotate.layouts
        self._labelled = annotated is not None
        self._states = np.empty((0, 6), np.int64)
        self._began = 0

    def look_up(self, paths: Sequence[str], beside: Sequence[str]) -> list[Known | None]:
        """What is known of each of the images `paths`; None of those that have changed. beside: for each the file that
        annotates it alone; the image itself where there is none."""
        self._began = time.time_ns()
        states = array.array("q")  # a hundred thousand tuples would take as much memory as the samples
        for path, other in zip(paths, beside, strict=True):
            state = state_of(path)
            states.extend(state)
            states.extend(state if other is path else state_of(other))
        self._states = np.frombuffer(states, np.int64).reshape(-1, 6)
        try:
            return self._known(read_container(self._file, _LARGEST + _LARGEST_PART * len(paths)), paths)
        except FileNotFoundError:
            pass
        except (OSError, ContainerError) as error:
            reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
            log.warning("%s: not usable, everything is read again: %s", self._file, reason)
        return [None] * len(paths)

    def _known(self, stored: dict[str, Any], paths: Sequence[str]) -> list[Known | None]:
        """stored: the key; names as bytes, parted by 0; images (n, 10): six numbers of state, width, height, how many
        annotations, mark; rows (m, 2): numbers of each annotation and its columns, -1 where it has one dimension."""
        if not isinstance(stored.get("key"), str) or stored["key"] != self._key:
            return [None] * len(paths)
        arrays: list[Any] = [stored.get(name) for name in ("names", "images", "rows", "numbers")]
        if not _fit(*arrays):
            raise ContainerError("its arrays do not fit each other")
        encoded, images, rows, numbers = arrays
        labels = stored.get("labels", [])
        if not isinstance(labels, list) or not all(isinstance(label, (str, int)) for label in labels):
            raise ContainerError("its labels are none")
        limit = len(labels) if self._labelled and self._id_limit is not None else self._id_limit
        if not _are_annotations(rows, numbers, self._layouts, limit):
            raise ContainerError("its annotations are none that there can be")
        numbers = numbers.copy() if labels else numbers  # they change places with those of this job
        indices = self._places(bytes(encoded), paths)
        same = ((images[indices, :6] == self._states).all(axis=1) & (indices >= 0)).tolist()
        facts = zip(
            images[:, 6].tolist(),
            images[:, 7].tolist(),
            np.ascontiguousarray(images[:, 9]).view(np.uint64).tolist(),
            images[:, 8].tolist(),
            np.cumsum(images[:, 8]).tolist(),
            strict=True,
        )
        by_image = list(facts)
        sizes, columns, ends = rows[:, 0].tolist(), rows[:, 1].tolist(), np.cumsum(rows[:, 0]).tolist()
        known: list[Known | None] = []
        for index, unchanged in zip(indices.tolist(), same, strict=True):
            if not unchanged:
                known.append(None)
                continue
            width, height, mark, count, end = by_image[index]
            annotations = []
            for row in range(end - count, end):
                part = numbers[ends[row] - sizes[row] : ends[row]]
                annotations.append(part if columns[row] < 0 else part.reshape(-1, columns[row]))
            known.append(Known(width, height, mark, annotations, labels))
        return known

    def _places(self, encoded: bytes, paths: Sequence[str]) -> np.ndarray:
        """Where among the `encoded` names each of `paths` stands; -1: nowhere."""
        names = self._names(paths)
        if encoded == b"\0".join(names):
            return np.arange(len(paths))
        place = {name: index for index, name in enumerate(encoded.split(b"\0"))}
        return np.array([place.get(name, -1) for name in names], np.int64)

    def _names(self, paths: Iterable[str]) -> list[bytes]:
        """Paths within the folder."""
        return [os.fsencode(path[self._start :]) for path in paths]

    def store(
        self, paths: Sequence[str], known: Sequence[Known | None], labels: Sequence[Label] = ()
    ) -> None:
        """Keep what is `known` of the images `paths` that `look_up` was asked for; a disk that is full costs that.

        labels: what column 0 of all annotations is an index into, if it is.
        """
        settled = self._states[:, [1, 2, 4, 5]].max(axis=1, initial=0) < self._began - SETTLED_NS
        settled &= (self._states > _CHANGED[0]).all(axis=1)
        kept = [index for index in np.flatnonzero(settled).tolist() if known[index] is not None]
        entries = [entry for index in kept if (entry := known[index]) is not None]
        if not kept:
            return
        marks = np.array([entry.mark for entry in entries], np.uint64).view(np.int64)
        sizes = array.array("q")
        rows = array.array("q")
        for entry in entries:
            sizes.extend((entry.width, entry.height, len(entry.annotations)))
            for annotation in entry.annotations:
                rows.extend((annotation.size, annotation.shape[1] if annotation.ndim == 2 else -1))
        facts = np.frombuffer(sizes, np.int64).reshape(-1, 3)
        annotations = [annotation for entry in entries for annotation in entry.annotations]
        names = b"\0".join(self._names(paths[index] for index in kept))
        try:
            write_container(
                self._file,
                {
                    "key": self._key,
                    "labels": list(labels),
                    "names": np.frombuffer(names, np.uint8),
                    "images": np.concatenate([self._states[kept], facts, marks[:, None]], axis=1),
                    "rows": np.array(rows, np.int64).reshape(-1, 2),
                    "numbers": np.concatenate(
                        annotations or [np.empty(0)], axis=None, dtype=np.float32, casting="same_kind"
                    ),
                },
            )
        except OSError as error:
            log.warning("%s cannot be written, the next start reads everything again: %s", self._file, error)


def _first_columns(rows: np.ndarray) -> np.ndarray:
    """Where among all numbers those of column 0 are. rows (m, 2): numbers of each annotation, and its columns."""
    sizes, columns = rows.T
    steps = np.where(columns < 0, np.maximum(sizes, 1), columns)
    counts = sizes // steps
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(np.cumsum(sizes) - sizes, counts) + within * np.repeat(steps, counts)


def _are_annotations(
    rows: np.ndarray, numbers: np.ndarray, layouts: Sequence[tuple[int | None, int]], id_limit: int | None
) -> bool:
    """Whether all annotations have one of the layouts and, where they have ids, ids that there can be: below the limit,
    or in the place of an object that does not count (`boxes.uncounted`)."""
    sizes, columns = rows.T
    fitting = np.zeros(len(rows), bool)
    for size, width in layouts:
        fitting |= (columns == width) & (size is None or sizes == size)
    if not fitting.all():
        return False
    if id_limit is None:
        return True
    ids = numbers[_first_columns(rows)]
    lowest = 0 if (columns < 0).any() else -1 - id_limit
    return bool(
        lowest <= ids.min(initial=0) and ids.max(initial=-1) < id_limit and not np.isnan(numbers).any()
    )


def _fit(names: Any, images: Any, rows: Any, numbers: Any) -> bool:
    """Whether these are the arrays of a cache, and every number of them is one that can be."""
    kinds = ((names, np.uint8, 1), (images, np.int64, 2), (rows, np.int64, 2), (numbers, np.float32, 1))
    if not all(isinstance(a, np.ndarray) and (a.dtype, a.ndim) == (np.dtype(k), n) for a, k, n in kinds):
        return False
    if images.shape != (bytes(names).count(0) + 1, 10) or rows.shape[1] != 2:
        return False
    counts, (sizes, columns) = images[:, 8], rows.T
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
        and bool((columns != 0).all() and (sizes % columns == 0).all() and not np.isinf(numbers).any())
    )


def state_of(path: str) -> tuple[int, int, int]:
    """Size and times of a file, as far as they tell whether it has changed."""
    try:
        status = os.stat(path)
    except OSError:
        return _CHANGED if os.path.lexists(path) else _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
