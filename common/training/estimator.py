"""Training: an epoch loop that can be read at a glance, and the compiled steps it takes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.arrays import on_device, plain
from common.engine.average import MovingAverage
from common.engine.batch_statistics import BatchStatistics
from common.engine.limits import StepLimit, norms
from common.engine.loss_scale import LossScale
from common.engine.parameters import parameters
from common.engine.training_graph import RecordedStep, TrainingGraph, TrainingStep
from common.errors import TrainingError
from common.evaluator import Evaluation
from common.loading.loader import Batch, Loader
from common.task import Model

log = logging.getLogger("visualtl")

# Steps in a row whose gradient is not finite that a training survives by leaving them out.
MAX_SKIPPED = 20


@dataclass
class TrainingState:
    """Where a training stands; hooks read it, and set `stop_reason` to end it after the current epoch.

    epoch: the one under way, from start_epoch on. step: batches of it that are done, of `steps`. losses: means since
    the epoch began, by name. skipped: steps left out because their gradient was not finite.
    """

    epochs: int
    steps: int
    start_epoch: int = 0
    epoch: int = 0
    step: int = 0
    learning_rate: float = 0.0
    losses: dict[str, float] = field(default_factory=dict)
    images_per_second: float = math.nan
    skipped: int = 0
    evaluation: Evaluation | None = None
    stop_reason: str | None = None

    @property
    def fraction(self) -> float:
        """Share of the training that is done."""
        done = (self.epoch - self.start_epoch) * self.steps + self.step
        return done / max((self.epochs - self.start_epoch) * self.steps, 1)


class Hook:
    """Something that happens around the steps of a training. `state` goes into the checkpoint."""

    def before_training(self, state: TrainingState) -> None:
        """Before the first epoch."""

    def after_step(self, state: TrainingState) -> None:
        """After every batch."""

    def after_epoch(self, state: TrainingState) -> None:
        """After every epoch; hooks are called in their order."""

    def after_training(self, state: TrainingState) -> None:
        """After the last epoch, also when training failed."""

    def state(self) -> dict[str, Any]:
        """What a resumed training needs to know, as plain data."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned."""


