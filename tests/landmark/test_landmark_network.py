"""The landmark network sees the finer of its two maps, whatever base network it stands on."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd

from common.config.network_names import BASE_NETWORKS
from landmark.network import LandmarkNetwork, build_landmark

QUICK = ("resnet18_v1", "resnet18_v2", "mobilenet0.25", "mobilenetv2_0.25", "mobilenetv3_small", "vgg11")
ALL = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in BASE_NETWORKS]


@pytest.mark.parametrize("name", ALL)
def test_the_finer_map_is_a_sixteenth_of_the_input_and_the_layer_after_it_is_smaller(name: str) -> None:
    network = LandmarkNetwork(name, 3)
    x = mx.sym.var("data", shape=(1, 3, 96, 160))
    sizes = []
    for layer in network.features:
        x = layer(x)
        sizes.append(x.infer_shape()[1][0][2:])
    fine = sizes.index((6, 10))
    while fine + 1 < len(sizes) and sizes[fine + 1] == (6, 10):
        fine += 1
    assert network.fine_layer == fine
    assert sizes[-1] != (6, 10)


@pytest.mark.parametrize("name", ["resnet18_v2", "mobilenetv2_0.25"])
def test_both_maps_and_every_layer_have_a_part_in_the_points(name: str) -> None:
    mx.random.seed(0)
    network = build_landmark(name, 3, [mx.cpu()])
    with autograd.record():
        found = network(mx.nd.random.normal(shape=(2, 3, 64, 96))).sum()
    found.backward()
    still = [
        parameter.name
        for parameter in network.collect_params().values()
        if parameter.grad_req != "null" and not np.abs(parameter.grad().asnumpy()).any()
    ]
    assert still == []
