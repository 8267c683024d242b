"""What was read of a set's images and annotations, kept in log_dir so that a second start reads only what has changed.

An image counts as unchanged while size, time of modification and time of change (which no program can set) of both its
files are what they were before they were read, and while the code and the options that read them are the same. Only
images with nothing to report are kept; the others are read again, and reported again. The file is plain arrays, and one
that is damaged is ignored.
"""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from common.files import replacing
from common.rows import annotation_path

log = logging.getLogger("visualtl")

LEAST_IMAGES = 1000
"""Sets of fewer images are read within a blink and not kept."""

# Files may change again within the tick of a clock that a file system takes times from; those are not kept.
_SETTLED_NS = 2_000_000_000

_READERS = ("boxes", "image_header", "images", "rows", "scan_cache")
_ABSENT = (-1, -1, -1)
_CHANGED = (-2, -2, -2)

Known = tuple[int, int, list[np.ndarray]]
"""Width, height and annotations of an image."""


def reader_key(annotate: Any) -> str:
    """A text that differs where images or annotations would be read otherwise: options and code of the reader."""
    digest = hashlib.sha256(f"{type(annotate).__qualname__} {annotate!r}".encode())
    own = sys.modules[type(annotate).__module__].__file__
    for file in (*(Path(__file__).with_name(f"{name}.py") for name in _READERS), own):
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

    def look_up(self, paths: Sequence[str]) -> dict[str, Known]:
        """What is known of those of the images `paths` that have not changed."""
        self._began = time.time_ns()
        states = [(*_state(path), *_state(annotation_path(path))) for path in paths]
        self._states = np.array(states, np.int64).reshape(-1, 6)
        try:
            with np.load(self._file, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            return self._known(arrays, paths, states)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, IndexError, TypeError, EOFError, zipfile.BadZipFile) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            log.warning("%s: not usable, everything is read again: %s", self._file, reason)
            return {}

    def _known(
        self, arrays: dict[str, np.ndarray], paths: Sequence[str], states: Sequence[tuple[int, ...]]
    ) -> dict[str, Known]:
        if bytes(arrays["key"]).decode() != self._key:
            return {}
        images, rows, numbers = arrays["images"], arrays["rows"], arrays["numbers"]
        names = bytes(arrays["names"]).split(b"\0")
        if (
            images.dtype != np.int64
            or rows.dtype != np.int64
            or numbers.dtype != np.float32
            or images.shape != (len(names), 9)
            or rows.ndim != 2
            or images[:, 8].min(initial=0) < 0
            or images[:, 8].sum() != len(rows)
            or rows[:, 0].min(initial=0) < 0
            or rows[:, 0].sum() != numbers.size
        ):
            raise ValueError("its arrays do not fit each other")
        annotations = []
        for (_, columns), part in zip(
            rows.tolist(), np.split(numbers, np.cumsum(rows[:, 0])[:-1]), strict=True
        ):
            annotations.append(part if columns < 0 else part.reshape(-1, columns))
        stored = {}
        first = 0
        for name, (*state, width, height, count) in zip(names, images.tolist(), strict=True):
            stored[name] = tuple(state), (width, height, annotations[first : first + count])
            first += count
        known = {}
        for path, state in zip(paths, states, strict=True):
            found = stored.get(os.fsencode(path[self._start :]))
            if found is not None and found[0] == state:
                known[path] = found[1]
        return known

    def store(self, paths: Sequence[str], known: dict[str, Known]) -> None:
        """Keep what is `known` of the images `paths` that `look_up` was asked for; a disk that is full costs that."""
        settled = self._states[:, [1, 2, 4, 5]].max(axis=1, initial=0) < self._began - _SETTLED_NS
        settled &= (self._states > _CHANGED[0]).all(axis=1)
        kept = [
            (path, state)
            for path, state, good in zip(paths, self._states.tolist(), settled.tolist(), strict=True)
            if good and path in known
        ]
        if not kept:
            return
        images, annotations = [], []
        for path, state in kept:
            width, height, found = known[path]
            images.append((*state, width, height, len(found)))
            annotations.extend(found)
        rows = [(array.size, array.shape[1] if array.ndim == 2 else -1) for array in annotations]
        try:
            with replacing(self._file) as file:
                np.savez(
                    file,
                    key=np.frombuffer(self._key.encode(), np.uint8),
                    names=np.frombuffer(
                        b"\0".join(os.fsencode(path[self._start :]) for path, _ in kept), np.uint8
                    ),
                    images=np.array(images, np.int64),
                    rows=np.array(rows, np.int64).reshape(-1, 2),
                    numbers=np.concatenate([np.empty(0, np.float32), *(a.ravel() for a in annotations)]),
                )
        except OSError as error:
            log.warning("%s cannot be written, the next start reads everything again: %s", self._file, error)


def _state(path: str) -> tuple[int, int, int]:
    try:
        status = os.stat(path)
    except OSError:
        return _CHANGED if os.path.lexists(path) else _ABSENT
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns
