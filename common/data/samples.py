"""What a job learns from: samples read from a folder, and the report on what was left out."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from common.data.boxes import UNKNOWN
from common.data.formats.base import AnnotatedSet, Label, Parse, Record, stated_size
from common.data.listing import Listing
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
from common.data.scan_cache import LEAST_IMAGES, Known, ScanCache
from common.images.decoding import ImageError, probe_marked
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


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One thing to learn from or to predict; equal only to itself.

    image: path as the user would write it (below data_root, links not resolved). width, height: of the image
    in pixels, after EXIF orientation. annotation: float32, of one or two dimensions, as the task means it. label: name
    of the class or identity that the sample is; "" where it shows several things or none. mark: of the image file
    (`common.images.marks`).
    """

    image: str
    width: int
    height: int
    annotation: np.ndarray
    label: str = ""
    mark: int = 0


class Annotate(Protocol):
    """How a task reads what stands beside an image, or what another format says of it. Picklable; carried out by
    workers."""

    @property
    def id_limit(self) -> int | None:
        """Ids in column 0 of annotations by `__call__` are below it; None: annotations have no ids."""

    @property
    def layouts(self) -> Sequence[tuple[int | None, int]]:
        """Numbers (None: any number of them) and columns (-1: of one dimension) that annotations have."""

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        """Annotations, one for each sample of the image, and what was clipped or left out of them.

        Raises:
            BadSample: the whole image is left out.
            DataError: no job can be done with this.
        """

    def of_record(
        self, image: str, record: Record, width: int, height: int
    ) -> tuple[list[np.ndarray], list[Label], list[Problem]]:
        """The same of a record, and its labels: column 0 of an annotation is an index into them, where there are any.

        Raises: as above.
        """


class Labels:
    """Numbers from 0 for the labels of all sets, in the order in which they are met."""

    def __init__(self) -> None:
        self.numbers: dict[Label, int] = {}
        self._last: tuple[Sequence[Label], np.ndarray] = [], np.empty(0)

    def renumber(self, annotations: Sequence[np.ndarray], labels: Sequence[Label]) -> None:
        """Put numbers of labels in the place of indices into `labels`, in column 0 of each annotation."""
        if not labels:
            return
        if labels is not self._last[0]:  # those of a cache are the same for all images
            numbers = [self.numbers.setdefault(label, len(self.numbers)) for label in labels]
            self._last = labels, np.array(numbers, np.float32)
        table = self._last[1]
        for annotation in annotations:
            annotation[..., 0] = renumbered(annotation[..., 0].astype(int), table)


