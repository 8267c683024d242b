"""Which format a set has, and opening it."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import MappingProxyType
from typing import Protocol, cast

from common.data.formats import (
    coco,
    cvat,
    labelme,
    labelstudio,
    lists,
    market1501,
    modelarts,
    pts,
    txt,
    voc,
    yolo,
)
from common.data.formats.base import FORMATS, AnnotatedSet, Place
from common.data.listing import Listing
from common.errors import DataError
from common.images.decoding import printable


class Format(Protocol):
    """A module of a format. TASKS: those that it has annotations for."""

    TASKS: tuple[str, ...]
    recognise: Callable[[Place, Listing], str | None]
    read: Callable[[Place, Listing], AnnotatedSet]


READERS = MappingProxyType(
    {
        name: cast(Format, module)
        for name, module in zip(
            FORMATS,
            (txt, coco, voc, yolo, labelme, cvat, labelstudio, modelarts, lists, market1501, pts),
            strict=True,
        )
    }
)

# Files of the one may belong to an export of the other, which then is what is meant.
_CONTAINS = {
    "modelarts": ("voc", "list"),
    "coco": ("labelme",),
    "cvat": ("voc",),
    "yolo": ("list",),
    "voc": ("list",),
}


def recognise(place: Place, listing: Listing) -> tuple[str, str]:
    """The format of a set, and the reason in words.

    What reads as our own texts is that, whatever lies beside it. Raises DataError where two others are possible.
    """
    found: dict[str, str] = {}
    for name, module in READERS.items():
        if place.task in module.TASKS:
            reason = module.recognise(place, listing)
            if reason is not None:
                found[name] = reason
                if name == "txt":
                    return name, reason
    for outer, inner in _CONTAINS.items():
        if outer in found:
            for name in inner:
                found.pop(name, None)
    if len(found) > 1:
        told = "; ".join(f"{name}: {reason}" for name, reason in found.items())
        raise DataError(
            f"{printable(place.folder)} may be of {len(found)} formats; name one with dataset.format ({told})"
        )
    if found:
        return next(iter(found.items()))
    if place.annotations is not None:
        formats = [name for name, module in READERS.items() if place.task in module.TASKS and name != "txt"]
        raise DataError(
            f"{printable(place.annotations)}: annotations of no known format for {place.task} "
            f"({', '.join(formats)}); dataset.format names one"
        )
    return "txt", "nothing else was recognised"


def open_set(place: Place, format_name: str = "auto") -> tuple[AnnotatedSet, str]:
    """The set at a place, and why it is taken for what it is. Raises DataError."""
    if place.annotations is not None and not os.path.exists(place.annotations):
        raise DataError(
            f"dataset.{place.part or 'train'}_annotations: {printable(place.annotations)} does not exist"
        )
    listing = Listing(place.folder)
    if format_name == "auto":
        name, reason = recognise(place, listing)
    else:
        name, reason = format_name, "dataset.format says so"
        if place.task not in READERS[name].TASKS:
            usable = ", ".join(name for name, module in READERS.items() if place.task in module.TASKS)
            raise DataError(
                f"dataset.format {name} has no annotations for {place.task}; formats that have: {usable}"
            )
    return READERS[name].read(place, listing), reason
