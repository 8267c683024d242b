"""The seam between a job and what it trains: everything that is different from task to task, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from common.config.sections import JobConfig
from common.data.formats.base import Label
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.engine.engine import Blocks, OptimizerSettings
from common.evaluator import Evaluator
from common.images.resize import Region, Resize
from common.loading.loader import Batch, Targets, Transform, WithTargets
from common.predictor import Compute, Decoder, whole
from common.processes.pool import WorkerPool
from common.ranks.ranks import Ranks
from common.recipe import Recipe

C = TypeVar("C", bound=JobConfig)


@dataclass(frozen=True)
class Inputs:
    """Arrays of a training step, in the order in which the training block takes them: `split` first, then `shared`.

    split: batch axis first, divided over the devices. shared: the same on every device.
    """

    split: Sequence[np.ndarray]
    shared: Sequence[np.ndarray] = ()


class Model(ABC):
    """A network with the way it is trained and read.

    network: what is exported: input `data` (B, 3, H, W), float32, normalised RGB. classes: names by class id.
    name: of the exported files. losses: names of what the training block gives (the first is the sum that is
    minimised). lr multipliers are set on the parameters.
    """

    network: Any
    name: str
    classes: list[str]
    losses: tuple[str, ...]

    @abstractmethod
    def training_block(self) -> tuple[Any, Sequence[str]]:
        """A HybridBlock from images and targets to losses, each (B,), and the names of its inputs."""

    def targets(self, samples: Sequence[Sample]) -> Targets | None:
        """What the loader's workers make of the rows of this training set for `training_inputs`; None: nothing."""
        return None

    def with_targets(self, transform: Transform, samples: Sequence[Sample]) -> Transform:
        """A transform of the task whose batches `training_inputs` takes."""
        targets = self.targets(samples)
        return WithTargets(transform, targets) if targets else transform

    @abstractmethod
    def training_inputs(self, batch: Batch) -> Inputs:
        """The arrays of a batch as the training block takes them. The device waits for it: what takes time is done by
        `targets`, or in the block."""

    @property
    def backbone(self) -> Sequence[Any]:
        """The layers that begin at ImageNet's parameters: what train.freeze_backbone keeps as they are."""
        return [self.network.features]

    def further_exports(self) -> dict[str, Any]:
        """HybridBlocks that are exported beside the network by name: other graphs over the network's parameters."""
        return {}

    def inference_block(self) -> Any:
        """A HybridBlock from uint8 images (B, H, W, 3) to the network's outputs."""
        from common.engine.graph import Inference

        return Inference(self.network)

    def blocks(self) -> Blocks:
        """What an engine trains and predicts with."""
        training, inputs = self.training_block()
        return Blocks(self.network, training, inputs, self.inference_block())

    @abstractmethod
    def description(self) -> dict[str, Any]:
        """The model section of the configuration that makes this network again (kept in the checkpoint)."""

    @abstractmethod
    def interface(self) -> dict[str, Any]:
        """What the exported model gives, for `model.json`: "outputs", and what else is to be known of it."""


class Task(ABC, Generic[C]):
    """What a job needs to know of the thing it trains. Instances hold the configuration and nothing that changes.

    name: kind of task, as it stands in checkpoints.
    """

    name: ClassVar[str]
    # Of detection, classification, reid and landmark: what the labels are for.
    does: ClassVar[str]

    def __init__(self, config: C) -> None:
        self.config = config

    def names(self, listings: Mapping[str, Listing]) -> Sequence[str]:
        """Labels of samples by the id that their annotation begins with, where it does; listings: of the sets, by name.
        Raises DataError."""
        return ()

    def label_names(self, listings: Mapping[str, Listing]) -> Sequence[str]:
        """The same where sets of other formats stand beside these: then no set alone says what is a class."""
        return ()

    @abstractmethod
    def annotations(self, listings: Mapping[str, Listing], names: Sequence[str]) -> Annotate:
        """The reader of the text beside an image. listings, names: see `names`."""

    @abstractmethod
    def classes(self, listings: Mapping[str, Listing], sets: Sequence[Sequence[Sample]]) -> list[str]:
        """Names of the classes by id, once all sets are read. Raises DataError."""

    @abstractmethod
    def settle(
        self, ordered: Sequence[Sequence[str]], labels: Mapping[str, Collection[Label]]
    ) -> tuple[list[str], dict[Label, int]]:
        """Names of the classes by id, and the id of each label, where another format than our own texts is read.

        ordered: for each set the names that its format has in the order of their ids. labels: of each set. A label
        without an id is of no class. Raises DataError.
        """

    @abstractmethod
    def groups(self, sample: Sample) -> Iterable[int]:
        """Classes that a sample shows: a split keeps each of them in the training part where that is possible."""

    @abstractmethod
    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        """Counts by class and the like for `data_report.json`."""

    @abstractmethod
    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        """How a training sample becomes arrays."""

    @property
    @abstractmethod
    def resize(self) -> Resize:
        """How an image becomes the network's input when it is predicted."""

    def region(self) -> Callable[[Sample], Region | None]:
        """The part of its image that a sample is (see `common.predictor.EvaluationTransform`); picklable."""
        return whole

    @abstractmethod
    def decoder(self, model: Model) -> Decoder:
        """How the model's outputs are read."""

    def card(self) -> dict[str, Any]:
        """What `model.json` says besides, so that decoder and evaluator can be made from it."""
        return {}

    @abstractmethod
    def evaluator(self, model: Model, valid: Sequence[Sample] = ()) -> Evaluator:
        """How predictions of the model are held against annotations. valid: the validation set, by which a task may
        choose what is watched in training."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """Width and height of the network's input."""

    def recipe(self, on_gpu: bool) -> Recipe:
        """How it is trained on such devices. Raises DeviceError where they have not the precision that is asked for."""
        train = self.config.train
        return Recipe(
            OptimizerSettings("sgd", train.lr, train.momentum, train.wd),
            early_stop_baseline=train.early_stop_baseline,
        )

    @abstractmethod
    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> Model:
        """The model, with parameters: from the checkpoint (which also says which network), pretrained or random."""

    def input_figures(self, samples: Sequence[Sample]) -> Mapping[str, float]:
        """What the samples look like in the network's input, for `common.advice`."""
        return {}

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        """Called before a training that does not continue an earlier one: lets the model begin at what the training
        set shows."""
        return

    def look_first(
        self,
        model: Model,
        samples: Sequence[Sample],
        arithmetic: Callable[[Any], Compute],
        pool: WorkerPool,
        ranks: Ranks,
        alive: Callable[[], None],
    ) -> Mapping[str, Any]:
        """Called behind `begin`, in a job alone, as it takes time: lets layers that would begin at random begin at what
        the pretrained ones see in the training set. Returns values of keys of `train` that the configuration leaves
        open and that this has shown.

        arithmetic: from a HybridBlock of the model, which takes uint8 images (B, H, W, 3), to what computes it. ranks:
        all of them call this, and leave it with the same parameters. alive: to be called now and then, so that nobody
        takes the job for stuck.
        """
        return {}
