"""YOLOv3's loss, computed in the network's graph."""

from __future__ import annotations

import math
from typing import Any

from mxnet import gluon

from common.engine.graph import Normalise
from detect.yolov3.network import LARGEST_LOG_SCALE, YOLOv3Network

# Weights of the parts of the loss; the sum over an image's objects and places, as in the paper, so that the guide's
# learning rates keep their meaning.
BOX_WEIGHT = 4.0
CLASS_WEIGHT = 1.0
OBJECT_WEIGHT = 1.0


class YOLOv3Loss(gluon.HybridBlock):
    """Images and targets to losses, one value an image: their sum, boxes, objectness, classes.

    images (B, H, W, 3) uint8 RGB. boxes (B, M, 5): x1, y1, x2, y2 in pixels and class id, -1 rows unused. positive (B,
    P): indices of the predictions that answer for an object, with weight (B, P) 1 or 0, target (B, P, 4) the object as
    x1, y1, x2, y2 and target_class (B, P, C) its class as one-hot. objects (B, N): 1 where a prediction answers for an
    object. known (B, N): 0 where it may not be trained to be empty. image_weight (B,): of its losses. cell, anchor (N,
    2) and stride (N, 1) as in `yolov3_targets.Grid`. A prediction that is no positive but overlaps an object (IoU above
    `ignore_iou`) is not trained to be empty (Redmon & Farhadi 2018, 2.1); boxes are trained by complete IoU (Zheng et
    al. 2020).
    """

    inputs = (
        "images",
        "boxes",
        "positive",
        "weight",
        "target",
        "target_class",
        "objects",
        "known",
        "image_weight",
        "cell",
        "anchor",
        "stride",
    )

    def __init__(self, network: YOLOv3Network, ignore_iou: float = 0.7) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()
        self._ignore_iou = ignore_iou

    def hybrid_forward(
        self,
        F: Any,
        images: Any,
        boxes: Any,
        positive: Any,
        weight: Any,
        target: Any,
        target_class: Any,
        objects: Any,
        known: Any,
        image_weight: Any,
        cell: Any,
        anchor: Any,
        stride: Any,
    ) -> tuple[Any, Any, Any, Any]:
        raw = self.network.predictions(F, self.normalise(images))
        predicted = decode(F, raw, cell, anchor, stride)

        # Objectness: places that hold no object but whose box overlaps one are left alone.
        overlap = F.max(iou_matrix(F, F.BlockGrad(predicted), boxes), axis=2)
        trained = F.broadcast_maximum(objects, (overlap <= self._ignore_iou) * known)
        objectness = raw.slice_axis(axis=2, begin=4, end=5).reshape((0, -1))
        object_loss = F.sum(binary_cross_entropy(F, objectness, objects) * trained, axis=1)

        rows = F.broadcast_like(F.contrib.arange_like(positive, axis=0).expand_dims(1), positive)
        where = F.stack(rows, positive, axis=0)
        box_loss = F.sum((1.0 - complete_iou(F, F.gather_nd(predicted, where), target)) * weight, axis=1)
        class_logits = F.gather_nd(raw, where).slice_axis(axis=2, begin=5, end=None)
        class_loss = F.sum(
            F.sum(binary_cross_entropy(F, class_logits, target_class), axis=2) * weight, axis=1
        )

        box_loss, object_loss, class_loss = (
            BOX_WEIGHT * image_weight * box_loss,
            OBJECT_WEIGHT * image_weight * object_loss,
            CLASS_WEIGHT * image_weight * class_loss,
        )
        return box_loss + object_loss + class_loss, box_loss, object_loss, class_loss


def decode(F: Any, raw: Any, cell: Any, anchor: Any, stride: Any) -> Any:
    """Raw predictions (B, N, >= 4) to boxes x1, y1, x2, y2 in pixels (B, N, 4)."""
    centre = F.sigmoid(raw.slice_axis(axis=2, begin=0, end=2))
    centre = F.broadcast_mul(F.broadcast_add(centre, cell.expand_dims(0)), stride.expand_dims(0))
    half = (
        F.broadcast_mul(
            F.exp(F.clip(raw.slice_axis(axis=2, begin=2, end=4), -LARGEST_LOG_SCALE, LARGEST_LOG_SCALE)),
            anchor.expand_dims(0),
        )
        / 2
    )
    return F.concat(centre - half, centre + half, dim=2)


def binary_cross_entropy(F: Any, logits: Any, target: Any) -> Any:
    """Of logits and targets (0 to 1) of one shape, number by number; finite whatever the logits are."""
    return F.relu(logits) - logits * target + F.Activation(-F.abs(logits), act_type="softrelu")


def _corner(F: Any, boxes: Any, index: int) -> Any:
    return boxes.slice_axis(axis=2, begin=index, end=index + 1)


def iou_matrix(F: Any, predicted: Any, boxes: Any) -> Any:
    """IoU (B, N, M) of predictions (B, N, 4) with objects (B, M, >= 4); unused objects overlap nothing."""
    px1, py1, px2, py2 = (_corner(F, predicted, i) for i in range(4))
    bx1, by1, bx2, by2 = (_corner(F, boxes, i).transpose((0, 2, 1)) for i in range(4))
    width = F.relu(F.broadcast_minimum(px2, bx2) - F.broadcast_maximum(px1, bx1))
    height = F.relu(F.broadcast_minimum(py2, by2) - F.broadcast_maximum(py1, by1))
    both = width * height
    areas = F.broadcast_add((px2 - px1) * (py2 - py1), (bx2 - bx1) * (by2 - by1))
    return both / (areas - both + 1e-9)


def complete_iou(F: Any, predicted: Any, target: Any) -> Any:
    """Complete IoU (B, P) of boxes (B, P, 4) pair by pair: IoU less a penalty for distance and for aspect ratio."""
    px1, py1, px2, py2 = (_corner(F, predicted, i) for i in range(4))
    tx1, ty1, tx2, ty2 = (_corner(F, target, i) for i in range(4))
    pw, ph, tw, th = px2 - px1, py2 - py1, tx2 - tx1, ty2 - ty1
    both = F.relu(F.minimum(px2, tx2) - F.maximum(px1, tx1)) * F.relu(
        F.minimum(py2, ty2) - F.maximum(py1, ty1)
    )
    iou = both / (pw * ph + tw * th - both + 1e-9)
    diagonal = (F.maximum(px2, tx2) - F.minimum(px1, tx1)) ** 2 + (
        F.maximum(py2, ty2) - F.minimum(py1, ty1)
    ) ** 2
    distance = ((px1 + px2 - tx1 - tx2) ** 2 + (py1 + py2 - ty1 - ty2) ** 2) / 4
    aspect = (4 / math.pi**2) * (F.arctan(tw / (th + 1e-9)) - F.arctan(pw / (ph + 1e-9))) ** 2
    # The factor is a weight, not a quantity to be learnt (Zheng et al. 2020, equation 11).
    factor = F.BlockGrad(aspect / (1.0 - iou + aspect + 1e-9))
    return (iou - distance / (diagonal + 1e-9) - factor * aspect).reshape((0, -1))
