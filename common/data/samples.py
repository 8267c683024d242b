"""What a job learns from: samples read from a folder, their split, and the report on what was left out."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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
    "split",
    "write_report",
]

# Images to their owner, though not to the contract: worth a word where they lie.
_OTHER_IMAGES = (".jpe", ".jfif", ".webp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2")


Group = tuple[int, ...]


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


def split(
    samples: Sequence[Sample],
    folder: Path,
    groups: Callable[[Sample], Iterable[int]],
    valid_size: float,
    test_size: float,
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Training, validation and test part of `samples`, each in the order that they came in.

    Whole images are assigned, so samples of one image stay together. The parts are the same wherever `folder`
    lies and however its files are ordered: images come by the SHA-1 of their path below it. Every group that
    a sample shows keeps an image in the training part as long as that has room, and is else divided in
    proportion (iterative stratification: Sechidis, Tsoumakas, Vlahavas, "On the Stratification of Multi-Label
    Data", 2011). A part of a share above 0 gets at least one image if there are enough; training always gets
    one.
    """
    if valid_size < 0 or test_size < 0 or valid_size + test_size >= 1:
        raise ValueError(f"shares of {valid_size} and {test_size} leave nothing to train on")
    shown: dict[str, set[int]] = {}
    for sample in samples:
        shown.setdefault(sample.image, set()).update(groups(sample))
    images = sorted(shown, key=lambda image: _place(image, folder))
    valid = min(_share(len(images), valid_size), max(0, len(images) - 1))
    test = min(_share(len(images), test_size), max(0, len(images) - 1 - valid))
    part = _stratify(images, shown, (len(images) - valid - test, valid, test))
    parts: tuple[list[Sample], list[Sample], list[Sample]] = ([], [], [])
    for sample in samples:
        parts[part[sample.image]].append(sample)
    return parts


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


def _place(image: str, folder: Path) -> tuple[bytes, str]:
    start = os.path.join(str(folder), "")
    relative = image[len(start) :] if image.startswith(start) else os.path.relpath(image, folder)
    return hashlib.sha1(os.fsencode(relative)).digest(), relative


def _share(count: int, size: float) -> int:
    return max(1, int(count * size + 0.5)) if size > 0 else 0


def _stratify(images: Sequence[str], shown: Mapping[str, set[int]], room: Sequence[int]) -> dict[str, int]:
    """The part, 0 for training, of every image; parts end up with exactly the sizes in `room`."""
    groups_of: dict[str, list[Group]] = {
        # Images that show nothing are a group of their own.
        image: [(group,) for group in sorted(shown[image])] or [()]
        for image in images
    }
    members: dict[Group, list[str]] = {}
    for image in images:
        for group in groups_of[image]:
            members.setdefault(group, []).append(image)
    desired = {group: [len(found) * size / len(images) for size in room] for group, found in members.items()}
    left = list(room)
    part_of: dict[str, int] = {}

    def assign(image: str, part: int) -> None:
        part_of[image] = part
        left[part] -= 1
        for group in groups_of[image]:
            desired[group][part] -= 1

    rarest_first = sorted(members, key=lambda group: (len(members[group]), group))
    trained: set[Group] = set()
    for group in rarest_first:
        if group not in trained and left[0]:
            # None of them is assigned yet: only images that train are so far.
            image = members[group][0]
            assign(image, 0)
            trained.update(groups_of[image])
    for group in rarest_first:
        wanted = desired[group]
        for image in members[group]:
            if image not in part_of:
                open_parts = [index for index in range(3) if left[index]]
                assign(image, max(open_parts, key=lambda index: (wanted[index], left[index])))
    return part_of
