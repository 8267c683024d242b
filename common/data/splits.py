"""Which images of a set train, and which validate and test: the same ones for as long as the set grows.

An image's place is a hash of its path within the set, so that the parts do not depend on where the set lies, on the
order of its files, or on what else is in it, but for a few images at the borders.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from common.data.samples import Sample

Parts = tuple[list[Sample], list[Sample], list[Sample]]
"""Samples that train, validate and test."""


def split(
    samples: Sequence[Sample],
    folders: Sequence[Path],
    groups: Callable[[Sample], Iterable[int]],
    valid_size: float,
    test_size: float,
    marks: Mapping[str, int] | None = None,
) -> Parts:
    """Training, validation and test part of `samples`, each in the order that they came in.

    The validation part is the round(n * valid_size) images with the smallest hash of their path below whichever of
    `folders` they lie in, the test part the next round(n * test_size). An image that is the last one in the training
    part of any of its groups (the classes that it shows) stays there, and the next one goes instead. Samples of one
    image stay together, and so do images with the same of `marks`: n counts them as one. A part of a share above 0 gets
    at least one image if there are enough; training always gets one.
    """
    if valid_size < 0 or test_size < 0 or valid_size + test_size >= 1:
        raise ValueError(f"shares of {valid_size} and {test_size} leave nothing to train on")
    marks = marks or {}
    shown: dict[Hashable, set[int]] = {}
    places: dict[Hashable, bytes] = {}
    known: set[str] = set()
    for sample in samples:
        one: Hashable = marks.get(sample.image, sample.image)
        shown.setdefault(one, set()).update(groups(sample))
        if sample.image not in known:
            known.add(sample.image)
            place = place_of(sample.image, folders)
            places[one] = min(places.get(one, place), place)
    room = [_share(len(places), valid_size), _share(len(places), test_size)]
    trained = Counter(group for one in shown.values() for group in one)
    part: dict[Hashable, int] = {}
    for one in sorted(places, key=places.__getitem__):
        if len(part) + 1 == len(places) or not any(room):
            break
        if all(trained[group] > 1 for group in shown[one]):
            trained.subtract(shown[one])
            part[one] = 1 if room[0] else 2
            room[part[one] - 1] -= 1
    parts: Parts = ([], [], [])
    for sample in samples:
        parts[part.get(marks.get(sample.image, sample.image), 0)].append(sample)
    return parts


def return_trained(
    samples: Sequence[Sample], parts: Parts, marks: Mapping[str, int], trained: Collection[int]
) -> tuple[Parts, int]:
    """`parts` of `samples` with the images that were `trained` on before (by their marks) in the training part, and the
    number of those that were not there."""
    held = {sample.image for part in parts[1:] for sample in part}
    returned = {image for image in held if marks[image] in trained}
    if not returned:
        return parts, 0
    train = [sample for sample in samples if sample.image not in held or sample.image in returned]
    valid, test = ([sample for sample in part if sample.image not in returned] for part in parts[1:])
    return (train, valid, test), len(returned)


def place_of(image: str, folders: Sequence[Path]) -> bytes:
    """The hash that orders the images of a set: of the path within it, in one Unicode form whoever wrote it."""
    for folder in folders:
        start = os.path.join(str(folder), "")
        if image.startswith(start):
            path = image[len(start) :]
            break
    else:
        path = os.path.relpath(image, folders[0])
    text = unicodedata.normalize("NFC", path.replace(os.sep, "/"))
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _share(count: int, size: float) -> int:
    return max(1, round(count * size)) if size > 0 else 0
