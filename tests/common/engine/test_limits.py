"""How far a step may move a weight."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.engine.limits import GradientLimit, RateLimit, StepLimit, norms


def parameter(values: Any, lr_mult: float = 1.0, init: Any = None) -> gluon.Parameter:
    made = gluon.Parameter("weight", shape=np.shape(values), lr_mult=lr_mult, init=init)
    made.initialize(mx.init.Zero(), ctx=[mx.cpu()])
    made.set_data(mx.nd.array(values))
    return made


def step(weight: gluon.Parameter, optimizer: str, limit: StepLimit, rate: float, gradient: float) -> float:
    """Take a step along a constant gradient; returns the norm of the change."""
    trainer = gluon.Trainer([weight], optimizer, {"learning_rate": rate, "wd": 0.0}, kvstore=None)
    with autograd.record():
        loss = (weight.data() * gradient).sum()
    loss.backward()
    before = weight.data().asnumpy()
    multiplier = weight.lr_mult
    with limit.applied([weight], np.array([np.linalg.norm(weight.grad().asnumpy())]), rate):
        trainer.step(1)
    assert weight.lr_mult == multiplier
    return float(np.linalg.norm(weight.data().asnumpy() - before))


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
@pytest.mark.parametrize("lr_mult", [1.0, 0.5])
def test_a_step_changes_a_weight_by_its_share_at_most(
    optimizer: str, limit: type[StepLimit], lr_mult: float
) -> None:
    weight = parameter(np.full((2, 2), 3.0), lr_mult)
    assert step(weight, optimizer, limit(0.05), 10.0, 7.0) == pytest.approx(0.05 * 6.0, rel=1e-3)


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
def test_a_shorter_step_stays_as_it_is(optimizer: str, limit: type[StepLimit]) -> None:
    values = np.full((2, 2), 3.0)
    alone = step(parameter(values), optimizer, limit(1e9), 1e-3, 0.5)
    assert step(parameter(values), optimizer, limit(0.05), 1e-3, 0.5) == alone > 0


@pytest.mark.parametrize(("optimizer", "limit"), [("sgd", GradientLimit), ("adam", RateLimit)])
def test_a_bias_of_0_is_measured_by_1(optimizer: str, limit: type[StepLimit]) -> None:
    assert step(parameter(np.zeros(4)), optimizer, limit(0.05), 10.0, 7.0) == pytest.approx(0.1, rel=1e-3)


def test_a_last_layer_that_begins_near_0_may_learn_at_a_rate() -> None:
    weight = parameter(np.zeros((3, 100)))
    change = step(weight, "adam", RateLimit(0.05), 10.0, 7.0)
    assert change == pytest.approx(0.05 * 0.1 * 300**0.5, rel=1e-3)


@pytest.mark.parametrize("init", ["zeros", mx.init.Zero()])
def test_a_weight_made_to_begin_at_0_leaves_it_at_the_limit_of_a_random_one(init: Any) -> None:
    weight = parameter(np.zeros((3, 100)), init=init)
    assert step(weight, "sgd", GradientLimit(0.05), 10.0, 7.0) == pytest.approx(0.05 * 3**0.5, rel=1e-3)
    # One that has shrunk to nothing stays as small as it has become.
    assert step(parameter(np.full((3, 100), 1e-9)), "sgd", GradientLimit(0.05), 10.0, 7.0) < 1e-9


def test_the_limit_follows_the_weight_and_the_rate_and_leaves_no_trace() -> None:
    weight, limit = parameter(np.full((1, 1), 2.0), lr_mult=0.1), RateLimit(0.05)
    for size, rate, limited in ((2.0, 10.0, 0.1), (4.0, 10.0, 0.2), (4.0, 0.5, 0.05), (4.0, 0.0, 0.0)):
        weight.set_data(mx.nd.array([[size]]))
        with limit.applied([weight], np.zeros(1), rate):
            assert rate * weight.lr_mult == pytest.approx(limited)
        assert weight.lr_mult == 0.1
    with pytest.raises(RuntimeError), limit.applied([weight], np.zeros(1), 10.0):
        raise RuntimeError
    assert weight.lr_mult == 0.1


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


def test_norms_of_weights_that_an_inference_has_reordered() -> None:
    layer = gluon.nn.Conv2D(64, 3, in_channels=32)
    layer.initialize(mx.init.Normal(0.1))
    expected = np.linalg.norm(layer.weight.data().asnumpy())
    layer(mx.nd.ones((2, 32, 20, 20))).wait_to_read()
    assert norms([layer.weight.data()])[0] == pytest.approx(expected, rel=1e-5)
