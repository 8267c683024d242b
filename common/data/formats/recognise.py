"""Which format a set has, and opening it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol, cast

from common.config.values import FORMATS
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
from common.data.formats.base import AnnotatedSet, Place
from common.data.listing import Listing
from common.errors import DataError
from common.images.decoding import printable
from common.language import Words


class Format(Protocol):
    """A module of a format. TASKS: those that it has annotations for."""

    TASKS: tuple[str, ...]
    recognise: Callable[[Place, Listing], Words | None]
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

NOTHING_ELSE: Words = ("nothing else was recognised", "没有识别出其他格式")
"""The reason where labels of no format were found."""

# They tell by a 0 in a folder whether its XMLs count from 0.
_COUNTING = (voc.VocParser, modelarts.ModelArtsParser)

# Files of the one may belong to an export of the other, which then is what is meant.
_CONTAINS = {
    "modelarts": ("voc", "list"),
    "coco": ("labelme",),
    "cvat": ("voc",),
    "yolo": ("list",),
    "voc": ("list",),
}


def recognise(place: Place, listing: Listing) -> tuple[str, Words]:
    """The format of a set, and the reason in words.

    What reads as our own texts is that, whatever lies beside it. Raises DataError where two others are possible.
    """
    reasons: dict[str, Words] = {}
    for name, module in READERS.items():
        if place.task in module.TASKS:
            reason = module.recognise(place, listing)
            if reason is not None:
                reasons[name] = reason
                if name == "txt":
                    return name, reason
    for outer, inner in _CONTAINS.items():
        if outer in reasons:
            for name in inner:
                reasons.pop(name, None)
    if len(reasons) > 1:
        told = "; ".join(f"{name}: {reason[0]}" for name, reason in reasons.items())
        raise DataError(
            f"{printable(place.folder)} may be of {len(reasons)} formats; name one with dataset.format ({told})"
        )
    if reasons:
        return next(iter(reasons.items()))
    if place.annotations is not None:
        formats = [name for name, module in READERS.items() if place.task in module.TASKS and name != "txt"]
        raise DataError(
            f"{printable(place.annotations)}: annotations of no known format for {place.task} "
            f"({', '.join(formats)}); dataset.format names one"
        )
    return "txt", NOTHING_ELSE


def open_set(
    place: Place, format_name: str = "auto", listing: Listing | None = None
) -> tuple[AnnotatedSet, Words]:
    """The set at a place, and why it is taken for what it is. listing: of its folder. Raises DataError."""
    listing = listing or Listing(place.folder)
    name, reason = choose(place, listing, format_name)
    return READERS[name].read(place, listing), reason


def choose(place: Place, listing: Listing, format_name: str) -> tuple[str, Words]:
    """The format of a set, where it may be given, and the reason. Raises DataError if it cannot be that."""
    key = f"dataset.{place.part or 'train'}_annotations"
    if place.annotations is not None and not os.path.exists(place.annotations):
        raise DataError(f"{key}: {printable(place.annotations)} does not exist")
    if format_name == "auto":
        return recognise(place, listing)
    if place.task not in READERS[format_name].TASKS:
        usable = ", ".join(name for name, module in READERS.items() if place.task in module.TASKS)
        raise DataError(
            f"dataset.format {format_name} has no annotations for {place.task}; formats that have: {usable}"
        )
    if format_name == "txt" and place.annotations is not None:
        raise DataError(f"{key}: annotations of the format txt lie beside the images; set it to null")
    if format_name == "txt" and place.task == "detection" and txt.holds_shares(listing):
        raise DataError(
            f"{printable(place.folder)}: all coordinates are from 0 to 1, shares of the image as YOLO's are: set "
            "dataset.format to yolo"
        )
    return format_name, ("dataset.format says so", "由 dataset.format 指定")


def count_alike(folders: Sequence[AnnotatedSet]) -> None:
    """Have the XMLs in all folders of one set count pixels alike: from 0 where those of one folder do."""
    parsers = [annotated.parse for annotated in folders]
    if any(isinstance(parser, _COUNTING) and parser.first == 0 for parser in parsers):
        for annotated, parser in zip(folders, parsers, strict=True):
            if isinstance(parser, _COUNTING):
                annotated.parse = replace(parser, first=0)
