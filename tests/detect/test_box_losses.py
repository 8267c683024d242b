"""Losses of boxes against their definitions, number by number, and their gradients against differences of these."""

from __future__ import annotations

import math
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from common.data.samples import Sample
from detect.box_losses import BOX_LOSSES, overlap_loss, smooth_l1
from tests.helpers.ssd_models import task as ssd_task
from tests.helpers.targets import inputs_of
from tests.helpers.yolov3_models import CPU, batch, task


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


def test_yolov3_trains_boxes_by_its_key() -> None:
    losses: dict[str, float] = {}
    made = task(box_loss="diou").build(["a", "b"], CPU, None)
    assert made.box_loss == "diou"
    for kind in BOX_LOSSES:
        made.box_loss = kind
        block, _ = made.training_block()
        inputs = inputs_of(made, batch(1))
        arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
        with autograd.record():
            total, box, *_ = block(*arrays)
        total.backward()
        losses[kind] = float(box.asscalar())
        trained = [p for p in made.network.collect_params().values() if p.grad_req != "null"]
        assert all(np.isfinite(parameter.grad().asnumpy()).all() for parameter in trained)
    assert losses["iou"] <= losses["diou"] <= losses["ciou"]
    assert losses["iou"] < losses["giou"]
    assert len(set(losses.values())) == len(BOX_LOSSES)


def test_the_usual_loss_of_boxes_is_what_it_was() -> None:
    assert task().config.train.box_loss == "ciou"
    assert ssd_task().config.train.box_loss == "smooth_l1"


@pytest.mark.parametrize("detector", [task, ssd_task])
def test_the_report_says_how_well_anchors_fit_the_objects(detector: Any) -> None:
    made = detector()

    def report(*boxes: tuple[float, float, float, float]) -> dict[str, Any]:
        rows = np.array([(0.0, *box) for box in boxes], np.float32)
        return made.summary([Sample("a.jpg", 640, 640, rows)], ["a"])

    square, line = (100, 100, 540, 540), (10, 100, 630, 112)
    found = report(square, line, line)
    assert found["objects_without_anchor"] == 2
    assert found["anchor_iou"]["max"] > 0.5 > found["anchor_iou"]["min"]
    assert "overlap no anchor by half" in "".join(found["warnings"])
    assert not [warning for warning in report(square)["warnings"] if "anchor" in warning]
