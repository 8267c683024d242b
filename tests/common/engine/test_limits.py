"""How far a step may move a weight."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.engine.arrays import norms
from common.engine.engine import Blocks, OptimizerSettings
from common.engine.limits import GradientLimit, RateLimit, StepLimit, Weight
from common.engine.mxnet_engine import MXNetEngine


class Slope(gluon.HybridBlock):
    """A weight whose gradient is `gradient` everywhere, for every image."""

    def __init__(self, values: np.ndarray, lr_mult: float, init: Any) -> None:
        super().__init__(prefix="")
        self.weight = self.params.get("weight", shape=values.shape, lr_mult=lr_mult, init=init)
        self.weight.initialize(mx.init.Zero(), ctx=[mx.cpu()])
        self.weight.set_data(mx.nd.array(values))

    def hybrid_forward(self, F: Any, images: Any, gradient: Any, weight: Any) -> Any:
        nothing = 0 * F.sum(F.cast(images, "float32"), axis=0, exclude=True)
        return F.broadcast_mul(F.sum(weight).reshape((1,)), gradient) + nothing


def step(
    values: Any,
    optimizer: str,
    limit: StepLimit,
    rate: float,
    gradient: float,
    lr_mult: float = 1.0,
    init: Any = None,
) -> float:
    """Take a step along a constant gradient; returns the norm of the change."""
    block = Slope(np.asarray(values, np.float32), lr_mult, init)
    blocks = Blocks(block, block, ("images", "gradient"), gluon.nn.Flatten())
    engine = MXNetEngine(blocks, [mx.cpu()], OptimizerSettings(optimizer), limit=limit)
    engine.take([np.zeros((1, 1, 1, 3), np.uint8), np.full(1, gradient, np.float32)])
    engine.forward()
    engine.backward()
    before = engine.parameters()["weight"]
    engine.update(rate, engine.norms())
    assert engine.multipliers()["weight"][0] == lr_mult  # checkpoints hold what was asked for
    return float(np.linalg.norm(engine.parameters()["weight"] - before))


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
@pytest.mark.parametrize("lr_mult", [1.0, 0.5])
def test_a_step_changes_a_weight_by_its_share_at_most(
    optimizer: str, limit: type[StepLimit], lr_mult: float
) -> None:
    change = step(np.full((2, 2), 3.0), optimizer, limit(0.05), 10.0, 7.0, lr_mult)
    assert change == pytest.approx(0.05 * 6.0, rel=1e-3)


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
def test_a_shorter_step_stays_as_it_is(optimizer: str, limit: type[StepLimit]) -> None:
    values = np.full((2, 2), 3.0)
    alone = step(values, optimizer, limit(1e9), 1e-3, 0.5)
    assert step(values, optimizer, limit(0.05), 1e-3, 0.5) == alone > 0


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
def test_a_bias_of_0_is_measured_by_1(optimizer: str, limit: type[StepLimit]) -> None:
    assert step(np.zeros(4), optimizer, limit(0.05), 10.0, 7.0) == pytest.approx(0.1, rel=1e-3)


def test_a_last_layer_that_begins_near_0_may_learn_at_a_rate() -> None:
    change = step(np.zeros((3, 100)), "adam", RateLimit(0.05), 10.0, 7.0)
    assert change == pytest.approx(0.05 * 0.1 * 300**0.5, rel=1e-3)


@pytest.mark.parametrize("init", ["zeros", mx.init.Zero()])
def test_a_weight_made_to_begin_at_0_leaves_it_at_the_limit_of_a_random_one(init: Any) -> None:
    change = step(np.zeros((3, 100)), "sgd", GradientLimit(0.05), 10.0, 7.0, init=init)
    assert change == pytest.approx(0.05 * 3**0.5, rel=1e-3)
    # One that has shrunk to nothing stays as small as it has become.
    assert step(np.full((3, 100), 1e-9), "sgd", GradientLimit(0.05), 10.0, 7.0) < 1e-9


def test_the_limit_follows_the_weight_and_the_rate() -> None:
    limit = RateLimit(0.05)
    for size, rate, limited in ((2.0, 10.0, 0.1), (4.0, 10.0, 0.2), (4.0, 0.5, 0.05), (4.0, 0.0, 0.0)):
        weight = Weight((1, 1), size, gradient=0.0, lr_mult=0.1)
        assert rate * 0.1 * limit.factor(weight, rate) == pytest.approx(limited)


def test_norms_are_those_of_the_arrays_as_they_are_when_asked_for() -> None:
    rng = np.random.default_rng(0)
    values = [rng.normal(size=shape).astype(np.float32) for shape in ((3, 4, 5), (7,), (1,))]
    arrays = [mx.nd.array(value) for value in values]
    for factor in (1.0, 2.0):
        expected = [factor * np.linalg.norm(value) for value in values]
        np.testing.assert_allclose(norms(arrays), expected, rtol=1e-5)
        for array in arrays:
            array *= 2.0
    arrays[1][3] = np.nan
    assert np.isnan(norms(arrays)).tolist() == [False, True, False]


def test_the_norm_of_very_many_numbers_is_not_short() -> None:
    numbers = mx.nd.full((1 << 25,), 0.01)
    assert norms([numbers, numbers[:9]]) == pytest.approx([0.01 * 2**12.5, 0.03], rel=3e-5)


def test_norms_of_weights_that_an_inference_has_reordered() -> None:
    layer = gluon.nn.Conv2D(64, 3, in_channels=32)
    layer.initialize(mx.init.Normal(0.1))
    expected = np.linalg.norm(layer.weight.data().asnumpy())
    layer(mx.nd.ones((2, 32, 20, 20))).wait_to_read()
    assert norms([layer.weight.data()])[0] == pytest.approx(expected, rel=1e-5)
