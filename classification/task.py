"""Image classification: how it is built, trained and read."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

from mxnet import gluon

from classification.annotations import (
    ClassAnnotations,
    class_folders,
    summary,
    tell_deeper,
    unknown_folders,
)
from classification.config import ClassificationConfig
from classification.linear_start import begin_at, look
from classification.losses import SMOOTHING, ClassificationTraining
from classification.networks import build_classifier, transfer_classes
from classification.results import ClassDecoder, ClassEvaluator
from classification.teacher import make_teacher
from classification.transforms import CENTRE, CropTransform, region_of
from common.config.network_sections import ClassNetworkConfig, NetworkConfig
from common.data.figures import listed
from common.data.formats.base import Label
from common.data.listing import Listing, class_name
from common.data.samples import Annotate, Sample
from common.engine.graph import Inference
from common.engine.limits import limit_for
from common.errors import DataError
from common.images.augment import mixup_share
from common.images.decoding import printable
from common.images.resize import Region, Resize
from common.loading.loader import Batch, Transform
from common.networks.base_networks import keep_statistics
from common.networks.transfer import NetworkTask, set_multipliers, variants
from common.predictor import Compute, EvaluationTransform
from common.processes.pool import WorkerPool
from common.ranks.ranks import Ranks
from common.recipe import Recipe
from common.task import Inputs, Model
from common.training.checkpoint import classes_of

log = logging.getLogger("visualtl")

# Share of train.minutes that may pass before the first step, for the last layer to begin well.
_LOOKING = 0.05
# How a network learns that ImageNet has taught: the share of its size by which a step may change a weight, and how old
# what is averaged is in the mean (`common.engine.averaging.AGE`). benchmarks/QUALITY.md has figures.
_LONGEST_STEP, _AGE = 0.002, 1.0 / 3.0
# Where train.gentle_transfer is left open it is for trainings of so few steps, and for images of which a regression on
# what ImageNet has taught tells so many right.
_FEW_STEPS, _WELL_KNOWN = 60, 0.9
# Of inputs that are smaller ImageNet's statistics leave hardly anything: features of MobileNetV2 at 32 pixels are a
# tenth of what they are at 64 to 224.
_SMALLEST_INPUT = 64


class ClassifierModel(Model):
    """A classifier with its training."""

    kind = "classifier"

    def __init__(
        self,
        network: gluon.HybridBlock,
        config: NetworkConfig,
        classes: Sequence[str],
        training: ClassificationTraining,
    ) -> None:
        self.network = network
        self.classes = list(classes)
        self.name = f"{self.kind}_{config.model.base_network}"
        self.losses = training.losses
        self._config = config
        self._training = training

    def training_block(self) -> tuple[Any, Sequence[str]]:
        return self._training, self._training.inputs

    def training_inputs(self, batch: Batch) -> Inputs:
        split = [batch.arrays["image"], batch.arrays["label"]]
        train = self._config.train
        if not train.mixup:
            return Inputs(split)
        share = mixup_share(train.mixup_in(batch.plain), train.seed, batch.epoch, batch.number)
        return Inputs(split, [share])

    def description(self) -> dict[str, Any]:
        return self._config.model.model_dump(mode="json")

    def interface(self) -> dict[str, Any]:
        return {
            "outputs": [
                {
                    "name": "logits",
                    "shape": ["batch", len(self.classes)],
                    "meaning": "one a class, in the order of classes; their softmax is the probabilities",
                }
            ],
        }


K = TypeVar("K", bound=ClassNetworkConfig)


class FolderTask(NetworkTask[K]):
    """What classification and ReID share: folders as classes, a base network that tells them apart."""

    def names(self, listings: Mapping[str, Listing]) -> list[str]:
        classes = class_folders(listings["train"])
        others: set[str] = set()
        for listing in listings.values():
            tell_deeper(listing)
            unknown = unknown_folders(listing, classes)
            if unknown and not self.takes_others and not self.config.dataset.classes:
                raise DataError(
                    f"{printable(os.path.join(listing.folder, unknown[0]))}: the class folder {unknown[0]!r} is not in "
                    f"the training set {printable(listings['train'].folder)}"
                    + (f"; nor are {listed([repr(name) for name in unknown[1:]])}" if unknown[1:] else "")
                )
            others.update(unknown)
        return [*classes, *sorted(others)]

    def label_names(self, listings: Mapping[str, Listing]) -> list[str]:
        return sorted({name for listing in listings.values() for name in class_folders(listing)})

    def annotations(self, listings: Mapping[str, Listing], names: Sequence[str]) -> Annotate:
        count = len(class_folders(listings["train"])) if "train" in listings else len(names)
        folders = tuple(root for listing in listings.values() for root in listing.roots)
        return ClassAnnotations(tuple(names[:count]), folders, tuple(names[count:]))

    def classes(self, listings: Mapping[str, Listing], sets: Sequence[Sequence[Sample]]) -> list[str]:
        return class_folders(listings["train"])

    # Whether validation and test sets may show classes that training does not know.
    takes_others: ClassVar[bool] = False

    def settle(
        self, ordered: Sequence[Sequence[str]], labels: Mapping[str, Collection[Label]]
    ) -> tuple[list[str], dict[Label, int]]:
        given = self.config.dataset.classes
        trained = {str(label) for label in labels["train"]}
        classes = list(given) if given else sorted(trained)
        others = sorted({str(label) for of_set in labels.values() for label in of_set} - set(classes))
        if others and given is None and not self.takes_others:
            raise DataError(
                f"classes that the training set does not have: {listed([repr(name) for name in others])}"
            )
        if (
            self.takes_others
        ):  # those that training shows are left out, where dataset.classes does not name them
            others = [name for name in others if name not in trained]
        return classes, {
            name: place for place, name in enumerate([*classes, *(others if self.takes_others else [])])
        }

    def groups(self, sample: Sample) -> Iterable[int]:
        return (int(sample.annotation[0]),)

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        return summary(samples, classes)

    def region(self) -> Callable[[Sample], Region | None]:
        return region_of

    def build_network(
        self, name: str, outputs: int, contexts: Sequence[Any], **options: bool
    ) -> gluon.HybridBlock:
        """A network with random parameters."""
        raise NotImplementedError

    def network(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> gluon.HybridBlock:
        """The network for `classes`, with parameters to begin with and their rate multipliers."""
        known = [class_name(name) for name in classes_of(checkpoint)] if checkpoint else list(classes)
        network, pretrained = self.start(
            checkpoint,
            lambda section, _: self.build_network(
                section.base_network, len(known), contexts, **variants(section)
            ),
        )
        if known != list(classes):
            kept = transfer_classes(network, known, classes)
            log.info("Classes known from before: %s", ", ".join(kept) or "none")
        set_multipliers(network, pretrained, self.config.train)
        return network

    def training_options(self, classes: Sequence[str], contexts: Sequence[Any]) -> dict[str, Any]:
        """The options of ClassificationTraining, as configured."""
        train = self.config.train
        options: dict[str, Any] = {
            "smoothing": SMOOTHING if train.label_smoothing else 0.0,
            "mixup": train.mixup,
        }
        if train.teacher:
            teacher, same = make_teacher(self.config, self.name, classes, contexts, self.build_network)
            options.update(
                teacher=teacher,
                same_classes=same,
                hard_weight=train.hard_weight,
                temperature=train.temperature,
            )
        return options


def begin_training(training: ClassificationTraining, network: gluon.HybridBlock) -> None:
    """Give the layer that learns a teacher's other classes its parameters, where `network` has its own."""
    if training.teacher_output is not None:
        training.teacher_output.initialize(ctx=network.output.weight.list_ctx())
        for name in ("weight", "bias"):
            parameter = getattr(training.teacher_output, name)
            parameter.lr_mult = network.output.weight.lr_mult


