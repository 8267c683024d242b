"""The ReID network: an embedding with a BatchNorm neck, and a softmax head for training.

"Bag of Tricks and a Strong Baseline for Deep Person Re-identification" (Luo et al. 2019): the triplet loss is
taken before the neck, cross entropy behind it, and images are compared by the cosine behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
from mxnet.gluon import nn

from classification.losses import ClassificationTraining
from common.engine.graph import Normalise, whole_batch
from common.networks.base_networks import base_features, embedding_dimension, initialize

#: Distance by which another identity shall be further away than the own one (Luo et al. 2019).
MARGIN = 0.3


class EmbeddingNetwork(nn.HybridBlock):
    """Normalised images (B, 3, H, W) to embeddings (B, D) of length 1, to be compared by their cosine.

    `output` (the identities of training) is no part of that graph, and so not of an exported model.
    """

    def __init__(self, name: str, identities: int, **variants: bool) -> None:
        super().__init__()
        width = embedding_dimension(name)
        with self.name_scope():
            self.features = base_features(name, **variants)
            # Without a shift, so that the classes' boundaries go through the origin and cosines tell them
            # apart.
            self.neck = nn.BatchNorm(center=False, in_channels=width)
            self.output = nn.Dense(
                identities, in_units=width, use_bias=False, weight_initializer=mx.init.Normal(0.01)
            )

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.L2Normalization(self.normalised(self.features(x)))

    def normalised(self, embedding: Any) -> Any:
        """The embedding (B, D) behind the neck.

        As maps of one pixel: MXNet's BatchNorm of vectors crashes on the CPU where the last map has one pixel.
        """
        return self.neck(embedding.reshape((0, 0, 1, 1))).flatten()

    def training_parts(self, x: Any) -> tuple[Any, Any]:
        """The embedding before the neck (B, D), and the logits of the identities (B, identities)."""
        embedding = self.features(x)
        return embedding, self.output(self.normalised(embedding))


def build_embedding(
    name: str, identities: int, contexts: Sequence[Any], **variants: bool
) -> EmbeddingNetwork:
    """The network with random parameters; options and errors of `common.networks.base_networks.base_features`."""
    network = EmbeddingNetwork(name, identities, **variants)
    initialize(network, contexts)
    return network


class EmbeddingInference(nn.HybridBlock):
    """uint8 images (B, H, W, 3) to embeddings (B, D) of length 1 and logits of training's identities."""

    def __init__(self, network: EmbeddingNetwork) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()

    def hybrid_forward(self, F: Any, images: Any) -> tuple[Any, Any]:
        behind_neck = self.network.normalised(self.network.features(self.normalise(images)))
        return F.L2Normalization(behind_neck), self.network.output(behind_neck)


class BatchHardTriplet(nn.HybridBlock):
    """Embeddings (B, D) and identities (B,) to losses (B,): each image with its worst company in the batch.

    "In Defense of the Triplet Loss for Person Re-Identification" (Hermans et al. 2017, 2): the furthest image of the
    same identity must be nearer, by `margin`, than the nearest of another one. Where the batch holds no other
    identity there is nothing to learn, and the loss is 0. Of several ranks each has the losses of its own images, in
    the company of all.
    """

    def __init__(self, margin: float = MARGIN) -> None:
        super().__init__(prefix="")
        self._margin = margin

    def hybrid_forward(self, F: Any, embedding: Any, identity: Any) -> Any:
        everyone = whole_batch(F, embedding)
        square, squares = (F.sum(F.square(part), axis=1) for part in (embedding, everyone))
        squares = F.broadcast_add(square.expand_dims(1), squares.expand_dims(0))
        squares = squares - 2.0 * F.dot(embedding, everyone, transpose_b=True)
        # The root's gradient is infinite at 0, which is the distance of an image from itself.
        distance = F.sqrt(F.maximum(squares, 1e-12))
        same = F.broadcast_equal(identity.expand_dims(1), whole_batch(F, identity).expand_dims(0))
        furthest = F.max(distance * same, axis=1)
        nearest = F.min(F.where(same, F.ones_like(distance) * 1e6, distance), axis=1)
        return F.relu(furthest - nearest + self._margin)


class ReidTraining(ClassificationTraining):
    """A classifier's training, with the triplet loss beside it if that has a weight.

    labels (B,): identities of training, 0 ... identities - 1. Mixed images are nobody's, so that there is no
    triplet loss with mixup.
    """

    def __init__(
        self,
        network: EmbeddingNetwork,
        identities: int,
        *,
        triplet_weight: float = 0.0,
        margin: float = MARGIN,
        mixup: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(network, identities, mixup=mixup, **options)
        self._triplet_weight = 0.0 if mixup else triplet_weight
        self.triplet = BatchHardTriplet(margin)
        if self._triplet_weight:
            self.losses = (self.losses[0], *(self.losses[1:] or ("cross_entropy",)), "triplet")

    def hybrid_forward(self, F: Any, images: Any, labels: Any, share: Any = None) -> Any:
        if not self._triplet_weight:
            return super().hybrid_forward(F, images, labels, share)
        embedding, losses = self._parts(F, images, labels, share)
        triplet = self.triplet(embedding, labels)
        return losses[0] + self._triplet_weight * triplet, *(losses[1:] or losses), triplet
