"""Every optimizer learns, stands still at a rate of 0, and steps as its paper says."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.config.network_sections import OPTIMIZERS
from common.engine.engine import OptimizerSettings
from common.engine.optimizers import MOMENTUM, create

# LARS moves weights by a thousandth of themselves; AdaDelta, FTRL, LAMB and AdaGrad begin slowly.
RATES = {"lars": 20.0, "adadelta": 5.0, "ftrl": 1.0, "lamb": 0.05, "adagrad": 0.1}


def train(
    name: str, rates: list[float], *, momentum: float = 0.9, wd: float = 0.0, frozen: bool = False
) -> tuple[list[float], np.ndarray, np.ndarray]:
    """Losses of a linear problem; the first layer's weights at the beginning and the end."""
    mx.random.seed(0)
    np.random.seed(0)
    network = gluon.nn.HybridSequential()
    network.add(gluon.nn.Dense(5, in_units=4), gluon.nn.Dense(2, in_units=5))
    network.initialize(mx.init.Xavier())
    before = network[0].weight.data().asnumpy()
    network[0].weight.lr_mult = 0.0 if frozen else 1.0
    trainer = gluon.Trainer(
        network.collect_params(),
        create(OptimizerSettings(name, 0.01, momentum, wd), "cpu"),
        kvstore=None,
        update_on_kvstore=False,
    )
    x = mx.nd.random.normal(shape=(16, 4))
    y = mx.nd.dot(x, mx.nd.random.normal(shape=(4, 2)))
    losses = []
    for rate in rates:
        with autograd.record():
            loss = ((network(x) - y) ** 2).sum(axis=1)
        loss.backward()
        trainer.set_learning_rate(rate)
        trainer.update(16)
        losses.append(float(loss.mean().asscalar()))
    return losses, before, network[0].weight.data().asnumpy()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_learns_and_follows_the_rate(name: str) -> None:
    rate = RATES.get(name, 0.01)
    # A warm-up begins at 0; the rate falls to a tenth on the way.
    losses, before, after = train(name, [0.0, *[rate] * 80, *[rate / 10] * 20])
    assert np.isfinite(after).all()
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    assert min(losses[-50:]) < 0.8 * losses[0]  # SGLD's noise may hide it at the very end
    assert not np.allclose(before, after)
    slow = train(name, [rate / 100] * 3)
    fast = train(name, [rate] * 3)
    assert np.abs(slow[2] - slow[1]).mean() < 0.5 * np.abs(fast[2] - fast[1]).mean()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_frozen_layer_stands_still(name: str) -> None:
    _, before, after = train(name, [RATES.get(name, 0.01)] * 5, frozen=True)
    np.testing.assert_array_equal(before, after)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_momentum_changes_the_optimizers_that_have_one(name: str) -> None:
    with_it = train(name, [RATES.get(name, 0.01)] * 30, momentum=0.9)[2]
    without = train(name, [RATES.get(name, 0.01)] * 30, momentum=0.0)[2]
    assert np.allclose(with_it, without, atol=1e-7) == (name not in MOMENTUM)


def made(name: str, learning_rate: float, momentum: float, wd: float) -> Any:
    return create(OptimizerSettings(name, learning_rate, momentum, wd), "cpu")


def step_by_step(optimizer: Any, weight: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    array = mx.nd.array(weight)
    state = optimizer.create_state_multi_precision(0, array)  # as a trainer does
    for gradient in gradients:
        optimizer.update_multi_precision(0, array, mx.nd.array(gradient), state)
    return np.asarray(array.asnumpy())


def test_adamw_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)), [rng.normal(size=(3, 2)) for _ in range(4)]
    weight, mean, variance = start.copy(), np.zeros((3, 2)), np.zeros((3, 2))
    for t, gradient in enumerate(gradients, start=1):
        mean = 0.9 * mean + 0.1 * gradient
        variance = 0.999 * variance + 0.001 * gradient**2
        step = mean / (1 - 0.9**t) / (np.sqrt(variance / (1 - 0.999**t)) + 1e-8)
        weight -= 0.1 * (step + 0.5 * weight)
    found = step_by_step(made("adamw", 0.1, 0.9, 0.5), start, gradients)
    np.testing.assert_allclose(found, weight, rtol=1e-4)
    assert not np.allclose(found, step_by_step(made("adam", 0.1, 0.9, 0.5), start, gradients), rtol=1e-2)


def test_dcasgd_compensates_for_what_the_weight_has_moved_by() -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)), [rng.normal(size=(3, 2)) for _ in range(4)]
    weight, previous, momentum = start.copy(), start.copy(), np.zeros((3, 2))
    for gradient in gradients:
        compensated = gradient + 0.5 * weight + 0.04 * gradient**2 * (weight - previous)
        momentum = 0.9 * momentum - 0.1 * compensated
        previous = weight.copy()
        weight = weight + momentum
    found = step_by_step(made("dcasgd", 0.1, 0.9, 0.5), start, gradients)
    np.testing.assert_allclose(found, weight, rtol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_steps_as_its_definition_says_one_by_one_and_several_at_once(momentum: float) -> None:
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=(3, 2)), [rng.normal(size=(3, 2)) for _ in range(4)]
    weight, velocity = start.copy(), np.zeros((3, 2))
    for gradient in gradients:
        velocity = momentum * velocity - 0.1 * (gradient + 0.5 * weight)
        weight = weight + velocity
    np.testing.assert_allclose(
        step_by_step(made("sgd", 0.1, momentum, 0.5), start, gradients), weight, rtol=1e-4
    )
    several = [start] * 60 + [
        np.tile(start, (800, 1))
    ]  # small ones take one operator on the CPU, large ones each
    for device in ("cpu", "gpu"):
        together = create(OptimizerSettings("sgd", 0.1, momentum, 0.5), device)
        arrays = [mx.nd.array(each) for each in several]
        states = [together.create_state_multi_precision(index, array) for index, array in enumerate(arrays)]
        for gradient in gradients:
            given = [mx.nd.array(np.tile(gradient, (len(array) // 3, 1))) for array in arrays]
            together.update_multi_precision(range(len(arrays)), arrays, given, states)
        for array in arrays:
            steps = array.asnumpy().reshape(-1, 3, 2)
            np.testing.assert_allclose(steps, np.broadcast_to(weight, steps.shape), rtol=1e-4)


def test_ftrl_goes_on_from_the_weights_it_is_given() -> None:
    start = np.array([[0.5, -0.3]])
    gradients = [np.array([[0.01, 0.02]])]
    found = step_by_step(made("ftrl", 0.01, 0.9, 0.0), start, gradients)
    assert 0 < np.abs(found - start).max() < 0.01
