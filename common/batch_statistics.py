"""BatchNorm's statistics for parameters that no training step has ever seen, such as the average of many steps'."""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common.graph import Normalisation, statistics_graph

# A fourth of the images that were trained on since the last time is looked at, which takes a twelfth of their time, but
# at least and at most so many: statistics of fewer scatter, those of more are hardly better.
LEAST, MOST = 32, 64


class BatchStatistics:
    """Mean and variance of what reaches every BatchNorm of a network, over the images that it was last trained on.

    BatchNorm's running statistics follow the parameters of single steps. Averaged parameters give their maps another
    mean and variance, the more so the faster training moves, and predict badly with running statistics, be these
    averaged or not ("Averaging Weights Leads to Wider Optima and Better Generalization", Izmailov et al. 2018, 3.2;
    "Rethinking 'Batch' in BatchNorm", Wu & Johnson 2021, 3). block: from uint8 images (B, H, W, 3) to the network's
    outputs. precision: as for `compile_graph`.
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
        """Make the statistics that the present parameters have the running ones.

        Where nothing has been trained on yet they stay as they are. The same parameters are measured once.
        """
        if self._measured is None:
            self._measured = self._measure() if self._recent else {}
        parameters = self._block.collect_params()
        for name, value in self._measured.items():
            for array in parameters[name].list_data():
                value.copyto(array)

    @cached_property
    def _graph(self) -> tuple[gluon.SymbolBlock | None, list[Normalisation]]:
        """Made when it is needed: a training begins without it."""
        return statistics_graph(self._block, self._precision)

    def _measure(self) -> dict[str, Any]:
        """The statistics by name of the parameter that holds them: means over batches, as running statistics are."""
        graph, layers = self._graph
        if graph is None:
            return {}
        self._forget(min(max(self._trained // 4, LEAST), MOST))
        found: dict[str, Any] = {}
        for images in self._recent:
            with autograd.train_mode():
                outputs = graph(mx.nd.array(images, ctx=self._context, dtype=images.dtype))
            for layer, mean, deviation in zip(layers, outputs[::2], outputs[1::2], strict=True):
                variance = (deviation.asnumpy().astype(np.float64) ** -2 - layer.epsilon).clip(0.0)
                for name, value in ((layer.mean, mean.asnumpy()), (layer.variance, variance)):
                    found[name] = found.get(name, 0.0) + value / len(self._recent)
        return {name: mx.nd.array(value, dtype="float32") for name, value in found.items()}
