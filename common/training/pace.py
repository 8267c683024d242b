"""A training that lasts a given time: its schedule is laid over the clock instead of over a number of epochs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from common.engine.schedule import Schedule
from common.reporting import warnings
from common.training.estimator import Hook, TrainingState

# An epoch is validated and kept when the training since the last such one has taken so many times as long as that.
_TRAINED_TO_VALIDATED = 9.0
# An epoch ends after this share of the training even if it has not seen all images: large sets are validated and kept
# on the way too. More often would cost: what is made ahead of an epoch's end is lost.
_LONGEST_EPOCH = 0.25
# Weight of the newest step in the mean time of one.
_NEWEST = 0.2
# A training that has less than this share of the time that is left is told to be short.
_LITTLE = 0.25
# What an image takes that is validated, as a share of what one takes that is trained on, as long as none was.
_FORWARD = 0.5
# What an image takes in the predictions of the results, as a share of what it takes in a validation of the training:
# that one also measures BatchNorm's statistics, and writes a checkpoint (0.63 for SSD, 0.74 for YOLOv3).
_PREDICTED = 0.7
# The proof of an ONNX file takes so many times as long as that (1.0 for SSD, 2.0 for YOLOv3).
_PROVED = 1.5


class Budget:
    """The wall time of a job, in seconds.

    seconds: in all. age: how long this run has lasted. before: what earlier runs took, from which this one goes on.
    """

    def __init__(self, seconds: float, age: Callable[[], float], before: float = 0.0) -> None:
        self.seconds = seconds
        self.before = before
        self._age = age

    @property
    def used(self) -> float:
        """What the job has taken so far."""
        return self.before + self._age()

    @property
    def left(self) -> float:
        """Until the job should have ended; below 0: it is late."""
        return self.seconds - self.used


class Tail:
    """What a job takes after its training: a last validation, predictions of its sets, and the export.

    valid, test: images of the sets. proved: images that the export is held against. exporting: seconds of all that
    depends on no image.
    """

    def __init__(self, valid: int, test: int, *, proved: int = 0, exporting: float = 0.0) -> None:
        self._valid = valid
        self._predicted = valid + test + _PROVED * proved
        self._exporting = exporting
        self._an_image = 0.0
        self._keeping: float | None = None

    def trained(self, an_image: float) -> None:
        """Seconds that an image takes which is trained on: a measure as long as there is no better one."""
        if self._keeping is None or not self._valid:
            self._an_image = an_image * _FORWARD

    def kept(self, seconds: float) -> None:
        """What an epoch's validation and checkpoint took. The first one also makes its graph, later ones find it."""
        self._keeping = seconds if self._keeping is None else min(self._keeping, seconds)
        if self._valid:
            self._an_image = self._keeping / self._valid

    @property
    def keeping(self) -> float:
        """Seconds that validating and keeping an epoch takes."""
        return self._an_image * self._valid if self._keeping is None else self._keeping

    @property
    def seconds(self) -> float:
        """From the last step to the end of the job."""
        return self.keeping + _PREDICTED * self._an_image * self._predicted + self._exporting


