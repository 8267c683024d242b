"""What happens around the steps of a training: log, progress, validation, best checkpoint, early stopping."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from common.data.report import Report
from common.engine.engine import Engine
from common.evaluator import Evaluation
from common.loading.loader import Loader
from common.ranks.ranks import Ranks
from common.reporting.log import bar
from common.reporting.progress import Progress
from common.reporting.status import Status
from common.training.estimator import Hook, TrainingState

log = logging.getLogger("visualtl")


class LogLines(Hook):
    """A line every `interval` batches, and where these take longer every ten seconds (0: none), and after every epoch.

    Of a training by time it is after every epoch that is due. left: seconds of the training that are left, None as long
    as nobody knows. Once they are known a line says so.
    """

    longest_silence = 10.0  # seconds
    long = 1800.0  # seconds for which a training is told how it may be shorter

    def __init__(self, interval: int, left: Callable[[], float | None] = lambda: None) -> None:
        self._interval = interval
        self._left = left
        self._began = self._last = time.monotonic()
        self._estimated = False

    def before_training(self, state: TrainingState) -> None:
        if state.stop_reason or state.epoch >= state.epochs:
            log.info("Training: nothing is left of its %d epochs", state.epochs)
        elif state.seconds_left is not None:
            log.info("Training: for %s, %d batches an epoch", duration(state.seconds_left), state.steps)
            self._estimated = True
        else:
            log.info("Training: epochs %d to %d, %d batches each", state.epoch, state.epochs - 1, state.steps)
        self._began = self._last = time.monotonic()

    def after_step(self, state: TrainingState) -> None:
        left = self._left()
        if left is not None and not self._estimated:
            self._estimated = True
            until = datetime.fromtimestamp(time.time() + left).astimezone()
            shorter = "; --set train.minutes=10 has it done in ten minutes" if left > self.long else ""
            log.info(
                "The training takes about %s, until %s%s", duration(left), f"{until:%Y-%m-%d %H:%M}", shorter
            )
        silent = time.monotonic() - self._last >= self.longest_silence
        if self._interval and (state.step % self._interval == 0 or silent):
            self._last = time.monotonic()
            text = "[Epoch %d][Batch %d/%d] %s%s"
            log.info(
                text,
                state.epoch,
                state.step,
                state.steps,
                _figures(state),
                self._ahead(),
                extra=_as_fields(state),
            )

    def after_epoch(self, state: TrainingState) -> None:
        if not state.due and time.monotonic() - self._last < self.longest_silence:
            return  # many short ones between two that count
        seconds, self._began = time.monotonic() - self._began, time.monotonic()
        self._last = self._began
        text = "[Epoch %d] %s, %.1f s%s"
        ahead = self._ahead()
        log.info(text, state.epoch, _figures(state), seconds, ahead, extra=_as_fields(state))
        if state.skipped:
            log.warning("[Epoch %d] %d batches so far were left out: not finite", state.epoch, state.skipped)

    def _ahead(self) -> str:
        left = self._left()
        return "" if left is None else f", {duration(left)} left"


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3 h 20 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _figures(state: TrainingState) -> str:
    losses = ", ".join(f"{name}={value:.4f}" for name, value in state.losses.items())
    return f"lr={state.learning_rate:.3g}, {losses}, {state.images_per_second:.1f} images/s"


def _as_fields(state: TrainingState) -> dict[str, Any]:
    """The same for a log of JSON objects."""
    figures = {"epoch": state.epoch, "batch": state.step, "learning_rate": state.learning_rate}
    return {"figures": {**figures, **state.losses, "images_per_second": state.images_per_second}}


class Bar(Hook):
    """A progress bar for people at a terminal: of batches or, where the training lasts a given time, of seconds."""

    def before_training(self, state: TrainingState) -> None:
        self._stack = ExitStack()
        self._seconds = None if state.seconds_left is None else int(state.seconds_left)
        total = (state.epochs - state.epoch) * state.steps if self._seconds is None else self._seconds
        self._shown = 0
        self._advance = self._stack.enter_context(bar(total, "training"))

    def after_step(self, state: TrainingState) -> None:
        done = self._shown + 1
        if self._seconds is not None and state.seconds_left is not None:
            done = max(self._shown, self._seconds - int(state.seconds_left))
        self._advance(done - self._shown)
        self._shown = done

    def after_training(self, state: TrainingState) -> None:
        self._stack.close()


class Curves(Hook):
    """Loss and learning rate for the progress page, a few hundred points at most for a training of any length."""

    def __init__(self, progress: Progress, points: int = 200) -> None:
        self._progress = progress
        self._points = points

    def before_training(self, state: TrainingState) -> None:
        self._by_time = state.share is not None
        self._next = state.fraction
        total = max((state.epochs - state.start_epoch) * state.steps, 1)
        self._every = max(math.ceil(total / self._points), 1)

    def after_step(self, state: TrainingState) -> None:
        if self._by_time:
            if state.fraction < self._next:
                return
            self._next = state.fraction + 1.0 / self._points
        elif state.number % self._every:
            return
        self._progress.scalar("learning_rate", state.learning_rate, state.number)
        for name, value in state.losses.items():
            self._progress.scalar(f"loss/{name}", value, state.number)


class Watch(Hook):
    """Tells the poller and status.json how far the training is."""

    # After so many batches, or seconds, the time that is left is told to people too.
    few_batches = 5
    many_seconds = 20.0

    def __init__(self, advance: Callable[[float], None], status: Status) -> None:
        self._advance = advance
        self._status = status
        self._left: float | None = None
        self._known = False

    def estimate(self) -> float | None:
        """Seconds of the training that are left; None as long as too little is done to tell."""
        return self._left if self._known else None

    def before_training(self, state: TrainingState) -> None:
        self._began, self._before, self._batches = time.monotonic(), state.fraction, 0
        self._left = state.seconds_left

    def after_step(self, state: TrainingState) -> None:
        self._advance(state.fraction)
        done = state.fraction - self._before
        elapsed = time.monotonic() - self._began
        self._batches += 1
        self._left = state.seconds_left
        self._known = (
            self._left is not None or self._batches >= self.few_batches or elapsed >= self.many_seconds
        )
        if self._left is None and done > 0:
            self._left = elapsed / done * (1.0 - state.fraction)
        batches = (state.epochs - state.start_epoch) * state.steps
        if state.share is not None:  # an estimate
            batches = max(round(state.number / max(state.share, 1e-6)), state.number)
        self._status.update(
            epoch=state.epoch,
            epochs=state.epochs,
            batch=state.number - (state.start_epoch * state.steps if state.before is None else 0),
            batches=batches,
            batches_skipped=state.skipped,
            losses=state.losses,
            progress=state.fraction,
            images_per_second=round(state.images_per_second, 2),
            seconds_left=None if self._left is None else round(self._left, 1),
        )


class FromAverage(Hook):
    """Where the learning rate steps down by half or more, training goes on from the moving average.

    At the higher rate parameters jump about a point that their average is near ("Averaging Weights Leads to Wider
    Optima and Better Generalization", Izmailov et al. 2018). At the lower one they would creep there from where the
    last jump left them, and the average with them. Momentum would carry them away from it again.

    steps_down: whether it does so at the beginning of this epoch.
    """

    def __init__(self, engine: Engine, steps_down: Callable[[int], bool]) -> None:
        self._engine = engine
        self._steps_down = steps_down

    def before_epoch(self, state: TrainingState) -> None:
        if self._steps_down(state.epoch):
            log.info("[Epoch %d] The learning rate steps down: going on from the average", state.epoch)
            self._engine.adopt_average()


class Speed(Hook):
    """Tells rank 0 how fast this one computes, and how much of its time it waits for others; there, what all tell."""

    interval = 1.0  # seconds

    def __init__(self, ranks: Ranks, engine: Engine, status: Status) -> None:
        self._ranks, self._engine, self._status = ranks, engine, status

    def before_epoch(self, state: TrainingState) -> None:
        self._began, self._waited = time.monotonic(), self._engine.waited
        self._told = self._began

    def after_step(self, state: TrainingState) -> None:
        now = time.monotonic()
        if now - self._told >= self.interval or state.step == state.steps:
            self._told = now
            waiting = min((self._engine.waited - self._waited) / (now - self._began), 1.0)
            # The share of the images is as large as that of the rows, and of the time not waited in.
            own = state.images_per_second / self._ranks.size / max(1.0 - waiting, 1e-3)
            self._ranks.say(images_per_second=round(own, 2), waiting=round(waiting, 4))
            self._status.update(ranks=[{"rank": r, **words} for r, words in enumerate(self._ranks.words())])


class Problems(Hook):
    """Adds images that could not be read when their turn came to the data report."""

    def __init__(self, loaders: dict[str, Loader], report: Report) -> None:
        self._loaders = loaders
        self._report = report
        self._told = dict.fromkeys(loaders, 0)
        self._files: set[str] = set()

    def after_epoch(self, state: TrainingState) -> None:
        for name, loader in self._loaders.items():
            new = loader.ranks.to_first(loader.problems[self._told[name] :])
            self._told[name] = len(loader.problems)
            if new is not None:
                files = {problem.file: problem for part in new for problem in part}
                fresh = [problem for file, problem in files.items() if file not in self._files]
                self._files |= files.keys()
                self._report.leave_out(name, fresh)


class Validation(Hook):
    """Validates every `interval` epochs and after the last one; in a training by time, epochs that are due."""

    def __init__(
        self, evaluate: Callable[[], Evaluation], interval: int, metric: str, progress: Progress
    ) -> None:
        self._evaluate = evaluate
        self._interval = interval
        self._metric = metric
        self._progress = progress

    def after_epoch(self, state: TrainingState) -> None:
        due = (state.epoch - state.start_epoch + 1) % self._interval == 0 or state.share is not None
        if not state.due or (not due and state.epoch + 1 < state.epochs):
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
        number = state.number
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
