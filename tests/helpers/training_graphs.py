"""A small block to train, and batches for it; for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.training_graph import TrainingStep

CONTEXT = mx.cpu()
INPUTS = ("x", "target")


class Block(gluon.HybridBlock):
    """Convolutions with BatchNorms and activations of both kinds; squared error, and the absolute one to look at."""

    def __init__(self, contexts: Sequence[Any] = (CONTEXT,)) -> None:
        super().__init__(prefix="")
        with self.name_scope():
            self.layers = gluon.nn.HybridSequential()
            self.layers.add(
                gluon.nn.Conv2D(4, 3, padding=1, in_channels=2),
                gluon.nn.BatchNorm(in_channels=4),
                gluon.nn.LeakyReLU(0.1),
                gluon.nn.Conv2D(3, 3, padding=1, in_channels=4),
                gluon.nn.BatchNorm(in_channels=3),
                gluon.nn.Activation("relu"),
            )
            self.frozen = gluon.nn.Conv2D(3, 1, in_channels=3)
        mx.random.seed(0)
        self.initialize(mx.init.Normal(0.5), ctx=list(contexts))
        self.frozen.collect_params().setattr("grad_req", "null")

    def hybrid_forward(self, F: Any, x: Any, target: Any) -> Any:
        error = F.broadcast_sub(self.frozen(self.layers(x)).mean(axis=(2, 3)), target)
        return F.sum(error**2, axis=1), F.sum(F.abs(error), axis=1)


def arrays(rows: int = 4, side: int = 6, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=shape).astype(np.float32) for shape in ((rows, 2, side, side), (rows, 3))]


def losses_of(made: TrainingStep, given: list[np.ndarray]) -> Sequence[Any]:
    """Of one device alone."""
    made.take(given)
    return made.forward()
