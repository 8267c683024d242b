"""BatchNorm's statistics are those of the images last trained on, under the parameters that are in place."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np
import pytest
from mxnet import gluon
from mxnet.gluon import nn

from common import batch_statistics
from common.batch_statistics import BatchStatistics
from common.graph import Inference

CONTEXT = mx.cpu()


def network(norm: type = nn.BatchNorm, **options: Any) -> nn.HybridSequential:
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


@pytest.mark.parametrize(
    ("norm", "options"), [(nn.BatchNorm, {}), (gluon.contrib.nn.SyncBatchNorm, {"num_devices": 1})]
)
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.03)])
def test_they_are_mean_and_variance_of_what_reaches_each_layer(
    norm: type, options: dict[str, Any], precision: str, tolerance: float
) -> None:
    made = network(norm, **options)
    statistics = BatchStatistics(Inference(made), CONTEXT, precision)
    batch = images(10)
    statistics.remember(batch)
    batch[...] = 0  # the loader will fill it with others
    statistics.apply()
    for layer in (1, 4):
        expected = reach(made, layer, images(10))
        mean, variance = running(made, layer)
        deviation = expected.std(1)
        np.testing.assert_allclose(mean, expected.mean(1), atol=tolerance * deviation.max())
        np.testing.assert_allclose(variance, deviation**2, rtol=tolerance)


def test_the_latest_images_count_and_each_batch_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_statistics, "MOST", 8)
    monkeypatch.setattr(batch_statistics, "LEAST", 8)
    made = network()
    statistics = BatchStatistics(Inference(made), CONTEXT)
    for seed, size in enumerate((10, 12, 14, 16)):
        statistics.remember(images(4, seed, size))
    statistics.apply()
    found = [reach(made, 1, images(4, seed, size)) for seed, size in ((2, 14), (3, 16))]
    mean, variance = running(made, 1)
    np.testing.assert_allclose(mean, np.mean([rows.mean(1) for rows in found], 0), rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(variance, np.mean([rows.var(1) for rows in found], 0), rtol=1e-3)


def test_after_less_training_fewer_images_are_looked_at() -> None:
    made = network()
    statistics = BatchStatistics(Inference(made), CONTEXT)
    for batches, looked_at in ((4, 4), (40, 10), (100, 16), (8, 8), (4, 4)):
        content = [images(4, seed + batches) for seed in range(batches)]
        for batch in content:
            statistics.remember(batch)
        statistics.apply()
        expected = np.mean([reach(made, 1, batch).var(1) for batch in content[-looked_at:]], 0)
        np.testing.assert_allclose(running(made, 1)[1], expected, rtol=1e-3)


def test_they_follow_the_parameters_when_there_was_a_step() -> None:
    made = network()
    statistics = BatchStatistics(Inference(made), CONTEXT)
    statistics.remember(images(4))
    statistics.apply()
    before = running(made, 1)[1]
    made[0].weight.set_data(made[0].weight.data() * 2)
    statistics.apply()
    assert (running(made, 1)[1] == before).all()  # measured once for the same parameters
    statistics.remember(images(4))
    statistics.apply()
    np.testing.assert_allclose(running(made, 1)[1], 4 * before, rtol=1e-3)


class Mirrored(gluon.HybridBlock):
    """A network on images and on their mirrored selves."""

    def __init__(self, made: nn.HybridSequential) -> None:
        super().__init__(prefix="")
        self.plain = Inference(made)

    def hybrid_forward(self, F: Any, x: Any) -> Any:
        return self.plain(x) + self.plain(F.reverse(x, axis=2))


def test_a_network_that_runs_twice_is_measured_on_the_images_as_they_are() -> None:
    made = network()
    statistics = BatchStatistics(Mirrored(made), CONTEXT)
    statistics.remember(images(4))
    statistics.apply()
    for layer in (1, 4):
        np.testing.assert_allclose(running(made, layer)[1], reach(made, layer, images(4)).var(1), rtol=1e-3)


def test_layers_that_keep_their_statistics_and_networks_without_any_stay_as_they_are() -> None:
    made = network(use_global_stats=True)
    statistics = BatchStatistics(Inference(made), CONTEXT)
    statistics.apply()  # nothing has been trained on
    assert [value.tolist() for value in running(made, 4)] == [[0.0] * 8, [1.0] * 8]
    statistics.remember(images(4))
    statistics.apply()
    assert [value.tolist() for value in running(made, 1)] == [[0.0] * 16, [1.0] * 16]
    assert running(made, 4)[1].tolist() != [1.0] * 8
    plain = nn.HybridSequential()
    plain.add(nn.Conv2D(4, 3, in_channels=3))
    plain.initialize()
    statistics = BatchStatistics(Inference(plain), CONTEXT)
    statistics.remember(images(4))
    statistics.apply()
