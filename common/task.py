"""The seam between a job and what it trains: everything that is different from task to task, and nothing else."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np

from common.config.sections import JobConfig
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.evaluator import Evaluator
from common.images.resize import Region, Resize
from common.loading.loader import Batch, Transform
from common.predictor import Decoder, whole

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

    @abstractmethod
    def training_inputs(self, batch: Batch) -> Inputs:
        """The arrays of a batch as the training block takes them."""

    def further_exports(self) -> dict[str, Any]:
        """HybridBlocks that are exported beside the network by name: other graphs over the network's parameters."""
        return {}

    def inference_block(self) -> Any:
        """A HybridBlock from uint8 images (B, H, W, 3) to the network's outputs."""
        from common.engine.graph import Inference

        return Inference(self.network)

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
    # Steps over which the learning rate rises where the configuration asks for no warm-up.
    soft_steps: ClassVar[int] = 50
    # Whether training goes on from the moving average where the learning rate steps down: helps where parameters jump
    # about a point, and throws those back that are still on their way (benchmarks/QUALITY.md).
    from_average: ClassVar[bool] = False

    def __init__(self, config: C) -> None:
        self.config = config

    def names(self, listings: Mapping[str, Listing]) -> Sequence[str]:
        """Labels of samples by the id that their annotation begins with, where it does; listings: of the sets, by name.
        Raises DataError."""
        return ()

    @abstractmethod
    def annotations(self, listings: Mapping[str, Listing], names: Sequence[str]) -> Annotate:
        """The reader of the text beside an image. listings, names: see `names`."""

    @abstractmethod
    def classes(self, listings: Mapping[str, Listing], sets: Sequence[Sequence[Sample]]) -> list[str]:
        """Names of the classes by id, once all sets are read. Raises DataError."""

    @abstractmethod
    def groups(self, sample: Sample) -> Iterable[int]:
        """Classes that a sample shows: a split keeps each of them in the training part where that is possible."""

    @abstractmethod
    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        """Counts by class and the like for `data_report.json`."""

    @abstractmethod
    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        """How a training sample becomes arrays."""

    def final_transform(self, samples: Sequence[Sample]) -> tuple[int, Transform] | None:
        """An epoch from which on another transform is used, and that one; None: the same to the end."""
        return None

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

    def training_shapes(self) -> Callable[[int, int], tuple[int, int]]:
        """Input size by epoch and batch; the same for all unless a task varies it."""
        return lambda epoch, batch: self.shape

    def training_order(
        self, samples: Sequence[Sample]
    ) -> Callable[[int, np.random.Generator], np.ndarray] | None:
        """Samples of an epoch, as indices, by its number and a generator; None: each once, shuffled."""
        return None

    def optimizer(self) -> Any:
        """The framework's optimizer, as configured; the learning rate is set before every step."""
        from common.engine.optimizers import create

        train = self.config.train
        return create("sgd", train.lr, train.momentum, train.wd)

    def precision(self, on_gpu: bool) -> str:
        """Type in which the operators that gain from it compute in training: float32, bfloat16 or float16."""
        return "float32"

    def limit(self) -> Any:
        """How far a step of the optimizer may move a weight: a `common.engine.limits.StepLimit`, or None."""
        from common.engine.limits import GradientLimit

        return GradientLimit()

    def compiled(self) -> bool:
        """Whether a training step runs as one compiled graph, or operator by operator."""
        return True

    @property
    def early_stop_baseline(self) -> float | None:
        """What the metric must have reached before patience counts; None: no such condition."""
        return self.config.train.early_stop_baseline

    @abstractmethod
    def build(
        self, classes: Sequence[str], contexts: Sequence[Any], checkpoint: dict[str, Any] | None
    ) -> Model:
        """The model, with parameters: from the checkpoint (which also says which network), pretrained or random."""

    def begin(self, model: Model, samples: Sequence[Sample]) -> None:
        """Called before a training that does not continue an earlier one: lets the model begin at what the training
        set shows."""
        return
