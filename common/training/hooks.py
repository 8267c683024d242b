"""What happens around the steps of a training: log, progress, validation, best checkpoint, early stopping."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from common.data.report import Report
from common.engine.engine import Engine
from common.engine.schedule import Schedule
from common.evaluator import Evaluation
from common.loading.loader import Loader
from common.reporting.log import bar
from common.reporting.progress import Progress
from common.reporting.status import Status
from common.training.estimator import Hook, TrainingState

log = logging.getLogger("visualtl")


class LogLines(Hook):
    """A line every `interval` batches (0: none) and after every epoch."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._began = time.monotonic()

    def before_training(self, state: TrainingState) -> None:
        if state.stop_reason or state.epoch >= state.epochs:
            log.info("Training: nothing is left of its %d epochs", state.epochs)
        else:
            log.info("Training: epochs %d to %d, %d batches each", state.epoch, state.epochs - 1, state.steps)
        self._began = time.monotonic()

    def after_step(self, state: TrainingState) -> None:
        if self._interval and state.step % self._interval == 0:
            text = "[Epoch %d][Batch %d/%d] %s"
            log.info(text, state.epoch, state.step, state.steps, _figures(state), extra=_as_fields(state))

    def after_epoch(self, state: TrainingState) -> None:
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        log.info("[Epoch %d] %s, %.1f s", state.epoch, _figures(state), seconds, extra=_as_fields(state))
        if state.skipped:
            log.warning("[Epoch %d] %d batches so far were left out: not finite", state.epoch, state.skipped)


def _figures(state: TrainingState) -> str:
    losses = ", ".join(f"{name}={value:.4f}" for name, value in state.losses.items())
    return f"lr={state.learning_rate:.3g}, {losses}, {state.images_per_second:.1f} images/s"


def _as_fields(state: TrainingState) -> dict[str, Any]:
    """The same for a log of JSON objects."""
    figures = {"epoch": state.epoch, "batch": state.step, "learning_rate": state.learning_rate}
    return {"figures": {**figures, **state.losses, "images_per_second": state.images_per_second}}


class Bar(Hook):
    """A progress bar for people at a terminal."""

    def before_training(self, state: TrainingState) -> None:
        self._stack = ExitStack()
        self._advance = self._stack.enter_context(bar((state.epochs - state.epoch) * state.steps, "training"))

    def after_step(self, state: TrainingState) -> None:
        self._advance(1)

    def after_training(self, state: TrainingState) -> None:
        self._stack.close()


class Curves(Hook):
    """Loss and learning rate for the progress page, a few hundred points at most for a training of any length."""

    def __init__(self, progress: Progress, points: int = 200) -> None:
        self._progress = progress
        self._points = points

    def before_training(self, state: TrainingState) -> None:
        total = max((state.epochs - state.start_epoch) * state.steps, 1)
        self._every = max(math.ceil(total / self._points), 1)

    def after_step(self, state: TrainingState) -> None:
        number = state.epoch * state.steps + state.step
        if number % self._every == 0:
            self._progress.scalar("learning_rate", state.learning_rate, number)
            for name, value in state.losses.items():
                self._progress.scalar(f"loss/{name}", value, number)


class Watch(Hook):
    """Tells the poller and status.json how far the training is."""

    def __init__(self, advance: Callable[[float], None], status: Status) -> None:
        self._advance = advance
        self._status = status

    def before_training(self, state: TrainingState) -> None:
        self._began, self._before = time.monotonic(), state.fraction

    def after_step(self, state: TrainingState) -> None:
        self._advance(state.fraction)
        done = state.fraction - self._before
        elapsed = time.monotonic() - self._began
        self._status.update(
            epoch=state.epoch,
            epochs=state.epochs,
            batch=(state.epoch - state.start_epoch) * state.steps + state.step,
            batches=(state.epochs - state.start_epoch) * state.steps,
            batches_skipped=state.skipped,
            losses=state.losses,
            progress=state.fraction,
            images_per_second=round(state.images_per_second, 2),
            seconds_left=round(elapsed / done * (1.0 - state.fraction), 1) if done > 0 else None,
        )


