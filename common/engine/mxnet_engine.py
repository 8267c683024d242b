"""The engine that computes with MXNet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import mxnet as mx
import numpy as np

from common.engine.arrays import norms, on_device
from common.engine.average import MovingAverage
from common.engine.averaging import AGE, AveragingEngine
from common.engine.block_statistics import BlockStatistics
from common.engine.devices import return_memory
from common.engine.engine import Blocks, OptimizerSettings
from common.engine.inference import DeviceInference
from common.engine.limits import StepLimit, Weight
from common.engine.loss_scale import LossScale
from common.engine.mxnet_internals import descendants, named_parameters, operator_options, value_of
from common.engine.optimizers import Updater
from common.engine.parameters import parameters, set_parameters, set_value
from common.engine.tracing import begins_at_0
from common.engine.training_graph import RecordedStep, TrainingGraph, TrainingStep


class MXNetEngine(AveragingEngine):
    """Trains blocks on MXNet's contexts, each of which holds a copy of the parameters.

    precision: "float32", "bfloat16" or "float16" for the operators that gain from it. limit: how far a step may move a
    weight (None: no limit); it must suit the optimizer. compiled: a training step runs as one graph; else operator by
    operator, in float32. ema_decay: above 0 a moving average of the parameters is kept beside them; ema_age: see
    `common.engine.averaging.AGE`. synchronised: BatchNorm goes by the rows of all contexts, where `compiled`.
    """

    _average: MovingAverage | None
    _updater: Updater

    def __init__(
        self,
        blocks: Blocks,
        contexts: Sequence[Any],
        optimizer: OptimizerSettings,
        *,
        precision: str = "float32",
        limit: StepLimit | None = None,
        compiled: bool = True,
        ema_decay: float = 0.0,
        ema_age: float = AGE,
        synchronised: bool = False,
    ) -> None:
        self._network = blocks.network
        self._contexts = list(contexts)
        self.least_rows = len(self._contexts)
        self._limit = limit
        self._scale = LossScale(precision)
        self._steps: list[TrainingStep] = [
            TrainingGraph(
                blocks.training,
                blocks.inputs,
                context,
                precision,
                sharing=len(self._contexts) if synchronised else 1,
            )
            if compiled
            else RecordedStep(blocks.training, context)
            for context in self._contexts
        ]
        self._outputs: list[Sequence[Any]] = []
        # Of earlier parts of a batch.
        self._held: tuple[list[Sequence[Any]], list[list[Any]]] | None = None
        self._predict = DeviceInference(blocks.inference, self._contexts)
        by_name = named_parameters(blocks.training)
        name_of = {parameter: name for name, parameter in by_name.items()}
        every = blocks.training.collect_params().items()
        trained = [parameter for _, parameter in every if parameter.grad_req != "null"]
        self._updater = Updater({name_of[p]: p for p in trained}, optimizer, self._contexts)
        self._trained = trained
        self._begins_at_0 = [begins_at_0(parameter) for parameter in trained]
        own = set(self._network.collect_params().values())
        self._companions = {
            name: parameter
            for name, parameter in by_name.items()
            if parameter.grad_req != "null" and parameter not in own
        }
        moving = {*trained, *_moving_statistics(blocks.training)}
        averaged = {
            name: parameter
            for name, parameter in by_name.items()
            if (parameter in own or name in self._companions) and parameter in moving
        }
        constants = [name for name, parameter in by_name.items() if parameter not in moving]
        self._average = MovingAverage(averaged, ema_decay, constants, ema_age) if ema_decay else None
        self._batch_statistics = BlockStatistics(blocks.inference, self._contexts[0], precision)
        self._images_at = list(blocks.inputs).index("images")
        self._next: list[list[Any]] = []  # what was taken, by device
        self._images = self._next_images = np.empty(0, np.uint8)  # of the first device
        self._statistics = [parameter for name, parameter in every if "running_" in name]
        self._keep_statistics()

    def begin_epoch(self, seed: int) -> None:
        mx.random.seed(seed)
        self._keep_statistics()

    # A step

    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        pieces = [np.array_split(array, len(self._contexts)) for array in split]
        self._next = [
            [self._sent(array, context) for array in (*(piece[number] for piece in pieces), *shared)]
            for number, context in enumerate(self._contexts)
        ]
        self._next_images = pieces[self._images_at][0]

    def forward(self) -> None:
        for step, arrays in zip(self._steps, self._next, strict=True):
            step.take(arrays)
        self._next, self._images = [], self._next_images
        self._outputs = [step.forward() for step in self._steps]

    def backward(self) -> None:
        for step in self._steps:
            step.backward(self._scale.value)
        self._updater.sum_gradients()
        if self._held:
            outputs, gradients = self._held
            self._held = None
            self._outputs = [*outputs, *self._outputs]
            for parameter, kept in zip(self._trained, gradients, strict=True):
                for array, addend in zip(parameter.list_grad(), kept, strict=True):
                    array += addend

    def hold(self) -> None:
        outputs: list[Sequence[Any]] = [[loss.copy() for loss in output] for output in self._outputs]
        gradients = [[array.copy() for array in parameter.list_grad()] for parameter in self._trained]
        self._held = outputs, gradients
        # What failed for want of memory has to come to light here.
        for array in outputs[-1]:
            array.wait_to_read()

    def let_go(self) -> None:
        self._held = None
        # An operator that failed leaves its error with everything that it was to write, once.
        for parameter in self._trained:
            for array in parameter.list_grad():
                with contextlib.suppress(mx.MXNetError):
                    array.wait_to_read()
        return_memory()

    def losses(self) -> np.ndarray:
        sums = [[loss.sum().asscalar() for loss in output] for output in self._outputs]
        return np.asarray(np.sum(sums, axis=0) / self._rows)

    def norms(self) -> np.ndarray:
        gradients = [parameter.list_grad()[0] for parameter in self._trained]
        return norms(gradients) / (self._rows * self._scale.value)

    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        with self._limited(learning_rate, norms):
            self._updater.update(learning_rate, self._rows * self._scale.value)
        if self._average:
            self._average.update()
            # What the first device was given: it has the memory for so much.
            self._batch_statistics.remember(self._images)
        self._scale.keep()

    def skip(self) -> bool:
        for array, kept in self._kept:  # no later batch could ever mend statistics that are not finite
            if not np.isfinite(array.asnumpy()).all():
                kept.copyto(array)
        return self._scale.reduce()

    @staticmethod
    def _sent(array: np.ndarray, context: Any) -> Any:
        """An array on its way to a GPU, which copies while it computes; on the CPU it is where it is needed."""
        return array if context.device_type == "cpu" else on_device(array, context)

    @property
    def _rows(self) -> int:
        """Images of the batch that was taken."""
        return sum(len(output[0]) for output in self._outputs)

    def _keep_statistics(self) -> None:
        """Remember BatchNorm's running statistics."""
        self._kept = [(a, a.copy()) for parameter in self._statistics for a in parameter.list_data()]

    @contextmanager
    def _limited(self, learning_rate: float, gradient_norms: np.ndarray) -> Iterator[None]:
        """Within the block an update keeps to the limit."""
        if self._limit is None:
            yield
            return
        multipliers = [parameter.lr_mult for parameter in self._trained]
        sizes = norms([parameter.list_data()[0] for parameter in self._trained])
        for parameter, multiplier, size, gradient, at_0 in zip(
            self._trained, multipliers, sizes, gradient_norms, self._begins_at_0, strict=True
        ):
            weight = Weight(parameter.shape, size, gradient, multiplier, at_0)
            factor = self._limit.factor(weight, learning_rate)
            if factor == 1.0:
                continue
            if self._limit.of_gradient:
                for array in parameter.list_grad():
                    array *= factor
            else:
                parameter.lr_mult *= factor
        try:
            yield
        finally:  # checkpoints hold what was asked for
            for parameter, multiplier in zip(self._trained, multipliers, strict=True):
                parameter.lr_mult = multiplier

    # Parameters

    def parameters(self) -> dict[str, np.ndarray]:
        return parameters(self._network)

    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        set_parameters(self._network, values)

    def companions(self) -> dict[str, np.ndarray]:
        return {name: value_of(parameter) for name, parameter in self._companions.items()}

    def set_companions(self, values: dict[str, np.ndarray]) -> None:
        for name, parameter in self._companions.items():
            set_value(parameter, values[name])

    def multipliers(self) -> dict[str, list[float]]:
        return {
            name: [float(parameter.lr_mult), float(parameter.wd_mult)]
            for name, parameter in named_parameters(self._network).items()
        }

    def set_multipliers(self, values: dict[str, list[float]]) -> None:
        named = named_parameters(self._network)
        for name, (lr_mult, wd_mult) in values.items():
            named[name].lr_mult, named[name].wd_mult = lr_mult, wd_mult

    def optimizer_state(self) -> dict[str, Any]:
        return {**self._updater.state(), "loss_scale": self._scale.state()}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        self._updater.restore(state)
        self._scale.restore(state["loss_scale"])

    # Predictions

    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        return self._predict(images)


def _moving_statistics(block: Any) -> set[Any]:
    """The running statistics of the BatchNorms of a block that do not keep to them."""
    return {
        statistic
        for layer in descendants(block)
        if isinstance(layer, mx.gluon.nn.BatchNorm) and not operator_options(layer)["use_global_stats"]
        for statistic in (layer.running_mean, layer.running_var)
    }
