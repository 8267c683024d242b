"""A lowered graph computes what its block does, in the precision that was asked for and the form that is fast."""

from __future__ import annotations

import json
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon.contrib.cnn import ModulatedDeformableConvolution

from common.engine.devices import bfloat16_supported
from common.engine.graph import trace
from common.engine.training_graph import TrainingGraph
from common.networks.base_networks import ReLU6
from tests.helpers.training_graphs import losses_of

NEEDS_BFLOAT16 = pytest.mark.skipif(not bfloat16_supported(), reason="this processor has no bfloat16")


class Clipped(gluon.HybridBlock):
    """A convolution, clipped."""

    def __init__(self, inputs: int = 3, outputs: int = 4, groups: int = 1) -> None:
        super().__init__(prefix="")
        self.layer = gluon.nn.Conv2D(outputs, 1, in_channels=inputs, groups=groups)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(self.layer(x), 0, 6)


def nodes_of(symbol: Any) -> list[dict[str, Any]]:
    return list(json.loads(symbol.tojson(remove_amp_cast=False))["nodes"])


def test_in_bfloat16_convolutions_compute_in_it_and_clipping_does_not() -> None:
    block = Clipped(16, 32)
    block.initialize()
    nodes = nodes_of(trace(block, ["x"], "bfloat16", "cpu")[0])
    first_inputs = {node["op"]: nodes[node["inputs"][0][0]] for node in nodes if node["inputs"]}
    assert first_inputs["Convolution"]["op"] == first_inputs["clip"]["op"] == "amp_cast"
    assert first_inputs["Convolution"]["attrs"]["dtype"] == "bfloat16"
    assert first_inputs["clip"]["attrs"]["dtype"] == "float32"


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups", "precision", "device", "expected"),
    [
        (16, 32, 1, "bfloat16", "cpu", "bfloat16"),
        (48, 48, 48, "bfloat16", "cpu", "bfloat16"),
        (3, 32, 1, "bfloat16", "cpu", "float32"),
        (32, 24, 1, "bfloat16", "cpu", "float32"),
        (24, 24, 24, "bfloat16", "cpu", "float32"),
        (3, 32, 1, "float16", "gpu", "float16"),
    ],
)
def test_convolutions_that_do_not_fill_the_processors_blocks_stay_in_float32_there(
    inputs: int, outputs: int, groups: int, precision: str, device: str, expected: str
) -> None:
    block = Clipped(inputs, outputs, groups)
    block.initialize()
    nodes = nodes_of(trace(block, ["x"], precision, device)[0])
    (convolution,) = [node for node in nodes if node["op"] == "Convolution"]
    given = [nodes[index] for index, *_ in convolution["inputs"]]
    lowered = [node["attrs"]["dtype"] for node in given if node["op"] == "amp_cast"]
    assert set(lowered) == ({expected} if expected != "float32" else set())


class Deformable(gluon.HybridBlock):
    """A deformable convolution of a convolution's result, which MXNet computes in float32 alone."""

    def __init__(self) -> None:
        super().__init__(prefix="")
        self.layer = gluon.nn.Conv2D(4, 1, in_channels=3)
        self.deformable = ModulatedDeformableConvolution(2, (3, 3), padding=(1, 1), in_channels=4)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.deformable(self.layer(x))


@NEEDS_BFLOAT16
def test_deformable_convolutions_run_in_a_graph_of_mixed_precision() -> None:
    block = Deformable()
    block.initialize(mx.init.Normal(0.1))
    x = mx.nd.array(np.random.default_rng(0).normal(size=(1, 3, 8, 8)))
    expected = block(x).asnumpy()
    found = losses_of(TrainingGraph(block, ["x"], mx.cpu(), "bfloat16"), [x.asnumpy()])
    np.testing.assert_allclose(found[0].asnumpy(), expected, atol=0.02)


def with_relu6(channels: int = 16, *layers: gluon.HybridBlock) -> gluon.nn.HybridSequential:
    """Two convolutions with BatchNorm and ReLU6 between them, of which a third of the map is above 6."""
    block = gluon.nn.HybridSequential(prefix="")
    block.add(
        gluon.nn.Conv2D(channels, 3, in_channels=16, use_bias=False),
        gluon.nn.BatchNorm(in_channels=channels),
        *(layers or (ReLU6(),)),
        gluon.nn.Conv2D(16, 3, in_channels=channels),
    )
    mx.random.seed(0)
    block.initialize(mx.init.Normal(0.1))
    block[1].gamma.set_data(mx.nd.full(channels, 5.0))
    block[1].beta.set_data(mx.nd.full(channels, 4.0))
    return block


def clips(symbol: Any) -> int:
    return sum(node["op"] == "clip" for node in nodes_of(symbol))


