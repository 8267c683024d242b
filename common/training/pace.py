"""A training that lasts a given time: its schedule is laid over the clock instead of over a number of epochs."""

from __future__ import annotations

import logging
import math
import os
import statistics
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from common.engine.schedule import Schedule
from common.reporting import warnings
from common.training.estimator import Hook, TrainingState

log = logging.getLogger("visualtl")

# An epoch is validated and kept when the training since the last such one has taken so many times as long as that.
_TRAINED_TO_VALIDATED = 9.0
# An epoch ends after this share of the training even if it has not seen all images: large sets are validated and kept
# on the way too. More often would cost: what is made ahead of an epoch's end is lost.
_LONGEST_EPOCH = 0.25
# One that the last one would follow sooner than after this share of that time is left to it.
_HEELS = 0.5
# Of so many steps the middle one says how long a step takes: the first of an epoch waits for its images.
_STEPS = 9
# Of so many validations the middle one says how long one takes; what was foreseen counts as the first.
_MEASURED = 3
# The rate rises within this share of the training at the most, however few steps that is.
_SOFT = 0.1
# A training that has less than this share of the time that is left is told to be short.
_LITTLE = 0.25

# What is foreseen as long as nothing of the kind was measured. Jobs of SSD, YOLOv3 and a classifier took: for an image
# that is predicted 0.43 to 0.64 of what one takes that is trained on; for the 32 or so that BatchNorm's statistics are
# measured on 0.7 to 0.97; to write a checkpoint 0.5 to 1.5 s, the more the larger it is.
_FORWARD = 0.55
_STATISTICS = 32 * 0.8
_CHECKPOINT, _CHECKPOINT_MEGABYTE = 0.6, 0.01
# After the last validation nothing can be measured. ONNX files predict an image in 0.4 to 1.0 of the time that the
# model itself takes on processors, which compute them also where a GPU trains (a guess: no GPU was seen); files are
# written the slower the larger they are; the rest is a report.
_PROVED, _PROVED_BESIDE_GPU = 0.8, 0.15
_EXPORT, _EXPORT_MEGABYTE = 0.1, 0.003
_ONNX, _ONNX_MEGABYTE = 0.15, 0.012
_REPORT = 0.2
# The main thread has computed for so many seconds when it is looked at how long it waited for a processor.
_LOOKED_AT = 0.25


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


class Slowness:
    """How many times as long the main thread takes as it computes, because the machine has other work.

    seconds: that it has computed, and waited for a processor, so far.
    """

    def __init__(self, seconds: Callable[[], tuple[float, float]] | None = None) -> None:
        self._seconds = seconds or _of_main_thread
        self._before = self._seconds()
        self._factor = 1.0

    def __call__(self) -> float:
        """Lately."""
        computed, waited = self._seconds()
        lately = computed - self._before[0]
        if lately >= _LOOKED_AT:
            self._factor = 1.0 + (waited - self._before[1]) / lately
            self._before = computed, waited
        return self._factor


def _of_main_thread() -> tuple[float, float]:
    try:
        fields = Path(f"/proc/self/task/{os.getpid()}/schedstat").read_text().split()
    except OSError:  # a kernel that does not count
        return 0.0, 0.0
    return int(fields[0]) / 1e9, int(fields[1]) / 1e9


