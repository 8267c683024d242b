"""SSD: how it is built, trained and read."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.samples import Sample
from common.engine.limits import GradientLimit
from common.engine.mxnet_internals import value_of
from common.engine.parameters import set_value
from common.errors import ConfigurationError
from common.images.resize import Resize
from common.loading.loader import Batch, Transform
from common.networks.base_networks import freeze
from common.recipe import Recipe
from common.task import Inputs, Model
from detect.config import SSDConfig, SSDModelConfig, SSDTrainConfig
from detect.geometry import object_shares
from detect.input_figures import input_figures
from detect.ssd.anchors import COVERED, Level, anchor_boxes, best_overlaps, corners, fitted, levels
from detect.ssd.loss import SSDLoss
from detect.ssd.network import (
    SSDNetwork,
    backbone_layers,
    build_network,
    early_layers,
    initialise,
    last_layers,
    published_names,
    transfer_classes,
)
from detect.ssd.targets import Negatives, SSDTargets
from detect.task import DetectionTask, most_objects
from detect.transforms import YOLOv3Training

log = logging.getLogger("visualtl")

# Layers that begin at random learn at so many times the rate of a backbone from ImageNet, which at such a rate forgets
# what it knows (benchmarks/QUALITY.md).
_FRESH_LR_MULT = 3.0

# The share of anchors expected to be objects where all background counts, and where a few negatives are chosen for
# every positive.
_PRIORS = {"focal": 0.01, "hard_negatives": 0.25}


class SSDModel(Model):
    """An SSD network with its targets and its way of reading predictions."""

    losses = ("total", "class", "box")

    def __init__(
        self, network: SSDNetwork, section: SSDModelConfig, train: SSDTrainConfig, classes: Sequence[str]
    ) -> None:
        self.network = network
        self.section = section
        self.classes = list(classes)
        self.name = f"ssd_{section.base_network}_custom"
        self._train = train
        self._negatives = Negatives(train.negative_min_size, train.negative_region)
        self._set_anchors()

    def _set_anchors(self) -> None:
        self._anchors = value_of(self.network.anchors)[0]
        self._corners = corners(self._anchors)
        self._allowed = self._negatives.allowed(self._anchors, self.section.input_shape)
        if not self._allowed.any():
            raise ConfigurationError(
                f"train.negative_min_size: {self._negatives.min_size:g} with train.negative_region "
                f"{_listed(self._negatives.region)} leaves none of the {len(self._anchors)} anchors to learn "
                "background from; make the size smaller or the region larger"
            )

    def fit_anchors(self, samples: Sequence[Sample]) -> None:
        """Give the network anchors of the sizes of a training set's objects."""
        before, shape, boxes = plan_of(self.section), self.section.input_shape, object_shares(samples)
        plan = fitted(before, samples)
        told = [
            f"{(best_overlaps(each, shape, boxes) >= COVERED).mean():.0%} of the objects"
            for each in (before, plan)
        ]
        log.info(
            "Anchors fitted to the training set: they overlap %s by half, those by rule %s",
            told[1],
            told[0],
        )
        set_value(self.network.anchors, anchor_boxes(plan, shape)[None])
        self._set_anchors()

    @property
    def backbone(self) -> Sequence[Any]:
        return backbone_layers(self.network)

    def training_block(self) -> tuple[Any, Sequence[str]]:
        train = self._train
        block = SSDLoss(
            self.network,
            class_loss=train.class_loss_of(self.section.base_network),
            box_loss=train.box_loss,
            negative_ratio=train.negative_ratio,
        )
        return block, block.inputs

    @property
    def _by_offset(self) -> bool:
        return bool(self._train.box_loss == "smooth_l1")

    def targets(self, samples: Sequence[Sample]) -> SSDTargets:
        return SSDTargets(self._anchors, self._corners, self._allowed, self._by_offset)

    def training_inputs(self, batch: Batch) -> Inputs:
        arrays = batch.arrays
        rows = len(arrays["image"])
        images, positives = batch.total(np.array([rows, (arrays["target_class"] > 0).sum()])).tolist()
        # The loss is a mean over the positives of the batch.
        weight = np.full(rows, images / max(positives, 1), np.float32)
        return Inputs(
            split=[arrays["image"], arrays["target_class"], arrays["target_box"], weight],
            shared=[] if self._by_offset else [self._anchors],
        )

    def description(self) -> dict[str, Any]:
        content = {"base_network", "data_shape", "use_pretrained", "transfer_dataset", "anchor_fit"}
        return self.section.model_dump(mode="json", include=content)

    def interface(self) -> dict[str, Any]:
        rows = ["batch", self.network.rows]
        return {
            "outputs": [
                {"name": "ids", "shape": [*rows, 1], "meaning": "class id; -1: no detection in this row"},
                {"name": "scores", "shape": [*rows, 1], "meaning": "0 to 1, falling"},
                {"name": "boxes", "shape": [*rows, 4], "meaning": "x1, y1, x2, y2 in pixels of the input"},
            ],
        }