class Estimator:
    """Trains a model: forward, backward and update of one batch, over one device or several.

    optimizer: of the framework. precision: "float32", "bfloat16" or "float16" for the operators that gain from it.

    compiled: a training step runs as one graph; else operator by operator, in float32.

    ema_decay: above 0 a moving average of the parameters is kept beside them, to be used within `averaged`.
    from_average: where the learning rate steps down by half or more, training goes on from there.

    limit: how far a step may move a weight (None: no limit); it must suit the optimizer.
    """

    def __init__(
        self,
        model: Model,
        contexts: Sequence[Any],
        optimizer: Any,
        *,
        precision: str = "float32",
        limit: StepLimit | None = None,
        compiled: bool = True,
        ema_decay: float = 0.0,
        from_average: bool = False,
    ) -> None:
        self.model = model
        self.contexts = list(contexts)
        self._limit = limit
        self._scale = LossScale(precision)
        block, names = model.training_block()
        self._steps: list[TrainingStep] = [
            TrainingGraph(block, names, context, precision) if compiled else RecordedStep(block, context)
            for context in self.contexts
        ]
        self._parameters = [p for p in block.collect_params().values() if p.grad_req != "null"]
        # Gluon's own names count the layers that were made, those that others have replaced since included.
        by_name = block._collect_params_with_prefix()
        name_of = {parameter: name for name, parameter in by_name.items()}
        self._names = [name_of[parameter] for parameter in self._parameters]
        own = set(model.network.collect_params().values())
        self._companions = {
            name: parameter
            for name, parameter in by_name.items()
            if parameter.grad_req != "null" and parameter not in own
        }
        averaged = {
            name: parameter
            for name, parameter in by_name.items()
            if parameter in own or name in self._companions
        }
        self._average = MovingAverage(averaged, ema_decay) if ema_decay else None
        self._from_average = from_average
        self._batch_statistics = BatchStatistics(model.inference_block(), self.contexts[0], precision)
        self._optimizer = optimizer
        if isinstance(optimizer, mx.optimizer.SGD) and self.contexts[0].device_type == "cpu":
            # See common.engine.optimizers.SGD.
            optimizer.aggregate_num = 0
        self._trainer = gluon.Trainer(
            self._parameters,
            optimizer,
            kvstore="device" if len(self.contexts) > 1 else None,
            update_on_kvstore=False,
        )
        self._skipped_in_a_row = 0
        self._statistics = [value for name, value in block.collect_params().items() if "running_" in name]
        self._keep_statistics()

    def fit(
        self,
        loader: Loader,
        schedule: Callable[[int], float],
        hooks: Sequence[Hook],
        state: TrainingState,
        seed: int = 0,
    ) -> TrainingState:
        """Train from `state.epoch` to `state.epochs` or until a hook stops it."""
        for hook in hooks:
            hook.before_training(state)
        try:
            for epoch in range(state.epoch, state.epochs):
                if state.stop_reason:
                    break
                state.epoch = epoch
                # Layers that draw random numbers do so by the epoch alone, whichever way the training came to it.
                mx.random.seed(seed + epoch)
                self._epoch(loader, schedule, hooks, state)
                for hook in hooks:
                    hook.after_epoch(state)
        finally:
            for hook in hooks:
                hook.after_training(state)
        return state

    def _epoch(
        self, loader: Loader, schedule: Callable[[int], float], hooks: Sequence[Hook], state: TrainingState
    ) -> None:
        sums = np.zeros(len(self.model.losses))
        taken, images, began = 0, 0, time.monotonic()
        state.evaluation = None
        first = state.epoch * state.steps
        if self._average and self._from_average and state.epoch > state.start_epoch:
            before = schedule(first - 1)
            if schedule(first) <= before / 2 < before:
                log.info("[Epoch %d] The learning rate steps down: going on from the average", state.epoch)
                self._go_on_from_average(self._average)
        self._keep_statistics()
        for step, batch in enumerate(loader.epoch(state.epoch), start=1):
            state.step = step
            state.learning_rate = schedule(state.epoch * state.steps + state.step - 1)
            losses = self.step(batch, state.learning_rate)
            if losses is None:
                state.skipped += 1
            else:
                sums += losses
                taken += 1
                images += batch.count
            state.losses = dict(zip(self.model.losses, sums / max(taken, 1), strict=True))
            state.images_per_second = images / max(time.monotonic() - began, 1e-9)
            for hook in hooks:
                hook.after_step(state)

    def _go_on_from_average(self, average: MovingAverage) -> None:
        """Take the averages for the parameters, and begin anew there: the learning rate has stepped down.

        At the higher rate parameters jump about a point that their average is near ("Averaging Weights Leads to Wider
        Optima and Better Generalization", Izmailov et al. 2018). At the lower one they would creep there from where the
        last jump left them, and the average with them. The momentum of SGD would carry them away from it again.
        """
        average.adopt()
        if isinstance(self._optimizer, mx.optimizer.SGD):
            for updater in self._trainer._updaters:
                for momentum in updater.states.values():
                    if momentum is not None:
                        momentum[:] = 0.0

    def step(self, batch: Batch, learning_rate: float) -> np.ndarray | None:
        """One update. Returns the batch's mean losses, or None where it was left out because they are not finite.

        Raises TrainingError after MAX_SKIPPED such batches in a row.
        """
        for step, part in zip(self._steps, self._divided(batch), strict=True):
            step.take(part)
        outputs = [step.forward() for step in self._steps]
        for step in self._steps:
            step.backward(self._scale.value)
        if len(self.contexts) > 1:
            self._trainer.allreduce_grads()
        rows = sum(len(output[0]) for output in outputs)
        gradients = norms([p.list_grad()[0] for p in self._parameters]) / (rows * self._scale.value)
        losses = np.sum([[loss.sum().asscalar() for loss in output] for output in outputs], axis=0) / rows
        if np.isfinite(gradients).all() and np.isfinite(losses).all():
            self._skipped_in_a_row = 0
            self._trainer.set_learning_rate(learning_rate)
            with self._limited(gradients, learning_rate):
                self._trainer.update(rows * self._scale.value)
            if self._average:
                self._average.update()
                # What the first device was given: it has the memory for so much.
                self._batch_statistics.remember(np.array_split(batch.arrays["image"], len(self.contexts))[0])
            self._scale.keep()
            return losses
        self._restore_statistics()
        if self._scale.reduce():
            return None
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the loss was not finite for {MAX_SKIPPED} batches in a row, at a learning rate of "
                f"{learning_rate:g}; a smaller train.lr usually helps"
            )
        return None

    def _keep_statistics(self) -> None:
        """Remember BatchNorm's running statistics."""
        self._kept = [(a, a.copy()) for parameter in self._statistics for a in parameter.list_data()]

    def _restore_statistics(self) -> None:
        """Take back running statistics that a batch has made not finite: no later batch could ever mend them."""
        for array, kept in self._kept:
            if not np.isfinite(array.asnumpy()).all():
                kept.copyto(array)

    def _limited(self, gradients: np.ndarray, learning_rate: float) -> AbstractContextManager[None]:
        if self._limit is None:
            return nullcontext()
        return self._limit.applied(self._parameters, gradients, learning_rate)

    def _divided(self, batch: Batch) -> list[list[np.ndarray]]:
        """What each device is given."""
        inputs = self.model.training_inputs(batch)
        pieces = [np.array_split(array, len(self.contexts)) for array in inputs.split]
        return [[*(piece[i] for piece in pieces), *inputs.shared] for i in range(len(self.contexts))]

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Within the block the parameters have their averages as values, if there are any, and BatchNorm the running
        statistics that go with them."""
        if not self._average:
            yield
            return
        with self._average.applied():
            self._batch_statistics.apply()
            yield

    def average_state(self) -> dict[str, Any] | None:
        """What is averaged, as plain data, to be restored where the averages are the parameters' values."""
        return self._average.state() if self._average else None

    def restore_average(self, state: dict[str, Any] | None) -> None:
        """Take up what `average_state` returned."""
        if self._average and state:
            self._average.restore(state)

    def parameters(self) -> dict[str, np.ndarray]:
        """The network's parameters by name."""
        return parameters(self.model.network)

    def companions(self) -> dict[str, np.ndarray]:
        """What is trained with the network and no part of it, by name."""
        return {name: value._reduce().asnumpy() for name, value in self._companions.items()}

    def restore_companions(self, values: dict[str, np.ndarray]) -> None:
        """Take up what `companions` returned."""
        for name, parameter in self._companions.items():
            parameter.set_data(mx.nd.array(values[name], dtype=values[name].dtype))

    def optimizer_state(self) -> dict[str, Any]:
        """What `restore_optimizer` needs, as plain data: counts of updates and arrays by the parameter's name, and how
        the loss is scaled."""
        return {
            "num_update": int(self._optimizer.num_update),
            "counts": {self._names[i]: int(n) for i, n in self._optimizer._index_update_count.items()},
            "states": {
                self._names[i]: plain(value) for i, value in self._trainer._updaters[0].states.items()
            },
            "m_schedule": float(getattr(self._optimizer, "m_schedule", 1.0)),  # of Nadam
            "loss_scale": self._scale.state(),
            "skipped_in_a_row": self._skipped_in_a_row,
        }

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Take up what `optimizer_state` returned. Raises KeyError for a parameter that is not here."""
        index = {name: i for i, name in enumerate(self._names)}
        counts = {index[name]: n for name, n in state["counts"].items()}
        self._optimizer.num_update = state["num_update"]
        if hasattr(self._optimizer, "m_schedule"):
            self._optimizer.m_schedule = state["m_schedule"]
        for updater, context in zip(self._trainer._updaters, self.contexts, strict=True):
            self._optimizer._set_current_context(context.device_id)
            self._optimizer._index_update_count.update(counts)
            for name, value in state["states"].items():
                updater.states[index[name]] = on_device(value, context)
                updater.states_synced[index[name]] = True
        self._scale.restore(state["loss_scale"])
        self._skipped_in_a_row = state["skipped_in_a_row"]
