"""How far one step of an optimizer may move a weight.

Random deep networks have gradients that differ a thousandfold between layers: the rate that suits one layer destroys
another within a few steps; one limit for all layers together would stop the others. So each weight has a limit of its
own, a share of its own size ("Large Batch Training of Convolutional Networks", You et al. 2017, where the share is the
step; here it is the longest one: LARC).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

#: Share of its own size by which a weight may change in one step: the trust coefficient of NVIDIA's LARC (apex).
LONGEST_STEP = 0.02

#: Optimizers whose steps are as long as the gradient: limiting the gradient limits the step.
PROPORTIONAL = ("ccsgd", "dcasgd", "lbsgd", "nag", "sgd")

#: Optimizers that move every number by about the learning rate, whatever the gradient.
BY_RATE = ("adagrad", "adam", "adamax", "adamw", "ftml", "nadam", "rmsprop", "signum")


@dataclass(frozen=True)
class Weight:
    """What a limit depends on of a weight as it is at a step.

    size: its norm. gradient: the norm of the gradient that the optimizer is given. lr_mult: multiplier of the learning
    rate. begins_at_0: it is made to begin there.
    """

    shape: tuple[int, ...]
    size: float
    gradient: float
    lr_mult: float = 1.0
    begins_at_0: bool = False


@dataclass(frozen=True)
class StepLimit(ABC):
    """Steps that change a weight by at most `share` of its size; a momentum adds what it has gathered before.

    Biases and BatchNorm's gamma and beta stand for values of about 1, and are measured by that where they are smaller.
    of_gradient: it is the gradient that is to be made smaller where a step would be too long, else the learning rate.
    """

    share: float = LONGEST_STEP
    of_gradient: ClassVar[bool]

    @abstractmethod
    def factor(self, weight: Weight, learning_rate: float) -> float:
        """What the weight's gradient or learning rate is to be multiplied by: 1, or less where a step is too long."""


@dataclass(frozen=True)
class GradientLimit(StepLimit):
    """For optimizers whose steps are as long as the gradient: one that is too long is scaled down.

    A weight that is made to begin at 0, as that of a deformable convolution's offsets, has the limit of one that begins
    at random: its own share of nothing would hold it there for ever.
    """

    of_gradient = True

    def factor(self, weight: Weight, learning_rate: float) -> float:
        """See StepLimit."""
        change = weight.gradient * learning_rate * weight.lr_mult
        size = weight.size
        if len(weight.shape) == 1 or weight.begins_at_0:
            size = max(size, _usual(weight.shape) * math.sqrt(math.prod(weight.shape)))
        return self.share * size / change if change > self.share * size else 1.0


@dataclass(frozen=True)
class RateLimit(StepLimit):
    """For optimizers such as Adam, which move every number by about the learning rate: that is limited.

    A layer whose numbers are smaller than those of an untrained one has the limit of that: a last layer that begins
    near 0 could not learn otherwise.
    """

    of_gradient = False

    def factor(self, weight: Weight, learning_rate: float) -> float:
        """See StepLimit."""
        number = max(weight.size / math.sqrt(math.prod(weight.shape)), _usual(weight.shape))
        rate = learning_rate * weight.lr_mult
        return self.share * number / rate if rate > self.share * number else 1.0


def limit_for(optimizer: str, share: float = LONGEST_STEP) -> StepLimit | None:
    """The limit that suits an optimizer; None for one that sets the length of its steps by itself."""
    if optimizer in PROPORTIONAL:
        return GradientLimit(share)
    return RateLimit(share) if optimizer in BY_RATE else None


def _usual(shape: Sequence[int]) -> float:
    """Size of a number of an untrained layer: biases and BatchNorm's stand for values of about 1."""
    return 1.0 if len(shape) == 1 else 1.0 / math.sqrt(math.prod(shape[1:]))
