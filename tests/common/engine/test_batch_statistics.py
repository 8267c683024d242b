"""BatchNorm's statistics are those of the images last trained on, under the parameters that are in place."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

from common.engine.batch_statistics import shrunk
from common.engine.block_statistics import BlockStatistics
from common.engine.graph import Inference

CONTEXT = mx.cpu()


def network(norm: type = nn.BatchNorm, **options: Any) -> nn.HybridSequential:
    mx.random.seed(0)  # how sure its statistics are depends on its parameters
    made = nn.HybridSequential()
    made.add(nn.Conv2D(16, 3, in_channels=3), norm(in_channels=16, **options))
    made.add(nn.Activation("relu"), nn.Conv2D(8, 3, in_channels=16), nn.BatchNorm(in_channels=8, epsilon=0.1))
    made.initialize(mx.init.Normal(0.3))
    return made


def images(count: int, seed: int = 0, size: int = 12) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def reach(made: nn.HybridSequential, norm: int, batch: np.ndarray) -> np.ndarray:
    """What reaches layer `norm`, one row a channel, when the layers before it run as in training."""
    x = Inference(made).normalise(mx.nd.array(batch, dtype="uint8"))
    with mx.autograd.train_mode():
        for layer in list(made)[:norm]:
            x = layer(x)
    return x.asnumpy().transpose(1, 0, 2, 3).reshape(x.shape[1], -1)


def running(made: nn.HybridSequential, norm: int) -> tuple[np.ndarray, np.ndarray]:
    return made[norm].running_mean.data().asnumpy(), made[norm].running_var.data().asnumpy()


def forget(made: nn.HybridSequential) -> None:
    """Running statistics so far from the truth that nothing of them is kept."""
    for norm in (1, 4):
        made[norm].running_mean.set_data(mx.nd.full(made[norm].running_mean.shape, 1e4))
        made[norm].running_var.set_data(mx.nd.full(made[norm].running_var.shape, 1e12))


@pytest.mark.parametrize(
    ("norm", "options"), [(nn.BatchNorm, {}), (gluon.contrib.nn.SyncBatchNorm, {"num_devices": 1})]
)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 2e-3), ("bfloat16", 0.03)])
def test_they_are_mean_and_variance_of_what_reaches_each_layer(
    norm: type, options: dict[str, Any], precision: str, tolerance: float
) -> None:
    made = network(norm, **options)
    forget(made)
    statistics = BlockStatistics(Inference(made), CONTEXT, precision)
    batch = images(32)
    statistics.remember(batch)
    batch[...] = 0  # the loader will fill it with others
    statistics.apply()
    for layer in (1, 4):
        expected = [reach(made, layer, piece) for piece in np.array_split(images(32), 2)]
        mean, variance = running(made, layer)
        wanted = np.mean([rows.var(1) for rows in expected], 0)
        np.testing.assert_allclose(variance, wanted, rtol=tolerance)
        mean_wanted = np.mean([rows.mean(1) for rows in expected], 0)
        np.testing.assert_allclose(mean, mean_wanted, atol=tolerance * np.sqrt(wanted.max()))


@pytest.mark.parametrize(("batches", "looked_at"), [(2, 2), (20, 5), (100, 8)])
def test_after_less_training_fewer_images_are_looked_at(batches: int, looked_at: int) -> None:
    made = network()
    statistics = BlockStatistics(Inference(made), CONTEXT)
    content = [images(8, seed) for seed in range(batches)]
    for _ in range(2):  # of the first time nothing is left
        forget(made)
        for batch in content:
            statistics.remember(batch)
        statistics.apply()
    expected = np.mean([reach(made, 1, batch).var(1) for batch in content[-looked_at:]], 0)
    np.testing.assert_allclose(running(made, 1)[1], expected, rtol=1e-3)


def test_they_follow_the_parameters_when_there_was_a_step() -> None:
    made = network()
    statistics = BlockStatistics(Inference(made), CONTEXT)

    def variance() -> np.ndarray:
        forget(made)
        statistics.apply()
        return running(made, 1)[1]

    statistics.remember(images(32))
    before = variance()
    made[0].weight.set_data(made[0].weight.data() * 2)
    assert (variance() == before).all()  # measured once for the same parameters
    statistics.remember(images(32))
    np.testing.assert_allclose(variance(), 4 * before, rtol=1e-3)


def test_layers_whose_maps_overflow_keep_their_statistics() -> None:
    made = network()
    made[0].weight.set_data(made[0].weight.data() * 1e30)
    statistics = BlockStatistics(Inference(made), CONTEXT)
    statistics.remember(images(32))
    statistics.apply()
    assert [value.tolist() for value in running(made, 1)] == [[0.0] * 16, [1.0] * 16]
    assert all(np.isfinite(value).all() for value in running(made, 4))


def test_known_statistics_stay_as_far_as_the_measured_ones_are_unsure() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=64)
    shares = []
    for off in (0.0, 0.3, 3.0):
        known = truth + off
        found = []
        for _ in range(50):
            pieces = truth + rng.normal(size=(4, 64))
            between = shrunk(pieces.mean(0), pieces, known)
            found.append(np.mean((between - truth) ** 2))
            shares.append((off, np.median((between - known) / (pieces.mean(0) - known))))
        # A mean of four, alone, is off by 1 / 4.
        assert np.mean(found) <= {0.0: 0.02, 0.3: 0.12, 3.0: 0.26}[off]
    assert np.mean([share for off, share in shares if off == 0.0]) < 0.2
    assert np.mean([share for off, share in shares if off == 3.0]) > 0.95
    one = rng.normal(size=(1, 64))
    assert (shrunk(one[0], one, truth) == truth).all()


class Mirrored(gluon.HybridBlock):
    """A network on images and on their mirrored selves."""

    def __init__(self, made: nn.HybridSequential) -> None:
        super().__init__(prefix="")
        self.plain = Inference(made)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.plain(x) + self.plain(F.reverse(x, axis=2))


def test_a_network_that_runs_twice_is_measured_on_the_images_as_they_are() -> None:
    made = network()
    forget(made)
    statistics = BlockStatistics(Mirrored(made), CONTEXT)
    for seed in range(2):
        statistics.remember(images(8, seed))
    statistics.apply()
    for layer in (1, 4):
        expected = np.mean([reach(made, layer, images(8, seed)).var(1) for seed in range(2)], 0)
        np.testing.assert_allclose(running(made, layer)[1], expected, rtol=1e-3)


def test_layers_that_keep_their_statistics_and_networks_without_any_stay_as_they_are() -> None:
    made = network(use_global_stats=True)
    statistics = BlockStatistics(Inference(made), CONTEXT)
    statistics.apply()  # nothing has been trained on
    assert [value.tolist() for value in running(made, 4)] == [[0.0] * 8, [1.0] * 8]
    statistics.remember(images(32))
    statistics.apply()
    assert [value.tolist() for value in running(made, 1)] == [[0.0] * 16, [1.0] * 16]
    assert running(made, 4)[1].tolist() != [1.0] * 8
    plain = nn.HybridSequential()
    plain.add(nn.Conv2D(4, 3, in_channels=3))
    plain.initialize()
    statistics = BlockStatistics(Inference(plain), CONTEXT)
    statistics.remember(images(4))
    statistics.apply()
