"""YOLOv3's loss, computed in the network's graph."""

from __future__ import annotations

from typing import Any

from mxnet import gluon

from common.engine.graph import Normalise
from detect.box_losses import corner, overlap_loss, smooth_l1
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
    x1, y1, x2, y2 and target_class (B, P) its class id. objects (B, N): 1 where a prediction answers for an
    object. known (B, N): 0 where it may not be trained to be empty. image_weight (B,): of its losses. cell, anchor (N,
    2) and stride (N, 1) as in `yolov3_targets.Grid`. A prediction that is no positive but overlaps an object (IoU above
    `ignore_iou`) is not trained to be empty (Redmon & Farhadi 2018, 2.1). box_loss: one of `detect.box_losses`; for
    smooth_l1 boxes differ by their centres in tenths of the object's size, and by the logarithm of their sizes in
    fifths.
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

    def __init__(self, network: YOLOv3Network, box_loss: str = "ciou", ignore_iou: float = 0.7) -> None:
        super().__init__(prefix="")
        self._box_loss = box_loss
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
        boxes_there = F.gather_nd(predicted, where)
        if self._box_loss == "smooth_l1":
            losses = smooth_l1(F, _differences(F, boxes_there, target))
        else:
            losses = overlap_loss(F, boxes_there, target, self._box_loss)
        box_loss = F.sum(losses * weight, axis=1)
        classes = len(self.network.classes)
        class_logits = F.gather_nd(raw, where).slice_axis(axis=2, begin=5, end=None)
        class_loss = F.sum(
            F.sum(binary_cross_entropy(F, class_logits, F.one_hot(target_class, classes)), axis=2) * weight,
            axis=1,
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


def iou_matrix(F: Any, predicted: Any, boxes: Any) -> Any:
    """IoU (B, N, M) of predictions (B, N, 4) with objects (B, M, >= 4); unused objects overlap nothing."""
    px1, py1, px2, py2 = (corner(F, predicted, i) for i in range(4))
    bx1, by1, bx2, by2 = (corner(F, boxes, i).transpose((0, 2, 1)) for i in range(4))
    width = F.relu(F.broadcast_minimum(px2, bx2) - F.broadcast_maximum(px1, bx1))
    height = F.relu(F.broadcast_minimum(py2, by2) - F.broadcast_maximum(py1, by1))
    both = width * height
    areas = F.broadcast_add((px2 - px1) * (py2 - py1), (bx2 - bx1) * (by2 - by1))
    return both / (areas - both + 1e-9)


def _differences(F: Any, predicted: Any, target: Any) -> Any:
    """How boxes (B, P, 4) differ from others (B, P, 4) in centre and size (B, P, 4)."""
    low, high = (
        [boxes.slice_axis(axis=2, begin=begin, end=begin + 2) for boxes in (predicted, target)]
        for begin in (0, 2)
    )
    size, wanted = (F.maximum(b - a, F.ones_like(a) * 1e-3) for a, b in zip(low, high, strict=True))
    centre = (low[0] + high[0] - low[1] - high[1]) / 2 / wanted
    return F.concat(centre / 0.1, F.log(size / wanted) / 0.2, dim=2)
