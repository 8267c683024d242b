"""What a job learns from: samples read from a folder, and the report on what was left out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from common.data.problems import (
    IMAGE_EXTENSIONS,
    BadSample,
    FolderReport,
    NoSamples,
    Problem,
    log_report,
    write_report,
)
from common.data.rows import Row, annotation_path, read_rows
from common.data.scan_cache import LEAST_IMAGES, Known, ScanCache, reader_key
from common.errors import DataError
from common.images.decoding import ImageError, printable, probe
from common.processes.pool import WorkerPool

__all__ = [
    "IMAGE_EXTENSIONS",
    "Annotate",
    "BadSample",
    "FolderReport",
    "NoSamples",
    "Problem",
    "Row",
    "Sample",
    "annotation_path",
    "read_folder",
    "read_rows",
    "write_report",
]

# Images to their owner, though not to the contract: worth a word where they lie.
_OTHER_IMAGES = (".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One thing to learn from or to predict; equal only to itself.

    image: path as the user would write it (below data_root, links not resolved). width, height: of the image
    in pixels, after EXIF orientation. annotation: float32, of one or two dimensions, as the task means it.
    """

    image: str
    width: int
    height: int
    annotation: np.ndarray


class Annotate(Protocol):
    """How a task reads what stands beside an image. Picklable; carried out by workers."""

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        """Annotations, one for each sample of the image, and what was clipped or left out of them.

        Raises:
            BadSample: the whole image is left out.
            DataError: no job can be done with this.
        """


def read_folder(
    folder: Path,
    annotate: Annotate,
    pool: WorkerPool,
    progress: Callable[[float], None],
    cache_file: Path | None = None,
) -> tuple[list[Sample], FolderReport]:
    """All samples below `folder`, ordered by path, and what was left out.

    Images are probed and annotated by the workers. progress is called with the share of the images that is
    done. cache_file: where large sets are kept, so that the next time only what has changed is read.

    Raises:
        NoSamples: nothing is left; its report says what was wrong with everything.
        DataError: the folder cannot be read, or an annotation makes the job pointless.
    """
    report = FolderReport(str(folder))
    paths = list(_walk(str(folder), report))
    report.images = len(paths)
    samples: list[Sample] = []
    read = functools.partial(_read_image, annotate)
    cache = None
    known: dict[str, Known] = {}
    if cache_file and len(paths) >= LEAST_IMAGES:
        cache = ScanCache(cache_file, folder, reader_key(annotate))
        known = cache.look_up(paths)
    unknown = [path for path in paths if path not in known]
    # Small chunks where there are few images, so that all workers have a share of them.
    chunk = max(1, min(128, len(unknown) // (8 * max(1, pool.count))))
    outcomes = pool.map(read, unknown, chunk)
    for done, path in enumerate(paths, start=1):
        if path in known:
            width, height, annotations = known[path]
            problems: list[Problem] = []
        else:
            width, height, annotations, problems = next(outcomes)
            if cache and not problems:
                known[path] = width, height, annotations
        samples.extend(Sample(path, width, height, annotation) for annotation in annotations)
        for problem in problems:
            (report.clipped if problem.clipped else report.problems).append(problem)
        if done % chunk == 0 or done == len(paths):
            progress(done / len(paths))
    report.samples = len(samples)
    log_report(report)
    if cache and unknown:
        cache.store(paths, known)
    if not samples:
        raise NoSamples(report)
    return samples, report


def _walk(folder: str, report: FolderReport) -> Iterator[str]:
    """Paths of the images below `folder`, sorted. Every folder is visited once, whatever links lead to it."""
    visited: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            status = os.stat(current)
            if (status.st_dev, status.st_ino) in visited:
                report.skipped.append(Problem(current, None, "a link to a folder that is read already"))
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(current) as entries:
                names = sorted((entry.name, _is_folder(entry)) for entry in entries)
        except OSError as error:
            if current == folder:
                raise DataError(f"the folder {printable(folder)} cannot be read: {error.strerror}") from None
            report.skipped.append(Problem(current, None, f"cannot be read: {error.strerror}"))
            continue
        folders = []
        for name, is_folder in names:
            path = os.path.join(current, name)
            extension = os.path.splitext(name)[1]
            if name.startswith("."):
                if is_folder or extension.lower() in IMAGE_EXTENSIONS:
                    report.skipped.append(Problem(path, None, "hidden: its name begins with a dot"))
            elif is_folder:
                folders.append(path)
            elif extension in IMAGE_EXTENSIONS:
                yield path
            elif extension.lower() in IMAGE_EXTENSIONS:
                report.skipped.append(
                    Problem(path, None, f"extension must be lower case: {extension.lower()}")
                )
            elif extension.lower() in _OTHER_IMAGES:
                reason = f"images are {' '.join(IMAGE_EXTENSIONS)}, not {extension.lower()}"
                report.skipped.append(Problem(path, None, reason))
            else:
                report.other_files += 1
        waiting.extend(reversed(folders))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _read_image(annotate: Annotate, path: str) -> tuple[int, int, list[np.ndarray], list[Problem]]:
    """Size and annotations of an image, and its problems; no annotations if it is left out."""
    try:
        width, height = probe(path)
        annotations, problems = annotate(path, width, height)
        return width, height, annotations, problems
    except ImageError as error:
        return 0, 0, [], [Problem(error.path, None, error.reason)]
    except BadSample as error:
        return 0, 0, [], list(error.problems)
