"""Compiled graphs compute what their blocks do, in the precision that was asked for."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.engine.arrays import norms
from common.engine.devices import bfloat16_supported
from common.engine.graph import Normalise, inference_graph, statistics_symbol
from common.engine.training_graph import TrainingGraph
from tests.helpers.training_graphs import losses_of


class Clipped(gluon.HybridBlock):
    """A convolution, clipped."""

    def __init__(self) -> None:
        super().__init__(prefix="")
        self.layer = gluon.nn.Conv2D(4, 1, in_channels=3)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(self.layer(x), 0, 6)


def nodes_of(symbol: Any) -> list[dict[str, Any]]:
    return list(json.loads(symbol.tojson(remove_amp_cast=False))["nodes"])


def test_statistics_are_computed_in_the_precision_of_training() -> None:
    block = gluon.nn.HybridSequential()
    block.add(gluon.nn.Conv2D(16, 3, in_channels=16), gluon.nn.BatchNorm(in_channels=16))
    block.initialize()
    for precision, casts in (("float32", 0), ("bfloat16", 1)):
        symbol, layers = statistics_symbol(block, precision, "cpu")
        assert [layer.variance for layer in layers] == [block[1].running_var.name]
        found = [n["attrs"]["dtype"] for n in nodes_of(symbol) if n["op"] == "amp_cast"]
        assert found.count("bfloat16") >= casts
        assert bool(found) == bool(casts)


def test_looking_at_statistics_moves_none_on_any_device() -> None:
    symbol, _ = statistics_symbol(varied(), "float32", "gpu")
    momenta = [n["attrs"]["momentum"] for n in nodes_of(symbol) if n["op"] == "BatchNorm"]
    assert momenta
    assert set(momenta) == {"1"}


def test_a_compiled_graph_gives_what_its_block_gives() -> None:
    block = Clipped()
    block.initialize(mx.init.Normal(1.0))
    x = mx.nd.array(np.random.default_rng(0).normal(size=(2, 3, 5, 7)) * 4)
    found = losses_of(TrainingGraph(block, ["x"], mx.cpu()), [x.asnumpy()])
    np.testing.assert_allclose(found[0].asnumpy(), block(x).asnumpy(), rtol=1e-5)


def varied() -> gluon.nn.HybridSequential:
    """A network whose BatchNorm's running statistics are none that its images give, with dropout."""
    block = gluon.nn.HybridSequential()
    block.add(
        Normalise(),
        gluon.nn.Conv2D(16, 3, in_channels=3),
        gluon.nn.BatchNorm(in_channels=16),
        gluon.nn.Dropout(0.5),
        gluon.nn.Conv2D(16, 3, in_channels=16, groups=16),
    )
    mx.random.seed(0)
    block.initialize(mx.init.Normal(0.5))
    block[2].running_mean.set_data(mx.nd.arange(16) / 8)
    block[2].running_var.set_data(mx.nd.arange(16) / 4 + 0.5)
    return block


def test_inference_gives_what_the_block_gives_and_changes_no_statistics() -> None:
    block = varied()
    images = mx.nd.array(np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3)), dtype="uint8")
    found = [inference_graph(block)(images).asnumpy() for _ in range(2)]
    np.testing.assert_array_equal(block[2].running_mean.data().asnumpy(), np.arange(16) / 8)
    wanted = block(images).asnumpy()
    for values in found:
        np.testing.assert_allclose(values, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not bfloat16_supported(), reason="this processor has no bfloat16")
def test_inference_leaves_weights_as_training_in_mixed_precision_reads_them() -> None:
    block = varied()
    images = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3)).astype(np.uint8)
    training = TrainingGraph(block, ["images"], mx.cpu(), "bfloat16")
    validation = inference_graph(block)
    for _ in range(2):
        losses_of(training, [images])
        training.backward(1.0)
        assert np.isfinite(validation(mx.nd.array(images, dtype="uint8")).asnumpy()).all()
        assert np.isfinite(norms([block[4].weight.data()])).all()
