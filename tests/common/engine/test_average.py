"""The moving average of parameters: its values, its use, and that it survives an interruption."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.engine.average import MovingAverage


def network(
    value: float = 0.0, contexts: tuple[mx.Context, ...] = (mx.cpu(),), inputs: int = 3
) -> gluon.nn.Dense:
    made = gluon.nn.Dense(2, in_units=inputs)
    made.initialize(mx.init.Constant(value), ctx=list(contexts))
    return made


def weights(made: gluon.nn.Dense) -> np.ndarray:
    return made.weight.list_data()[0].asnumpy()


def average_of(made: gluon.nn.Dense, decay: float) -> MovingAverage:
    return MovingAverage({"weight": made.weight, "bias": made.bias}, decay)


def feed(made: gluon.nn.Dense, average: MovingAverage, values: np.ndarray) -> None:
    for value in values:
        made.weight.set_data(mx.nd.full(made.weight.shape, float(value)))
        average.update()


@pytest.mark.parametrize("inputs", [3, 3000])  # small arrays are averaged together, large ones each
def test_it_is_the_weighted_mean_that_its_definition_gives(inputs: int) -> None:
    made = network(inputs=inputs)
    average = average_of(made, decay=0.5)
    values = np.random.default_rng(0).normal(size=30).astype(np.float32)
    feed(made, average, values)
    expected = 0.0
    for update, value in enumerate(values):
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * value
    with average.applied():
        np.testing.assert_allclose(weights(made), expected, rtol=1e-5)
    np.testing.assert_allclose(weights(made), values[-1], rtol=1e-7)


def test_what_is_averaged_is_as_old_as_it_is_to_be() -> None:
    for age in (0.1, 1.0 / 3.0):
        made = network()
        average = MovingAverage({"weight": made.weight}, 0.9998, age=age)
        feed(made, average, np.arange(200.0))
        with average.applied():
            assert weights(made)[0, 0] == pytest.approx(200.0 * (1.0 - age), rel=0.02)


def test_a_short_training_forgets_where_it_began() -> None:
    made = network(1000.0)
    average = average_of(made, decay=0.9998)
    feed(made, average, np.zeros(40))
    with average.applied():
        assert np.abs(weights(made)).max() < 0.01


def test_trained_values_come_back_also_after_an_error() -> None:
    made = network(3.0)
    average = average_of(made, decay=0.9)
    feed(made, average, np.array([1.0, 2.0]))
    try:
        with average.applied():
            assert weights(made)[0, 0] != 2.0
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert (weights(made) == 2.0).all()


def test_every_device_gets_the_average() -> None:
    made = network(0.0, (mx.cpu(0), mx.cpu(1)))
    average = average_of(made, decay=0.9)
    feed(made, average, np.array([4.0]))
    with average.applied():
        first, second = (array.asnumpy() for array in made.weight.list_data())
        assert (first == second).all()
        assert (first > 0).all()
        assert (first < 4).all()


def test_taken_up_again_it_goes_on_bit_for_bit() -> None:
    values = np.random.default_rng(1).normal(size=20)
    whole = network()
    whole_average = average_of(whole, decay=0.9)
    feed(whole, whole_average, values)

    first = network()
    first_average = average_of(first, decay=0.9)
    feed(first, first_average, values[:7])
    state = first_average.state()
    second = network()
    with first_average.applied():
        second.weight.set_data(first.weight.data())
    second_average = average_of(second, decay=0.9)
    second_average.restore(state)
    assert (weights(second) == weights(first)).all()
    feed(second, second_average, values[7:])
    with whole_average.applied(), second_average.applied():
        assert (weights(second) == weights(whole)).all()


def test_averages_of_running_statistics_survive_others_in_their_place() -> None:
    made = gluon.nn.BatchNorm(in_channels=2)
    made.initialize()
    whole = MovingAverage({"running_mean": made.running_mean}, decay=0.9)
    for value in (1.0, 2.0, 5.0):
        made.running_mean.set_data(mx.nd.full((2,), value))
        whole.update()
    with whole.applied():
        average = made.running_mean.data().asnumpy()
        made.running_mean.set_data(mx.nd.full((2,), 7.0))  # what the checkpoint holds
        again = MovingAverage({"running_mean": made.running_mean}, decay=0.9)
        again.restore(whole.state())
        with again.applied():
            assert (made.running_mean.data().asnumpy() == average).all()
