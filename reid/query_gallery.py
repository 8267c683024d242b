"""Sets that say which images are queries and which are looked through, and which camera took them: Market-1501's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from common.data.formats.market1501 import DISTRACTOR as NOBODY
from common.data.formats.market1501 import GALLERY, QUERY, named
from common.data.samples import Sample
from reid.metric import DISTRACTOR, Cameras, RetrievalMetric, ranking, retrieval


@dataclass(frozen=True)
class QueryGallery:
    """query (Q,), gallery (G,): indices of samples. identities (N,): of all samples, DISTRACTOR for those of nobody.
    cameras: of queries and gallery."""

    query: np.ndarray
    gallery: np.ndarray
    identities: np.ndarray
    cameras: Cameras

    def retrieval(self, embeddings: np.ndarray) -> RetrievalMetric:
        """How well queries find their identity in the gallery by embeddings (N, D): images of it by the query's own
        camera are left out."""
        ids = self.identities
        return retrieval(
            embeddings[self.query], ids[self.query], embeddings[self.gallery], ids[self.gallery], self.cameras
        )

    def nearest(self, embeddings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each query the index (Q,) of the sample that is most like it of those that count, and their cosine (Q,);
        -1 and 0 where there is none."""
        ids = self.identities
        nearest, cosines = np.full(len(self.query), -1), np.zeros(len(self.query))
        for rows, order, alike, _ in ranking(
            embeddings[self.query], ids[self.query], embeddings[self.gallery], ids[self.gallery], self.cameras,
            leave_out_self=False,
        ):  # fmt: skip
            known = np.isfinite(alike[:, 0])
            nearest[rows] = np.where(known, self.gallery[order[:, 0]], -1)
            cosines[rows] = np.where(known, alike[:, 0], 0.0)
        return nearest, cosines


def query_gallery(samples: Sequence[Sample]) -> QueryGallery | None:
    """Queries and gallery of a set whose images all lie in `query` or `bounding_box_test` and are named as there."""
    folders = [os.path.basename(os.path.dirname(sample.image)) for sample in samples]
    if set(folders) != {QUERY, GALLERY}:
        return None
    names = [named(sample.image) for sample in samples]
    known = [name for name in names if name is not None]
    if len(known) < len(names):
        return None
    identities = np.array([sample.annotation[0] for sample in samples])
    identities[[name.person.strip("0") == NOBODY.strip("0") for name in known]] = DISTRACTOR
    asked = np.array([folder == QUERY for folder in folders])
    cameras = np.array([name.camera for name in known])
    return QueryGallery(
        np.flatnonzero(asked), np.flatnonzero(~asked), identities, Cameras(cameras[asked], cameras[~asked])
    )