def losses_and_gradients(
    block: gluon.HybridBlock, symbol: Any, x: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Outputs of a graph in training, and the gradients of what the parameters and `x` do to their squares."""
    values = {name: parameter.data() for name, parameter in block.collect_params().items()}
    values["x"] = mx.nd.array(x)
    names = symbol.list_arguments()
    gradients = {name: mx.nd.zeros(values[name].shape) for name in names}
    executor = symbol.bind(
        mx.cpu(),
        {name: values[name] for name in names},
        args_grad=gradients,
        aux_states={name: values[name].copy() for name in symbol.list_auxiliary_states()},
    )
    (output,) = executor.forward(is_train=True)
    executor.backward([output])
    return output.asnumpy(), [gradients[name].asnumpy() for name in names]


@pytest.mark.parametrize(
    ("precision", "tolerance", "of_gradients"),
    # In bfloat16 a map crosses 0 and 6 at other places; clipped number by number it does so the more.
    [("float32", 1e-5, 1e-5), pytest.param("bfloat16", 0.01, 0.1, marks=NEEDS_BFLOAT16)],
)
def test_relu6_in_blocks_is_relu6_on_both_ways(precision: str, tolerance: float, of_gradients: float) -> None:
    block = with_relu6()
    x = np.random.default_rng(0).normal(size=(2, 16, 12, 12)).astype(np.float32)
    symbol = trace(block, ["x"], precision, "cpu")[0]
    expected, gradients = losses_and_gradients(block, trace(block, ["x"])[0], x)
    assert clips(symbol) == 0
    assert sorted(symbol.list_arguments()) == sorted(trace(block, ["x"])[0].list_arguments())
    found, found_gradients = losses_and_gradients(block, symbol, x)
    np.testing.assert_allclose(found, expected, atol=tolerance * np.abs(expected).max())
    for one, other in zip(found_gradients, gradients, strict=True):
        assert np.linalg.norm(one - other) <= of_gradients * np.linalg.norm(other)


def test_without_its_limit_the_map_would_be_another() -> None:
    block, unlimited = with_relu6(), with_relu6(16, gluon.nn.Activation("relu"))
    x = np.random.default_rng(0).normal(size=(2, 16, 12, 12)).astype(np.float32)
    found = [losses_and_gradients(b, trace(b, ["x"], "float32", "cpu")[0], x)[0] for b in (block, unlimited)]
    assert np.abs(found[0] - found[1]).max() > 0.1 * np.abs(found[0]).max()


class Halved(gluon.HybridBlock):
    """A ReLU that stops at 3."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(F.Activation(x, act_type="relu"), 0, 3)


class Unsure(gluon.HybridBlock):
    """What a tanh leaves between 0 and 6."""

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return F.clip(F.Activation(x, act_type="tanh"), 0, 6)


@pytest.mark.parametrize(
    ("block", "device"),
    [
        (with_relu6(24), "cpu"),  # convolutions that are not in blocks of 16
        (with_relu6(16, Halved()), "cpu"),
        (with_relu6(16, Unsure()), "cpu"),
        (with_relu6(), "gpu"),
        (with_relu6(), ""),
    ],
)
def test_clipping_stays_where_it_is_no_relu6_between_convolutions_in_blocks_on_the_cpu(
    block: gluon.HybridBlock, device: str
) -> None:
    assert clips(trace(block, ["x"], "float32", device)[0]) == 1


def test_a_networks_graph_keeps_the_names_of_its_outputs() -> None:
    block = with_relu6()
    block.add(gluon.nn.BatchNorm(in_channels=16), ReLU6())
    plain, lowered = (trace(block, ["x"], "float32", device)[0] for device in ("", "cpu"))
    assert clips(plain) == 2
    assert clips(lowered) == 0
    assert lowered.list_outputs() == plain.list_outputs()
    assert lowered.list_auxiliary_states() == plain.list_auxiliary_states()


def with_outputs(*layers: gluon.HybridBlock) -> gluon.nn.HybridSequential:
    """A convolution with BatchNorm and LeakyReLU, and what comes behind."""
    block = gluon.nn.HybridSequential(prefix="")
    block.add(
        gluon.nn.Conv2D(32, 3, in_channels=16, use_bias=False),
        gluon.nn.BatchNorm(in_channels=32),
        gluon.nn.LeakyReLU(0.1),
        *layers,
    )
    mx.random.seed(0)
    block.initialize(mx.init.Normal(0.1))
    return block


def widths(symbol: Any) -> list[int]:
    """Of the convolutions, in their order."""
    return [int(node["attrs"]["num_filter"]) for node in nodes_of(symbol) if node["op"] == "Convolution"]


@pytest.mark.parametrize("bias", [True, False])
def test_outputs_in_blocks_are_the_outputs_on_both_ways(bias: bool) -> None:
    block = with_outputs(gluon.nn.Conv2D(24, 1, in_channels=32, use_bias=bias, bias_initializer="ones"))
    x = np.random.default_rng(0).normal(size=(2, 16, 9, 9)).astype(np.float32)
    symbols = [trace(block, ["x"], "float32", device)[0] for device in ("", "cpu")]
    assert [widths(symbol) for symbol in symbols] == [[32, 24], [32, 32]]
    assert symbols[1].list_outputs() == [symbols[0].list_outputs()[0]]
    (expected, gradients), (found, found_gradients) = (losses_and_gradients(block, s, x) for s in symbols)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


def test_convolutions_that_no_batchnorm_is_before_or_that_one_is_behind_keep_their_width() -> None:
    first = gluon.nn.Conv2D(24, 1, in_channels=16)
    first.initialize()
    inner = with_outputs(gluon.nn.Conv2D(24, 1, in_channels=32), gluon.nn.BatchNorm(in_channels=24))
    assert widths(trace(first, ["x"], "float32", "cpu")[0]) == [24]
    assert widths(trace(inner, ["x"], "float32", "cpu")[0]) == [32, 24]


def test_casts_between_precisions_stay_where_other_operators_are_rewritten() -> None:
    class Cast(gluon.HybridBlock):
        def __init__(self) -> None:
            super().__init__(prefix="")
            self.layers = with_relu6()

        def hybrid_forward(self, F: Any, x: Any) -> Any:
            one, other = F.amp_multicast(self.layers(x), F.sum(x), num_outputs=2, cast_narrow=True)
            return F.broadcast_add(one, other)

    block = Cast()
    assert "amp_multicast" in {node["op"] for node in nodes_of(trace(block, ["x"], device="cpu")[0])}
