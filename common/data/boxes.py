"""Boxes as people annotate them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from common.data.hints import hint_of
from common.data.problems import Problem

UNKNOWN = -1
"""In the place of a class id: a place of which nothing is known, that is neither object nor background."""

# A side that is not known counts as so much of the other one, and as so many pixels at least.
_ROUGHLY = 0.5
_ROUGH_PIXELS = 16.0


def uncounted(class_id: int) -> int:
    """In the place of a class id: an object of the class `class_id` that counts for nothing ("difficult")."""
    return -2 - class_id


def objects_of(annotation: np.ndarray) -> np.ndarray:
    """Those rows of an annotation (n, 5: id, x1, y1, x2, y2) that are objects."""
    return annotation[annotation[:, 0] >= 0]


def settle_boxes(
    rows: Iterable[tuple[int, Sequence[float], int | None]], source: str, width: int, height: int
) -> tuple[np.ndarray, list[Problem]]:
    """What is learnt of the boxes of an image, and what was changed or left out, with the file `source` and the line.

    rows: class id (or what stands in its place), x1, y1, x2, y2 in pixels, and line. Reversed corners are sorted, what
    sticks out is clipped, the same object twice is one. What has no area leaves its place UNKNOWN, as large as it may
    be: as background it would teach that what is there is nothing.

    Returns (n, 5) float32 rows of id, x1, y1, x2, y2, objects first.
    """
    rows = list(rows)
    plain = _plain(rows, width, height)
    if plain is not None:
        return plain, []
    objects: dict[tuple[float, ...], int | None] = {}
    places: list[tuple[float, ...]] = []
    problems: list[Problem] = []
    for class_id, box, line in rows:
        text = ",".join(f"{value:.10g}" for value in box)
        x1, y1, x2, y2 = box
        ordered = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        clipped, reason = clip_box(ordered, width, height)
        is_reversed = ordered != tuple(box) and clipped is not None
        hint = hint_of(box, width, height) if reason or is_reversed else ""
        if is_reversed:
            problems.append(Problem(source, line, f"{text}: {_REVERSED}", True, "reversed corners", hint))
        if reason:
            inside = clipped is not None
            kind = "sticking out" if inside else ""
            problems.append(
                Problem(source, line, f"{text}: {reason}", inside, kind, "" if is_reversed else hint)
            )
        if clipped is None:
            places += _rough_place(ordered, width, height)
        elif (row := (float(class_id), *clipped)) in objects:
            first = "" if objects[row] is None else f", that of line {objects[row]}"
            problems.append(Problem(source, line, f"{text}: {_TWICE}{first}", True, "duplicates"))
        else:
            objects[row] = line
    kept = sorted(objects, key=lambda row: row[0] < 0)
    return np.array([*kept, *places], np.float32).reshape(-1, 5), problems


def _plain(
    rows: Sequence[tuple[int, Sequence[float], int | None]], width: int, height: int
) -> np.ndarray | None:
    """The rows of an image whose objects all lie within it and are different, as nearly all do; None: not so."""
    for _, (x1, y1, x2, y2), _ in rows:
        if not (0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height):
            return None
    stored = np.array([(class_id, *box) for class_id, box, _ in rows], np.float32).reshape(-1, 5)
    listed = stored.tolist()
    for class_id, x1, y1, x2, y2 in listed:  # as float32 a box may have no area
        if not (class_id >= 0 and x1 < x2 and y1 < y2):
            return None
    return stored if len(set(map(tuple, listed))) == len(listed) else None


_REVERSED = "corners in another order (x1 must be less than x2, y1 less than y2); sorted"
_TWICE = "the same object a second time; counted once"


def clip_box(box: Sequence[float], width: int, height: int) -> tuple[list[float] | None, str]:
    """The part of a box x1, y1, x2, y2 inside an image, None where it has no area, and what was wrong.

    The reason is "" for a box that is inside; one that touches the edges is. Edges are those that float32 holds.
    """
    x1, y1, x2, y2 = box
    if x1 >= x2 or y1 >= y2:
        return None, "a box without area (x1 must be less than x2, y1 less than y2); left out"
    clipped = [max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))]
    if clipped[0] >= clipped[2] or clipped[1] >= clipped[3]:
        return None, f"a box outside of the {width}x{height} image; left out"
    stored = np.array(clipped, np.float32).tolist()
    if stored[0] >= stored[2] or stored[1] >= stored[3]:
        return None, "a box without area to speak of; left out"
    if clipped != list(box):
        return stored, f"a box that sticks out of the {width}x{height} image; clipped"
    return stored, ""


def _rough_place(box: Sequence[float], width: int, height: int) -> list[tuple[float, ...]]:
    """Where something may be whose box x1, y1, x2, y2, corners in order, has no area; none outside of the image."""
    x1, y1, x2, y2 = box
    if x2 < 0 or y2 < 0 or x1 > width or y1 > height:
        return []
    across, down = (
        max(0.0, max(_ROUGHLY * other, _ROUGH_PIXELS) - side) / 2
        for side, other in ((x2 - x1, y2 - y1), (y2 - y1, x2 - x1))
    )
    place, _ = clip_box((x1 - across, y1 - down, x2 + across, y2 + down), width, height)
    return [(float(UNKNOWN), *place)] if place else []
