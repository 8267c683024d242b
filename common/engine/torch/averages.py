"""The moving average of parameters, and the statistics of BatchNorms that go with it, with PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch import Tensor

from common.engine.averaging import kept_share
from common.engine.batch_statistics import BatchStatistics, Normalisation
from common.engine.torch import lists
from common.engine.torch.operators import Seen
from common.engine.torch.tensors import array, assign
from common.ranks.ranks import Ranks


class TensorAverage:
    """The moving average of parameters by name; see `common.engine.average.MovingAverage`."""

    def __init__(self, parameters: Mapping[str, Tensor], decay: float, age: float) -> None:
        self._names, self._values = list(parameters), [value.detach() for value in parameters.values()]
        self._decay, self._age = decay, age
        self._updates = 0
        self._averages = [value.clone() for value in self._values]

    def update(self) -> None:
        """Take in the parameters as they are now."""
        share = 1.0 - kept_share(self._updates, self._decay, self._age)
        self._updates += 1
        lists.approach(self._averages, self._values, share)

    def adopt(self) -> None:
        """Give the parameters their averages as values."""
        lists.copy(self._values, self._averages)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters have their averages as values."""
        trained = [value.clone() for value in self._values]
        self.adopt()
        try:
            yield
        finally:
            lists.copy(self._values, trained)

    def state(self) -> dict[str, Any]:
        """What `restore` needs, in the form of MXNet's engine."""
        pairs = list(zip(self._names, self._values, self._averages, strict=True))
        return {
            "updates": self._updates,
            "trained": {name: array(value) for name, value, _ in pairs},
            "statistics": {name: array(average) for name, _, average in pairs if "running_" in name},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned, where the parameters' values are the averages."""
        self._updates = state["updates"]
        lists.copy(self._averages, self._values)
        place = {name: number for number, name in enumerate(self._names)}
        for name, value in state["statistics"].items():
            assign(self._averages[place[name]], value)
        for name, value in state["trained"].items():
            assign(self._values[place[name]], value)


class SeenStatistics(BatchStatistics):
    """Statistics of the BatchNorms of a graph.

    values: of its parameters, by the names that they have there. look: what the BatchNorms see of uint8 images (B, H,
    W, 3) in training, by the name of their running mean. ranks: that train together.
    """

    def __init__(
        self, values: Mapping[str, Tensor], look: Callable[[np.ndarray], Mapping[str, Seen]], ranks: Ranks
    ) -> None:
        super().__init__()
        self._values, self._look, self._ranks = values, look, ranks
        self._layers: list[Normalisation] | None = None

    def layers(self) -> Sequence[Normalisation]:
        if self._layers is None:
            seen = self._look(self._recent[-1][:1])
            self._layers = [Normalisation(name, each.variance, each.epsilon) for name, each in seen.items()]
        return self._layers

    def together(self, pieces: list[list[np.ndarray]]) -> list[list[np.ndarray]]:
        return [piece for part in self._ranks.all(pieces) for piece in part]

    @property
    def shares(self) -> int:
        return self._ranks.size

    def reach(self, images: np.ndarray) -> list[np.ndarray]:
        seen = self._look(images).values()
        return [array(part.float()) for each in seen for part in (each.mean, each.inverse)]

    def read(self, name: str) -> np.ndarray:
        return array(self._values[name])

    def write(self, name: str, value: np.ndarray) -> None:
        assign(self._values[name], value)
