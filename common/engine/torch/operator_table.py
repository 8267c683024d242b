"""What each of MXNet's operators is in PyTorch: a function an operator, in one table.

Meanings are those of MXNet 1.9.1 (https://mxnet.apache.org/versions/1.9.1/api/python/docs/api/ and its sources under
src/operator). A function gets a node's attributes once, and gives what computes the node's outputs from its inputs;
those that behave differently in training get the `Pass` that they are part of before the inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from common.engine.symbol import Attributes
from common.engine.torch.reduction import Whole

Compute = Callable[..., Any]


@dataclass(frozen=True)
class Seen:
    """What a BatchNorm has seen: mean and one over the deviation of every channel.

    variance: name of the running one. momentum: share of the running statistics that stays. epsilon: added to the
    variance.
    """

    mean: Tensor
    inverse: Tensor
    variance: str
    momentum: float
    epsilon: float


@dataclass
class Pass:
    """One run of a graph. training: BatchNorm by the batch's statistics, and dropout drops.

    statistics: of these BatchNorms, by the name of their running mean; of a layer that runs twice, the first. whole: of
    the batch whose rows several ranks have, if they do.
    """

    training: bool
    statistics: dict[str, Seen] = field(default_factory=dict)
    whole: Whole | None = None


@dataclass(frozen=True)
class Call:
    """A node to be translated. inputs: names of the nodes that it has its inputs from."""

    name: str
    attributes: Attributes
    inputs: Sequence[str]


Make = Callable[[Call], Compute]


@dataclass(frozen=True)
class Operator:
    """An entry of the table.

    stateful: its function takes the `Pass` first. precision: in mixed precision it computes in the lower one ("lower"),
    takes its inputs as they come ("any"), or in float32 ("full").
    """

    make: Make
    stateful: bool
    precision: str


OPERATORS: dict[str, Operator] = {}


def operator(*names: str, stateful: bool = False, precision: str = "full") -> Callable[[Make], Make]:
    """Enter a function into the table under the names of its operator."""

    def enter(make: Make) -> Make:
        OPERATORS.update(dict.fromkeys(names, Operator(make, stateful, precision)))
        return make

    return enter


class Constants:
    """Arrays that a node brings with it, on the device where they are asked for."""

    def __init__(self, *arrays: np.ndarray) -> None:
        self._arrays = arrays
        self._on: dict[torch.device, list[Tensor]] = {}

    def on(self, device: torch.device) -> list[Tensor]:
        if device not in self._on:
            self._on[device] = [torch.from_numpy(array.copy()).to(device) for array in self._arrays]
        return self._on[device]
