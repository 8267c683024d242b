"""Random parameters to begin with: their distribution, and what they depend on."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon

from common.engine.initializers import HeNormal, NearZero, begin_nearly_linear
from common.engine.tracing import begins_at_0


def drawn(shape: tuple[int, ...], name: str = "conv0_weight", **options: object) -> np.ndarray:
    array = mx.nd.zeros(shape)
    HeNormal(**{"fan": "in", **options})(mx.init.InitDesc(name), array)
    values: np.ndarray = array.asnumpy()
    return values


@pytest.mark.parametrize(
    ("shape", "options", "variance"),
    [
        ((256, 64, 3, 3), {}, 2 / (64 * 9)),
        ((256, 64, 3, 3), {"fan": "avg"}, 2 / (160 * 9)),
        ((256, 64, 3, 3), {"fan": "avg", "slope": 0.1}, 2 / 1.01 / (160 * 9)),
        ((2048, 1, 3, 3), {}, 2 / 9),
        ((300, 500), {}, 2 / 500),
    ],
)
def test_weights_have_the_variance_of_the_paper_as_those_of_mxnet(
    shape: tuple[int, ...], options: dict[str, object], variance: float
) -> None:
    values = drawn(shape, **options)
    assert values.mean() == pytest.approx(0, abs=0.01 * variance**0.5 + 4 * (variance / values.size) ** 0.5)
    assert values.var() == pytest.approx(variance, rel=0.05)
    theirs = mx.nd.zeros(shape)
    mx.init.MSRAPrelu(options.get("fan", "in"), options.get("slope", 0))(
        mx.init.InitDesc("conv0_weight"), theirs
    )
    assert values.var() == pytest.approx(theirs.asnumpy().var(), rel=0.05)


def test_the_seed_of_a_job_decides_and_each_weight_has_its_own_values() -> None:
    mx.random.seed(3)
    first, second = drawn((8, 8)), drawn((8, 8))
    assert not np.array_equal(first, second)
    mx.random.seed(3)
    assert np.array_equal(drawn((8, 8)), first)


def test_what_is_no_weight_begins_as_ever() -> None:
    assert drawn((4,), "conv0_bias").tolist() == [0, 0, 0, 0]
    assert drawn((4,), "batchnorm0_gamma").tolist() == [1, 1, 1, 1]


def test_layers_near_0_are_random_and_count_as_ones_that_begin_there() -> None:
    layer = gluon.nn.Dense(50, in_units=400, weight_initializer=NearZero(0.01))
    layer.initialize(HeNormal("in"))
    values = layer.weight.data().asnumpy()
    assert values.std() == pytest.approx(0.01, rel=0.05)
    assert abs(values.mean()) < 0.001
    assert begins_at_0(layer.weight)


def test_a_network_that_begins_nearly_linear_lets_five_of_six_numbers_pass_its_relus() -> None:
    network = gluon.nn.HybridSequential()
    for _ in range(3):
        network.add(gluon.nn.Dense(200), gluon.nn.BatchNorm(), gluon.nn.Activation("relu"))
    begin_nearly_linear(network)
    network.initialize(HeNormal("in"))
    with mx.autograd.record():
        given = network(mx.nd.random.normal(shape=(100, 50)))
    assert (given.asnumpy() > 0).mean() == pytest.approx(5 / 6, abs=0.02)
    # All else begins as ever.
    assert network[1].gamma.data().asnumpy().tolist() == [1] * 200
    assert not network[0].bias.data().asnumpy().any()


def test_a_batch_norm_without_a_beta_of_its_own_stays_as_it_is() -> None:
    network = gluon.nn.HybridSequential()
    network.add(gluon.nn.BatchNorm(in_channels=3, center=False), gluon.nn.BatchNorm(in_channels=3))
    begin_nearly_linear(network)
    network.initialize()
    assert [layer.beta.data().asnumpy().tolist() for layer in network] == [[0] * 3, [1] * 3]
