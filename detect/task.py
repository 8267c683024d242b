"""What the detectors share: annotations, classes, where parameters come from, metric and result file."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import numpy as np

from common.data.boxes import objects_of
from common.data.formats.base import Label
from common.data.formats.classes import settle
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.engine.devices import check_bfloat16
from common.engine.graph import allocate
from common.engine.mxnet_internals import named_parameters
from common.errors import DataError
from common.networks.start import Pretrained, start
from common.recipe import Recipe
from common.task import Model, Task
from common.training.checkpoint import classes_of
from detect.annotations import DetectionAnnotations, summary
from detect.config import DetectConfig
from detect.input_figures import input_figures
from detect.results import DetectionDecoder, DetectionEvaluator

log = logging.getLogger("visualtl")

D = TypeVar("D", bound=DetectConfig)


class DetectionTask(Task[D]):
    """Boxes with a class."""

    does = "detection"
    #: A network that begins at random altogether learns at so many times train.lr.
    fresh_lr_mult: ClassVar[float] = 1.0

    def annotations(self, listings: Mapping[str, Listing], names: Sequence[str]) -> Annotate:
        classes = self.config.dataset.classes
        return DetectionAnnotations(len(classes) if classes else None)

    def classes(self, listings: Mapping[str, Listing], sets: Sequence[Sequence[Sample]]) -> list[str]:
        if self.config.dataset.classes:
            return list(self.config.dataset.classes)
        ids = [
            sample.annotation[:, 0].max()
            for samples in sets
            for sample in samples
            if len(objects_of(sample.annotation))
        ]
        if not ids:
            raise DataError(
                "no annotation holds an object, so that the classes cannot be found out; "
                "name them in dataset.classes"
            )
        return [f"class{i}" for i in range(int(max(ids)) + 1)]

    def settle(
        self, ordered: Sequence[Sequence[str]], labels: Mapping[str, Collection[Label]]
    ) -> tuple[list[str], dict[Label, int]]:
        given = self.config.dataset.classes
        names, ids = settle(ordered, [label for of_set in labels.values() for label in of_set], given)
        if not names:
            raise DataError(
                "no annotation holds an object, so that the classes cannot be found out; name them in dataset.classes"
            )
        return names, ids

    def groups(self, sample: Sample) -> Iterable[int]:
        return sorted({int(i) for i in objects_of(sample.annotation)[:, 0]})

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        return summary(samples, classes, self.anchor_overlaps(samples))

    def anchor_overlaps(self, samples: Sequence[Sample]) -> np.ndarray | None:
        """The IoU of each object with the anchor that fits it best (n,); None for a detector without anchors."""
        return None

    @property
    def shape(self) -> tuple[int, int]:
        return self.config.model.input_shape

    def recipe(self, on_gpu: bool) -> Recipe:
        precision = "float32"
        if self.config.model.amp and on_gpu:
            precision = "float16"
        elif self.config.model.amp:
            check_bfloat16("model.amp", "set model.amp to false, or train on a GPU")
            precision = "bfloat16"
        return replace(super().recipe(on_gpu), precision=precision)

    def start(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> tuple[Any, Any]:
        """The network with its parameters, and the model section of the configuration that it was made by.

        Parameters come from the checkpoint (which then says which network), from a detector trained on
        model.transfer_dataset, or are random, with a backbone from ImageNet if train.pretrained_base says so.
        What the first two know of the classes is kept. Raises CheckpointError or PretrainedError.
        """
        published = None
        if checkpoint is None and self.config.detector_name:
            published = _published_classes(self.config.model.transfer_dataset)
        names = classes_of(checkpoint) if checkpoint else published or list(classes)

        def build(section: Any, _: dict[str, Any] | None) -> tuple[Any, Pretrained | None]:
            network, backbone = self.make_network(section, names)
            if published:
                allocate(network, contexts, (1, 3, *section.input_shape[::-1]))
                return network, self._detector(network)
            self.initialise(network, contexts)
            return network, self._backbone(network, backbone)

        network, section, _ = start(self.config, checkpoint, build)
        if checkpoint is None and not self.config.pretrained():
            for parameter in network.collect_params().values():
                parameter.lr_mult *= self.fresh_lr_mult
        if names != list(classes):
            known = self.transfer_classes(network, classes, contexts)
            log.info(
                "Classes known from before: %s", ", ".join(known) or "none (what is known of boxes is kept)"
            )
        if published:
            self.slow_down(network)
        return network, section

    def _detector(self, network: Any) -> Pretrained:
        """Published parameters of the whole network."""
        unpublished = set(self.unpublished(network))
        named = named_parameters(network)
        optional = [name for name, parameter in named.items() if parameter in unpublished]
        return Pretrained(str(self.config.detector_name), named, optional, self.published_names(network))

    def _backbone(self, network: Any, backbone: Any) -> Pretrained | None:
        """ImageNet's parameters of the backbone, if they are asked for."""
        if self.config.backbone_name is None:
            return None
        own = set(network.collect_params().values())
        named = {
            name: parameter for name, parameter in named_parameters(backbone).items() if parameter in own
        }
        return Pretrained(self.config.backbone_name, named)

    @abstractmethod
    def make_network(self, section: Any, classes: Sequence[str]) -> tuple[Any, Any]:
        """The network that a model section describes, and its backbone, both without parameters."""

    def unpublished(self, network: Any) -> Sequence[Any]:
        """Parameters that the network has and published ones of its kind have not."""
        return ()

    def published_names(self, network: Any) -> Mapping[str, str]:
        """What published files call parameters, by their names in the network, where these differ."""
        return {}

    @abstractmethod
    def initialise(self, network: Any, contexts: Sequence[Any]) -> None:
        """Give all parameters their shapes and random values."""

    @abstractmethod
    def transfer_classes(self, network: Any, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
        """Give the network other classes; returns the names of those that it knew."""

    @abstractmethod
    def slow_down(self, network: Any) -> None:
        """Set the learning rate multipliers of a detector that is trained by transfer."""

    def input_figures(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        return input_figures(samples, self.shape, self.anchor_overlaps(samples))

    def decoder(self, model: Model) -> DetectionDecoder:
        return DetectionDecoder(model.classes, self.config.valid.score_thresh)

    def card(self) -> dict[str, Any]:
        valid = self.config.valid
        return {
            "score_thresh": valid.score_thresh,
            "iou_thresh": valid.iou_thresh,
            "average_precision": valid.metric,
        }

    def evaluator(self, model: Model, valid: Sequence[Sample] = ()) -> DetectionEvaluator:
        keys = self.config.valid
        return DetectionEvaluator(self.decoder(model), keys.iou_thresh, keys.metric)


def most_objects(samples: Sequence[Sample]) -> int:
    """The largest number of rows of an annotation; at least 1, so that arrays of objects have a row."""
    return max((len(sample.annotation) for sample in samples), default=1) or 1


def _published_classes(dataset: str) -> list[str]:
    from gluoncv.data import COCODetection, VOCDetection

    return list((COCODetection if dataset == "coco" else VOCDetection).CLASSES)
