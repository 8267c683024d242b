"""A set with annotations of whatever format, as a finished model is judged on it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from common.data.figures import listed
from common.data.formats import txt
from common.data.formats.base import Label, Place
from common.data.formats.classes import settle
from common.data.formats.recognise import READERS, choose
from common.data.labels import with_class_ids
from common.data.listing import Listing
from common.data.problems import FolderReport
from common.data.samples import Labels, Sample, read_folder
from common.errors import DataError
from common.images.decoding import printable
from common.processes.pool import WorkerPool
from common.trained import Card, Reading

log = logging.getLogger("visualtl")


def read_labelled_set(
    data: Path,
    card: Card,
    reading: Reading,
    pool: WorkerPool,
    wanted: str = "auto",
    annotations: Path | None = None,
) -> tuple[list[Sample], FolderReport]:
    """The samples of a folder with annotations, their classes by the model's ids.

    wanted: name of a format, or "auto"; annotations: file or folder of those that lie elsewhere. Raises DataError.
    """
    data = Path(os.path.abspath(data))  # as annotations are looked for, whatever they name
    listing = Listing(str(data))
    annotate, names = reading.annotations(listing)
    place = _place(data, annotations, card.kind.does)
    kind, reason = choose(place, listing, wanted)
    log.info("%s: the labels are %s: %s", printable(str(data)), kind, reason[0])
    if kind == "txt":
        samples, folder_report = read_folder(
            data, annotate, pool, lambda share: None, listing=listing, names=names
        )
        beside = txt.names_beside(place) if card.kind.does == "detection" else []
        if set(beside).isdisjoint(card.classes):  # they say nothing of the model's: its ids count
            return samples, folder_report
        beside += [f"class{number}" for number in range(len(beside), len(card.classes))]
        return _by_class(samples, beside, beside, card.classes), folder_report
    annotated, labels = READERS[kind].read(place, listing), Labels()
    samples, folder_report = read_folder(
        data, annotate, pool, lambda share: None, listing=listing, annotated=annotated, labels=labels
    )
    numbers = list(labels.numbers)
    if card.kind.does == "reid":  # identities are the set's own
        return [
            replace(sample, label=str(numbers[int(sample.annotation[0])])) for sample in samples
        ], folder_report
    if card.kind.does == "landmark":
        return samples, folder_report
    return _by_class(samples, annotated.names, numbers, card.classes), folder_report


def _place(data: Path, annotations: Path | None, does: str) -> Place:
    """Where a set and its annotations are: exports keep these beside the folder of the images, or above it."""
    if annotations is not None:
        annotations = annotations.absolute()
        root = os.path.commonpath([data.absolute(), annotations.parent])
    else:
        root = str(data.absolute().parents[min(1, len(data.absolute().parents) - 1)])
    return Place(root, str(data.absolute()), None if annotations is None else str(annotations), "", does)


def _by_class(
    samples: Sequence[Sample], names: Sequence[str], numbers: Sequence[Label], classes: Sequence[str]
) -> list[Sample]:
    """Samples with ids of the model's classes in the place of numbers of labels. names: those of the format.

    Objects of classes that the model does not have count as absent. Raises DataError for a sample that is of such a
    class.
    """
    _, ids = settle([names], numbers, classes)
    settled, absent = with_class_ids(samples, numbers, ids, dict(enumerate(classes)))
    told = listed([f"{label} ({count})" for label, count in absent.items()])
    if len(settled) < len(samples):
        left = {sample.image for sample in settled}
        first = next(sample.image for sample in samples if sample.image not in left)
        raise DataError(
            f"{printable(first)}: its class is none of the model's, which has {listed(classes)}; images of such "
            f"classes: {told}"
        )
    if absent:
        log.warning(
            "%d objects are of classes that the model does not have, and count as absent: %s",
            absent.total(),
            told,
        )
    return settled
