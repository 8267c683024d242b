"""The result file of a ReID job, and how good its embeddings are at finding an identity again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from classification.annotations import ClassAnnotations
from classification.metric import classification_metric, number_or_null, softmax
from classification.results import ClassDecoder, box_of_row, labels_of, result_document
from classification.transforms import region_of
from common.data.formats.market1501 import DISTRACTOR as NOBODY
from common.data.formats.market1501 import named
from common.data.listing import Listing
from common.data.samples import Annotate, Sample
from common.evaluation.pictures import Box, Caption, Mark
from common.evaluator import Evaluation, Evaluator
from common.predictor import Decoder
from common.trained import Reading
from reid.evaluation import evaluate_embeddings
from reid.metric import DISTRACTOR, Cameras, RetrievalMetric, nearest_others, retrieval_of
from reid.query_gallery import QueryGallery, query_gallery


@dataclass(frozen=True)
class ReIDDecoder(Decoder):
    """Reads an embedding of length 1 and, where the network gives them, logits of training's identities.

    A prediction (C + D,) has their probabilities, then the embedding; without them (D,) the embedding alone. classes:
    names of training's identities by id. dimension: D.
    """

    classes: Sequence[str]
    dimension: int

    def predictions(
        self, outputs: Sequence[np.ndarray], matrices: np.ndarray, shape: tuple[int, int]
    ) -> list[np.ndarray]:
        """See Decoder."""
        embedding, *logits = outputs
        return list(np.concatenate([*map(softmax, logits), embedding], axis=1))

    def parts(self, predictions: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities (N, C), or (N, 0) where there are none, and embeddings (N, D)."""
        rows = np.array(predictions)
        if not len(rows):
            return np.empty((0, len(self.classes))), np.empty((0, self.dimension))
        return rows[:, : -self.dimension], rows[:, -self.dimension :]

    def row(self, sample: Sample, prediction: np.ndarray) -> dict[str, Any]:
        """As a classifier's where there are probabilities, else the image and, where the sample is one, its box."""
        probabilities = prediction[: -self.dimension]
        if len(probabilities):
            return ClassDecoder(self.classes).row(sample, probabilities)
        box = region_of(sample)
        row: dict[str, Any] = {"image": sample.image}
        return row if box is None else {**row, "bbox": ", ".join(f"{edge:.6f}" for edge in box)}

    def marks(self, row: dict[str, Any]) -> list[Mark]:
        """See Decoder. The identity that stands in the row, where one does."""
        text = f"{row['class']} {row['score']:.2f}" if "class" in row else ""
        return [Box(box, text, 0)] if (box := box_of_row(row)) else [Caption(text, 0)]


