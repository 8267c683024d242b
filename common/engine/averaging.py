"""What engines that keep a moving average of their parameters share: how far back it reaches, and how it is used."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from common.engine.batch_statistics import BatchStatistics
from common.engine.engine import Engine

#: How old what is averaged is in the mean, as a share of the training so far, until `decay` limits it: short trainings
#: and long ones alike are averaged over their last tenth.
AGE = 0.1


def kept_share(updates: int, decay: float, age: float = AGE) -> float:
    """The weight of what `updates` updates have averaged in the next one; decay: the largest. age: see AGE."""
    return min(decay, (1.0 + updates) / (1.0 / age + updates))


class Average(Protocol):
    """A moving average of parameters on the devices of an engine."""

    def applied(self) -> AbstractContextManager[None]:
        """Within the block the parameters have their averages as values."""

    def adopt(self) -> None:
        """Give the parameters their averages as values."""

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data."""

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` returned, where the parameters' values are the averages."""


class Momentum(Protocol):
    """An optimizer's memory."""

    def forget_momentum(self) -> None:
        """Go on as if no step had been taken."""


class AveragingEngine(Engine):
    """An engine with an average, if one is kept, and BatchNorm's statistics that are measured for it."""

    _average: Average | None
    _batch_statistics: BatchStatistics
    _updater: Momentum

    @contextmanager
    def averaged(self) -> Iterator[None]:
        if not self._average:
            yield
            return
        with self._average.applied():
            self._batch_statistics.apply()
            yield

    def adopt_average(self) -> None:
        if self._average:
            self._average.adopt()
            self._updater.forget_momentum()

    def average_state(self) -> dict[str, Any] | None:
        return self._average.state() if self._average else None

    def restore_average(self, state: dict[str, Any] | None) -> None:
        if self._average and state:
            self._average.restore(state)
