"""Estimators with MXNet's engine, as a job sets them up; for tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx

from common.engine.engine import OptimizerSettings
from common.engine.limits import GradientLimit
from common.engine.mxnet_engine import MXNetEngine
from common.task import Model, Task
from common.training.estimator import Estimator


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
