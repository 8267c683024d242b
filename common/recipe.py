"""How a task is trained: one record, in which every number has its reason or its source beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from common.data.samples import Sample
from common.engine.averaging import AGE
from common.engine.engine import OptimizerSettings
from common.engine.limits import GradientLimit, StepLimit
from common.loading.loader import Transform

#: Samples of an epoch, as indices, by its number and a generator.
Order = Callable[[int, np.random.Generator], np.ndarray]
#: Width and height of the input by number of epoch and batch.
Shapes = Callable[[int, int], tuple[int, int]]


@dataclass(frozen=True)
class Recipe:
    """How a task is trained, beside what `train` in the configuration says to every task alike.

    optimizer: the learning rate is set before every step.

    plain_transform: from the training set to the transform of its samples in the last epochs, from
    `train.first_plain_epoch` on; None: as before to the end. shapes: of the input; None: that of the task for all.
    order: from the training set to the order of its samples; None: each once an epoch, shuffled.

    precision: float32, or bfloat16 or float16 for the operators that gain from it. compiled: a step runs as one graph,
    else operator by operator, in float32.

    limit: how far a step of the optimizer may move a weight; None: as far as it likes. The usual share is that of
    `common.engine.limits.LONGEST_STEP`; where another one trains better, a task says so.

    soft_steps: over which the learning rate rises where the configuration asks for no warm-up: fresh layers and an
    empty momentum do not bear the full rate at once. (A detector of GluonCV's from scratch, which has none, has losses
    that are no number within its first epoch of the shipped blood cells.)

    from_average: training goes on from the moving average where the learning rate steps down. That helps where
    parameters jump about a point, and throws those back that are still on their way (benchmarks/QUALITY.md).

    ema_age: how far back the moving average of the parameters reaches (`common.engine.averaging.AGE`).

    early_stop_baseline: what the metric must have reached before patience counts; None: no such condition.
    """

    optimizer: OptimizerSettings
    plain_transform: Callable[[Sequence[Sample]], Transform] | None = None
    shapes: Shapes | None = None
    order: Callable[[Sequence[Sample]], Order] | None = None
    precision: str = "float32"
    compiled: bool = True
    limit: StepLimit | None = GradientLimit()  # noqa: RUF009
    soft_steps: int = 50
    from_average: bool = False
    ema_age: float = AGE
    early_stop_baseline: float | None = None
