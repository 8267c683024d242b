"""The result file of a ReID job, and how good its embeddings are at finding an identity again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from classification.metric import number_or_null
from classification.results import result_document
from common.data.samples import Sample
from reid.metric import RetrievalMetric, leave_one_out, nearest_others, query_gallery_split, retrieval

#: The largest set of which every image is a query: time grows with the square of the number of images.
MOST_QUERIES = 5000


def retrieval_of(embeddings: np.ndarray, identities: np.ndarray) -> RetrievalMetric:
    """How well the images of a set (N, D) find each other; identities (N,).

    Each image is a query against all the others; of a set above MOST_QUERIES, one image of each identity is,
    against the rest.
    """
    query = queries_of(identities)
    if query.all():
        return leave_one_out(embeddings, identities)
    return retrieval(embeddings[query], identities[query], embeddings[~query], identities[~query])


def queries_of(identities: np.ndarray) -> np.ndarray:
    """Which images of a set (N,) are queries, bool; see `retrieval_of`."""
    if len(identities) <= MOST_QUERIES:
        return np.ones(len(identities), bool)
    return query_gallery_split(identities)


def reid_document(
    samples: Sequence[Sample], probabilities: np.ndarray, embeddings: np.ndarray, classes: Sequence[str]
) -> dict[str, Any]:
    """The result file's content for probabilities (N, C) and embeddings (N, D).

    Where all identities are among `classes`, it is a classifier's with the retrieval metrics beside it. Of new
    identities a classifier knows nothing: then a row says which image of the set is the nearest, the class is that
    image's, and accuracy is the share of rows where it is the right one (rank-1, if no identity has one image alone).
    """
    identities = np.array([sample.annotation[0] for sample in samples])
    found = retrieval_of(embeddings, identities)
    metrics = {
        "Rank1": number_or_null(found.rank1),
        "Rank5": number_or_null(found.rank5),
        "mAP": number_or_null(found.mean_average_precision),
        "Queries": found.queries,
    }
    if len(identities) and identities.max() < len(classes):
        document = result_document(samples, probabilities, classes)
        return {"Accuray": document.pop("Accuray"), **metrics, **document}
    rows = nearest_rows(samples, embeddings, identities)
    right = np.mean([row["result"] == "True" for row in rows]) if rows else math.nan
    return {"Accuray": str(float(right)), **metrics, "Result": rows}


def nearest_rows(
    samples: Sequence[Sample], embeddings: np.ndarray, identities: np.ndarray
) -> list[dict[str, Any]]:
    """One entry a sample: the identity of the image of the set that is most like it, and their cosine.

    id is that of the identity: training's come first, new ones after them.
    """
    others, cosines = nearest_others(embeddings, identities)
    rows = []
    for sample, other, cosine in zip(samples, others.tolist(), cosines.tolist(), strict=True):
        truth = Path(sample.image).parent.name
        nearest = None if other < 0 else samples[other]
        name = None if nearest is None else Path(nearest.image).parent.name
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
