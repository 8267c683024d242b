"""CenterNet: how it is built, trained and read."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.boxes import objects_of
from common.data.samples import Sample
from common.engine.graph import Inference
from common.engine.limits import GradientLimit
from common.images.resize import Resize
from common.loading.loader import Batch, Transform
from common.recipe import Recipe
from common.task import Inputs, Model
from detect.center_net.loss import CenterNetLoss
from detect.center_net.network import (
    CenterNetNetwork,
    backbone_parameters,
    build_network,
    expect_size,
    head_parameters,
    initialise,
    lateral_parameters,
    transfer_classes,
)
from detect.center_net.targets import CenterNetTargets, maps_of_classes
from detect.config import CenterNetConfig, CenterNetModelConfig
from detect.task import DetectionTask, most_objects
from detect.transforms import CenterNetTraining

log = logging.getLogger("visualtl")

# What of the model section makes a network, and trains it; the rest says where its parameters came from.
_DESCRIPTION = {"base_network", "scale", "topk", "wh_weight", "center_reg_weight", "data_shape"}
# Name of the exported graph that looks at the mirrored image too.
_FLIP_EXPORT = "flip_test"


class WithMirror(Inference):
    """As `Inference`, or for `normalised` input as the network alone, with a look at the mirrored image."""

    def __init__(self, network: CenterNetNetwork, *, normalised: bool = False) -> None:
        super().__init__(network)
        self._normalised = normalised

    def hybrid_forward(self, F: Any, images: Any) -> Any:
        return self.network.detections(
            F, images if self._normalised else self.normalise(images), flip_test=True
        )


class CenterNetModel(Model):
    """A CenterNet network with its targets and its way of reading predictions.

    section: the model section of the configuration that made the network. flip_test: predictions are those of
    the image and its mirror. on_cpu: it is trained on the CPU, where deformable layers need another graph.
    """

    losses = ("total", "heatmap", "size", "offset")

    def __init__(
        self,
        network: CenterNetNetwork,
        section: CenterNetModelConfig,
        classes: Sequence[str],
        *,
        flip_test: bool,
        on_cpu: bool,
    ) -> None:
        self.network = network
        self.section = section
        self.classes = list(classes)
        self.name = f"center_net_{section.base_network}_custom"
        self.flip_test = flip_test
        self._sampled = on_cpu and is_deformable(section.base_network)

    @property
    def backbone(self) -> Sequence[Any]:
        return [self.network.base_network.base_network]

    def training_block(self) -> tuple[Any, Sequence[str]]:
        block = CenterNetLoss(
            self.network,
            wh_weight=self.section.wh_weight,
            center_reg_weight=self.section.center_reg_weight,
            sampled=self._sampled,
        )
        return block, CenterNetLoss.inputs

    def targets(self, samples: Sequence[Sample]) -> CenterNetTargets:
        return CenterNetTargets(most_classes(samples), self.section.scale)

    def training_inputs(self, batch: Batch) -> Inputs:
        arrays = batch.arrays
        maps, kept = maps_of_classes(arrays["classes"], len(self.classes))
        rest = (arrays[name] for name in CenterNetLoss.inputs[3:])
        return Inputs([arrays["image"], arrays["heatmap"][:, :kept], maps, *rest])

    def inference_block(self) -> Any:
        return WithMirror(self.network) if self.flip_test else super().inference_block()

    def further_exports(self) -> dict[str, Any]:
        return {_FLIP_EXPORT: WithMirror(self.network, normalised=True)} if self.flip_test else {}

    def description(self) -> dict[str, Any]:
        return self.section.model_dump(mode="json", include=_DESCRIPTION)

    def interface(self) -> dict[str, Any]:
        flip: dict[str, str | None]
        if self.flip_test:
            flip = {
                "symbol": f"{self.name}-{_FLIP_EXPORT}.json",
                "meaning": "the result files were made with a look at the mirrored image too "
                "(valid.flip_test); this graph of the same params and input has it, at twice the cost",
            }
        else:
            flip = {"symbol": None, "meaning": "the result files were made without it (valid.flip_test)"}
        rows = ["batch", self.network.rows]
        return {
            "outputs": [
                {"name": "ids", "shape": [*rows, 1], "meaning": "class id; -1: no detection in this row"},
                {"name": "scores", "shape": [*rows, 1], "meaning": "0 to 1, falling"},
                {"name": "boxes", "shape": [*rows, 4], "meaning": "x1, y1, x2, y2 in pixels of the input"},
            ],
            "flip_test": flip,
        }


class CenterNetTask(DetectionTask[CenterNetConfig]):
    """CenterNet by configuration."""

    name = "centernet"
    # The loss is a mean over objects: at the guide's rate a step moves most weights of a random network by less than a
    # thousandth of their size (benchmarks/QUALITY.md).
    fresh_lr_mult = 10.0

    def recipe(self, on_gpu: bool) -> Recipe:
        # At the usual 0.02 trainings from scratch went well for some epochs, and then back to where they had begun.
        return replace(super().recipe(on_gpu), limit=GradientLimit(0.003))

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return CenterNetTraining(most_objects(samples))

    @property
    def resize(self) -> Resize:
        return Resize("letterbox")

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> CenterNetModel:
        network, section = self.start(classes, contexts, checkpoint)
        # Where PyTorch computes on a GPU the network is made on the CPU.
        on_cpu = contexts[0].device_type == "cpu" and not self.config.gpus
        if on_cpu and is_deformable(section.base_network):
            log.warning(
                "model.base_network %s: deformable convolutions are slow to train on a CPU; "
                "%s has none and is the quicker choice here",
                section.base_network,
                section.base_network.removesuffix("_dcnv2"),
            )
        return CenterNetModel(network, section, classes, flip_test=self.config.valid.flip_test, on_cpu=on_cpu)

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        size = mean_size(samples, self.shape)
        if size and not self.config.model.use_pretrained:
            expect_size(model.network, size)

    def make_network(self, section: CenterNetModelConfig, classes: Sequence[str]) -> tuple[Any, Any]:
        valid = self.config.valid
        return build_network(
            section.base_network,
            classes,
            scale=section.scale,
            topk=section.topk,
            nms_thresh=valid.nms_thresh,
            nms_topk=valid.nms_topk,
            post_nms=valid.post_nms,
        )

    def unpublished(self, network: Any) -> Sequence[Any]:
        return lateral_parameters(network)

    def initialise(self, network: Any, contexts: Sequence[Any]) -> None:
        initialise(network, contexts)

    def transfer_classes(self, network: Any, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
        return transfer_classes(network, classes, contexts)

    def slow_down(self, network: Any) -> None:
        for parameters, multiplier in (
            (backbone_parameters(network), self.config.train.transfer_lr_mult),
            (head_parameters(network), self.config.train.output_lr_mult),
        ):
            for parameter in parameters:
                parameter.lr_mult = multiplier


def most_classes(samples: Sequence[Sample]) -> int:
    """The largest number of classes that an image shows; at least 1."""
    return max((len(set(objects_of(sample.annotation)[:, 0].tolist())) for sample in samples), default=1) or 1


def is_deformable(base_network: str) -> bool:
    """Whether a network has deformable convolutions."""
    return base_network.endswith("_dcnv2")


def mean_size(samples: Sequence[Sample], shape: tuple[int, int]) -> tuple[float, float] | None:
    """Mean width and height of the objects in pixels of an input of `shape` (width, height); None if none."""
    sizes = [np.empty((0, 2))]
    for sample in samples:
        objects = objects_of(sample.annotation)
        scale = Resize("letterbox").scale((sample.width, sample.height), shape)
        sizes.append((objects[:, 3:5] - objects[:, 1:3]) * scale)
    everything = np.concatenate(sizes)
    if not len(everything):
        return None
    width, height = everything.mean(axis=0)
    return float(width), float(height)
