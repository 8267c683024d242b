"""Reading a classification or ReID sample: its class is its folder; a txt beside the image may hold boxes.

`CLASS/1.jpg` is an image of CLASS. With `CLASS/1.txt`, each line `id,x1,y1,x2,y2` is a sample: that box of the
image, in pixels as a person sees it. The id says nothing here, as the folder names the class.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from classification.transforms import box_of
from common.data.boxes import objects_of, settle_boxes
from common.data.figures import listed, spread, unevenness
from common.data.formats.base import Label, Record
from common.data.listing import Listing, class_of, root_of
from common.data.problems import BadSample, Problem
from common.data.rows import annotation_path, read_rows
from common.data.samples import Sample
from common.errors import DataError
from common.images.decoding import printable

log = logging.getLogger("visualtl")

# How the text beside an image says that there is no box.
_NONE = [-1.0] * 5


def class_folders(listing: Listing) -> list[str]:
    """Names of the class folders of a set, sorted. Raises DataError if there is none."""
    if not listing.class_folders:
        folder = listing.folder
        raise DataError(
            f"{printable(folder)}: no class folders; images belong into {printable(os.path.basename(folder))}/CLASS/, "
            "one for each class"
        )
    return listing.class_folders


def unknown_folders(listing: Listing, classes: Collection[str]) -> list[str]:
    """Names of class folders of another set that are none of `classes` and hold images, sorted.

    Those without images are said in the log. Images that lie deeper than the class folders, too.
    """
    unknown = [name for name in listing.class_folders if name not in classes]
    used = {listing.class_of(image) for image in listing.images} if unknown else set()
    if empty := [name for name in unknown if name not in used]:
        log.warning("%s: folders of no class, without images: %s", printable(listing.folder), listed(empty))
    return [name for name in unknown if name in used]


def tell_deeper(listing: Listing) -> None:
    """Say which images lie deeper than directly in their class folder: that folder is their class all the same."""
    folders = (
        os.path.relpath(os.path.dirname(image), root_of(image, listing.roots)) for image in listing.images
    )
    deeper = Counter(inner for inner in folders if os.sep in inner)
    if deeper:
        log.warning(
            "%s: %d images lie deeper than in the folder directly below the set, which is their class all the same: %s",
            printable(listing.folder),
            deeper.total(),
            listed([f"{printable(folder)} ({count})" for folder, count in deeper.items()]),
        )


@dataclass(frozen=True)
class ClassAnnotations:
    """Reads the class and the boxes of an image: float32 arrays (5,) of class id, x1, y1, x2, y2 for a box, and (1,) of
    the class id alone for all of an image.

    classes: names by id. others: folders that may be there without being classes (identities that a ReID
    training does not know); their ids go on after those of the classes. folders: of the sets; the class of an image is
    the folder directly below its set's, however deep it lies in there.

    An image without a txt, or with an empty one or `-1,-1,-1,-1,-1`, is one sample, its whole. A box that
    sticks out is clipped and one without area inside of the image is left out; both are reported.
    """

    classes: tuple[str, ...]
    folders: tuple[str, ...] = field(repr=False)
    others: tuple[str, ...] = ()

    layouts = ((1, -1), (5, -1))

    @property
    def id_limit(self) -> int:
        """Ids are below it."""
        return len(self._ids)

    @cached_property
    def _ids(self) -> dict[str, int]:
        new = [name for name in self.others if name not in set(self.classes)]
        return {name: index for index, name in enumerate([*self.classes, *new])}

    def __call__(self, image: str, width: int, height: int) -> tuple[list[np.ndarray], list[Problem]]:
        """The samples of `image`, and what was clipped or left out.

        Raises BadSample if the image stands in no class folder, or its txt is malformed or leaves no box;
        DataError for a folder that is no class.
        """
        class_id = self._class_id(image)
        whole = np.array([class_id], np.float32)
        if not os.path.lexists(annotation_path(image)):
            return [whole], []
        path, rows = read_rows(image, 5)
        given = ((class_id, row.values[1:], row.line) for row in rows if row.values != _NONE)
        annotation, problems = settle_boxes(given, path, width, height)
        if len(boxes := objects_of(annotation)):
            return list(boxes), problems
        if problems:
            raise BadSample(
                *problems, Problem(image, None, "none of its boxes is left, so it is left out as well")
            )
        return [whole], []

    def of_record(
        self, image: str, record: Record, width: int, height: int
    ) -> tuple[list[np.ndarray], list[Label], list[Problem]]:
        """The samples of a record (see `common.data.samples.Annotate`). Raises BadSample if none is left of some."""
        labels: dict[Label, int] = {}
        numbers = [labels.setdefault(thing.label, len(labels)) for thing in record.objects]
        things = list(zip(numbers, record.objects, strict=True))
        given = [(number, thing.box, thing.line) for number, thing in things if thing.box is not None]
        annotation, problems = settle_boxes(given, record.source, width, height)
        annotations = list(objects_of(annotation))
        annotations += [np.array([number], np.float32) for number, thing in things if thing.box is None]
        if not annotations:
            nothing = Problem(image, None, "nothing says its class; left out")
            raise BadSample(*record.problems, *problems, nothing)
        return annotations, list(labels), problems

    def _class_id(self, image: str) -> int:
        folder = root_of(image, self.folders)
        name = class_of(image, folder)
        if name is None:
            raise BadSample(Problem(image, None, "lies beside the class folders, not in one"))
        if name not in self._ids:
            raise DataError(
                f"{printable(os.path.join(folder, name))}: the class folder {name!r} is not in the training set, "
                f"which has {_some(self.classes)}"
            )
        return self._ids[name]


def summary(samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
    """What a set looks like, for the data report: samples by class, in the order of `classes`."""
    counts = Counter(int(sample.annotation[0]) for sample in samples)
    return counted({name: counts.get(index, 0) for index, name in enumerate(classes)}, samples)


def single(counts: Mapping[str, int]) -> list[str]:
    """A warning of a set that has one class alone. counts: by class."""
    return ["one class alone: there is nothing to tell apart"] if len(counts) == 1 else []


def counted(counts: dict[str, int], samples: Sequence[Sample]) -> dict[str, Any]:
    """What a set with `counts` samples of its classes looks like; sizes are those of images or boxes, in pixels."""
    boxes = np.array([box_of(sample) for sample in samples]).reshape(-1, 4)
    return {
        "samples_by_class": counts,
        "width": spread(boxes[:, 2] - boxes[:, 0], 1),
        "height": spread(boxes[:, 3] - boxes[:, 1], 1),
        "warnings": [*single(counts), *unevenness(counts, "sample")],
    }


def _some(names: Sequence[str], most: int = 10) -> str:
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
