"""Estimators with MXNet's engine, as a job sets them up, and the smallest model to train; for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.engine import OptimizerSettings
from common.engine.graph import Normalise, settle
from common.engine.limits import GradientLimit
from common.engine.mxnet_engine import MXNetEngine
from common.loading.loader import Batch
from common.task import Inputs, Model, Task
from common.training.estimator import Estimator

SIDE = 8


class Distance(gluon.HybridBlock):
    """Squared distance of a linear layer's output from the target, and its absolute value."""

    def __init__(self, network: gluon.HybridBlock) -> None:
        super().__init__(prefix="")
        self.network = network
        self.normalise = Normalise()

    def hybrid_forward(self, F: Any, images: Any, target: Any) -> Any:
        error = self.network(self.normalise(images)) - target
        return F.sum(error**2, axis=1), F.sum(F.abs(error), axis=1)


class Tiny(Model):
    """A linear layer that learns the mean of an image's channels."""

    name = "tiny"
    classes: ClassVar[list[str]] = ["only"]
    losses = ("total", "absolute")

    def __init__(self, contexts: Sequence[Any]) -> None:
        mx.random.seed(0)
        np.random.seed(0)
        self.network = gluon.nn.HybridSequential(prefix="tiny_")
        with self.network.name_scope():
            self.network.add(gluon.nn.Flatten(), gluon.nn.Dense(3))
        self.network.initialize(ctx=list(contexts))
        settle(self.network, (1, 3, SIDE, SIDE))

    def training_block(self) -> tuple[Any, Sequence[str]]:
        return Distance(self.network), ("images", "target")

    def training_inputs(self, batch: Batch) -> Inputs:
        return Inputs([batch.arrays["image"], batch.arrays["target"]])

    def predictions(self, outputs: Sequence[np.ndarray], batch: Batch) -> list[np.ndarray]:
        return list(outputs[0])

    def description(self) -> dict[str, Any]:
        return {}

    def interface(self) -> dict[str, Any]:
        return {}


def batches(count: int = 20, rows: int = 6, seed: int = 0) -> list[Batch]:
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        images = rng.integers(0, 256, (rows, SIDE, SIDE, 3)).astype(np.uint8)
        target = (images / 255).mean((1, 2)).astype(np.float32)
        made.append(Batch({"image": images, "target": target}, np.arange(rows), rows, (SIDE, SIDE)))
    return made


def estimator_of(
    model: Model,
    contexts: Sequence[Any] = (mx.cpu(),),
    optimizer: str = "sgd",
    momentum: float = 0.0,
    wd: float = 0.0,
    **options: Any,
) -> Estimator:
    """An estimator of `model`; options: of MXNetEngine, by default a limit of 0.02 on the gradient."""
    settings = OptimizerSettings(optimizer, momentum=momentum, wd=wd)
    engine = MXNetEngine(model.blocks(), contexts, settings, **{"limit": GradientLimit(0.02), **options})
    return Estimator(model, engine)


def by_recipe(task: Task[Any], model: Model, contexts: Sequence[Any] = (mx.cpu(),)) -> Estimator:
    """An estimator of `model` as the task's recipe says, without an average."""
    recipe = task.recipe(on_gpu=False)
    engine = MXNetEngine(
        model.blocks(),
        contexts,
        recipe.optimizer,
        precision=recipe.precision,
        limit=recipe.limit,
        compiled=recipe.compiled,
    )
    return Estimator(model, engine)
