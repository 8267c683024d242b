"""What lies in a folder, and what it is labelled for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from common.data.formats import txt
from common.data.formats.base import Place
from common.data.formats.recognise import NOTHING_ELSE, READERS, recognise
from common.data.listing import Listing
from common.data.problems import BadSample
from common.data.set_names import set_folders
from common.errors import ConfigurationError, DataError, JobError
from common.files import spelled_out
from common.images.decoding import ImageError, printable, probe
from common.language import Words

TASKS = ("detection", "landmark", "classification", "reid")
# Images of a set that are looked at for its keypoints.
_LOOKED_AT = 200


@dataclass(frozen=True)
class Data:
    """What lies in a folder.

    does: what it is labelled for. root: of the data. folders: of the sets, relative to it. images: files of the
    training set. format, why: of the labels. classes: names beside texts of ours; () where labels name their classes.
    joints: keypoints of an image; 0 of other tasks.
    """

    does: str
    root: str
    folders: Mapping[str, str]
    images: int
    format: str
    why: Words
    classes: tuple[str, ...] = ()
    joints: int = 0


def look(folder: Path, task: str | None = None) -> Data:
    """What lies in a folder. task: what it is labelled for; None: found out. Raises ConfigurationError, DataError."""
    if not folder.is_dir():
        raise ConfigurationError(f"FOLDER: {printable(str(folder))} is not a folder")
    source = str(spelled_out(folder))
    folders = set_folders(source)
    if "train" not in folders:
        folders = {"train": "."}
    root = source
    if folders == {"train": "."}:
        root, name = os.path.split(os.path.abspath(source))
        folders = {"train": name}
    place = os.path.join(root, folders["train"])
    listing = Listing(place)
    if not listing.images:
        raise DataError(f"FOLDER: {printable(place)} holds no image (.jpg .jpeg .png .bmp)")
    does, kind, why = _purpose(root, place, listing, task)
    if task is None and does == "classification" and _has_new_classes(root, folders, listing):
        does = "reid"
    classes: tuple[str, ...] = ()
    if kind == "txt" and does == "detection":
        classes = tuple(txt.names_beside(Place(root, place, None, "train", does)))
    if does == "reid" and kind == "market1501":
        folders = {"train": folders["train"]}
        if all(os.path.isdir(os.path.join(root, name)) for name in ("query", "bounding_box_test")):
            folders["test"] = "."
    joints = _joints(Place(root, place, None, "train"), listing, kind) if does == "landmark" else 0
    return Data(does, root, folders, len(listing.images), kind, why, classes, joints)


def _has_new_classes(root: str, folders: Mapping[str, str], train: Listing) -> bool:
    """Whether a validation or test set shows what training does not: only identities may be new."""
    known = set(train.class_folders)
    others = [folder for part, folder in folders.items() if part != "train"]
    return any(not known.issuperset(Listing(os.path.join(root, folder)).class_folders) for folder in others)


def _purpose(root: str, folder: str, listing: Listing, task: str | None) -> tuple[str, str, Words]:
    """What a set is labelled for, the format, and the reason for that."""
    found: dict[str, tuple[str, Words]] = {}
    unread: JobError | None = None  # labels that say nothing to one task may be fine for another
    for does in (task,) if task else TASKS:
        try:
            kind, why = recognise(Place(root, folder, None, "train", does), listing)
            known = why != NOTHING_ELSE
            # Boxes alone, in a format that has points too, are no landmarks.
            if known and (does != "landmark" or _joints(Place(root, folder, None, "train"), listing, kind)):
                found[does] = kind, why
        except JobError as error:
            unread = unread or error
    if not found and unread:
        raise unread
    if not found:
        what = task or "boxes, classes or keypoints"
        raise DataError(
            f"FOLDER: {printable(folder)} has no labels for {what} that are known: beside the images, or in folders of "
            "classes (docs/data.md)"
        )
    if "reid" in found and "classification" in found:
        del found["reid"]  # --task reid says otherwise
    does = next(does for does in ("reid", "landmark", "detection", "classification") if does in found)
    return does, *found[does]


def _joints(place: Place, listing: Listing, kind: str) -> int:
    """Keypoints of a thing in a set: names of points where they have some, else their number; 0: it has none."""
    opened = READERS[kind].read(replace(place, task="landmark"), listing)
    names: set[str] = set()
    most = 0
    pairs = list(zip(opened.images, opened.entries, strict=True))
    for image, entry in pairs[:: max(len(pairs) // _LOOKED_AT, 1)]:
        try:
            things = opened.parse(image, entry, *probe(image)).objects
        except (ImageError, BadSample):
            continue
        names |= {point.name for thing in things for point in thing.points if point.name is not None}
        most = max([most, *(len(thing.points) for thing in things)])
    return len(opened.keypoints or names) or most
