"""Random parameters to begin with."""

from __future__ import annotations

import math
from typing import Any

import mxnet as mx
import numpy as np
from mxnet import gluon

from common.engine.mxnet_internals import descendants

# Five of six normally distributed numbers are above 0 when 1 has been added.
_OPENED = 1.0


class HeNormal(mx.init.Initializer):
    """Normally distributed weights with variance 2 / ((1 + slope²) fan), for layers in front of a ReLU.

    "Delving Deep into Rectifiers", He et al. 2015; the values that `mx.init.MSRAPrelu` has, in a third of its time,
    which for the largest networks is half a second. fan: "in" for the inputs of an output, "avg" for the mean
    of these and the outputs of an input. slope: of the ReLU below 0. Biases and the like begin as with any initialiser.
    """

    def __init__(self, fan: str, slope: float = 0.0) -> None:
        super().__init__(fan=fan, slope=slope)
        self._fan = fan
        self._gain = math.sqrt(2.0 / (1.0 + slope**2))
        # MXNet's random state decides, as it does for its own initialisers. It is asked once: an answer comes when
        # MXNet has done what it was given before, such as filling the gradients of all weights with zeros.
        self._rng = np.random.default_rng(int(mx.nd.random.randint(0, 2**31 - 1, shape=(1,)).asscalar()))
        self._values = np.empty(0, np.float32)

    def _init_weight(self, name: str, arr: Any) -> None:
        field = math.prod(arr.shape[2:])
        inputs, outputs = arr.shape[1] * field, arr.shape[0] * field
        fan = inputs if self._fan == "in" else (inputs + outputs) / 2
        if self._values.size < arr.size:  # one memory for all: new memory takes as long as the numbers
            self._values = np.empty(arr.size, np.float32)
        values = self._values[: arr.size]
        self._rng.standard_normal(dtype=np.float32, out=values)
        values *= self._gain / math.sqrt(fan)
        arr[:] = values.reshape(arr.shape)


class NearZero(mx.init.Zero):
    """Normally distributed weights so small that the layer is one that begins at 0.

    Its steps are limited as those of an untrained layer, and not by its own small size (`common.engine.limits`).
    """

    def __init__(self, deviation: float) -> None:
        mx.init.Initializer.__init__(self, deviation=deviation)
        self._deviation = deviation

    def _init_weight(self, name: str, arr: Any) -> None:
        mx.random.normal(0, self._deviation, arr.shape, out=arr)


def begin_nearly_linear(block: gluon.Block) -> None:
    """Let the BatchNorms below `block`, which has no values yet, begin with a beta by which most of what they give
    passes the ReLUs behind them.

    In a deep network without shortcuts whose BatchNorms begin at 0, gradients grow from layer to layer, and after the
    smallest change of its random weights they point elsewhere: steps lead nowhere. Nearer to a linear network they grow
    less ("A Mean Field Theory of Batch Normalization", Yang et al. 2019), and hold for the length of a step
    (benchmarks/QUALITY.md).
    """
    for layer in descendants(block):
        if isinstance(layer, gluon.nn.BatchNorm) and layer.beta.grad_req != "null":
            layer.beta.init = mx.init.Constant(_OPENED)
