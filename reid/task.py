"""Re-identification: how it is built, trained and read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from mxnet import gluon

from classification.annotations import ClassAnnotations, class_folders, counted
from classification.metric import classification_metric, softmax
from classification.task import ClassifierModel, FolderTask, begin_training
from common.data.samples import Annotate, Sample
from common.datasets import find_folders
from common.loading.loader import Batch, Transform
from common.task import Evaluation, Model
from reid.config import ReIDConfig
from reid.network import EmbeddingInference, ReidTraining, build_embedding
from reid.results import reid_document, retrieval_of
from reid.sampler import identity_batches
from reid.transforms import EvaluationTransform, TrainingTransform

# Weight of the triplet loss beside cross entropy, and images of one identity in a batch, which it compares.
_TRIPLET_WEIGHT = 1.0
_IMAGES_PER_IDENTITY = 4


class ReIDModel(ClassifierModel):
    """An embedding with its training.

    A prediction is an array (C + D,): probabilities of training's identities, then the embedding.
    """

    kind = "reid"

    def inference_block(self) -> Any:
        return EmbeddingInference(self.network)

    def predictions(self, outputs: Sequence[np.ndarray], batch: Batch) -> list[np.ndarray]:
        embedding, logits = outputs
        return list(np.concatenate([softmax(logits), embedding], axis=1))

    def interface(self) -> dict[str, Any]:
        return {
            "resize": "stretched to width x height, whatever the aspect ratio; so is a box of an image",
            "outputs": [
                {
                    "name": "embedding",
                    "shape": ["batch", int(self.network.output.weight.shape[1])],
                    "meaning": "of length 1: the cosine of two of them, their dot product, says how alike two "
                    "images are",
                }
            ],
        }


class ReIDTask(FolderTask[ReIDConfig]):
    """Re-identification by configuration. Validation and test sets may show identities that training does not."""

    name = "reid"

    @cached_property
    def metric(self) -> str:
        """Accuracy where the validation set has training's identities, else rank-1 (of equals, by mAP)."""
        folders = find_folders(self.config.dataset)
        if folders.valid is None:
            return "accuracy"
        known = set(class_folders(folders.train))
        return "accuracy" if known >= set(class_folders(folders.valid)) else "rank1"

    def annotations(self, train_folder: Path) -> Annotate:
        folders = find_folders(self.config.dataset)
        others = [
            name for folder in (folders.valid, folders.test) if folder for name in class_folders(folder)
        ]
        return ClassAnnotations(tuple(class_folders(train_folder)), tuple(sorted(set(others))))

    def summary(self, samples: Sequence[Sample], classes: Sequence[str]) -> dict[str, Any]:
        counts = Counter(Path(sample.image).parent.name for sample in samples)
        return counted(dict(sorted(counts.items())), samples)

    def training_transform(self, samples: Sequence[Sample]) -> Transform:
        return TrainingTransform()

    def evaluation_transform(self) -> Transform:
        return EvaluationTransform()

    def training_order(
        self, samples: Sequence[Sample]
    ) -> Callable[[int, np.random.Generator], np.ndarray] | None:
        """Batches of several images of each identity, as the triplet loss needs them."""
        if self.config.train.mixup:
            return None
        identities = np.array([sample.annotation[0] for sample in samples])
        keys = self.config.train
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

    def evaluate(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray], model: Model
    ) -> Evaluation:
        probabilities, embeddings = _parts(predictions, model)
        identities = np.array([sample.annotation[0] for sample in samples])
        found = retrieval_of(embeddings, identities)
        figures = {
            "accuracy": float("nan"),
            "rank1": found.rank1,
            "rank5": found.rank5,
            "mAP": found.mean_average_precision,
        }
        if len(identities) and identities.max() < len(model.classes):
            figures["accuracy"] = classification_metric(probabilities, identities).accuracy
        value = figures.pop(self.metric)
        # Rank-1 of a small set is soon as good as it can be, and the embedding is not.
        return Evaluation(
            value,
            {name: figure for name, figure in figures.items() if figure == figure},
            tie_break=found.mean_average_precision,
            unsettled=self.metric == "rank1" and found.mean_average_precision < 1.0,
        )

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray], model: Model
    ) -> tuple[Evaluation, dict[str, Any]]:
        probabilities, embeddings = _parts(predictions, model)
        document = reid_document(samples, probabilities, embeddings, model.classes)
        return self.evaluate(samples, predictions, model), document


def _parts(predictions: Sequence[np.ndarray], model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and embeddings (N, D)."""
    count = len(model.classes)
    width = count + int(model.network.output.weight.shape[1])
    rows = np.array(predictions).reshape(-1, width)
    return rows[:, :count], rows[:, count:]