class SSDTask(DetectionTask[SSDConfig]):
    """SSD by configuration."""

    name = "ssd"

    def recipe(self, on_gpu: bool) -> Recipe:
        return replace(
            super().recipe(on_gpu),
            # The usual 0.02 is what every step of every pretrained layer would take at the default rate: what ImageNet
            # taught would be gone within an epoch.
            limit=GradientLimit(0.005),
            plain_transform=self._plain_transform if self.config.train.mosaic else None,
        )

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return YOLOv3Training(most_objects(samples), mosaic=self.config.train.mosaic)

    def _plain_transform(self, samples: Sequence[Sample]) -> Transform:
        return YOLOv3Training(most_objects(samples))

    @property
    def resize(self) -> Resize:
        return Resize("stretch")

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> SSDModel:
        network, section = self.start(classes, contexts, checkpoint)
        if self.config.backbone_name is not None:
            if checkpoint is None:
                known = {p for layers in backbone_layers(network) for p in layers.collect_params().values()}
                for parameter in set(network.collect_params().values()) - known:
                    parameter.lr_mult = _FRESH_LR_MULT
            if self.config.train.freeze_early:
                for layer in early_layers(network, section.base_network):
                    freeze(layer)
        return SSDModel(network, section, self.config.train, classes)

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        if self.config.model.anchor_fit:
            assert isinstance(model, SSDModel)
            model.fit_anchors(samples)

    def make_network(self, section: SSDModelConfig, classes: Sequence[str]) -> tuple[Any, Any]:
        valid = self.config.valid
        return build_network(
            section.base_network,
            classes,
            plan_of(section),
            section.input_shape,
            nms_thresh=valid.nms_thresh,
            nms_topk=valid.nms_topk,
            post_nms=valid.post_nms,
        )

    def initialise(self, network: Any, contexts: Sequence[Any]) -> None:
        kind = self.config.train.class_loss_of(self.config.model.base_network)
        initialise(network, contexts, _PRIORS[kind])

    def transfer_classes(self, network: Any, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
        return transfer_classes(network, classes, contexts)

    def unpublished(self, network: Any) -> Sequence[Any]:
        return [network.anchors]

    def published_names(self, network: Any) -> Mapping[str, str]:
        return published_names(network, self.config.model.base_network)

    def slow_down(self, network: Any) -> None:
        for heads in (network.class_heads, network.box_heads):
            for layer in last_layers(heads):
                layer.weight.lr_mult = layer.bias.lr_mult = self.config.train.output_lr_mult

    def anchor_overlaps(self, samples: Sequence[Sample]) -> np.ndarray:
        model = self.config.model
        return best_overlaps(plan_of(model), model.input_shape, object_shares(samples))

    def input_figures(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        # Anchors that are fitted already cannot be had any nearer.
        overlaps = None if self.config.model.anchor_fit else self.anchor_overlaps(samples)
        return input_figures(samples, self.shape, overlaps)


def _listed(region: Sequence[float] | None) -> str:
    return "null" if region is None else str([round(float(side), 6) for side in region])


def plan_of(section: SSDModelConfig) -> list[Level]:
    """The levels of the network that a model section describes, with anchors by rule."""
    dataset = section.transfer_dataset if section.use_pretrained else "voc"
    return levels(section.base_network, section.published_size, dataset)
