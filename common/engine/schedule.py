"""The learning rate of every step of a training: linear warm-up, then step, poly or cosine decay."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the step.

    base_lr: rate after warm-up. mode: "step" (times `decay` at each of `decay_epochs`, or every `decay_period` epochs
    where that is positive), "poly" (base_lr * (1 - t)**2) or "cosine" (half a cosine), t running from 0 at the end
    of warm-up to 1 at the end of training. Warm-up is linear from warmup_lr over warmup_epochs. Epochs count from
    `start_epoch`'s number on: the step at the beginning of epoch e is e * steps_per_epoch. Modes as in GluonCV's
    `LRScheduler` ("poly" with power 2). Beside all this the rate rises linearly over the first `soft_steps` steps from
    `first_step` on: fresh layers and an empty momentum do not bear the full rate at once.
    """

    base_lr: float
    mode: str
    epochs: int
    steps_per_epoch: int
    decay: float = 0.1
    decay_epochs: Sequence[int] = ()
    decay_period: int = 0
    warmup_lr: float = 0.0
    warmup_epochs: float = 0.0
    soft_steps: int = 0
    first_step: int = 0

    def __call__(self, step: int) -> float:
        """Learning rate of the step with this number (0 is the first step of epoch 0)."""
        return self.at(step / self.steps_per_epoch, step - self.first_step)

    def at(self, epoch: float, done: int) -> float:
        """Learning rate at a place in the schedule, in epochs, of a training that has done so many steps."""
        return self._decayed(epoch) * min((done + 1) / max(self.soft_steps, 1), 1.0)

    def steps_down_at(self, epoch: int) -> bool:
        """Whether the rate falls by half or more from above 0 between the last step before this epoch and its first."""
        first = epoch * self.steps_per_epoch
        if first <= self.first_step:
            return False
        before = self(first - 1)
        return self(first) <= before / 2 < before

    def _decayed(self, epoch: float) -> float:
        if epoch < self.warmup_epochs:
            return self.warmup_lr + (self.base_lr - self.warmup_lr) * epoch / self.warmup_epochs
        if self.mode == "step":
            if self.decay_period > 0:
                return self.base_lr * self.decay ** (int(epoch) // self.decay_period)
            return self.base_lr * self.decay ** sum(epoch >= decay_epoch for decay_epoch in self.decay_epochs)
        span = max(self.epochs - self.warmup_epochs, 1.0 / self.steps_per_epoch)
        t = min(max((epoch - self.warmup_epochs) / span, 0.0), 1.0)
        if self.mode == "poly":
            return self.base_lr * (1.0 - t) ** 2
        if self.mode == "cosine":
            return self.base_lr * 0.5 * (1.0 + math.cos(math.pi * t))
        raise ValueError(f"unknown learning rate mode {self.mode!r}; step, poly and cosine are known")