class ClassificationTask(FolderTask[ClassificationConfig]):
    """Image classification by configuration."""

    name = "classification"
    does = "classification"

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return CropTransform()

    @property
    def resize(self) -> Resize:
        return Resize("centre_crop", CENTRE)

    def build_network(
        self, name: str, outputs: int, contexts: Sequence[Any], **options: bool
    ) -> gluon.HybridBlock:
        return build_classifier(name, outputs, contexts, **options)

    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> ClassifierModel:
        network = self.network(classes, contexts, checkpoint)
        if self._may_be_gentle and self.config.train.gentle_transfer:
            keep_statistics(network.features)
        training = ClassificationTraining(network, len(classes), **self.training_options(classes, contexts))
        begin_training(training, network)
        return ClassifierModel(network, self.config, classes, training)

    @property
    def _may_be_gentle(self) -> bool:
        """Whether the network could keep what ImageNet's parameters know. Layers that no file of these has have to
        learn as those of a random network do."""
        model = self.config.model
        return (
            self.config.train.gentle_transfer is not False
            and model.use_pretrained
            and not (model.use_gn or model.use_se)
            and min(self.shape) >= _SMALLEST_INPUT
        )

    def recipe(self, on_gpu: bool) -> Recipe:
        recipe = super().recipe(on_gpu)
        if not (self._may_be_gentle and self.config.train.gentle_transfer):
            return recipe
        limit = limit_for(self.config.train.optimizer, _LONGEST_STEP)
        return replace(recipe, limit=limit, ema_age=_AGE)

    def look_first(
        self,
        model: Model,
        samples: Sequence[Sample],
        arithmetic: Callable[[Any], Compute],
        pool: WorkerPool,
        ranks: Ranks,
        alive: Callable[[], None],
    ) -> Mapping[str, Any]:
        train = self.config.train
        if not self._may_be_gentle:
            return {"gentle_transfer": False}
        start = look(
            model.network,
            samples,
            EvaluationTransform(self.resize, self.region()),
            self.shape,
            arithmetic(Inference(model.network.features)),
            pool,
            ranks,
            alive,
            seconds=_LOOKING * train.minutes * 60.0 if train.minutes else math.inf,
        )
        gentle = train.gentle_transfer
        if gentle is None:
            epochs = train.epochs - train.first_epoch(loaded=False)
            steps = math.inf if train.minutes else epochs * math.ceil(len(samples) / train.batch_size)
            gentle = steps <= _FEW_STEPS or start.accuracy >= _WELL_KNOWN
        if gentle:
            begin_at(model.network, start)
            keep_statistics(model.network.features)
            log.info(
                "The last layer begins at that regression, and the others take small steps (train.gentle_transfer)"
            )
        return {"gentle_transfer": gentle}

    def decoder(self, model: Model) -> ClassDecoder:
        return ClassDecoder(model.classes)

    def evaluator(self, model: Model, valid: Sequence[Sample] = ()) -> ClassEvaluator:
        return ClassEvaluator(self.decoder(model))
