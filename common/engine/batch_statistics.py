"""BatchNorm's statistics for parameters that no training step has ever seen, such as the average of many steps'."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# A quarter of the images that were trained on since the last time is looked at, which takes a twelfth of their time,
# but at least and at most so many, as far as whole batches allow, in pieces of as many as this: how far these differ
# tells how sure their mean is.
LEAST, MOST, PIECE = 32, 64, 16


@dataclass(frozen=True)
class Normalisation:
    """A BatchNorm of a graph: the names of its running statistics' parameters, and what it adds to the variance."""

    mean: str
    variance: str
    epsilon: float


class BatchStatistics(ABC):
    """Mean and variance of what reaches every BatchNorm of a network, over the images that it was last trained on.

    BatchNorm's running statistics follow the parameters of single steps. Averaged parameters give their maps another
    mean and variance, the more so the faster training moves, and predict badly with running statistics, be these
    averaged or not ("Averaging Weights Leads to Wider Optima and Better Generalization", Izmailov et al. 2018, 3.2;
    "Rethinking 'Batch' in BatchNorm", Wu & Johnson 2021, 3). Late in a training the averages of running statistics,
    over many more images, are the better ones. So each layer has something between the two, the nearer to these the
    less the difference exceeds what measuring so few images is uncertain by ("Estimation with Quadratic Loss", James &
    Stein 1961). An engine says how the network is run and where its statistics are.
    """

    def __init__(self) -> None:
        self._recent: deque[np.ndarray] = deque()
        self._trained = 0  # images since statistics were measured
        self._measured: dict[str, np.ndarray] | None = None

    @abstractmethod
    def layers(self) -> Sequence[Normalisation]:
        """The BatchNorms that go by the batch in training."""

    @abstractmethod
    def reach(self, images: np.ndarray) -> list[np.ndarray]:
        """What reaches the layers, in their order, when uint8 images (B, H, W, 3) run as in training: for each the mean
        of every channel, and one over the square root of its variance plus epsilon."""

    @abstractmethod
    def read(self, name: str) -> np.ndarray:
        """The running statistics of a name."""

    @abstractmethod
    def write(self, name: str, value: np.ndarray) -> None:
        """Put statistics in the place of the running ones."""

    @property
    def shares(self) -> int:
        """Into how many parts batches are divided among ranks, of which this one sees one."""
        return 1

    def together(self, pieces: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        """What `reach` has given for pieces of this rank's images, with what it has given in the others."""
        return pieces

    def remember(self, images: np.ndarray) -> None:
        """Take note of a batch (B, H, W, 3) uint8 that was trained on: the parameters have changed since `apply`."""
        if self._measured is not None:
            # What was seen before counts no more, so that a training that was taken up here measures the same.
            self._measured, self._trained = None, 0
            self._recent.clear()
        self._trained += len(images)
        self._recent.append(images.copy())
        self._forget(self._own(MOST))

    def _forget(self, images: int) -> None:
        """Keep the fewest of the latest batches that have so many images."""
        while sum(map(len, self._recent)) - len(self._recent[0]) >= images:
            self._recent.popleft()

    def _own(self, images: int) -> int:
        """This rank's part of so many images."""
        return -(-images // self.shares)

    def apply(self) -> None:
        """Make the statistics that the present parameters have the running ones, which are averages so far.

        Where nothing has been trained on yet they stay as they are. The same parameters are measured once.
        """
        if self._measured is None:
            self._measured = self._measure() if self._recent else {}
        for name, value in self._measured.items():
            self.write(name, value)

    def _measure(self) -> dict[str, np.ndarray]:
        """The statistics by name of the parameter that holds them."""
        layers = self.layers()
        if not layers:
            return {}
        self._forget(min(max(self._trained // 4, self._own(LEAST)), self._own(MOST)))
        pieces = []
        for images in self._recent:
            for piece in np.array_split(images, -(-len(images) // PIECE)):
                pieces.append([output.astype(np.float64) for output in self.reach(piece)])
        pieces = self.together(pieces)
        statistics: dict[str, np.ndarray] = {}
        for number, layer in enumerate(layers):
            means = np.array([piece[2 * number] for piece in pieces])
            inverse = np.array([piece[2 * number + 1] for piece in pieces])
            if not (np.isfinite(means).all() and (inverse > 0.0).all()):
                continue  # maps that overflow say nothing
            variances = inverse**-2  # with epsilon
            deviation = np.sqrt(variances.mean(0))
            before = [self.read(name) for name in (layer.mean, layer.variance)]
            mean = shrunk(means.mean(0) / deviation, means / deviation, before[0] / deviation)
            variance = shrunk(
                np.log(variances.mean(0)),
                np.log(variances),
                np.log(before[1].astype(np.float64) + layer.epsilon),
            )
            statistics[layer.mean] = deviation * mean
            statistics[layer.variance] = (np.exp(variance) - layer.epsilon).clip(0.0)
        return statistics


def shrunk(measured: np.ndarray, pieces: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Between what was measured (C,) and what was known (C,), by how sure the former is: from its pieces (N, C)."""
    distance = float(((measured - known) ** 2).mean())
    if len(pieces) == 1 or distance == 0.0:
        return known
    uncertain = float((pieces.var(0, ddof=1) / len(pieces)).mean())
    return known + max(1.0 - uncertain / distance, 0.0) * (measured - known)
