"""The losses of boxes that detectors share, as graphs: each pair of boxes gives a number.

Boxes are x1, y1, x2, y2 along the last axis, in pixels.
"""

from __future__ import annotations

import math
from typing import Any

#: Names in `train.box_loss`.
BOX_LOSSES = ("smooth_l1", "iou", "giou", "diou", "ciou")

_TINY = 1e-9


def smooth_l1(F: Any, difference: Any) -> Any:
    """Smooth L1 (Girshick 2015, "Fast R-CNN", equation 3), summed over the last axis of differences (..., 4)."""
    size = F.abs(difference)
    inside = F.minimum(size, F.ones_like(size))
    # x² / 2 up to 1, x - 1/2 beyond.
    return F.sum(inside * (size - 0.5 * inside), axis=-1)


def overlap_loss(F: Any, predicted: Any, target: Any, kind: str) -> Any:
    """1 - IoU, GIoU, DIoU or CIoU, by `kind`, of boxes (B, N, 4) and others (B, N, 4), pair by pair (B, N)."""
    px1, py1, px2, py2 = (corner(F, predicted, i) for i in range(4))
    tx1, ty1, tx2, ty2 = (corner(F, target, i) for i in range(4))
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    both = F.relu(F.minimum(px2, tx2) - F.maximum(px1, tx1)) * F.relu(
        F.minimum(py2, ty2) - F.maximum(py1, ty1)
    )
    union = pw * ph + tw * th - both
    overlap = both / (union + _TINY)
    if kind != "iou":
        hull_width = F.maximum(px2, tx2) - F.minimum(px1, tx1)
        hull_height = F.maximum(py2, ty2) - F.minimum(py1, ty1)
        if kind == "giou":
            hull = hull_width * hull_height
            overlap = overlap - (hull - union) / (hull + _TINY)
        else:
            distance = ((px1 + px2 - tx1 - tx2) ** 2 + (py1 + py2 - ty1 - ty2) ** 2) / 4
            penalty = distance / (hull_width**2 + hull_height**2 + _TINY)
            if kind == "ciou":
                penalty = penalty + _aspect_penalty(F, 1.0 - overlap, (pw, ph), (tw, th))
            overlap = overlap - penalty
    return (1.0 - overlap).reshape((0, -1))


def _aspect_penalty(F: Any, missing: Any, predicted: tuple[Any, Any], target: tuple[Any, Any]) -> Any:
    """What complete IoU takes off for another aspect ratio (Zheng et al. 2020, equations 8 to 11)."""
    (pw, ph), (tw, th) = predicted, target
    aspect = (4 / math.pi**2) * (F.arctan(tw / (th + _TINY)) - F.arctan(pw / (ph + _TINY))) ** 2
    # The factor is a weight, not a quantity to be learnt.
    return F.BlockGrad(aspect / (missing + aspect + _TINY)) * aspect


def corner(F: Any, boxes: Any, index: int) -> Any:
    """One of the four numbers of boxes (B, N, >= 4), as (B, N, 1)."""
    return boxes.slice_axis(axis=2, begin=index, end=index + 1)
