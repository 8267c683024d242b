"""Training: a loop of epochs and steps that can be read at a glance; hooks and an engine do what happens in it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from common.engine.engine import Engine
from common.errors import TrainingError, is_out_of_memory
from common.evaluator import Evaluation
from common.loading.loader import Batch, Loader
from common.reporting.warnings import warn
from common.task import Inputs, Model

# Steps in a row whose gradient is not finite that a training survives by leaving them out.
MAX_SKIPPED = 20


@dataclass
class TrainingState:
    """Where a training stands; hooks read it, and set `stop_reason` to end it after the current epoch.

    epoch: the one under way, from start_epoch on. step: batches of it that are done, of `steps`. losses: means since
    the epoch began, by name. skipped: steps left out because their gradient was not finite. due: whether this epoch is
    to be validated and kept.

    A training by time (`common.training.pace`) sets further fields. share: of it that is done. seconds_left. before:
    batches done before this epoch. cut: this epoch ends after this batch. Its `epochs` are an estimate until the last.
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
    due: bool = True
    share: float | None = None
    seconds_left: float | None = None
    before: int | None = None
    cut: bool = False

    @property
    def number(self) -> int:
        """Batches that are done, those before start_epoch included."""
        return (self.epoch * self.steps if self.before is None else self.before) + self.step

    @property
    def fraction(self) -> float:
        """Share of the training that is done."""
        if self.share is not None:
            return self.share
        done = (self.epoch - self.start_epoch) * self.steps + self.step
        return done / max((self.epochs - self.start_epoch) * self.steps, 1)


class Hook:
    """Something that happens around the steps of a training. `state` goes into the checkpoint."""

    def before_training(self, state: TrainingState) -> None:
        """Before the first epoch."""

    def before_epoch(self, state: TrainingState) -> None:
        """Before the first batch of every epoch."""

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


@dataclass(frozen=True)
class _UnderWay:
    """A step whose gradients are being computed: its number, images, inputs and learning rate."""

    number: int
    count: int
    inputs: Inputs
    learning_rate: float


class Estimator:
    """Trains a model: feeds batches to an engine, and tells hooks.

    parts: in which a batch is computed; 1 until memory runs out.
    """

    def __init__(self, model: Model, engine: Engine) -> None:
        self.model = model
        self.engine = engine
        self.parts = 1
        self._skipped_in_a_row = 0

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
            epoch = state.epoch
            while epoch < state.epochs and not state.stop_reason:
                state.epoch = epoch
                for hook in hooks:
                    hook.before_epoch(state)
                # Layers that draw random numbers do so by the epoch alone, whichever way the training came to it.
                self.engine.begin_epoch(seed + epoch)
                self._epoch(loader, schedule, hooks, state)
                for hook in hooks:
                    hook.after_epoch(state)
                epoch += 1
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

        def finish(step: _UnderWay) -> None:
            nonlocal taken, images
            losses = self._finish(step.inputs, step.learning_rate)
            state.step, state.learning_rate = step.number, step.learning_rate
            if losses is None:
                state.skipped += 1
            else:
                np.add(sums, losses, out=sums)
                taken += 1
                images += step.count
            state.losses = dict(zip(self.model.losses, sums / max(taken, 1), strict=True))
            state.images_per_second = images / max(time.monotonic() - began, 1e-9)
            for hook in hooks:
                hook.after_step(state)

        # While the device computes a step, the next batch is awaited, its targets are made and it is on its way.
        under_way: _UnderWay | None = None
        for number, batch in enumerate(loader.epoch(state.epoch), start=1):
            inputs = self.model.training_inputs(batch)
            there = self._take(inputs)
            if under_way:
                finish(under_way)
                under_way = None
                if state.cut:
                    break
            self._compute(inputs, there)
            rate = schedule(state.epoch * state.steps + number - 1)
            under_way = _UnderWay(number, batch.count, inputs, rate)
        if under_way:
            finish(under_way)

    def step(self, batch: Batch, learning_rate: float) -> np.ndarray | None:
        """One update. Returns the batch's mean losses, or None where it was left out because they are not finite.

        Raises TrainingError after MAX_SKIPPED such batches in a row.
        """
        inputs = self.model.training_inputs(batch)
        self._compute(inputs)
        return self._finish(inputs, learning_rate)

    def _finish(self, inputs: Inputs, learning_rate: float) -> np.ndarray | None:
        """The end of a step whose gradients are being computed; see `step`."""
        norms, losses = self._computed(inputs)
        if np.isfinite(norms).all() and np.isfinite(losses).all():
            self._skipped_in_a_row = 0
            self.engine.update(learning_rate, norms)
            return losses
        if self.engine.skip():
            return None
        self._skipped_in_a_row += 1
        if self._skipped_in_a_row >= MAX_SKIPPED:
            raise TrainingError(
                f"the loss was not finite for {MAX_SKIPPED} batches in a row, at a learning rate of "
                f"{learning_rate:g}; a smaller train.lr usually helps"
            )
        return None

    # A batch is computed at once or, when memory has run out, in parts.

    def _take(self, inputs: Inputs) -> int:
        """Bring a batch on its way. Returns in how many parts: 0, not at all, where it has to be taken in several."""
        if self.parts > 1:
            return 0
        try:
            self.engine.take(inputs.split, inputs.shared)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return 0  # there is no room for two; alone it may do
        return 1

    def _compute(self, inputs: Inputs, there: int = 0) -> None:
        """Begin to compute gradients. there: what `_take` said; memory may have run out since."""
        while True:
            try:
                pieces = [np.array_split(array, self.parts) for array in inputs.split]
                for number in range(self.parts):
                    if number:
                        self.engine.hold()
                    if there != self.parts:
                        self.engine.take([piece[number] for piece in pieces], inputs.shared)
                    self.engine.forward()
                    self.engine.backward()
                return
            except Exception as error:
                self._divide(inputs, error)

    def _computed(self, inputs: Inputs) -> tuple[np.ndarray, np.ndarray]:
        """Norms of the gradients and losses, when they are there."""
        while True:
            try:
                return self.engine.norms(), self.engine.losses()
            except Exception as error:
                self._divide(inputs, error)
            self._compute(inputs)

    def _divide(self, inputs: Inputs, error: Exception) -> None:
        """Compute in more parts from here on. Raises the error where that is no remedy."""
        rows = len(inputs.split[0])
        if not is_out_of_memory(error) or 2 * self.parts * self.engine.least_rows > rows:
            raise error
        self.engine.let_go()
        self.parts *= 2
        warn(
            f"memory ran out: batches of {rows} are computed in {self.parts} parts from here on, and their "
            f"gradients added up; train.batch_size {max(rows // self.parts, 1)} would need no parts"
        )

    def optimizer_state(self) -> dict[str, Any]:
        """What `restore_optimizer` needs, as plain data: the engine's, and how many steps were left out of late."""
        return {**self.engine.optimizer_state(), "skipped_in_a_row": self._skipped_in_a_row}

    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Take up what `optimizer_state` returned. Raises KeyError for a parameter that is not here."""
        self.engine.restore_optimizer(state)
        self._skipped_in_a_row = state["skipped_in_a_row"]
