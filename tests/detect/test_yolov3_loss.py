"""The loss in the graph equals the plain definition, box by box."""

from __future__ import annotations

import math

import mxnet as mx
import numpy as np
import pytest

from detect.box_losses import overlap_loss
from detect.yolov3.loss import binary_cross_entropy, decode, iou_matrix
from detect.yolov3.targets import grid


def random_boxes(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    corners = rng.uniform(0, 100, (*shape, 2))
    return np.concatenate([corners, corners + rng.uniform(0.5, 60, (*shape, 2))], -1).astype(np.float32)


def plain_iou(a: np.ndarray, b: np.ndarray) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1])
    return width * height / (areas - width * height)


def plain_complete_iou(a: np.ndarray, b: np.ndarray) -> float:
    """Zheng et al. 2020, equations 7 to 11."""
    iou = plain_iou(a, b)
    distance = ((a[0] + a[2] - b[0] - b[2]) ** 2 + (a[1] + a[3] - b[1] - b[3]) ** 2) / 4
    diagonal = (max(a[2], b[2]) - min(a[0], b[0])) ** 2 + (max(a[3], b[3]) - min(a[1], b[1])) ** 2
    aspect = (
        4
        / math.pi**2
        * (math.atan((b[2] - b[0]) / (b[3] - b[1])) - math.atan((a[2] - a[0]) / (a[3] - a[1]))) ** 2
    )
    return iou - distance / diagonal - aspect * aspect / (1 - iou + aspect + 1e-9)


def test_complete_iou_equals_the_definition() -> None:
    rng = np.random.default_rng(0)
    a, b = random_boxes(rng, (2, 50)), random_boxes(rng, (2, 50))
    b[0, 0] = a[0, 0]
    found = 1 - overlap_loss(mx.nd, mx.nd.array(a), mx.nd.array(b), "ciou").asnumpy()
    wanted = [
        [plain_complete_iou(x, y) for x, y in zip(*rows, strict=True)] for rows in zip(a, b, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_the_iou_of_all_with_all_equals_the_definition_and_padding_overlaps_nothing() -> None:
    rng = np.random.default_rng(1)
    predicted, boxes = random_boxes(rng, (2, 30)), np.full((2, 4, 5), -1, np.float32)
    boxes[:, :3, :4] = random_boxes(rng, (2, 3))
    found = iou_matrix(mx.nd, mx.nd.array(predicted), mx.nd.array(boxes)).asnumpy()
    wanted = [[[plain_iou(p, b) for b in boxes[i, :3]] for p in predicted[i]] for i in range(2)]
    np.testing.assert_allclose(found[..., :3], wanted, atol=1e-5)
    assert (found[..., 3] == 0).all()


def test_decoding_equals_the_paper() -> None:
    layout = grid((64, 32))
    raw = np.random.default_rng(2).normal(size=(1, len(layout.cells), 7)).astype(np.float32)
    arrays = [mx.nd.array(array) for array in (raw, layout.cells, layout.anchors, layout.strides)]
    found = decode(mx.nd, *arrays).asnumpy()[0]
    for n in (0, 7, len(found) - 1):
        centre = (1 / (1 + np.exp(-raw[0, n, :2])) + layout.cells[n]) * layout.strides[n]
        size = layout.anchors[n] * np.exp(raw[0, n, 2:4])
        np.testing.assert_allclose(found[n], [*(centre - size / 2), *(centre + size / 2)], rtol=1e-4)


@pytest.mark.parametrize("logit", [-90.0, -3.0, 0.0, 2.0, 90.0])
@pytest.mark.parametrize("target", [0.0, 0.3, 1.0])
def test_cross_entropy_is_right_and_stays_finite(logit: float, target: float) -> None:
    found = binary_cross_entropy(mx.nd, mx.nd.array([logit]), mx.nd.array([target])).asscalar()
    wanted = np.logaddexp(0, logit) - target * logit
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-6)
