"""How far one step of an optimizer may move a weight.

Random deep networks have gradients that differ a thousandfold between layers: the rate that suits one layer destroys
another within a few steps; one limit for all layers together would stop the others. So each weight has a limit of its
own, a share of its own size ("Large Batch Training of Convolutional Networks", You et al. 2017, where the share is the
step; here it is the longest one: LARC).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import mxnet as mx
import numpy as np

from common.engine.arrays import host_view

#: Share of its own size by which a weight may change in one step.
LONGEST_STEP = 0.02


class StepLimit(ABC):
    """Steps that change a weight by at most `share` of its size; a momentum adds what it has gathered before.

    Biases and BatchNorm's gamma and beta stand for values of about 1, and are measured by that where they are smaller.
    """

    def __init__(self, share: float = LONGEST_STEP) -> None:
        self.share = share

    @abstractmethod
    def applied(
        self, parameters: Sequence[Any], gradient_norms: np.ndarray, learning_rate: float
    ) -> AbstractContextManager[None]:
        """Within the block an update of `parameters` keeps to the limit.

        gradient_norms: of what the optimizer is given, one a parameter.
        """


class GradientLimit(StepLimit):
    """For optimizers whose steps are as long as the gradient: one that is too long is scaled down.

    A weight that is made to begin at 0, as that of a deformable convolution's offsets, has the limit of one that begins
    at random: its own share of nothing would hold it there for ever.
    """

    @contextmanager
    def applied(
        self, parameters: Sequence[Any], gradient_norms: np.ndarray, learning_rate: float
    ) -> Iterator[None]:
        """See StepLimit."""
        for parameter, gradient_norm, size in zip(
            parameters, gradient_norms, _sizes(parameters), strict=True
        ):
            change = gradient_norm * learning_rate * parameter.lr_mult
            if len(parameter.shape) == 1 or _begins_at_0(parameter):
                size = max(size, _usual(parameter.shape) * math.sqrt(math.prod(parameter.shape)))
            if change > self.share * size:
                for gradient in parameter.list_grad():
                    gradient *= self.share * size / change
        yield


class RateLimit(StepLimit):
    """For optimizers such as Adam, which move every number by about the learning rate: that is limited.

    A layer whose numbers are smaller than those of an untrained one has the limit of that: a last layer that begins
    near 0 could not learn otherwise.
    """

    @contextmanager
    def applied(
        self, parameters: Sequence[Any], gradient_norms: np.ndarray, learning_rate: float
    ) -> Iterator[None]:
        """See StepLimit."""
        multipliers = [parameter.lr_mult for parameter in parameters]
        for parameter, size in zip(parameters, _sizes(parameters), strict=True):
            number = max(size / math.sqrt(math.prod(parameter.shape)), _usual(parameter.shape))
            rate = learning_rate * parameter.lr_mult
            if rate > self.share * number:
                parameter.lr_mult *= self.share * number / rate
        try:
            yield
        finally:  # checkpoints hold what was asked for
            for parameter, multiplier in zip(parameters, multipliers, strict=True):
                parameter.lr_mult = multiplier


def norms(arrays: Sequence[Any]) -> np.ndarray:
    """The norm of each of the arrays, which are on one device."""
    if arrays[0].context.device_type == "cpu":  # BLAS takes a fifth of the time
        flat = [host_view(array).ravel() for array in arrays]
        return np.sqrt([np.dot(numbers, numbers) for numbers in flat])
    found: np.ndarray = np.sqrt(mx.nd.multi_sum_sq(*arrays, num_arrays=len(arrays)).asnumpy())
    return found


def _sizes(parameters: Sequence[Any]) -> np.ndarray:
    return norms([parameter.list_data()[0] for parameter in parameters])


def _begins_at_0(parameter: Any) -> bool:
    return parameter.init == "zeros" or isinstance(parameter.init, mx.init.Zero)


def _usual(shape: Sequence[int]) -> float:
    """Size of a number of an untrained layer: biases and BatchNorm's stand for values of about 1."""
    return 1.0 if len(shape) == 1 else 1.0 / math.sqrt(math.prod(shape[1:]))
