"""YOLOv3: how it is built, trained and read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from common.data.boxes import objects_of
from common.data.samples import Sample
from common.engine.graph import settle
from common.engine.limits import GradientLimit
from common.images.resize import Resize
from common.loading.loader import Batch, Transform
from common.recipe import Recipe
from common.task import Inputs, Model
from detect.config import YOLOv3Config, YOLOv3ModelConfig
from detect.geometry import object_shares
from detect.task import DetectionTask, most_objects
from detect.transforms import YOLOv3Training
from detect.yolov3.loss import YOLOv3Loss
from detect.yolov3.network import (
    YOLOv3Network,
    build_network,
    head_layers,
    initialise,
    set_priors,
    transfer_classes,
)
from detect.yolov3.targets import ANCHOR_COUNT, YOLOv3Targets, best_overlaps, grid

# Beside the best anchor every anchor with at least this IoU answers for an object too.
_EXTRA_ANCHOR_IOU = 0.3
# Over training the input varies between these multiples of data_shape, in steps of 32 pixels, every ten batches.
_SCALES = (0.75, 1.25)
_BATCHES_OF_ONE_SHAPE = 10
# Rows of boxes in a batch whose images have few objects.
_FEWEST_ROWS = 16
# Where all begins at random, the weights of the last layers learn at so many times train.lr. Each of thousands of
# places moves them the same way: at 0.0004 their steps do not settle, and where images weigh more at a lower rate.
_LAST_LAYERS_LR_MULT = 0.13
# Objects of an image of COCO's training set, on average.
_OBJECTS_OF_COCO = 7.3


class YOLOv3Model(Model):
    """A YOLOv3 network with its targets and its way of reading predictions."""

    losses = ("total", "box", "object", "class")

    def __init__(
        self,
        network: YOLOv3Network,
        section: YOLOv3ModelConfig,
        classes: Sequence[str],
        box_loss: str = "ciou",
    ) -> None:
        self.network = network
        self.box_loss = box_loss
        self.section = section
        self.classes = list(classes)
        self.name = f"yolo3_{section.base_network}_custom"

    @property
    def backbone(self) -> Sequence[Any]:
        return [self.network.stages]

    def training_block(self) -> tuple[Any, Sequence[str]]:
        return YOLOv3Loss(self.network, self.box_loss), YOLOv3Loss.inputs

    def targets(self, samples: Sequence[Sample]) -> YOLOv3Targets:
        return YOLOv3Targets(_EXTRA_ANCHOR_IOU)

    def training_inputs(self, batch: Batch) -> Inputs:
        arrays, layout = batch.arrays, grid(batch.shape)
        boxes = trimmed(arrays["boxes"])
        shown = batch.total(np.array([len(boxes), (boxes[..., 4] >= 0).sum()])).tolist()
        places = boxes.shape[1] * ANCHOR_COUNT
        return Inputs(
            split=[
                arrays["image"],
                boxes,
                *(arrays[name][:, :places] for name in ("positive", "weight", "target", "target_class")),
                arrays["objects"],
                arrays["known"],
                np.full(len(boxes), image_weight(*shown), np.float32),
            ],
            shared=[layout.cells, layout.anchors, layout.strides],
        )

    def description(self) -> dict[str, Any]:
        return self.section.model_dump(mode="json", include={"base_network", "data_shape"})

    def interface(self) -> dict[str, Any]:
        return {
            "outputs": [
                {
                    "name": "ids",
                    "shape": ["batch", 100, 1],
                    "meaning": "class id; -1: no detection in this row",
                },
                {"name": "scores", "shape": ["batch", 100, 1], "meaning": "0 to 1, falling"},
                {
                    "name": "boxes",
                    "shape": ["batch", 100, 4],
                    "meaning": "x1, y1, x2, y2 in pixels of the input",
                },
            ],
        }


class YOLOv3Task(DetectionTask[YOLOv3Config]):
    """YOLOv3 by configuration."""

    name = "yolov3"
    # Nearly linear, a random network has small gradients: at the guide's rate a step moves most of its deep layers by a
    # hundredth to a tenth of what the limit allows, and classes are not learnt (benchmarks/QUALITY.md).
    fresh_lr_mult = 10.0

    def recipe(self, on_gpu: bool) -> Recipe:
        train = self.config.train
        return replace(
            super().recipe(on_gpu),
            # The usual 0.02 is too far for a set of a hundred images (benchmarks/QUALITY.md).
            limit=GradientLimit(0.005),
            from_average=True,  # mends the dip behind a step of the rate (benchmarks/QUALITY.md)
            plain_transform=self._plain_transform if train.mosaic else None,
            shapes=None if train.no_random_shape else RandomShapes(self.shape, train.seed),
        )

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return YOLOv3Training(most_objects(samples), mosaic=self.config.train.mosaic)

    def _plain_transform(self, samples: Sequence[Sample]) -> Transform:
        return YOLOv3Training(most_objects(samples))

    @property
    def resize(self) -> Resize:
        return Resize("stretch")

    def anchor_overlaps(self, samples: Sequence[Sample]) -> np.ndarray:
        boxes = object_shares(samples) * np.tile(self.shape, 2)
        return best_overlaps(boxes[:, 2:] - boxes[:, :2])

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> YOLOv3Model:
        return YOLOv3Model(*self.start(classes, contexts, checkpoint), classes, self.config.train.box_loss)

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        if self.config.pretrained():
            return
        objects = sum(len(objects_of(sample.annotation)) for sample in samples)
        for head in head_layers(model.network):
            head.weight.lr_mult = _LAST_LAYERS_LR_MULT / image_weight(len(samples), objects)

    def make_network(self, section: YOLOv3ModelConfig, classes: Sequence[str]) -> tuple[Any, Any]:
        return build_network(section.base_network, classes)

    def initialise(self, network: Any, contexts: Sequence[Any]) -> None:
        initialise(network, contexts)
        settle(network)
        set_priors(network, contexts)

    def transfer_classes(self, network: Any, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
        return transfer_classes(network, classes, contexts)

    def slow_down(self, network: Any) -> None:
        for head in head_layers(network):
            head.weight.lr_mult = head.bias.lr_mult = self.config.train.output_lr_mult


class RandomShapes:
    """Input size by epoch and batch: multiples of 32 around the configured one, the same for ten batches."""

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        factors = np.arange(_SCALES[0], _SCALES[1] + 1e-6, 32 / max(shape)).tolist()
        self.choices = sorted({(_multiple(shape[0] * f), _multiple(shape[1] * f)) for f in factors} | {shape})
        self._seed = seed

    def __call__(self, epoch: int, batch: int) -> tuple[int, int]:
        rng = np.random.default_rng([self._seed, epoch, batch // _BATCHES_OF_ONE_SHAPE])
        return self.choices[rng.integers(len(self.choices))]


def trimmed(boxes: np.ndarray) -> np.ndarray:
    """Boxes (B, M, 5) without the last rows, which no image uses: every prediction is compared with every row.

    16, 32, 64 ... rows are kept, so that batches come in few shapes: each has a graph of its own.
    """
    used = int(np.flatnonzero((boxes[..., 4] >= 0).any(axis=0)).max(initial=-1)) + 1
    rows = _FEWEST_ROWS
    while rows < used:
        rows *= 2
    return boxes[:, :rows]


def image_weight(images: int, objects: int) -> float:
    """The weight of each of the images of a batch that show so many objects together.

    The loss is a sum over objects, and the guide's learning rates were made for sets with as many of them as COCO has:
    where an image shows one or two, steps would be a fraction as long, and a training of a given length would not get
    anywhere.
    """
    return max(1.0, _OBJECTS_OF_COCO / max(objects / images, 1.0))


def _multiple(length: float) -> int:
    return max(round(length / 32), 2) * 32