class FromAverage(Hook):
    """Where the learning rate steps down by half or more, training goes on from the moving average.

    At the higher rate parameters jump about a point that their average is near ("Averaging Weights Leads to Wider
    Optima and Better Generalization", Izmailov et al. 2018). At the lower one they would creep there from where the
    last jump left them, and the average with them. Momentum would carry them away from it again.
    """

    def __init__(self, engine: Engine, schedule: Schedule) -> None:
        self._engine = engine
        self._schedule = schedule

    def before_epoch(self, state: TrainingState) -> None:
        if self._schedule.steps_down_at(state.epoch):
            log.info("[Epoch %d] The learning rate steps down: going on from the average", state.epoch)
            self._engine.adopt_average()


class Problems(Hook):
    """Adds images that could not be read when their turn came to the data report."""

    def __init__(self, loaders: dict[str, Loader], report: Report) -> None:
        self._loaders = loaders
        self._report = report
        self._told = dict.fromkeys(loaders, 0)

    def after_epoch(self, state: TrainingState) -> None:
        for name, loader in self._loaders.items():
            self._report.leave_out(name, loader.problems[self._told[name] :])
            self._told[name] = len(loader.problems)


class Validation(Hook):
    """Validates every `interval` epochs and after the last one."""

    def __init__(
        self, evaluate: Callable[[], Evaluation], interval: int, metric: str, progress: Progress
    ) -> None:
        self._evaluate = evaluate
        self._interval = interval
        self._metric = metric
        self._progress = progress

    def after_epoch(self, state: TrainingState) -> None:
        due = (state.epoch - state.start_epoch + 1) % self._interval == 0
        if not due and state.epoch + 1 < state.epochs:
            return
        began = time.monotonic()
        state.evaluation = self._evaluate()
        log.info(
            "[Epoch %d] Validation: %s=%.4f%s, %.1f s",
            state.epoch,
            self._metric,
            state.evaluation.value,
            "".join(f", {name}={value:.4f}" for name, value in state.evaluation.curves.items()),
            time.monotonic() - began,
            extra={
                "figures": {
                    "epoch": state.epoch,
                    self._metric: state.evaluation.value,
                    **state.evaluation.curves,
                }
            },
        )
        number = (state.epoch + 1) * state.steps
        self._progress.scalar(f"valid/{self._metric}", state.evaluation.value, number)
        for name, value in state.evaluation.curves.items():
            self._progress.scalar(f"valid/{name}", value, number)


class EarlyStopping(Hook):
    """Ends training when the metric has not improved for `patience` epochs, or has reached `max_value` and is settled.

    A change smaller than `min_delta` is no improvement, nor is none. Patience is negative: it never ends for that
    reason. Before the metric has reached `baseline` (None: no such condition) patience does not count.
    """

    def __init__(self, patience: int, min_delta: float, baseline: float | None, max_value: float) -> None:
        self._patience = patience
        self._min_delta = min_delta
        self._baseline = baseline
        self._max_value = max_value
        self._best = -math.inf
        self._best_epoch: int | None = None

    def after_epoch(self, state: TrainingState) -> None:
        if state.evaluation is None:
            return
        value = state.evaluation.value
        if value >= self._max_value and not state.evaluation.unsettled:
            state.stop_reason = f"the metric {value:.4f} has reached early_stop_max_value {self._max_value:g}"
            return
        if self._best_epoch is None or self._improves(value):
            self._best, self._best_epoch = (
                max(value, self._best) if value == value else self._best,
                state.epoch,
            )
            return
        waited = state.epoch - self._best_epoch
        if 0 <= self._patience <= waited and (self._baseline is None or self._best >= self._baseline):
            allowed = f"early_stop_patience {self._patience}"
            state.stop_reason = f"no improvement over {self._best:.4f} for {waited} epochs ({allowed})"

    def _improves(self, value: float) -> bool:
        """Whether `value` is better by `min_delta`, within what is lost where such numbers are subtracted."""
        return value > self._best and value - self._best >= self._min_delta * (1 - 1e-9) - 1e-12

    def state(self) -> dict[str, Any]:
        return {"best": self._best, "best_epoch": self._best_epoch}

    def restore(self, state: dict[str, Any]) -> None:
        self._best = float(state["best"])
        self._best_epoch = None if state["best_epoch"] is None else int(state["best_epoch"])
