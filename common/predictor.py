"""What was trained: from images to predictions, and from predictions to the rows of a result.

A `Predictor` is made of four parts that know nothing of each other: how an image becomes an input (`Resize`), the
arithmetic (any function from a batch of images to the network's outputs), how outputs become predictions in pixels of
the original, and what a row of a result says (`Decoder`). The job's validation and result files use it as `predict` and
`evaluate` do. Nothing here needs MXNet.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from common.data.samples import Sample
from common.errors import DataError
from common.evaluation.pictures import Mark
from common.images.decoding import ImageError, decode
from common.images.resize import Region, Resize
from common.loading.loader import Batch, Layout, Loader, Shape
from common.processes.pool import WorkerPool
from common.ranks.ranks import ALONE, Ranks

Compute = Callable[[np.ndarray], Sequence[np.ndarray]]
"""From images (B, H, W, 3), uint8 RGB, to the network's outputs, each (B, ...)."""


class Decoder(ABC):
    """How a network's outputs are read. Light: it knows arrays and names."""

    @abstractmethod
    def predictions(
        self, outputs: Sequence[np.ndarray], matrices: np.ndarray, shape: Shape
    ) -> list[np.ndarray]:
        """Outputs for a batch to one prediction for each of its rows, in pixels of the original images.

        matrices (B, 2, 3): from pixels of the input, which is of `shape` (width, height), to pixels of the original.
        """

    @abstractmethod
    def row(self, sample: Sample, prediction: np.ndarray) -> dict[str, Any]:
        """A prediction as an entry of `Result`, without anything that is annotated."""

    def counting_from(self, score: float) -> Decoder:
        """The same, but that rows name objects of a score from `score`, where the task has some."""
        return self

    @abstractmethod
    def marks(self, row: dict[str, Any]) -> list[Mark]:
        """What is drawn into the picture of a row."""


@dataclass(frozen=True)
class EvaluationTransform:
    """A sample as it is predicted. region: the part of its image that a sample is; None: all of it.

    Arrays: image (H, W, 3); matrix (2, 3), from pixels of the input to pixels of the original.
    """

    resize: Resize
    region: Callable[[Sample], Region | None]

    def layout(self, shape: Shape) -> Layout:
        """Arrays of one sample for an input of `shape` (width, height)."""
        return {"image": ((shape[1], shape[0], 3), "uint8"), "matrix": ((2, 3), "float64")}

    def __call__(
        self,
        sample: Sample,
        shape: Shape,
        rng: np.random.Generator,
        draw: Callable[[], Sample],
        out: dict[str, np.ndarray],
    ) -> None:
        """Fill `out`. Raises ImageError, also where the file is another image than when the set was read."""
        pixels, size = decode(sample.image)
        if size != (sample.width, sample.height):
            raise ImageError(
                sample.image,
                f"is {size[0]}x{size[1]} now and was {sample.width}x{sample.height} when the set was read",
            )
        out["matrix"][...] = self.resize.draw(pixels, out["image"], self.region(sample))


def whole(sample: Sample) -> Region | None:
    """The region of a sample that is all of its image."""
    return None


@dataclass(frozen=True)
class Predictor:
    """Predicts images with a network.

    shape: width and height of the input. compute: the arithmetic. See the module for the other parts.
    """

    resize: Resize
    shape: Shape
    compute: Compute
    decoder: Decoder
    region: Callable[[Sample], Region | None] = whole

    def loader(
        self, samples: Sequence[Sample], pool: WorkerPool, batch_size: int, ranks: Ranks = ALONE
    ) -> Loader:
        """Batches of `samples` as `stream` wants them, made by the workers of `pool`. ranks: among which whole batches
        are shared out, so that none comes out otherwise than where there is one rank."""
        return Loader(
            samples,
            EvaluationTransform(self.resize, self.region),
            pool,
            batch_size=batch_size,
            shapes=lambda epoch, batch: self.shape,
            training=False,
            ranks=ranks,
        )

    def stream(self, loader: Loader) -> Iterator[tuple[Batch, list[np.ndarray]]]:
        """The batches of a set, each with the predictions of its rows; those of rows that failed mean nothing."""
        for batch in loader.epoch(0):
            outputs = self.compute(batch.arrays["image"])
            yield batch, self.decoder.predictions(outputs, batch.arrays["matrix"], batch.shape)

    def predict(
        self, loader: Loader, advance: Callable[[float], None] | None = None
    ) -> dict[int, np.ndarray]:
        """Predictions of a set by index of the sample; samples that failed are missing. Of several ranks the first has
        them, and the loader's problems; others have none.

        advance: told the share of the set that is done.
        """
        predictions: dict[int, np.ndarray] = {}
        for batch, rows in self.stream(loader):
            predictions.update(
                {int(index): row for index, row in zip(batch.indices, rows, strict=True) if index >= 0}
            )
            if advance:
                advance((batch.number + 1) / len(loader))
        parts = loader.ranks.to_first((predictions, loader.problems))
        if parts is None:
            return {}
        if loader.ranks.size > 1:
            predictions = {index: row for part, _ in parts for index, row in part.items()}
            loader.problems = list({p.file: p for _, problems in parts for p in problems}.values())
            if not predictions:
                raise DataError(f"no image can be read any more; the first: {loader.problems[0]}")
        return predictions
