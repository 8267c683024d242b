"""The moving average of a network's parameters: what is validated, exported and kept in the checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import mxnet as mx

from common.engine.arrays import call_groups
from common.engine.averaging import AGE, kept_share


class MovingAverage:
    """Exponential moving average of parameters (Polyak & Juditsky 1992), BatchNorm's running statistics included.

    The parameters of single steps scatter around the point that they move to, the more so the higher the learning rate
    and the smaller the batch; their average lies nearer to it. parameters: by name. decay: weight of what has been
    averaged so far in an update, reached gradually; age: see `common.engine.averaging.AGE`. constants: names of others,
    which never move: by rounding, their average would be something else. A state of another engine may hold them.
    """

    def __init__(
        self,
        parameters: Mapping[str, Any],
        decay: float,
        constants: Collection[str] = (),
        age: float = AGE,
    ) -> None:
        self._parameters = dict(parameters)
        self._constants = frozenset(constants)
        self._decay, self._age = decay, age
        self._updates = 0
        self._averages = {name: self._value(name).copy() for name in self._parameters}
        self._groups = call_groups([average.size for average in self._averages.values()])

    def update(self) -> None:
        """Take in the parameters as they are now."""
        decay = kept_share(self._updates, self._decay, self._age)
        self._updates += 1
        averages = list(self._averages.values())
        values = [self._value(name) for name in self._averages]
        # average += (1 - decay) * (value - average), in one pass over memory where the arithmetic takes three.
        for group in self._groups:
            if len(group) == 1:
                (place,) = group
                average, value = averages[place], values[place]
                mx.nd.sgd_update(average, value, out=average, lr=1.0 - decay, wd=1.0, rescale_grad=-1.0)
                continue
            mx.nd.multi_sgd_update(
                *(array for place in group for array in (averages[place], values[place])),
                out=[averages[place] for place in group],
                num_weights=len(group),
                lrs=[1.0 - decay] * len(group),
                wds=[1.0] * len(group),
                rescale_grad=-1.0,
            )

    def adopt(self) -> None:
        """Give the parameters their averages as values."""
        self._set(self._averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters have their averages as values."""
        trained = {name: self._value(name).copy() for name in self._parameters}
        self.adopt()
        try:
            yield
        finally:
            self._set(trained)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, as plain data: the trained values, how many were averaged, and the averages of running
        statistics, in whose place others may be used."""
        return {
            "updates": self._updates,
            "trained": {name: self._value(name).asnumpy() for name in self._parameters},
            "statistics": {
                name: average.asnumpy() for name, average in self._averages.items() if "running_" in name
            },
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned, where the parameters' values are the averages."""
        self._updates = state["updates"]
        self._averages = {name: self._value(name).copy() for name in self._parameters}
        for name, value in state["statistics"].items():
            if name not in self._constants:
                self._averages[name][:] = value
        self._set(
            {
                name: mx.nd.array(value, dtype=value.dtype)
                for name, value in state["trained"].items()
                if name not in self._constants
            }
        )

    def _value(self, name: str) -> Any:
        """The parameter's values on the first device: trained parameters are the same on all, statistics nearly so."""
        return self._parameters[name].list_data()[0]

    def _set(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            for array in self._parameters[name].list_data():
                value.copyto(array)
