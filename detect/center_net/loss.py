"""CenterNet's loss ("Objects as Points", Zhou et al. 2019, section 3), computed in the network's graph."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from mxnet import gluon

from common.engine.graph import Normalise, whole_batch
from detect.center_net.deformable import sampling
from detect.center_net.network import CenterNetNetwork


class CenterNetLoss(gluon.HybridBlock):
    """Images and targets to losses, one value an image: their weighted sum, heatmap, sizes, offsets.

    images (B, H, W, 3) uint8 RGB. maps (B, C): which map of the image's heatmap each class has. The rest as
    `detect.center_net.targets.target_layout` describes it, with B before it. The means over the images are the
    paper's losses of the batch, which are per object of the batch: the focal loss by the number of cells that are a
    centre, the L1 losses the mean of both coordinates (as the paper's code and GluonCV's `MaskedL1Loss` have it).
    The parts are returned with their weights.

    sampled: deformable layers are traced so that they can be trained on the CPU (see `deformable`).
    """

    inputs = ("images", "heatmap", "maps", "cells", "sizes", "offsets", "weights")

    def __init__(
        self,
        network: CenterNetNetwork,
        *,
        wh_weight: float = 0.1,
        center_reg_weight: float = 1.0,
        sampled: bool = False,
    ) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()
        self._wh_weight, self._center_reg_weight, self._sampled = wh_weight, center_reg_weight, sampled

    def hybrid_forward(
        self,
        F: Any,
        images: Any,
        heatmap: Any,
        maps: Any,
        cells: Any,
        sizes: Any,
        offsets: Any,
        weights: Any,
    ) -> tuple[Any, Any, Any, Any]:
        with sampling() if self._sampled else nullcontext():
            logits, size_map, offset_map = self.network.raw_maps(F, self.normalise(images))
        heatmap_loss = focal_loss(F, logits, by_class(F, heatmap, maps))
        size_loss = self._wh_weight * l1_loss(F, size_map, cells, sizes, weights)
        offset_loss = self._center_reg_weight * l1_loss(F, offset_map, cells, offsets, weights)
        return heatmap_loss + size_loss + offset_loss, heatmap_loss, size_loss, offset_loss


def by_class(F: Any, heatmap: Any, maps: Any) -> Any:
    """The heatmap of every class (B, C, h, w) of images whose maps (B, n, h, w) are those of few: `maps` (B, C)."""
    images = F.contrib.arange_like(maps, axis=0).expand_dims(1)
    return F.gather_nd(heatmap, F.stack(F.broadcast_like(images, maps), maps, axis=0))


def focal_loss(F: Any, logits: Any, target: Any, alpha: int = 2, beta: int = 4) -> Any:
    """Focal loss (B,) of heatmaps (B, C, h, w) before their sigmoid; the mean over the images is the batch's loss per
    centre.

    Paper, equation 1, with p the sigmoid: (1 - p)^alpha log(p) where the target is 1, (1 - target)^beta p^alpha
    log(1 - p) elsewhere, less than one centre counting as one. Logarithms are taken of the logits: computed from
    scores they must be clipped, as the paper's code and GluonCV do it, and where a training has once driven all scores
    beyond the clip there is no gradient that could bring them back.
    """
    centre = target == 1
    # The sign turns a centre into the case elsewhere: there the logit is to rise, here to fall.
    wrong = logits * (1 - 2 * centre)
    weight = centre + (1 - target) ** beta
    losses = F.Activation(wrong, act_type="softrelu") * F.sigmoid(wrong) ** alpha * weight
    return _per_object(F, F.sum(losses, axis=(1, 2, 3)), F.sum(centre, axis=(1, 2, 3)))


def l1_loss(F: Any, predicted: Any, cells: Any, target: Any, weights: Any) -> Any:
    """L1 loss (B,) of maps (B, 2, h, w) at `cells` (B, M), of which those with weights (B, M) 1 count.

    The mean over the images is the batch's mean over objects and coordinates. target (B, M, 2).
    """
    by_cell = predicted.reshape((0, 0, -1)).transpose((0, 2, 1))
    images = F.contrib.arange_like(cells, axis=0).expand_dims(1)
    where = F.stack(F.broadcast_like(images, cells), cells, axis=0)
    difference = F.sum(F.abs(F.gather_nd(by_cell, where) - target), axis=2)
    return _per_object(F, F.sum(difference * weights, axis=1) / 2, F.sum(weights, axis=1))


def _per_object(F: Any, sums: Any, counts: Any) -> Any:
    """Sums by image (B,) to values whose mean over the batch is the sum of all by its objects (at least one); counts
    (B,): of each image."""
    counts = whole_batch(F, counts)
    images = F.sum(F.ones_like(counts))
    return F.broadcast_mul(sums, images / F.clip(F.sum(counts), 1, 1e30))