class ReIDEvaluator(Evaluator):
    """Retrieval, and accuracy where training knows all identities of the set.

    metric: "accuracy", or "rank1" (of equals, by mAP) where the validation set shows identities that are new.
    """

    def __init__(self, decoder: ReIDDecoder, metric: str) -> None:
        self._decoder = decoder
        self.metric = metric

    def evaluate(self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]) -> Evaluation:
        """See Evaluator."""
        probabilities, embeddings = self._decoder.parts(predictions)
        return self._figures(samples, probabilities, embeddings)[1]

    def results(
        self, samples: Sequence[Sample], predictions: Sequence[np.ndarray]
    ) -> tuple[Evaluation, dict[str, Any]]:
        """See Evaluator.

        Where all identities are training's the file is a classifier's with the retrieval metrics beside it. Of new
        identities a classifier knows nothing: then a row says which image of the set is the nearest, the class is that
        image's, and accuracy is the share of rows where it is the right one (rank-1, if no identity has one image
        alone).
        """
        probabilities, embeddings = self._decoder.parts(predictions)
        retrieved, evaluation = self._figures(samples, probabilities, embeddings)
        figures = {
            "Rank1": number_or_null(retrieved.rank1),
            "Rank5": number_or_null(retrieved.rank5),
            "mAP": number_or_null(retrieved.mean_average_precision),
            "Queries": retrieved.queries,
        }
        identities = _identities(samples)
        if split := query_gallery(samples):
            rows = _query_rows(samples, split, embeddings)
            right = np.mean([row["result"] == "True" for row in rows])
            return evaluation, {"Accuray": str(float(right)), **figures, "Result": rows}
        if self._known(identities) and probabilities.shape[1]:
            decoder = ClassDecoder(self._decoder.classes)
            _, document = result_document(samples, list(probabilities), decoder)
            return evaluation, {"Accuray": document.pop("Accuray"), **figures, **document}
        rows = nearest_rows(samples, embeddings, identities)
        right = np.mean([row["result"] == "True" for row in rows]) if rows else math.nan
        return evaluation, {"Accuray": str(float(right)), **figures, "Result": rows}

    def search(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        gallery: Sequence[Sample],
        gallery_predictions: Sequence[np.ndarray],
        which: str,
    ) -> dict[str, Any]:
        """See Evaluator. By the rules of cameras where all images are named as Market-1501's."""
        everything = [*samples, *gallery]
        ids = np.unique([sample.label for sample in everything], return_inverse=True)[1]
        names = [named(sample.image) for sample in everything]
        known = [name for name in names if name is not None]
        cameras = None
        if len(known) == len(names):
            ids[[name.person.strip("0") == NOBODY.strip("0") for name in known]] = DISTRACTOR
            taken = np.array([name.camera for name in known])
            cameras = Cameras(taken[: len(samples)], taken[len(samples) :])
        return evaluate_embeddings(
            samples,
            self._decoder.parts(predictions)[1],
            ids[: len(samples)],
            which=which,
            gallery=gallery,
            gallery_embeddings=self._decoder.parts(gallery_predictions)[1],
            gallery_identities=ids[len(samples) :],
            cameras=cameras,
        )

    def document(
        self,
        samples: Sequence[Sample],
        predictions: Sequence[np.ndarray],
        which: str,
        score: float | None = None,
    ) -> dict[str, Any]:
        """See Evaluator."""
        probabilities, embeddings = self._decoder.parts(predictions)
        if split := query_gallery(samples):
            return evaluate_embeddings(
                [samples[index] for index in split.query],
                embeddings[split.query],
                split.identities[split.query],
                which=which,
                gallery=[samples[index] for index in split.gallery],
                gallery_embeddings=embeddings[split.gallery],
                gallery_identities=split.identities[split.gallery],
                cameras=split.cameras,
                classes=self._decoder.classes,
            )
        return evaluate_embeddings(
            samples,
            embeddings,
            _identities(samples),
            which=which,
            probabilities=probabilities,
            classes=self._decoder.classes,
        )

    def _known(self, identities: np.ndarray) -> bool:
        """Whether all of them are training's."""
        return bool(len(identities)) and bool(identities.max() < len(self._decoder.classes))

    def _figures(
        self, samples: Sequence[Sample], probabilities: np.ndarray, embeddings: np.ndarray
    ) -> tuple[RetrievalMetric, Evaluation]:
        identities = _identities(samples)
        split = query_gallery(samples)
        retrieved = split.retrieval(embeddings) if split else retrieval_of(embeddings, identities)
        figures = {
            "accuracy": math.nan,
            "rank1": retrieved.rank1,
            "rank5": retrieved.rank5,
            "mAP": retrieved.mean_average_precision,
        }
        if self._known(identities) and probabilities.shape[1]:
            figures["accuracy"] = classification_metric(probabilities, identities).accuracy
        value = figures.pop(self.metric)
        # Rank-1 of a small set is soon as good as it can be, and the embedding is not.
        return retrieved, Evaluation(
            value,
            {name: figure for name, figure in figures.items() if figure == figure},
            tie_break=retrieved.mean_average_precision,
            unsettled=self.metric == "rank1" and retrieved.mean_average_precision < 1.0,
        )


def _identities(samples: Sequence[Sample]) -> np.ndarray:
    return np.array([sample.annotation[0] for sample in samples])


def nearest_rows(
    samples: Sequence[Sample], embeddings: np.ndarray, identities: np.ndarray
) -> list[dict[str, Any]]:
    """One entry a sample: the identity of the image of the set that is most like it, and their cosine.

    id is that of the identity: training's come first, new ones after them.
    """
    return _rows(samples, samples, *nearest_others(embeddings, identities))


def _query_rows(
    samples: Sequence[Sample], split: QueryGallery, embeddings: np.ndarray
) -> list[dict[str, Any]]:
    """The same for the queries alone, which look through the gallery."""
    return _rows([samples[index] for index in split.query], samples, *split.nearest(embeddings))


def _rows(
    asked: Sequence[Sample], samples: Sequence[Sample], others: np.ndarray, cosines: np.ndarray
) -> list[dict[str, Any]]:
    rows = []
    for sample, other, cosine in zip(asked, others.tolist(), cosines.tolist(), strict=True):
        truth = sample.label
        nearest = None if other < 0 else samples[other]
        name = None if nearest is None else nearest.label
        rows.append(
            {
                "class": name,
                "score": cosine,
                "id": -1 if nearest is None else int(nearest.annotation[0]),
                "image": sample.image,
                "groundtruth": truth,
                "result": str(name == truth),
                "nearest": None if nearest is None else nearest.image,
            }
        )
    return rows


def reading(card: Mapping[str, Any]) -> Reading:
    """How the outputs of an embedding with this `model.json` are read and judged."""
    decoder = ReIDDecoder(list(card["classes"]), int(card["outputs"][0]["shape"][1]))

    def annotations(listing: Listing) -> tuple[Annotate, Sequence[str]]:
        names = tuple(listing.class_folders)
        return ClassAnnotations(names, (listing.folder,)), names

    return Reading(decoder, ReIDEvaluator(decoder, "rank1"), region_of, annotations, labels_of)
