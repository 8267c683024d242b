"""BatchNorm's statistics for parameters that no training step has ever seen, such as the average of many steps'."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common.engine.arrays import on_device
from common.engine.graph import Normalisation, statistics_graph

# A quarter of the images that were trained on since the last time is looked at, which takes a twelfth of their time,
# but at least and at most so many, as far as whole batches allow, in pieces of as many as this: how far these differ
# tells how sure their mean is.
LEAST, MOST, PIECE = 32, 64, 16


class BatchStatistics:
    """Mean and variance of what reaches every BatchNorm of a network, over the images that it was last trained on.

    BatchNorm's running statistics follow the parameters of single steps. Averaged parameters give their maps another
    mean and variance, the more so the faster training moves, and predict badly with running statistics, be these
    averaged or not ("Averaging Weights Leads to Wider Optima and Better Generalization", Izmailov et al. 2018, 3.2;
    "Rethinking 'Batch' in BatchNorm", Wu & Johnson 2021, 3). Late in a training the averages of running statistics,
    over many more images, are the better ones. So each layer has something between the two, the nearer to these the
    less the difference exceeds what measuring so few images is uncertain by ("Estimation with Quadratic Loss", James &
    Stein 1961). block: from uint8 images (B, H, W, 3) to the network's outputs. precision: as for
    `common.engine.lowering.lower`.
    """

    def __init__(self, block: gluon.HybridBlock, context: Any, precision: str = "float32") -> None:
        self._block = block
        self._context = context
        self._precision = precision
        self._recent: deque[np.ndarray] = deque()
        self._trained = 0  # images since statistics were measured
        self._measured: dict[str, Any] | None = None

    def remember(self, images: np.ndarray) -> None:
        """Take note of a batch (B, H, W, 3) uint8 that was trained on: the parameters have changed since `apply`."""
        if self._measured is not None:
            # What was seen before counts no more, so that a training that was taken up here measures the same.
            self._measured, self._trained = None, 0
            self._recent.clear()
        self._trained += len(images)
        self._recent.append(images.copy())
        self._forget(MOST)

    def _forget(self, images: int) -> None:
        """Keep the fewest of the latest batches that have so many images."""
        while sum(map(len, self._recent)) - len(self._recent[0]) >= images:
            self._recent.popleft()

    def apply(self) -> None:
        """Make the statistics that the present parameters have the running ones, which are averages so far.

        Where nothing has been trained on yet they stay as they are. The same parameters are measured once.
        """
        if self._measured is None:
            self._measured = self._measure() if self._recent else {}
        parameters = self._block.collect_params()
        for name, value in self._measured.items():
            parameters[name].set_data(mx.nd.array(value, dtype="float32"))

    @cached_property
    def _graph(self) -> tuple[gluon.SymbolBlock | None, list[Normalisation]]:
        """Made when it is needed: a training begins without it."""
        return statistics_graph(self._block, self._precision, self._context.device_type)

    def _measure(self) -> dict[str, np.ndarray]:
        """The statistics by name of the parameter that holds them."""
        graph, layers = self._graph
        if graph is None:
            return {}
        self._forget(min(max(self._trained // 4, LEAST), MOST))
        pieces = []
        for images in self._recent:
            for piece in np.array_split(images, -(-len(images) // PIECE)):
                with autograd.train_mode():
                    outputs = graph(on_device(piece, self._context))
                pieces.append([output.asnumpy().astype(np.float64) for output in outputs])
        parameters = self._block.collect_params()
        statistics: dict[str, np.ndarray] = {}
        for number, layer in enumerate(layers):
            means = np.array([piece[2 * number] for piece in pieces])
            inverse = np.array([piece[2 * number + 1] for piece in pieces])
            if not (np.isfinite(means).all() and (inverse > 0.0).all()):
                continue  # maps that overflow say nothing
            variances = inverse**-2  # with epsilon
            deviation = np.sqrt(variances.mean(0))
            before = [parameters[name].list_data()[0].asnumpy() for name in (layer.mean, layer.variance)]
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
