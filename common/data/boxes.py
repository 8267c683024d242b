"""Boxes as people annotate them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def clip_box(box: Sequence[float], width: int, height: int) -> tuple[list[float] | None, str]:
    """The part of a box x1, y1, x2, y2 inside an image, None where it has no area, and what was wrong.

    The reason is "" for a box that is inside; one that touches the edges is. Edges are those that float32
    holds.
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
