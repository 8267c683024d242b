"""A few real steps of a training, before there is one: how long they take, and how much memory."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from common.datasets import Datasets
from common.engine.devices import return_memory
from common.engine.memory import Gauge
from common.engine.opening import open_engine
from common.loading.loader import Batch, Loader
from common.processes.pool import WorkerPool
from common.task import Task
from common.training.estimator import Estimator

log = logging.getLogger("visualtl")

# Steps that are timed after the first one, which also makes the graph, and seconds after which it is enough.
_TIMED, _TIMED_SECONDS = 6, 10.0
# Images of a device in the first batch whose memory is measured; how many times as many the next may have, and how
# many it must have to be worth its time; and the share of the free memory that a training may take.
_SMALL, _MOST_TIMES, _WORTH_IT, _SHARE = 4, 4.0, 1.25, 0.8
# Batches whose input sizes are looked at.
_LOOKED_AT = 1000


def time_a_step(
    task: Task[Any], data: Datasets, devices: Sequence[Any], pool: WorkerPool, engine: str = "mxnet"
) -> float:
    """Seconds of a training step of the task, with its usual input. engine: as for `batch_that_fits`."""
    moments: list[float] = []
    with ExitStack() as stack:
        trial = stack.enter_context(
            _Trial(task, data, devices, pool, task.config.train.batch_size, task.shape, engine=engine)
        )
        for _ in trial.steps():
            moments.append(time.monotonic())
            if len(moments) > _TIMED or (len(moments) > 1 and moments[-1] - moments[0] > _TIMED_SECONDS):
                break
    return (moments[-1] - moments[0]) / (len(moments) - 1)


def batch_that_fits(
    task: Task[Any],
    data: Datasets,
    devices: Sequence[Any],
    pool: WorkerPool,
    gauge: Gauge,
    checkpoint: dict[str, Any] | None = None,
    engine: str = "mxnet",
) -> int:
    """The largest batch, up to train.batch_size, whose training step there is memory for.

    engine: who computes, as for `common.engine.opening`. checkpoint: that the network comes from. Validation keeps
    nothing for a way back, and takes less.
    """
    most, least = task.config.train.batch_size, max(len(devices), 1)
    shapes = task.recipe(on_gpu=bool(task.config.gpus)).shapes
    # Of inputs that change in the training the largest one decides.
    seen = [shapes(0, batch) for batch in range(_LOOKED_AT)] if shapes else [task.shape]
    shape = max(seen, key=lambda sides: sides[0] * sides[1])
    free = gauge.free()

    def takes(batch: int) -> int:
        taken = _taken(gauge, task, data, devices, pool, batch, shape, checkpoint, engine)
        gc.collect()  # blocks hold one another
        return_memory()
        return taken

    chosen = largest_batch(most, least, free * _SHARE, takes)
    log.info("train.batch_size auto: %d (%.0f MB are free)", chosen, free / 1e6)
    return chosen


def largest_batch(most: int, least: int, room: float, takes: Callable[[int], float]) -> int:
    """The largest batch whose step has enough of `room` bytes: `most`, or a multiple of `least`, which is the smallest.

    takes: bytes that the step of a batch takes, as they are measured. A small batch is first, and larger ones follow: a
    step takes memory for the network too, so for a larger batch at the most as many times as much. Where not even the
    first has room, its images are taken to be all that takes any.
    """
    batch, larger = 0, min(_SMALL * least, most)
    while larger >= _WORTH_IT * batch and batch < most:
        batch = larger
        taken = takes(batch)
        log.info("A step of %d images takes %.0f MB", batch, taken / 1e6)
        times = min(room / max(taken, 1), _MOST_TIMES)
        larger = min(int(batch * times) // least * least, most)
    return max(min(batch, larger), least)


def _taken(gauge: Gauge, *trial: Any) -> int:
    """Bytes that steps of a trial take. Nothing of it is left behind, which the next one would not have to take."""
    with _Trial(*trial) as training:
        gauge.reset()
        for number, _ in enumerate(training.steps()):
            if number == 1:
                break
        return gauge.taken()


class _Trial:
    """A training that is not meant."""

    def __init__(
        self,
        task: Task[Any],
        data: Datasets,
        devices: Sequence[Any],
        pool: WorkerPool,
        batch_size: int,
        shape: tuple[int, int],
        checkpoint: dict[str, Any] | None = None,
        engine: str = "mxnet",
    ) -> None:
        recipe, samples = task.recipe(on_gpu=bool(task.config.gpus)), data.train
        model = task.build(data.classes, devices, checkpoint)
        opened = open_engine(
            engine,
            model.blocks(),
            devices,
            task.config.gpus,
            recipe.optimizer,
            precision=recipe.precision,
            limit=recipe.limit,
            compiled=recipe.compiled,
            ema_decay=task.config.train.ema_decay,
            ema_age=recipe.ema_age,
        )
        self._estimator = Estimator(model, opened)
        self._loader = Loader(
            samples,
            model.with_targets(task.training_transform(samples), samples),
            pool,
            batch_size=batch_size,
            shapes=lambda epoch, batch: shape,
            training=True,
            order=recipe.order(samples) if recipe.order else None,
        )

    def __enter__(self) -> _Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._loader.close()

    def steps(self) -> Iterator[Batch]:
        """Steps without end, each when it is done."""
        epoch = 0
        while True:
            for batch in self._loader.epoch(epoch):
                self._estimator.step(batch, 1e-6)
                yield batch
            epoch += 1