class Tail:
    """What a job takes after the last step of its training, foreseen part by part.

    batch: images of one. valid, test: images of the sets. megabytes: of the parameters. files: of ONNX. proved: images
    that these are held against. on_gpu: where it is trained. What is foreseen grows with the time of a training step,
    so that it holds for a machine that has other work now.
    """

    def __init__(
        self,
        batch: int,
        valid: int,
        test: int,
        *,
        megabytes: float = 0.0,
        files: int = 0,
        proved: int = 0,
        on_gpu: bool = False,
    ) -> None:
        self._batch = batch
        self._valid, self._test = (-(-images // batch) * batch for images in (valid, test))
        self._megabytes = megabytes
        self._files = files
        self._proved = proved
        self._on_gpu = on_gpu
        self._a_step = 0.0
        # Relative to a step: what predicting an image and keeping an epoch took.
        self._forward = _FORWARD / batch
        self._kept: deque[float] = deque(maxlen=_MEASURED)
        self._rehearsed: float | None = None
        self._steps = 0
        self._slowness = 1.0

    def stepped(self, seconds: float, slowness: float = 1.0) -> None:
        """What a step of the training takes at present, and how much slower all else is than on a free machine."""
        self._a_step, self._slowness = seconds, slowness
        if self._rehearsed is not None and self._steps < _STEPS:
            # What the same machine took a moment ago. The first step also makes the graph.
            self._forward = self._rehearsed / self._batch / seconds
        self._steps += 1

    def rehearsed(self, seconds: float) -> None:
        """What predicting a batch took before the first step."""
        self._rehearsed = seconds

    def predicted(self, seconds: float) -> None:
        """What predicting the whole validation set takes."""
        if self._a_step and self._valid:
            self._forward = seconds / self._valid / self._a_step

    def kept(self, seconds: float) -> None:
        """What an epoch's validation and checkpoint have taken."""
        if self._a_step:
            if not self._kept:  # a single one that something has held up would stand for all others
                self._kept.append(self.keeping / self._a_step)
            self._kept.append(seconds / self._a_step)

    @property
    def keeping(self) -> float:
        """Seconds that validating and keeping an epoch takes."""
        if self._kept:
            return statistics.median(self._kept) * self._a_step
        measuring = _STATISTICS / self._batch * self._a_step
        writing = _CHECKPOINT + _CHECKPOINT_MEGABYTE * self._megabytes
        return measuring + self._predicting(self._valid) + writing * self._slowness

    @property
    def parts(self) -> dict[str, float]:
        """Seconds of each part of what comes after the last step."""
        writing = _EXPORT + _EXPORT_MEGABYTE * self._megabytes
        writing += self._files * (_ONNX + _ONNX_MEGABYTE * self._megabytes)
        beside_gpu = _PROVED_BESIDE_GPU * self._slowness * self._proved
        proving = beside_gpu if self._on_gpu else _PROVED * self._predicting(self._proved)
        return {
            "validation": self.keeping,
            "predictions": self._predicting(self._valid + self._test),
            "export": writing * self._slowness + proving,
            "report": _REPORT * self._slowness,
        }

    @property
    def seconds(self) -> float:
        """From the last step to the end of the job."""
        return sum(self.parts.values())

    def _predicting(self, images: int) -> float:
        return images * self._forward * self._a_step


class ByTime(Hook):
    """Moves a training along its schedule by the clock, and ends it so that its job ends in time.

    The share of the training that is done grows with every step by what the step took of the time that was left, so
    that it reaches 1 when the time is up, whatever has become slower or faster on the way. The learning rate is that of
    the schedule at this share of its epochs, from `first` on. Epochs are passes over the set, as many as there is time
    for, and those are validated and kept that are due. It must come before hooks that ask for any of this, and after it
    `Kept` at their end. interval: of epochs between two that are due, at the least. borders: places in the schedule, in
    epochs, at which something changes that changes between epochs: there one ends and another begins. agree: gives the
    numbers of the first of several ranks, whose clock counts for all. slowness: see `Slowness`.
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
        agree: Callable[[Sequence[float]], list[float]] = list,
        slowness: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self._budget = budget
        self._schedule = schedule
        self._tail = tail
        self._first = first
        self._interval = interval
        self._borders = list(borders)
        self._agree = agree
        self._slowness = slowness
        self._share = 0.0
        self._steps = 0
        self._latest: deque[float] = deque(maxlen=_STEPS)  # seconds of steps
        self._training = 1.0  # seconds of the whole training, as they were foreseen at its beginning
        self._rate: float | None = None  # of the first step of the last epoch
        # Moments, in seconds of the budget that were used.
        self._stepped = self._began = self._kept = 0.0
        # Of the predictions of a validation: the share that is done and the moment, first and last.
        self._marks: list[tuple[float, float]] = []
        self._epochs_since = 0

    def learning_rate(self, step: int) -> float:
        """Of the step to come. Its number in a training of whole epochs says nothing here."""
        soft = self._share / _SOFT * self._schedule.soft_steps
        return self._schedule.at(self._epoch, max(self._steps, int(soft)))

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
        self._began = self._stepped = self._budget.used
        state.before, state.cut = self._steps, False

    def after_step(self, state: TrainingState) -> None:
        now = self._budget.used
        took, self._stepped = max(now - self._stepped, 0.0), now
        self._steps += 1
        self._latest.append(took)
        a_step = statistics.median(self._latest)
        self._tail.stepped(a_step, self._slowness())
        left = self._budget.left - self._tail.seconds
        longest = _LONGEST_EPOCH * self._training
        an_epoch = max(min(a_step * state.steps, longest), 1e-3)
        training = left * self._training_share(left, an_epoch)
        before = self._epoch
        done = 1.0 if left <= 0 else took / max(took + training, 1e-9)
        self._share += (1.0 - self._share) * done
        crossed = any(before < border <= self._epoch for border in self._borders)
        if left <= a_step / 2:
            self._share, state.cut, state.epochs = 1.0, True, state.epoch + 1
        else:
            state.cut = crossed or now - self._began >= longest
            state.epochs = state.epoch + 2 + int(left / an_epoch)
        self._share, cut, epochs = self._agree([self._share, state.cut, state.epochs])
        state.cut, state.epochs = bool(cut), int(epochs)
        self._tell(state)

    def _training_share(self, left: float, an_epoch: float) -> float:
        """The share of the seconds that are left in which steps are taken, and nothing is validated."""
        cost = self._tail.keeping
        between = max(_TRAINED_TO_VALIDATED * cost, self._interval * an_epoch, 1e-9)
        return between / (between + cost) if left > between else 1.0

    def after_epoch(self, state: TrainingState) -> None:
        self._epochs_since += 1
        last = state.epoch + 1 >= state.epochs or state.stop_reason is not None
        cost = self._tail.keeping
        state.due = last or (
            self._epochs_since >= self._interval
            and self._budget.used - self._kept >= _TRAINED_TO_VALIDATED * cost
            and self._budget.left - self._tail.seconds >= (1 + _HEELS * _TRAINED_TO_VALIDATED) * cost
        )
        state.due = bool(self._agree([state.due])[0])
        if state.due:
            self._kept, self._epochs_since = self._budget.used, 0
        if last:
            parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self._tail.parts.items())
            log.debug("Foreseen from here to the end: %s", parts)

    def rehearse(self, predict: Callable[[], Any]) -> None:
        """Predict a batch: once to make the graph, which a validation would do, and again to see how long it takes."""
        predict()
        began = self._budget.used
        predict()
        self._tail.rehearsed(self._budget.used - began)

    def predicting(self, share: float) -> None:
        """So much of the validation set is predicted: told at the beginning, and after every batch."""
        if share <= 0.0:
            self._marks.clear()
        self._marks[1:] = [(share, self._budget.used)]

    def kept(self) -> None:
        """All hooks are done with the epoch that was due."""
        now = self._budget.used
        if len(self._marks) == 2:
            (begun, began), (done, ended) = self._marks
            self._tail.predicted((ended - began) / (done - begun))
        self._tail.kept(now - self._kept)
        log.debug("Took: validation %.1f s", now - self._kept)
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
