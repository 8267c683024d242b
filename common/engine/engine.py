"""The seam behind which a training is computed: what an engine does, with whichever framework it computes.

Nothing beyond `common.engine` touches a device's arrays: batches, losses, parameters and predictions cross the seam as
NumPy arrays, and parameters have their structural names ("network.stages.0.1.weight").
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Blocks:
    """What an engine computes: three HybridBlocks over the same parameters, which hold the values to begin with.

    `common.engine.graph.trace` makes an operator graph of a block. network: what is exported; its parameters, and no
    others, are those of the model. training: from `inputs`, of which "images" are uint8 (B, H, W, 3), to losses (B,);
    the first is the sum that is minimised. inference: from uint8 images (B, H, W, 3) to predictions.
    """

    network: Any
    training: Any
    inputs: Sequence[str]
    inference: Any


@dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer: its name in `train.optimizer`, and what is asked of it. Every step is given a learning rate.

    momentum: of those that have one. wd: weight decay.
    """

    name: str = "sgd"
    learning_rate: float = 0.01
    momentum: float = 0.0
    wd: float = 0.0


#: What is raised where values do not fit what they are given to.
MISFITS = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class Engine(ABC):
    """Computes the steps of a training, on one device or several, and predictions between them.

    A step is `take`, `forward`, `backward`, a look at `losses` and `norms`, and then either `update` or `skip`. The
    next step's `take` may come before that look: what is taken is on its way while the device computes.
    """

    @abstractmethod
    def begin_epoch(self, seed: int) -> None:
        """Layers that draw random numbers draw by this seed from here on; `skip` falls back on statistics of now."""

    @abstractmethod
    def take(self, split: Sequence[np.ndarray], shared: Sequence[np.ndarray] = ()) -> None:
        """Bring these inputs of the training block, in its order, to where the next `forward` computes with them; the
        step that is under way goes on. They must hold until `forward` has returned.

        split: batch axis first, divided over the devices. shared: the same on every device.
        """

    @abstractmethod
    def forward(self) -> None:
        """Compute the losses of what was taken. Waits for nothing."""

    @abstractmethod
    def backward(self) -> None:
        """Compute the gradients of the first loss. Waits for nothing."""

    #: Rows of the smallest part of a batch that can be computed by itself: one a device. More than any batch has:
    #: `hold` and `let_go` are not there.
    least_rows: int = 1 << 62

    def hold(self) -> None:
        """Keep losses and gradients of what was computed: those of the next `forward` and `backward` are added to them,
        so that a batch whose computation needs too much memory is taken in parts."""
        raise NotImplementedError

    def let_go(self) -> None:
        """Forget what `hold` has kept, and what computations that failed have left."""
        raise NotImplementedError

    #: Seconds in which the host has waited for other ranks so far.
    waited: float = 0.0

    @abstractmethod
    def losses(self) -> np.ndarray:
        """The mean of each loss over the batch."""

    @abstractmethod
    def norms(self) -> np.ndarray:
        """The norm of each trained parameter's gradient of the mean loss."""

    @abstractmethod
    def update(self, learning_rate: float, norms: np.ndarray) -> None:
        """Take a step of the optimizer within the limit, and let the average follow. norms: what `norms` returned."""

    @abstractmethod
    def skip(self) -> bool:
        """Leave out a step whose losses or gradients are not finite; nothing remains of it.

        Returns whether the scale of the loss could be reduced, so that the next one may be finite.
        """

    @abstractmethod
    def averaged(self) -> AbstractContextManager[None]:
        """Within the block the parameters have their averages as values, if there are any, and BatchNorm the running
        statistics that go with them."""

    @abstractmethod
    def adopt_average(self) -> None:
        """Go on from the averages, if there are any, as if the training began there: without momentum."""

    @abstractmethod
    def parameters(self) -> dict[str, np.ndarray]:
        """The network's parameters by name."""

    @abstractmethod
    def set_parameters(self, values: dict[str, np.ndarray]) -> None:
        """Give the network what `parameters` returned; the block has it then, to be exported. Raises KeyError."""

    @abstractmethod
    def companions(self) -> dict[str, np.ndarray]:
        """What is trained with the network and no part of it, by name."""

    @abstractmethod
    def set_companions(self, values: dict[str, np.ndarray]) -> None:
        """Take up what `companions` returned. Raises KeyError."""

    @abstractmethod
    def multipliers(self) -> dict[str, list[float]]:
        """Multipliers of learning rate and weight decay by name of the network's parameter."""

    @abstractmethod
    def set_multipliers(self, values: dict[str, list[float]]) -> None:
        """Take up what `multipliers` returned. Raises KeyError."""

    @abstractmethod
    def average_state(self) -> dict[str, Any] | None:
        """What is averaged, as plain data, to be restored where the averages are the parameters' values."""

    @abstractmethod
    def restore_average(self, state: dict[str, Any] | None) -> None:
        """Take up what `average_state` returned."""

    @abstractmethod
    def optimizer_state(self) -> dict[str, Any]:
        """What `restore_optimizer` needs, as plain data: counts of updates and arrays by the parameter's name, and how
        the loss is scaled."""

    @abstractmethod
    def restore_optimizer(self, state: dict[str, Any]) -> None:
        """Take up what `optimizer_state` returned. Raises KeyError for a parameter that is not here."""

    @abstractmethod
    def predict(self, images: np.ndarray) -> list[np.ndarray]:
        """Outputs of the inference block for uint8 images (B, H, W, 3), in float32 as the exported model's."""
