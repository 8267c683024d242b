"""The landmark network: keypoints from two maps of a base network, where places are still apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from common.engine.graph import infer_shapes
from common.engine.parameters import set_value
from common.networks.base_networks import AveragePool, base_map, initialize
from landmark.losses import UNIT

# The head sees so many places a side, whatever the input's size: what the last map of a 224 pixel input has.
_PLACES = 7
# Channels at each place: few, as the Dense layer behind them has a weight for each of them and each
# coordinate.
_CHANNELS = 64
# How much smaller than the input the finer of the two maps is.
_FINE = 16


class _Places(nn.HybridSequential):
    """A map (B, C, h, w) of any size to `_CHANNELS` numbers at each of `_PLACES` x `_PLACES` places, flat."""

    def __init__(self, kernel: int) -> None:
        super().__init__()
        with self.name_scope():
            self.add(
                nn.Conv2D(_CHANNELS, kernel, padding=kernel // 2, use_bias=False),
                nn.BatchNorm(in_channels=_CHANNELS),
                nn.Activation("relu"),
                AveragePool(_PLACES),
                nn.Flatten(),
            )


class LandmarkNetwork(nn.HybridBlock):
    """Normalised images (B, 3, H, W) to points (B, num_joints, 2), shares of the input's width and height.

    The usual pooling over all places would leave it to the channels to say where something is; `output` has a weight
    for each place instead. What the last map (`coarse`) knows of places is little, for a classifier has no need of
    it; the one before, a sixteenth of the input, still has it (`fine`): where the base network is ImageNet's and
    frozen, the error by the finer map is 0.6 times that by the last. `output` counts in per cent of the input's
    sides: thousands of weights, each moved by an optimizer's first step, must not throw the points out of the image.
    Its bias is the shape that is predicted for an image without evidence.
    """

    def __init__(self, name: str, num_joints: int, **variants: bool) -> None:
        super().__init__()
        self.num_joints = num_joints
        with self.name_scope():
            self.features = base_map(name, **variants)
            self.fine = _Places(3)
            self.coarse = _Places(1)
            self.output = nn.Dense(
                2 * num_joints,
                in_units=2 * _CHANNELS * _PLACES**2,
                weight_initializer=mx.init.Normal(0.01),
                bias_initializer=mx.init.Constant(0.5 * UNIT),
            )
        self.fine_layer = _last_of_size(self.features, _FINE)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        fine = x
        for number, layer in enumerate(self.features):
            x = layer(x)
            if number == self.fine_layer:
                fine = x
        places = F.concat(self.fine(fine), self.coarse(x), dim=1)
        return F.reshape(self.output(places) / UNIT, shape=(0, -1, 2))


def _last_of_size(features: nn.HybridSequential, divisor: int) -> int:
    """Number of the last layer whose map is 1 / `divisor` of the input."""
    size = 16 * divisor
    x = mx.sym.var("data", shape=(1, 3, size, size))
    last = -1
    for number, layer in enumerate(features):
        x = layer(x)
        _, (shape,), _ = x.infer_shape()
        if shape[2] == size // divisor:
            last = number
    return last


def build_landmark(name: str, num_joints: int, contexts: Sequence[Any], **variants: bool) -> LandmarkNetwork:
    """The network with random parameters; options and errors of `common.networks.base_networks.base_features`."""
    network = LandmarkNetwork(name, num_joints, **variants)
    infer_shapes(network, (1, 3, 32, 32))
    initialize(network, contexts)
    return network


def set_mean_shape(network: LandmarkNetwork, shape: np.ndarray) -> None:
    """Let the network begin with `shape` (num_joints, 2), normalised: the mean of the training set."""
    set_value(network.output.bias, UNIT * np.asarray(shape, np.float32).reshape(-1))
