"""Market-1501: `0001_c1s1_000151_01.jpg` is person 1, camera 1, sequence 1, frame 151, box 1.

Person -1 is junk, which is not looked at; 0000 are distractors: images of the gallery that show nobody that is asked
for. Training is `bounding_box_train`; a set to evaluate on is a folder that holds `query` and `bounding_box_test`.
(Zheng et al., "Scalable Person Re-identification: A Benchmark", 2015)
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from common.data.formats.base import AnnotatedSet, Object, Place, Record
from common.data.listing import Listing
from common.data.problems import Problem
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words

TASKS = ("reid",)

_NAME = re.compile(r"(-1|\d{4,6})_c(\d{1,3})(?:s(\d+))?_.*", re.IGNORECASE)
QUERY, GALLERY = "query", "bounding_box_test"
JUNK, DISTRACTOR = "-1", "0000"


class Named(NamedTuple):
    """What a name says. person: as it is written there. camera: from 1."""

    person: str
    camera: int


def named(path: str) -> Named | None:
    """What the name of an image says; None: it is none of Market-1501's."""
    match = _NAME.fullmatch(os.path.splitext(os.path.basename(path))[0])
    return Named(match[1], int(match[2])) if match else None


def recognise(place: Place, listing: Listing) -> Words | None:
    """Why a set is Market-1501's; None: it is not."""
    if place.task != "reid" or not listing.images:
        return None
    fitting = sum(named(image) is not None for image in listing.images)
    if fitting * 2 <= len(listing.images):
        return None
    folders = {os.path.dirname(image) for image in listing.images}
    flat = folders == {listing.folder}
    split = {os.path.basename(folder) for folder in folders} <= {
        QUERY,
        GALLERY,
        "gt_bbox",
        "gt_query",
        "bounding_box_train",
    }
    if not flat and not split:
        return None
    count = len(listing.images)
    return (
        f"{fitting} of {count} images are named like 0001_c1s1_000151_01.jpg",
        f"{count} 张图像中有 {fitting} 张的文件名形如 0001_c1s1_000151_01.jpg",
    )


def read(place: Place, listing: Listing) -> AnnotatedSet:
    """The set of images with such names. Raises DataError."""
    images, problems, skipped = [], [], []
    has_query = any(
        os.path.basename(folder) == QUERY for folder in listing.folders if folder != listing.folder
    )
    for path in listing.images:
        name = named(path)
        folder = os.path.basename(os.path.dirname(path))
        if name is None:
            problems.append(
                Problem(path, None, "its name is not like 0001_c1s1_000151_01.jpg: person, camera, …")
            )
        elif has_query and folder not in (QUERY, GALLERY):
            skipped.append(Problem(path, None, f"lies neither in {QUERY} nor in {GALLERY}"))
        elif name.person == JUNK:
            skipped.append(Problem(path, None, "junk: its person is -1"))
        elif name.person.strip("0") == "" and not has_query:
            skipped.append(Problem(path, None, "a distractor: its person is 0000, which is nobody to learn"))
        else:
            images.append(path)
    if not images:
        raise DataError(f"{printable(place.folder)}: no image is named like 0001_c1s1_000151_01.jpg")
    return AnnotatedSet("market1501", images, images, parse, problems=problems, skipped=skipped)


def parse(image: str, entry: str, width: int, height: int) -> Record:
    """The person of an image."""
    name = named(image)
    assert name is not None
    return Record(image, [Object(name.person)])
