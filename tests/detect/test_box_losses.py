"""Losses of boxes against their definitions, number by number, and their gradients against differences of these."""

from __future__ import annotations

import math

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from detect.box_losses import BOX_LOSSES, overlap_loss, smooth_l1


def plain(kind: str, a: np.ndarray, b: np.ndarray, factor: float | None = None) -> float:
    """The loss of a box a for b; factor: the weight of complete IoU's aspect ratio, where it is a constant."""
    if kind == "smooth_l1":
        return float(sum(0.5 * d * d if abs(d) < 1 else abs(d) - 0.5 for d in (a - b).tolist()))
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = a.tolist(), b.tolist()
    both = max(min(ax2, bx2) - max(ax1, bx1), 0) * max(min(ay2, by2) - max(ay1, by1), 0)
    union = (ax2 - ax1) * (ay2 - ay1) + (bx2 - bx1) * (by2 - by1) - both
    iou = both / union
    if kind == "iou":
        return 1 - iou
    hull_w, hull_h = max(ax2, bx2) - min(ax1, bx1), max(ay2, by2) - min(ay1, by1)
    if kind == "giou":
        return 1 - iou + (hull_w * hull_h - union) / (hull_w * hull_h)
    centres = ((ax1 + ax2 - bx1 - bx2) / 2, (ay1 + ay2 - by1 - by2) / 2)
    loss = 1 - iou + (centres[0] ** 2 + centres[1] ** 2) / (hull_w**2 + hull_h**2)
    if kind == "diou":
        return loss
    aspect = (
        4 / math.pi**2 * (math.atan((bx2 - bx1) / (by2 - by1)) - math.atan((ax2 - ax1) / (ay2 - ay1))) ** 2
    )
    return loss + (factor if factor is not None else aspect / (1 - iou + aspect)) * aspect


def factor_of(a: np.ndarray, b: np.ndarray) -> float:
    """The weight of the aspect ratio in complete IoU, which is not learnt."""
    aspect = (plain("ciou", a, b, 1.0) - plain("diou", a, b)) or 1e-12
    return aspect / (plain("iou", a, b) + aspect)


def boxes(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 40, (count, 2))
    return np.concatenate([low, low + rng.uniform(5, 40, (count, 2))], axis=1)


@pytest.mark.parametrize("kind", BOX_LOSSES)
def test_values_and_gradients_are_those_of_the_definition(kind: str) -> None:
    a, b = boxes(40, 1), boxes(40, 2)
    if kind == "smooth_l1":
        a, b = a / 20, b / 20
    predicted, target = mx.nd.array(a[None]), mx.nd.array(b[None])
    predicted.attach_grad()
    with autograd.record():
        if kind == "smooth_l1":
            loss = smooth_l1(mx.nd, predicted - target)
        else:
            loss = overlap_loss(mx.nd, predicted, target, kind)
    loss.backward()
    assert loss.shape == (1, 40)
    wanted = [plain(kind, *pair) for pair in zip(a, b, strict=True)]
    np.testing.assert_allclose(loss.asnumpy()[0], wanted, rtol=1e-4, atol=1e-5)
    gradient = np.empty_like(a)
    for row, (x, y) in enumerate(zip(a, b, strict=True)):
        factor = factor_of(x, y) if kind == "ciou" else None
        for column in range(4):
            step = np.zeros(4)
            step[column] = 1e-5
            difference = plain(kind, x + step, y, factor) - plain(kind, x - step, y, factor)
            gradient[row, column] = difference / 2e-5
    assert (gradient != 0).any()
    np.testing.assert_allclose(predicted.grad.asnumpy()[0], gradient, rtol=2e-3, atol=2e-5)


@pytest.mark.parametrize("kind", [kind for kind in BOX_LOSSES if kind != "smooth_l1"])
def test_equal_boxes_cost_nothing_and_boxes_without_area_give_numbers(kind: str) -> None:
    some = mx.nd.array(boxes(5, 3)[None])
    np.testing.assert_allclose(overlap_loss(mx.nd, some, some, kind).asnumpy(), 0, atol=1e-5)
    nothing = mx.nd.zeros((1, 5, 4))
    nothing.attach_grad()
    with autograd.record():
        loss = overlap_loss(mx.nd, nothing, some, kind)
    loss.backward()
    assert np.isfinite(loss.asnumpy()).all()
    assert np.isfinite(nothing.grad.asnumpy()).all()
