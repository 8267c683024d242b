"""How well embeddings find an identity again, whom they take for whom, and the images that show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from classification.metric import classification_metric
from common.data.samples import Sample
from common.evaluation.curves import mean_or_nan
from common.evaluation.document import evaluation_document
from reid.metric import Cameras, queries_of, ranking, retrieval, retrieval_of

# Places of the curve of ranks, and neighbours that are shown of a query.
_PLACES = 50
_NEIGHBOURS = 5
# Queries that are looked at for the worst: each is ranked once more.
_LOOKED_AT = 200


def evaluate_embeddings(
    samples: Sequence[Sample],
    embeddings: np.ndarray,
    identities: np.ndarray,
    *,
    which: str,
    gallery: Sequence[Sample] | None = None,
    gallery_embeddings: np.ndarray | None = None,
    gallery_identities: np.ndarray | None = None,
    cameras: Cameras | None = None,
    probabilities: np.ndarray | None = None,
    classes: Sequence[str] = (),
    name_of: Callable[[Sample], str] = lambda sample: sample.label,
) -> dict[str, Any]:
    """The document of a set (`common.evaluation.document`) for embeddings (N, D) of identities (N,).

    Without a gallery each image looks for its identity among the others, as in the result file. probabilities (N, C):
    of training's identities, `classes`, where all of the set's are among them. name_of: the identity of a sample.
    """
    own = gallery is None or gallery_embeddings is None or gallery_identities is None
    others, other_rows, other_ids = (
        (samples, embeddings, identities)
        if gallery is None or gallery_embeddings is None or gallery_identities is None
        else (gallery, gallery_embeddings, gallery_identities)
    )
    retrieved = (
        retrieval_of(embeddings, identities)
        if own
        else retrieval(embeddings, identities, other_rows, other_ids, cameras)
    )
    figures: dict[str, float | None] = {
        "rank1": retrieved.rank1,
        "rank5": retrieved.rank5,
        "rank10": retrieved.rank10,
        "mAP": retrieved.mean_average_precision,
        "queries": retrieved.queries,
        "images": len(samples),
        "identities": len(np.unique(identities)),
    }
    if (
        probabilities is not None
        and probabilities.size
        and 0 <= identities.min() <= identities.max() < len(classes)
    ):
        figures = {"accuracy": classification_metric(probabilities, identities).accuracy, **figures}
    names = [name_of(sample) for sample in samples]
    precisions, places = np.full(len(samples), np.nan), np.full(len(samples), np.nan)
    queries = queries_of(identities) if own else np.ones(len(samples), bool)
    precisions[queries], places[queries] = retrieved.precisions, retrieved.places
    by_class: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for name, precision, place in zip(names, precisions.tolist(), places.tolist(), strict=True):
        if precision == precision:
            by_class[name]["AP"].append(precision)
            by_class[name]["rank1"].append(float(place == 1))
    counted = places[~np.isnan(places)]
    asked = np.flatnonzero(precisions < 1.0)
    asked = asked[np.argsort(precisions[asked], kind="stable")][:_LOOKED_AT]
    worst = []
    for rows, order, cosines, match in ranking(
        embeddings[asked],
        identities[asked],
        other_rows,
        other_ids,
        None if cameras is None else Cameras(cameras.query[asked], cameras.gallery),
        leave_out_self=False,
    ):
        for number, index in enumerate(asked[rows].tolist()):
            keep = np.isfinite(cosines[number])
            if own:  # the query itself is among the others
                keep &= order[number] != index
            near, alike, same = order[number][keep], cosines[number][keep], match[number][keep]
            worst.append(
                {
                    "image": samples[index].image,
                    "width": samples[index].width,
                    "height": samples[index].height,
                    "identity": names[index],
                    "AP": precisions[index],
                    "first_right": places[index],
                    "neighbours": [
                        {
                            "image": others[other].image,
                            "identity": name_of(others[other]),
                            "cosine": cosine,
                            "right": bool(right),
                        }
                        for other, cosine, right in zip(
                            near[:_NEIGHBOURS].tolist(),
                            alike[:_NEIGHBOURS].tolist(),
                            same[:_NEIGHBOURS].tolist(),
                            strict=True,
                        )
                    ],
                }
            )
    ranks = np.arange(1, _PLACES + 1)
    return evaluation_document(
        "reid",
        which,
        classes,
        figures=figures,
        by_class={
            name: {"queries": len(values["AP"]), **{key: mean_or_nan(values[key]) for key in ("AP", "rank1")}}
            for name, values in sorted(by_class.items())
        },
        curves={
            "ranks": {
                "rank": ranks,
                "share": [
                    float((counted <= rank).mean()) if len(counted) else float("nan") for rank in ranks
                ],
            }
        },
        worst=worst,
        suspects=[_suspect(entry) for entry in worst if _looks_wrong(entry)],
    )


def _looks_wrong(entry: dict[str, Any]) -> bool:
    """Whether all of a query's nearest neighbours are of one other identity: its own label may be wrong."""
    names = {neighbour["identity"] for neighbour in entry["neighbours"]}
    return len(entry["neighbours"]) >= 3 and len(names) == 1 and not entry["neighbours"][0]["right"]


def _suspect(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "image": entry["image"],
        "width": entry["width"],
        "height": entry["height"],
        "reason": "other_identity",
        "groundtruth": entry["identity"],
        "predicted": entry["neighbours"][0]["identity"],
        "score": entry["neighbours"][0]["cosine"],
    }
