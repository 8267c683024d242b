"""Re-identification: how it is built, trained and read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from mxnet import gluon

from classification.annotations import counted
from classification.task import ClassifierModel, FolderTask, begin_training
from common.data.samples import Sample
from common.images.resize import Resize
from common.loading.loader import Transform
from common.recipe import Order, Recipe
from common.reporting import warnings
from common.task import Model
from reid.config import ReIDConfig
from reid.network import EmbeddingInference, ReidTraining, build_embedding
from reid.results import ReIDDecoder, ReIDEvaluator
from reid.sampler import identity_batches
from reid.transforms import ShiftTransform

# Weight of the triplet loss beside cross entropy, and images of one identity in a batch, which it compares.
_TRIPLET_WEIGHT = 1.0
_IMAGES_PER_IDENTITY = 4


class ReIDModel(ClassifierModel):
    """An embedding with its training."""

    kind = "reid"

    def inference_block(self) -> Any:
        return EmbeddingInference(self.network)

    def interface(self) -> dict[str, Any]:
        return {
            "outputs": [
                {
                    "name": "embedding",
                    "shape": ["batch", int(self.network.output.weight.shape[1])],
                    "meaning": "of length 1: the cosine of two of them, their dot product, says how alike two "
                    "images are",
                }
            ],
        }


def _alone(counts: Mapping[str, int]) -> list[str]:
    """A warning of identities of which there is one image. counts: images by identity."""
    alone = [name for name, count in counts.items() if count == 1]
    if not alone:
        return []
    which = "every identity" if len(alone) == len(counts) else f"{len(alone)} of the {len(counts)} identities"
    return [f"one image alone of {which}: there is no other to find it by"]


class ReIDTask(FolderTask[ReIDConfig]):
    """Re-identification by configuration. Validation and test sets may show identities that training does not."""

    name = "reid"
    does = "reid"
    takes_others = True

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        counts = Counter(sample.label for sample in samples)
        summary = counted(dict(sorted(counts.items())), samples)
        summary["warnings"] += _alone(counts)
        return summary

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return ShiftTransform()

    @property
    def resize(self) -> Resize:
        return Resize("stretch")

    def recipe(self, on_gpu: bool) -> Recipe:
        # Mixed images are nobody's, and have no triplets.
        order = None if self.config.train.mixup else self._identity_batches
        return replace(super().recipe(on_gpu), order=order)

    def _identity_batches(self, samples: Sequence[Sample]) -> Order:
        """Batches of several images of each identity, as the triplet loss needs them."""
        identities = np.array([sample.annotation[0] for sample in samples])
        keys = self.config.train
        if keys.batch_size <= _IMAGES_PER_IDENTITY:
            warnings.warn(
                f"train.batch_size {keys.batch_size} shows one identity at a time: the triplet loss has nothing to "
                f"compare with; {2 * _IMAGES_PER_IDENTITY} show two"
            )
        return lambda epoch, rng: identity_batches(
            identities, keys.batch_size, _IMAGES_PER_IDENTITY, keys.seed, epoch
        )

    def build_network(
        self, name: str, outputs: int, contexts: Sequence[Any], **options: bool
    ) -> gluon.HybridBlock:
        return build_embedding(name, outputs, contexts, **options)

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> ReIDModel:
        network = self.network(classes, contexts, checkpoint)
        training = ReidTraining(
            network,
            len(classes),
            triplet_weight=_TRIPLET_WEIGHT,
            **self.training_options(classes, contexts),
        )
        begin_training(training, network)
        return ReIDModel(network, self.config, classes, training)

    def decoder(self, model: Model) -> ReIDDecoder:
        return ReIDDecoder(model.classes, int(model.network.output.weight.shape[1]))

    def evaluator(self, model: Model, valid: Sequence[Sample] = ()) -> ReIDEvaluator:
        """Watched is accuracy where the validation set has no new identities, else rank-1 (of equals, by mAP)."""
        new = any(sample.annotation[0] >= len(model.classes) for sample in valid)
        return ReIDEvaluator(self.decoder(model), "rank1" if new else "accuracy")
