"""The landmark network: keypoints from the last map of a base network, where places are still apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import mxnet as mx
import numpy as np
from mxnet.gluon import nn

from common.networks import AveragePool, base_map, initialize
from landmark.losses import UNIT

# The head sees so many places a side, whatever the input's size: what a 224 pixel input gives.
_PLACES = 7
# Channels at each place: few, as the Dense layer behind them has a weight for each of them and each
# coordinate.
_CHANNELS = 128


class LandmarkNetwork(nn.HybridBlock):
    """Normalised images (B, 3, H, W) to points (B, num_joints, 2), shares of the input's width and height.

    The usual pooling over all places would leave it to the channels to say where something is; `output` has a
    weight for each place instead. It counts in per cent of the input's sides: thousands of weights, each
    moved by an optimizer's first step, must not throw the points out of the image. Its bias is the shape that
    is predicted for an image without evidence.
    """

    def __init__(self, name: str, num_joints: int, **variants: bool) -> None:
        super().__init__()
        self.num_joints = num_joints
        with self.name_scope():
            self.features = base_map(name, **variants)
            self.reduce = nn.HybridSequential()
            self.reduce.add(
                AveragePool(_PLACES),
                nn.Conv2D(_CHANNELS, 1, use_bias=False),
                nn.BatchNorm(in_channels=_CHANNELS),
                nn.Activation("relu"),
                nn.Flatten(),
            )
            self.output = nn.Dense(
                2 * num_joints,
                in_units=_CHANNELS * _PLACES**2,
                weight_initializer=mx.init.Normal(0.01),
                bias_initializer=mx.init.Constant(0.5 * UNIT),
            )

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.reshape(self.output(self.reduce(self.features(x))) / UNIT, shape=(0, -1, 2))


def build_landmark(name: str, num_joints: int, contexts: Sequence[Any], **variants: bool) -> LandmarkNetwork:
    """The network with random parameters; options and errors of `common.networks.base_features`."""
    network = LandmarkNetwork(name, num_joints, **variants)
    network.infer_shape(mx.nd.zeros((1, 3, 32, 32)))
    initialize(network, contexts)
    return network


def set_mean_shape(network: LandmarkNetwork, shape: np.ndarray) -> None:
    """Let the network begin with `shape` (num_joints, 2), normalised: the mean of the training set."""
    network.output.bias.set_data(mx.nd.array(UNIT * np.asarray(shape, np.float32).reshape(-1)))