def renumbered(ids: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table` of each id; of those that stand for objects that do not count (`boxes.uncounted`) too. UNKNOWN stays."""
    if ids.min(initial=0) >= 0:
        return table[ids]
    new_ids = ids.astype(np.float32)
    for counted, numbers in ((ids >= 0, ids), (ids < UNKNOWN, -2 - ids)):
        new = table[numbers[counted]]
        new_ids[counted] = new if numbers is ids else -2 - new
    return new_ids


def read_folder(
    folder: Path,
    annotate: Annotate,
    pool: WorkerPool,
    progress: Callable[[float], None],
    cache_file: Path | None = None,
    *,
    listing: Listing | None = None,
    names: Sequence[str] = (),
    annotated: AnnotatedSet | None = None,
    labels: Labels | None = None,
) -> tuple[list[Sample], FolderReport]:
    """All samples below `folder`, ordered by path, and what was left out.

    Images are probed and annotated by the workers. progress is called with the share of the images that is
    done. cache_file: where large sets are kept, so that the next time only what has changed is read. listing: of the
    folder, where it has been read. names: labels of samples by the id that their annotation begins with. annotated: the
    set in another format than our own texts; annotations then begin with a number of `labels`, and its entries are
    given up.

    Raises:
        NoSamples: nothing is left; its report says what was wrong with everything.
        DataError: the folder cannot be read, or an annotation makes the job pointless.
    """
    listing = listing or Listing(str(folder))
    report = FolderReport(str(folder), skipped=list(listing.skipped), other_files=len(listing.others))
    items: Iterable[Any]
    if annotated is None:
        paths = _images_of(listing, report)
        read: Callable[[Any], Outcome] = functools.partial(_read_image, annotate)
    else:
        paths = annotated.images
        report.format = annotated.format
        report.skipped += annotated.skipped
        report.problems += annotated.problems
        read = functools.partial(_read_record, annotate, annotated.parse)
    report.images = len(paths)
    samples: list[Sample] = []
    labels = labels or Labels()
    cache = None
    known: list[Known | None] = [None] * len(paths)
    if cache_file and len(paths) >= LEAST_IMAGES:
        cache = ScanCache(cache_file, folder, annotate, annotated)
        if annotated is None:
            known = cache.look_up(paths, list(map(annotation_path, paths)))
        else:
            known = cache.look_up(paths, annotated.own_files or paths)
    unknown = [index for index, entry in enumerate(known) if entry is None]
    items = (
        paths[index] if annotated is None else (paths[index], annotated.entries[index]) for index in unknown
    )
    # Small chunks where there are few images, so that all workers have a share of them.
    chunk = max(1, min(128, len(unknown) // (8 * max(1, pool.count))))
    outcomes = pool.map(read, items, chunk)
    for index, path in enumerate(paths):
        entry = known[index]
        problems: Sequence[Problem] = ()
        if entry is None:
            entry, problems = next(outcomes)
            if cache and not problems:
                known[index] = Known(*entry[:4], [])
        labels.renumber(entry.annotations, entry.labels)
        for annotation in entry.annotations:
            label = names[int(annotation[0])] if names else ""
            samples.append(Sample(path, entry.width, entry.height, annotation, label, entry.mark))
        for problem in problems:
            (report.clipped if problem.clipped else report.problems).append(problem)
        if not entry.annotations:
            report.images_left_out += 1
        elif problems:
            report.entries_left_out += sum(not problem.clipped for problem in problems)
        done = index + 1
        if done % chunk == 0 or done == len(paths):
            progress(done / len(paths))
    if annotated is not None:
        annotated.entries = ()  # as large as the samples, and done with
    report.samples = len(samples)
    log_report(report)
    if cache and unknown:
        cache.store(paths, known, [] if annotated is None else list(labels.numbers))
    if not samples:
        raise NoSamples(report)
    return samples, report


def _images_of(listing: Listing, report: FolderReport) -> list[str]:
    """Those of the images whose extension is in lower case; two that share a text are noted."""
    paths = []
    stems: set[str] = set()
    for path in listing.images:
        stem, extension = os.path.splitext(path)
        if extension not in IMAGE_EXTENSIONS:
            reason = f"extension must be lower case: {extension.lower()}"
            report.skipped.append(Problem(path, None, reason))
            continue
        if stem in stems and os.path.lexists(text := annotation_path(path)):
            report.notes.append(Problem(path, None, f"shares {os.path.basename(text)} with another image"))
        stems.add(stem)
        paths.append(path)
    return paths


Outcome = tuple[Known, Sequence[Problem]]
"""What was read of an image, and what was wrong; no annotations if it is left out."""


def _read_image(annotate: Annotate, path: str) -> Outcome:
    try:
        width, height, mark = probe_marked(path)
        annotations, problems = annotate(path, width, height)
        return Known(width, height, mark, annotations, []), problems
    except ImageError as error:
        return _NOTHING, [Problem(error.path, None, error.reason)]
    except BadSample as error:
        return _NOTHING, error.problems


def _read_record(annotate: Annotate, parse: Parse, item: tuple[str, Any]) -> Outcome:
    path, entry = item
    try:
        width, height, mark = probe_marked(path)
        record = parse(path, entry, width, height)
        stated = stated_size(record, path, width, height)
        annotations, labels, problems = annotate.of_record(path, record, width, height)
        return Known(width, height, mark, annotations, labels), [*stated, *record.problems, *problems]
    except ImageError as error:
        return _NOTHING, [Problem(error.path, None, error.reason)]
    except BadSample as error:
        return _NOTHING, error.problems


_NOTHING = Known(0, 0, 0, [], [])
