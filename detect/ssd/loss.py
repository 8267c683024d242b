"""SSD's loss, computed in the network's graph."""

from __future__ import annotations

from typing import Any

from mxnet import gluon

from common.engine.graph import Normalise
from detect.box_losses import overlap_loss, smooth_l1
from detect.ssd.network import SSDNetwork, decode

# The weight of losses by overlap against that of classes: what the authors of DIoU and CIoU train SSD with
# ("Distance-IoU Loss", Zheng et al. 2020; `--weight` of tools/train.py in their DIoU-SSD-pytorch).
OVERLAP_WEIGHT = 5.0

# Focal loss as in its paper: the weight of objects against background, and how fast what is known counts less.
ALPHA, GAMMA = 0.25, 2


class SSDLoss(gluon.HybridBlock):
    """Images and targets to losses, one value an image: their sum, classes, boxes.

    images (B, H, W, 3) uint8 RGB. class_target (B, N): class id + 1, 0 for background, -1 for anchors in no loss.
    box_target (B, N, 4): offsets for the box loss smooth_l1, else corners in pixels. image_weight (B,): of the image's
    sums, which makes them means over the objects of the batch. anchors (N, 4): centre and size in pixels.

    hard_negatives: of the background so many anchors count as there are positives, times negative_ratio: those that are
    taken for an object most (Liu et al. 2016, 2.2); an image without objects has as many as one with a single positive.
    focal: all of it counts, by how little it is known yet ("Focal Loss for Dense Object Detection", Lin et al. 2017,
    with the softmax in the place of the sigmoid).
    """

    def __init__(
        self, network: SSDNetwork, *, class_loss: str, box_loss: str, negative_ratio: float = 3.0
    ) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()
        self._class_loss, self._box_loss, self._negative_ratio = class_loss, box_loss, negative_ratio

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, in their order."""
        common = ("images", "class_target", "box_target", "image_weight")
        return common if self._box_loss == "smooth_l1" else (*common, "anchors")

    def hybrid_forward(
        self,
        F: Any,
        images: Any,
        class_target: Any,
        box_target: Any,
        image_weight: Any,
        anchors: Any = None,
    ) -> tuple[Any, Any, Any]:
        logits, offsets = self.network.predictions(F, self.normalise(images))
        classes = class_losses(F, logits, class_target, self._class_loss, self._negative_ratio)
        if self._box_loss == "smooth_l1":
            boxes = smooth_l1(F, offsets - box_target)
        else:
            boxes = OVERLAP_WEIGHT * overlap_loss(
                F, decode(F, offsets, anchors.expand_dims(0)), box_target, self._box_loss
            )
        class_loss = image_weight * F.sum(classes, axis=1)
        box_loss = image_weight * F.sum(boxes * (class_target > 0), axis=1)
        return class_loss + box_loss, class_loss, box_loss


def class_losses(F: Any, logits: Any, target: Any, kind: str, negative_ratio: float) -> Any:
    """The loss of each anchor's class (B, N), from logits (B, N, classes + 1) and targets (B, N); see SSDLoss."""
    positive, background = target > 0, target == 0
    entropy = -F.pick(F.log_softmax(logits, axis=-1), F.relu(target), axis=-1)
    if kind == "focal":
        weight = ALPHA * positive + (1.0 - ALPHA) * background
        return weight * (1.0 - F.exp(-entropy)) ** GAMMA * entropy
    # Entropies are never negative: with -1 all that is no background comes behind it.
    hardness = F.BlockGrad(entropy * background + (background - 1.0))
    rank = F.argsort(F.argsort(hardness, axis=1, is_ascend=False), axis=1)
    count = negative_ratio * F.maximum(F.sum(positive, axis=1, keepdims=True), 1.0)
    hard = F.broadcast_lesser(rank, count) * background
    return entropy * (positive + hard)
