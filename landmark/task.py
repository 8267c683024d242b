"""Landmark regression: how its network is built, trained and read."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from common.config.network_sections import NetworkModelConfig
from common.data.formats.base import Label
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.errors import CheckpointError
from common.images.augment import mixup_share
from common.images.resize import Region, Resize
from common.loading.loader import Batch, Transform
from common.networks.base_networks import freeze
from common.networks.start import named, start
from common.networks.transfer import NetworkTask, set_multipliers, variants, with_imagenet
from common.recipe import Recipe
from common.task import Inputs, Model
from common.training.checkpoint import read_checkpoint
from landmark.annotations import LandmarkAnnotations, mean_shape, part_of, summary, visible
from landmark.config import LandmarkConfig
from landmark.losses import LOSSES, LandmarkTraining
from landmark.mirroring import mirror_table
from landmark.network import LandmarkNetwork, build_landmark, set_mean_shape
from landmark.results import LandmarkDecoder, LandmarkEvaluator
from landmark.transforms import LandmarkTransform

log = logging.getLogger("visualtl")

# Of the losses the one that gave the smallest errors on faces.
_LOSS = "smooth_l1"


class LandmarkModel(Model):
    """A landmark network, its training and its way of reading predictions.

    keys: which network it is. training: the block that is trained. mixup: share (1,) of themselves that the
    images of a batch keep; None: they are not mixed.
    """

    def __init__(
        self,
        network: LandmarkNetwork,
        keys: NetworkModelConfig,
        training: LandmarkTraining,
        mixup: Callable[[Batch], np.ndarray] | None = None,
    ) -> None:
        self.network = network
        self.classes: list[str] = []
        self.name = f"landmark_{keys.base_network}"
        self.losses = training.losses
        self._keys = keys
        self._training = training
        self._mixup = mixup

    def training_block(self) -> tuple[Any, Sequence[str]]:
        return self._training, self._training.inputs

    def training_inputs(self, batch: Batch) -> Inputs:
        points = batch.arrays["points"]
        split = [batch.arrays["image"], np.nan_to_num(points), visible(points).astype(np.float32)]
        return Inputs(split, [self._mixup(batch)] if self._mixup else [])

    def description(self) -> dict[str, Any]:
        return {**self._keys.model_dump(mode="json"), "num_joints": self.network.num_joints}

    def interface(self) -> dict[str, Any]:
        return {
            "outputs": [
                {
                    "name": "points",
                    "shape": ["batch", self.network.num_joints, 2],
                    "meaning": "x and y as shares of the image's width and height",
                }
            ],
        }


class LandmarkTask(NetworkTask[LandmarkConfig]):
    """Keypoints by configuration."""

    name = "landmark"
    does = "landmark"

    def annotations(self, listings: Mapping[str, Listing], names: Sequence[str]) -> Annotate:
        dataset = self.config.dataset
        return LandmarkAnnotations(dataset.num_joints, dataset.keypoints)

    def classes(self, listings: Mapping[str, Listing], sets: Sequence[Sequence[Sample]]) -> list[str]:
        return []

    def settle(
        self, ordered: Sequence[Sequence[str]], labels: Mapping[str, Collection[Label]]
    ) -> tuple[list[str], dict[Label, int]]:
        return [], {}

    def region(self) -> Callable[[Sample], Region | None]:
        return part_of

    def groups(self, sample: Sample) -> Iterable[int]:
        return ()

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        return summary(samples)

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        dataset = self.config.dataset
        return LandmarkTransform(
            dataset.num_joints, mirror_table(dataset.num_joints, dataset.mirrored_joints)
        )

    @property
    def resize(self) -> Resize:
        return Resize("stretch")

    def recipe(self, on_gpu: bool) -> Recipe:
        # -RMSE is never above 0: a baseline of 0 is none.
        baseline = self.config.train.early_stop_baseline or None
        return replace(super().recipe(on_gpu), early_stop_baseline=baseline)

    def decoder(self, model: Model) -> LandmarkDecoder:
        return LandmarkDecoder()

    def evaluator(self, model: Model, valid: Sequence[Sample] = ()) -> LandmarkEvaluator:
        return LandmarkEvaluator(self.decoder(model))

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> LandmarkModel:
        keys, train = self.config.model, self.config.train
        network, pretrained = self.start(checkpoint, self._maker(contexts))
        set_multipliers(network, pretrained, train)
        training = LandmarkTraining(
            network,
            LOSSES[_LOSS](),
            mixup=train.mixup,
            teacher=self._teacher(train.teacher, contexts) if train.teacher else None,
            hard_weight=train.hard_weight,
        )
        return LandmarkModel(network, keys, training, self._mixup_share if train.mixup else None)

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        """A fresh network begins at the mean of the training set's keypoints."""
        set_mean_shape(model.network, mean_shape(samples))

    def _maker(
        self, contexts: Sequence[Any]
    ) -> Callable[[NetworkModelConfig, dict[str, Any] | None], LandmarkNetwork]:
        """Makes networks with random parameters; raises CheckpointError for a checkpoint of other keypoints."""
        joints = self.config.dataset.num_joints

        def make(section: NetworkModelConfig, checkpoint: dict[str, Any] | None) -> LandmarkNetwork:
            if checkpoint and checkpoint["model"].get("num_joints") != joints:
                known = checkpoint["model"].get("num_joints")
                raise CheckpointError(f"the checkpoint has {known} keypoints; dataset.num_joints is {joints}")
            return build_landmark(section.base_network, joints, contexts, **variants(section))

        return make

    def _teacher(self, path: str, contexts: Sequence[Any]) -> LandmarkNetwork:
        """The network of the checkpoint at `path`, as a constant. Raises CheckpointError."""
        with named("train.teacher"):
            checkpoint = read_checkpoint(
                Path(path), self.name, ("model", "parameters"), arrays_of=("parameters",)
            )
            network, section, _ = start(self.config, checkpoint, with_imagenet(self._maker(contexts)))
        freeze(network)
        log.info("Teacher: %s (train.temperature has no effect on keypoints)", section.base_network)
        return network

    def _mixup_share(self, batch: Batch) -> np.ndarray:
        """Share (1,) of themselves that the images of `batch` keep."""
        train = self.config.train
        return mixup_share(train.mixup_in(batch.plain), train.seed, batch.epoch, batch.number)
