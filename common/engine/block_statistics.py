"""Statistics of BatchNorms by MXNet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import autograd, gluon

from common.engine.arrays import on_device
from common.engine.batch_statistics import BatchStatistics, Normalisation
from common.engine.graph import statistics_graph


class BlockStatistics(BatchStatistics):
    """Those of a block from uint8 images (B, H, W, 3) to the network's outputs. precision: as for
    `common.engine.lowering.lower`."""

    def __init__(self, block: gluon.HybridBlock, context: Any, precision: str = "float32") -> None:
        super().__init__()
        self._block = block
        self._context = context
        self._precision = precision

    def layers(self) -> Sequence[Normalisation]:
        return self._graph[1]

    def reach(self, images: np.ndarray) -> list[np.ndarray]:
        graph = self._graph[0]
        assert graph is not None
        with autograd.train_mode():
            outputs = graph(on_device(images, self._context))
        return [output.asnumpy() for output in outputs]

    def read(self, name: str) -> np.ndarray:
        values: np.ndarray = self._parameters[name].list_data()[0].asnumpy()
        return values

    def write(self, name: str, value: np.ndarray) -> None:
        self._parameters[name].set_data(mx.nd.array(value, dtype="float32"))

    @cached_property
    def _parameters(self) -> Mapping[str, gluon.Parameter]:
        """By name; Gluon walks the whole network to gather them, which for each statistic took seconds an epoch."""
        parameters: Mapping[str, gluon.Parameter] = self._block.collect_params()
        return parameters

    @cached_property
    def _graph(self) -> tuple[gluon.SymbolBlock | None, list[Normalisation]]:
        """Made when it is needed: a training begins without it."""
        return statistics_graph(self._block, self._precision, self._context.device_type)
