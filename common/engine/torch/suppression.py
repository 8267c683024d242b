"""MXNet's box_nms: rows of detections, of which a better one of the same class suppresses those that overlap it."""

from __future__ import annotations

import torch
from torch import Tensor


def box_nms(rows: Tensor, *, overlap: float, score: float, candidates: int) -> Tensor:
    """Rows (…, N, >= 6) of id, score, x1, y1, x2, y2, sorted by score; what is suppressed, and the rest, is -1.

    overlap: IoU above which a box is suppressed. score: rows must exceed it. candidates: rows that take part, the best;
    below 1 all. Rows with an id below 0 count as the others, as in MXNet with a background of -1.
    """
    shape = rows.shape
    flat = rows.reshape(-1, *shape[-2:])
    output = torch.full_like(flat, -1)
    for image, given in enumerate(flat.detach()):
        order = torch.nonzero(given[:, 1] > score).reshape(-1)
        order = order[torch.sort(given[order, 1], descending=True, stable=True).indices]
        if candidates > 0:
            order = order[:candidates]
        chosen = given[order]
        kept = _kept(chosen, overlap)
        output[image, : int(kept.sum())] = flat[image][order[kept]]
    return output.reshape(shape)


def _kept(rows: Tensor, overlap: float) -> Tensor:
    """Which of rows (N, >= 6), best first, no better one that is kept suppresses."""
    boxes = rows[:, 2:6].double()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)
    areas = sides.prod(1)
    near = torch.maximum(boxes[:, None, :2], boxes[None, :, :2])
    far = torch.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
    shared = (far - near).clamp(min=0).prod(2)
    union = areas[:, None] + areas[None] - shared
    # A box without an area overlaps nothing.
    over = (shared > overlap * union) & (rows[:, None, 0] == rows[None, :, 0])
    over = torch.triu(over, 1).cpu()
    kept = torch.ones(len(rows), dtype=torch.bool)
    for row in range(len(rows)):
        if kept[row]:
            kept &= ~over[row]
    return kept.to(rows.device)
