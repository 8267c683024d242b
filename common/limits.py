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
from typing import Any

import mxnet as mx
import numpy as np


class StepLimit(ABC):
    """Steps that change a weight by at most `share` of its size.

    Biases and BatchNorm's gamma and beta stand for values of about 1, and are measured by that where they are smaller.
    """

    def __init__(self, share: float) -> None:
        self.share = share

    @abstractmethod
    def apply(self, parameters: Sequence[Any], gradients: np.ndarray, learning_rate: float) -> None:
        """Prepare a step of `parameters`. gradients: norms of what the optimizer is given, one a parameter."""


class GradientLimit(StepLimit):
    """For optimizers whose steps are as long as the gradient: one that is too long is scaled down."""

    def apply(self, parameters: Sequence[Any], gradients: np.ndarray, learning_rate: float) -> None:
        """See StepLimit."""
        for parameter, norm, size in zip(parameters, gradients, norms_of(parameters), strict=True):
            change = norm * learning_rate * parameter.lr_mult
            if len(parameter.shape) == 1:
                size = max(size, math.sqrt(parameter.shape[0]))
            if change > self.share * size:
                for gradient in parameter.list_grad():
                    gradient *= self.share * size / change


class RateLimit(StepLimit):
    """For optimizers such as Adam, which move every number by about the learning rate: that is limited.

    A layer whose numbers are smaller than those of an untrained one has the limit of that: a last layer that begins
    near 0 could not learn otherwise.
    """

    def __init__(self, share: float) -> None:
        super().__init__(share)
        self._multipliers: dict[str, float] = {}

    def apply(self, parameters: Sequence[Any], gradients: np.ndarray, learning_rate: float) -> None:
        """See StepLimit."""
        for parameter, norm in zip(parameters, norms_of(parameters), strict=True):
            multiplier = self._multipliers.setdefault(parameter.name, parameter.lr_mult)
            size = max(norm / math.sqrt(math.prod(parameter.shape)), _usual(parameter.shape))
            rate = learning_rate * multiplier
            parameter.lr_mult = multiplier * min(1.0, self.share * size / rate) if rate else multiplier


def norms_of(parameters: Sequence[Any]) -> np.ndarray:
    """Norm of each parameter's values."""
    values = [parameter.list_data()[0] for parameter in parameters]
    return np.sqrt(mx.nd.multi_sum_sq(*values, num_arrays=len(values)).asnumpy())


def _usual(shape: Sequence[int]) -> float:
    """Size of a number of an untrained layer: biases and BatchNorm's stand for values of about 1."""
    return 1.0 if len(shape) == 1 else 1.0 / math.sqrt(math.prod(shape[1:]))
