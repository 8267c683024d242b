"""How objects lie in a network's input: what is too small to be seen there, and what no anchor is near."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from common.data.boxes import objects_of
from common.data.samples import Sample

# Side in pixels of the input below which little of an object is left: a cell of the finest map of YOLOv3.
SMALLEST = 8.0
# IoU below which an anchor is not near an object.
_NEAR = 0.3


def input_figures(
    samples: Sequence[Sample], shape: tuple[int, int], overlaps: np.ndarray | None
) -> dict[str, float]:
    """Figures of the objects of a set in an input of `shape`, to which images are stretched.

    small: share of those whose side (root of the area) is below `limit` px; small_side: that of the smallest tenth.
    overlaps (n,): the IoU of each with the anchor that fits it best, None where there are no anchors; uncovered: share
    of those for which it is below 0.3. {} without any object.
    """
    sides = [
        (rows[:, 3:5] - rows[:, 1:3]).astype(np.float64) * (shape[0] / sample.width, shape[1] / sample.height)
        for sample in samples
        if len(rows := objects_of(sample.annotation))
    ]
    if not sides:
        return {}
    sizes = np.concatenate(sides)
    side = np.sqrt(sizes.prod(axis=1))
    figures = {
        "limit": SMALLEST,
        "small": float((side < SMALLEST).mean()),
        "small_side": float(np.quantile(side, 0.1)),
        "median_side": float(np.median(side)),
    }
    if overlaps is not None and len(overlaps):
        figures["uncovered"] = float((overlaps < _NEAR).mean())
    return figures
