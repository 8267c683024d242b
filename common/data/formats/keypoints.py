"""Keypoints of things in the order in which a network learns them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.data.formats.base import Object, Point


def ordered(thing: Object, names: Sequence[str] | None) -> list[Point | None] | None:
    """The points of a thing, None for those that are not annotated; None if there are others than `names`.

    Points without labels keep their order. Labels come in that of `names`; where there is none in numeric order, if all
    are numbers, else sorted. A point that is named twice, or whose label is none of `names`, is another.
    """
    labels = [point.name for point in thing.points]
    if None in labels or not labels:
        return list(thing.points)
    by_name = {point.name: point for point in thing.points}
    if len(by_name) != len(thing.points):
        return None
    if names is None:
        return [by_name[label] for label in sorted(by_name, key=_place)]
    return None if by_name.keys() - set(names) else [by_name.get(name) for name in names]


def _place(label: str | None) -> tuple[bool, int, str]:
    text = label or ""
    return (False, int(text), "") if re.fullmatch(r"[0-9]{1,9}", text) else (True, 0, text)
