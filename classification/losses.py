"""What a classifier is trained by, in one graph with the network.

Cross entropy, label smoothing, mixup and distillation.
"""

from __future__ import annotations

from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from common.engine.graph import Normalise

#: Share of certainty that label smoothing gives away ("Rethinking the Inception Architecture", Szegedy et al.
#: 2015, 7).
SMOOTHING = 0.1


def cross_entropy(F: Any, logits: Any, target: Any) -> Any:
    """Cross entropy (B,) of logits (B, C) with target distributions (B, C)."""
    return -F.sum(F.log_softmax(logits, axis=-1) * target, axis=-1)


def target_distributions(F: Any, labels: Any, classes: int, smoothing: float = 0.0) -> Any:
    """Class ids (B,) as distributions (B, classes): 1 - smoothing for the class, the rest evenly over all."""
    share = smoothing / classes
    return F.one_hot(labels, depth=classes, on_value=1.0 - smoothing + share, off_value=share)


def mix(F: Any, values: Any, share: Any) -> Any:
    """Mix every row of a batch with its opposite row: share (1,) of itself ("mixup", Zhang et al. 2017)."""
    return F.broadcast_mul(values, share) + F.broadcast_mul(F.reverse(values, axis=0), 1.0 - share)


def distillation_loss(F: Any, logits: Any, teacher_logits: Any, temperature: float) -> Any:
    """Cross entropy (B,) with a teacher's softened prediction, times the temperature squared.

    "Distilling the Knowledge in a Neural Network" (Hinton et al. 2015, 2); the square keeps the gradient's
    size.
    """
    soft = F.softmax(F.BlockGrad(teacher_logits) / temperature, axis=-1)
    return temperature**2 * cross_entropy(F, logits / temperature, soft)


class ClassificationTraining(nn.HybridBlock):
    """Images and labels to losses (B,): their weighted sum, cross entropy, and with a teacher its loss.

    images (B, H, W, 3) uint8 RGB; labels (B,) class ids; share (1,), only with mixup: 1 trains on plain images.
    network: its `training_parts` are an embedding and `classes` logits. teacher: another one such, frozen. Where its
    logits are not of the same classes (an ImageNet classifier's), the student learns them by a layer of its own on
    its embedding, `teacher_output`: it is trained with the network and no part of it.
    """

    def __init__(
        self,
        network: nn.HybridBlock,
        classes: int,
        *,
        smoothing: float = 0.0,
        mixup: bool = False,
        teacher: nn.HybridBlock | None = None,
        same_classes: bool = True,
        hard_weight: float = 0.5,
        temperature: float = 20.0,
    ) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()
        self.teacher = teacher
        self.teacher_output = None
        self._classes, self._smoothing, self._mixup = classes, smoothing, mixup
        self._hard_weight, self._temperature = hard_weight, temperature
        self.inputs = ("images", "labels", "share") if mixup else ("images", "labels")
        self.losses = ("loss", "cross_entropy", "teacher") if teacher is not None else ("loss",)
        if teacher is not None:
            outputs, width = teacher.output.weight.shape[0], network.output.weight.shape[1]
            if outputs != classes or not same_classes:
                self.teacher_output = nn.Dense(
                    outputs, in_units=width, weight_initializer=mx.init.Normal(0.01)
                )

    def hybrid_forward(self, F: Any, images: Any, labels: Any, share: Any = None) -> Any:
        losses = self._parts(F, images, labels, share)[1]
        return losses if len(losses) > 1 else losses[0]

    def _parts(self, F: Any, images: Any, labels: Any, share: Any) -> tuple[Any, tuple[Any, ...]]:
        """The embedding (B, D), and the losses."""
        x = self.normalise(images)
        target = target_distributions(F, labels, self._classes, self._smoothing)
        if self._mixup:
            x, target = mix(F, x, share), mix(F, target, share)
        embedding, logits = self.network.training_parts(x)
        hard = cross_entropy(F, logits, target)
        if self.teacher is None:
            return embedding, (hard,)
        learner = logits if self.teacher_output is None else self.teacher_output(embedding)
        taught = self.teacher.training_parts(x)[1]
        soft = distillation_loss(F, learner, taught, self._temperature)
        return embedding, (self._hard_weight * hard + (1.0 - self._hard_weight) * soft, hard, soft)
