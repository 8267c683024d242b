"""What a landmark network is trained by: distances of coordinates, in per cent of the input's sides."""

from __future__ import annotations

import math
from typing import Any

from mxnet.gluon import nn

from common.engine.graph import Normalise

#: Normalised coordinates times this are what the losses see: a face's points are then some units apart.
UNIT = 100.0


class L2Loss(nn.HybridBlock):
    """Half the mean square difference: predicted and annotated points (B, k, 2) to losses (B,).

    visible (B, k), of every loss: 1 for the points that count; none: all do.
    """

    def __init__(self) -> None:
        super().__init__(prefix="")

    def hybrid_forward(self, F: Any, predicted: Any, points: Any, visible: Any = None) -> Any:
        return _mean(F, F.square(UNIT * (predicted - points)), visible) / 2.0


class SmoothL1Loss(nn.HybridBlock):
    """Square below `beta` and linear above ("Fast R-CNN", Girshick 2015): points (B, k, 2) to losses (B,)."""

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__(prefix="")
        self._beta = beta

    def hybrid_forward(self, F: Any, predicted: Any, points: Any, visible: Any = None) -> Any:
        # MXNet's smooth_l1 with scalar s: (s x)^2 / 2 where |x| < 1 / s^2, |x| - 1 / (2 s^2) elsewhere.
        smooth = F.smooth_l1(UNIT * (predicted - points), scalar=1.0 / math.sqrt(self._beta))
        return _mean(F, smooth, visible)


class WingLoss(nn.HybridBlock):
    """Logarithmic below `width` and linear above: points (B, k, 2) to losses (B,).

    "Wing Loss for Robust Facial Landmark Localisation with Convolutional Neural Networks" (Feng et al. 2018),
    with its width 10 and curvature 2 in pixels of a 256 pixel input brought to per cent.
    """

    def __init__(self, width: float = 10.0 / 2.56, curvature: float = 2.0 / 2.56) -> None:
        super().__init__(prefix="")
        self._width, self._curvature = width, curvature

    def hybrid_forward(self, F: Any, predicted: Any, points: Any, visible: Any = None) -> Any:
        distance = F.abs(UNIT * (predicted - points))
        near = self._width * F.log1p(distance / self._curvature)
        far = distance - self._width * (1.0 - math.log1p(self._width / self._curvature))
        return _mean(F, F.where(distance < self._width, near, far), visible)


def _mean(F: Any, values: Any, visible: Any) -> Any:
    """Mean (B,) of values (B, k, 2) over the points that are visible (B, k), at least one."""
    if visible is None:
        return F.mean(values, axis=0, exclude=True)
    total = F.sum(F.broadcast_mul(values, visible.expand_dims(2)), axis=0, exclude=True)
    return total / F.clip(2.0 * F.sum(visible, axis=1), 2.0, 1e9)


#: The losses by name.
LOSSES: dict[str, type[nn.HybridBlock]] = {"l2": L2Loss, "smooth_l1": SmoothL1Loss, "wing": WingLoss}


class LandmarkTraining(nn.HybridBlock):
    """Images and points to losses (B,): their weighted sum, and with a teacher its two parts.

    images (B, H, W, 3) uint8 RGB; points (B, k, 2) normalised; visible (B, k): 1 for the points that count; share
    (1,), only with mixup: what every image keeps of itself, the rest being the opposite image of the batch ("mixup",
    Zhang et al. 2017). A mixture is held against the points of both images by their shares: the mean of two faces'
    points is no face's. teacher: a frozen network of the same points; with 1 - hard_weight the network is held
    against its points.
    """

    def __init__(
        self,
        network: nn.HybridBlock,
        loss: nn.HybridBlock,
        *,
        mixup: bool = False,
        teacher: nn.HybridBlock | None = None,
        hard_weight: float = 0.5,
    ) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()
        self.loss = loss
        self.teacher = teacher
        self._mixup, self._hard_weight = mixup, hard_weight
        self.inputs = ("images", "points", "visible", *(("share",) if mixup else ()))
        self.losses = ("loss", "points", "teacher") if teacher is not None else ("loss",)

    def hybrid_forward(self, F: Any, images: Any, points: Any, visible: Any, share: Any = None) -> Any:
        x = self.normalise(images)
        if self._mixup:
            x = F.broadcast_mul(x, share) + F.broadcast_mul(F.reverse(x, axis=0), 1.0 - share)
        predicted = self.network(x)
        hard = self.loss(predicted, points, visible)
        if self._mixup:
            other = self.loss(predicted, F.reverse(points, axis=0), F.reverse(visible, axis=0))
            hard = F.broadcast_mul(hard, share) + F.broadcast_mul(other, 1.0 - share)
        if self.teacher is None:
            return hard
        soft = self.loss(predicted, F.BlockGrad(self.teacher(x)))
        return self._hard_weight * hard + (1.0 - self._hard_weight) * soft, hard, soft