class ByTime(Hook):
    """Moves a training along its schedule by the clock, and ends it so that its job ends in time.

    The share of the training that is done grows with every step by what the step took of the time that was left, so
    that it reaches 1 when the time is up, whatever has become slower or faster on the way. The learning rate is that of
    the schedule at this share of its epochs, from `first` on. Epochs are passes over the set, as many as there is time
    for, and those are validated and kept that are due. It must come before hooks that ask for any of this, and after it
    `Kept` at their end. interval: of epochs between two that are due, at the least. borders: places in the schedule, in
    epochs, at which something changes that changes between epochs: there one ends and another begins.
    """

    def __init__(
        self,
        budget: Budget,
        schedule: Schedule,
        tail: Tail,
        *,
        first: int = 0,
        interval: int = 1,
        borders: Sequence[float] = (),
    ) -> None:
        self._budget = budget
        self._schedule = schedule
        self._tail = tail
        self._first = first
        self._interval = interval
        self._borders = list(borders)
        self._share = 0.0
        self._steps = 0
        self._a_step = 0.0
        self._training = 1.0  # seconds of the whole training, as they were foreseen at its beginning
        self._rate: float | None = None  # of the first step of the last epoch
        # Moments, in seconds of the budget that were used.
        self._stepped = self._began = self._kept = 0.0
        self._epochs_since = 0

    def learning_rate(self, step: int) -> float:
        """Of the step to come. Its number in a training of whole epochs says nothing here."""
        return self._schedule.at(self._epoch, self._steps)

    @property
    def _epoch(self) -> float:
        """The place in the schedule."""
        return self._first + self._share * (self._schedule.epochs - self._first)

    def plain(self, epochs: int) -> bool:
        """Whether an epoch that begins now is of the last `epochs` of the schedule."""
        return epochs > 0 and self._epoch >= self._schedule.epochs - epochs

    def steps_down(self) -> bool:
        """Whether the rate is by half or more below that at the beginning of the last epoch; asked once an epoch."""
        before, self._rate = self._rate, self._schedule.at(self._epoch, self._steps)
        return before is not None and self._rate <= before / 2 < before

    def before_training(self, state: TrainingState) -> None:
        self._stepped = self._kept = self._budget.used
        ahead = max(self._budget.left - self._tail.seconds, 1e-3)
        if ahead < _LITTLE * self._budget.left and self._share < 1.0:
            warnings.warn(
                f"train.minutes {self._budget.seconds / 60:g} leaves {ahead:.0f} s to train: {self._budget.used:.0f} s "
                f"have gone, and results and export take about {self._tail.seconds:.0f} s; give it more"
            )
        self._training = ahead / max(1.0 - self._share, 1e-6)
        # How many there will be is not known yet; a training that is resumed may have had more than that already.
        state.epochs = state.epoch if self._share >= 1.0 else max(state.epochs, state.epoch + 2)
        self._tell(state)

    def before_epoch(self, state: TrainingState) -> None:
        self._began = self._budget.used
        state.before, state.cut = self._steps, False

    def after_step(self, state: TrainingState) -> None:
        now = self._budget.used
        took, self._stepped = max(now - self._stepped, 0.0), now
        self._steps += 1
        self._a_step += (took - self._a_step) * (1.0 if self._steps == 1 else _NEWEST)
        if 0 < state.images_per_second < math.inf:
            self._tail.trained(1.0 / state.images_per_second)
        left = self._budget.left - self._tail.seconds
        before = self._epoch
        self._share = 1.0 if left <= 0 else self._share + (1.0 - self._share) * took / max(took + left, 1e-9)
        crossed = any(before < border <= self._epoch for border in self._borders)
        longest = _LONGEST_EPOCH * self._training
        if left <= self._a_step / 2:
            self._share, state.cut, state.epochs = 1.0, True, state.epoch + 1
        else:
            state.cut = crossed or now - self._began >= longest
            an_epoch = max(min(self._a_step * state.steps, longest), 1e-3)
            state.epochs = state.epoch + 2 + int(left / an_epoch)
        self._tell(state)

    def after_epoch(self, state: TrainingState) -> None:
        self._epochs_since += 1
        last = state.epoch + 1 >= state.epochs or state.stop_reason is not None
        cost = self._tail.keeping
        state.due = last or (
            self._epochs_since >= self._interval
            and self._budget.used - self._kept >= _TRAINED_TO_VALIDATED * cost
            # One that the last one would follow on its heels is left to that.
            and self._budget.left - self._tail.seconds > 2 * cost
        )
        if state.due:
            self._kept, self._epochs_since = self._budget.used, 0

    def kept(self) -> None:
        """All hooks are done with the epoch that was due."""
        now = self._budget.used
        self._tail.kept(now - self._kept)
        self._kept = now

    def _tell(self, state: TrainingState) -> None:
        state.share = self._share
        state.seconds_left = max(self._budget.left - self._tail.seconds, 0.0)

    def state(self) -> dict[str, Any]:
        used = self._budget.used
        return {"seconds": self._budget.seconds, "used": used, "share": self._share, "steps": self._steps}

    def share_in(self, state: dict[str, Any]) -> float:
        """The share of this training that was done where it left `state`. Raises ValueError, TypeError or KeyError."""
        seconds, used, share = (float(state[name]) for name in ("seconds", "used", "share"))
        if not (0 < seconds < math.inf and 0 <= used < math.inf and 0 <= share <= 1):
            raise ValueError(f"no state of a training by time: {state}")
        # Where the job has another time now, it has used another share of it.
        return min(share * seconds / self._budget.seconds, 1.0)

    def restore(self, state: dict[str, Any]) -> None:
        steps = state["steps"]
        if not isinstance(steps, int) or not 0 <= steps < 2**53:
            raise ValueError(f"no state of a training by time: {state}")
        self._share = self.share_in(state)
        self._budget.before = float(state["used"])
        self._steps = steps


class Kept(Hook):
    """Tells `ByTime` when an epoch that was due is validated and kept. The last of the hooks."""

    def __init__(self, pace: ByTime) -> None:
        self._pace = pace

    def after_epoch(self, state: TrainingState) -> None:
        if state.due:
            self._pace.kept()
