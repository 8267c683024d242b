"""What the detectors share: annotations, classes, where parameters come from, metric and result file."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import mxnet as mx
import numpy as np

from common.config.sections import with_model
from common.data.boxes import objects_of
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.engine.devices import bfloat16_supported
from common.engine.parameter_file import check_parameter_file
from common.engine.parameters import set_parameters
from common.errors import CheckpointError, DataError, DeviceError, PretrainedError
from common.networks.pretrained import find_parameters
from common.task import Model, Task
from common.training.checkpoint import classes_of
from detect.annotations import DetectionAnnotations, summary
from detect.config import DetectConfig
from detect.results import DetectionDecoder, DetectionEvaluator

log = logging.getLogger("visualtl")

D = TypeVar("D", bound=DetectConfig)


class DetectionTask(Task[D]):
    """Boxes with a class."""

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

    def groups(self, sample: Sample) -> Iterable[int]:
        return sorted({int(i) for i in objects_of(sample.annotation)[:, 0]})

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        return summary(samples, classes)

    @property
    def shape(self) -> tuple[int, int]:
        width, height = self.config.model.data_shape
        return width, height

    def precision(self, on_gpu: bool) -> str:
        if not self.config.model.amp:
            return "float32"
        if on_gpu:
            return "float16"
        if not bfloat16_supported():
            raise DeviceError(
                "model.amp: this processor has no bfloat16 (avx512_bf16 or amx_bf16), so that mixed precision would "
                "only be slower; set model.amp to false, or train on a GPU"
            )
        return "bfloat16"

    def start(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> tuple[Any, Any]:
        """The network with its parameters, and the model section of the configuration that it was made by.

        Parameters come from the checkpoint (which then says which network), from a detector trained on
        model.transfer_dataset, or are random, with a backbone from ImageNet if train.pretrained_base says so.
        What the first two know of the classes is kept. Raises CheckpointError or PretrainedError.
        """
        section = self.config.model
        published = None
        names = list(classes)
        if checkpoint:
            section = with_model(self.config, checkpoint["model"]).model
            names = classes_of(checkpoint)
        elif self.config.detector_name:
            published = names = _published_classes(section.transfer_dataset)
        network, backbone = self.make_network(section, names, contexts)
        if published:
            load_pretrained(network, str(self.config.detector_name), contexts, self.unpublished(network))
        else:
            self.initialise(network, contexts)
            if checkpoint:
                _restore(network, checkpoint["parameters"])
            elif name := self.config.backbone_name:
                load_pretrained(backbone, name, contexts)
        if names != list(classes):
            known = self.transfer_classes(network, classes, contexts)
            log.info(
                "Classes known from before: %s", ", ".join(known) or "none (what is known of boxes is kept)"
            )
        if published:
            self.slow_down(network)
        return network, section

    @abstractmethod
    def make_network(self, section: Any, classes: Sequence[str], contexts: Sequence[Any]) -> tuple[Any, Any]:
        """The network that a model section describes, and its backbone, both without parameters."""

    def unpublished(self, network: Any) -> Sequence[Any]:
        """Parameters that the network has and published ones of its kind have not."""
        return ()

    @abstractmethod
    def initialise(self, network: Any, contexts: Sequence[Any]) -> None:
        """Give all parameters their shapes and random values."""

    @abstractmethod
    def transfer_classes(self, network: Any, classes: Sequence[str], contexts: Sequence[Any]) -> list[str]:
        """Give the network other classes; returns the names of those that it knew."""

    @abstractmethod
    def slow_down(self, network: Any) -> None:
        """Set the learning rate multipliers of a detector that is trained by transfer."""

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


def load_pretrained(
    network: Any, name: str, contexts: Sequence[Any], unpublished: Sequence[Any] = ()
) -> None:
    """Load the pretrained parameters `name` onto the contexts; those the network does not have are left out.

    unpublished: parameters of a network without values that the file need not have; they begin as they are declared.
    Raises PretrainedError if parameters cannot be had or do not fit.
    """
    path = find_parameters(name)
    check_parameter_file(path)
    try:
        network.load_parameters(
            str(path), ctx=list(contexts), allow_missing=bool(unpublished), ignore_extra=True
        )
        for parameter in unpublished:
            if parameter._data is None:
                parameter.initialize(ctx=list(contexts))
        for parameter in network.collect_params().values():
            parameter.list_data()  # raises for one that is still without values
    except (AssertionError, ValueError, KeyError, OSError, RuntimeError, mx.MXNetError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PretrainedError(f"{path}: its parameters do not fit {name}: {reason}") from None


def _restore(network: Any, values: dict[str, np.ndarray]) -> None:
    try:
        set_parameters(network, values)
    except (KeyError, ValueError, TypeError, AttributeError, AssertionError, mx.MXNetError) as error:
        raise CheckpointError(f"the checkpoint's parameters do not fit its network: {error}") from None


def _published_classes(dataset: str) -> list[str]:
    from gluoncv.data import COCODetection, VOCDetection

    return list((COCODetection if dataset == "coco" else VOCDetection).CLASSES)
