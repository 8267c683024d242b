"""The landmark losses and metric are their formulas; the network learns points."""

from __future__ import annotations

from pathlib import Path

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from common.engine.graph import Inference, inference_graph
from landmark.losses import LOSSES, UNIT, LandmarkTraining, SmoothL1Loss, WingLoss
from landmark.metric import landmark_metric
from landmark.network import build_landmark, set_mean_shape

RNG = np.random.default_rng(0)
PREDICTED = RNG.normal(0.5, 0.05, (3, 5, 2))
ANNOTATED = RNG.normal(0.5, 0.05, (3, 5, 2))
DISTANCE = 100 * np.abs(PREDICTED - ANNOTATED)


def wing(x: np.ndarray) -> np.ndarray:
    width, curvature = 10 / 2.56, 2 / 2.56
    offset = width - width * np.log(1 + width / curvature)
    return np.where(x < width, width * np.log(1 + x / curvature), x - offset)


EXPECTED = {
    "l2": DISTANCE**2 / 2,
    "smooth_l1": np.where(DISTANCE < 1, DISTANCE**2 / 2, DISTANCE - 0.5),
    "wing": wing(DISTANCE),
}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_its_formula(name: str) -> None:
    loss = LOSSES[name]()
    loss.hybridize()
    found = loss(mx.nd.array(PREDICTED), mx.nd.array(ANNOTATED)).asnumpy()
    np.testing.assert_allclose(found, EXPECTED[name].mean(axis=(1, 2)), rtol=1e-4)


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_a_loss_is_the_mean_over_visible_points(name: str) -> None:
    visible = np.array([[1, 0, 1, 1, 0], [1] * 5, [0] * 5], np.float32)
    loss = LOSSES[name]()
    loss.hybridize()
    points = mx.nd.array(PREDICTED)
    points.attach_grad()
    with autograd.record():
        found = loss(
            points, mx.nd.array(np.where(visible[..., None] > 0, ANNOTATED, 0)), mx.nd.array(visible)
        )
    found.backward()
    expected = EXPECTED[name]
    wanted = [expected[0][visible[0] > 0].mean(), expected[1].mean(), 0]
    np.testing.assert_allclose(found.asnumpy(), wanted, rtol=1e-4)
    np.testing.assert_array_equal((points.grad.asnumpy() != 0).all(axis=2), visible > 0)


def test_smooth_l1_turns_linear_at_its_beta() -> None:
    found = SmoothL1Loss(beta=4.0)(mx.nd.array([[[0.02, 0.08]]]), mx.nd.zeros((1, 1, 2))).asscalar()
    assert found == pytest.approx((2**2 / 8 + 8 - 2) / 2, rel=1e-4)
    assert UNIT == 100


def test_wing_is_continuous_where_it_turns_linear() -> None:
    width = 10 / 2.56
    around = [
        WingLoss()(mx.nd.full((1, 1, 2), (width + d) / 100), mx.nd.zeros((1, 1, 2))).asscalar()
        for d in (-1e-3, 1e-3)
    ]
    assert around[1] - around[0] == pytest.approx(0, abs=5e-3)


def test_the_metric_is_over_all_coordinates() -> None:
    annotated = np.array([[[0, 0], [4, 9]], [[0, 0], [8, 8]]], float)
    predicted = annotated + np.array([[[3, 4], [0, 0]], [[0, 0], [0, 2]]])
    metric = landmark_metric(predicted, annotated)
    assert metric.rmse == pytest.approx(np.sqrt((9 + 16 + 4) / 8))
    assert metric.nme == pytest.approx(((5 / 2) / 6 + (2 / 2) / 8) / 2)


def test_the_metric_is_over_visible_points() -> None:
    annotated = np.array(
        [[[0, 0], [4, 9], [np.nan] * 2], [[0, 0], [8, 8], [4, 4]], [[np.nan] * 2] * 3], float
    )
    predicted = np.zeros((3, 3, 2)) + 77
    predicted[:2] = np.nan_to_num(annotated[:2], nan=1000.0)
    predicted[0, 0] += (3, 4)
    metric = landmark_metric(predicted, annotated)
    assert metric.rmse == pytest.approx(np.sqrt((9 + 16) / 10))
    assert metric.nme == pytest.approx(((5 / 2) / 6 + 0) / 2)
    assert np.isnan(landmark_metric(predicted[2:], annotated[2:]).rmse)


def test_points_that_span_no_area_have_no_normalised_error() -> None:
    assert np.isnan(landmark_metric(np.ones((2, 1, 2)), np.zeros((2, 1, 2))).nme)
    assert landmark_metric(np.ones((2, 1, 2)), np.zeros((2, 1, 2))).rmse == 1
    assert np.isnan(landmark_metric(np.zeros((0, 3, 2)), np.zeros((0, 3, 2))).rmse)


def test_the_mean_shape_baseline_of_real_faces(shared_data: Path) -> None:
    """The figures to beat, as an independent check of the metric."""
    cv2 = pytest.importorskip("cv2")

    def read(part: str) -> tuple[np.ndarray, np.ndarray]:
        paths = sorted((shared_data / "ytf68" / part).glob("*.jpg"))
        sizes = [cv2.imread(str(path)).shape[1::-1] for path in paths]
        return np.array([np.loadtxt(p.with_suffix(".txt"), delimiter=",") for p in paths]), np.array(sizes)

    (train, train_sizes), (valid, valid_sizes) = read("landmark_train"), read("landmark_valid")
    mean = (train / train_sizes[:, None]).mean(axis=0)
    metric = landmark_metric(mean * valid_sizes[:, None], valid)
    assert metric.rmse == pytest.approx(10.2, abs=0.06)
    assert metric.nme == pytest.approx(0.161, abs=0.001)


def test_the_network_begins_with_the_mean_shape_and_learns(tmp_path: Path) -> None:
    mx.random.seed(0)
    network = build_landmark("mobilenet0.25", 3, [mx.cpu()])
    mean = np.array([[0.2, 0.3], [0.7, 0.4], [0.5, 0.9]])
    set_mean_shape(network, mean)
    images = mx.nd.array(RNG.integers(0, 256, (4, 48, 64, 3)), dtype="uint8")
    infer = inference_graph(Inference(network))
    np.testing.assert_allclose(infer(images).asnumpy(), np.repeat(mean[None], 4, axis=0), atol=0.1)
    points = mx.nd.array(mean + RNG.normal(0, 0.05, (4, 3, 2)))
    block = LandmarkTraining(network, LOSSES["smooth_l1"]())
    block.hybridize()
    trainer = gluon.Trainer(network.collect_params(), "adam", {"learning_rate": 2e-3})
    losses = []
    for _ in range(25):
        with autograd.record():
            loss = block(images, points, mx.nd.ones((4, 3)))
        assert loss.shape == (4,)
        loss.backward()
        trainer.step(4)
        losses.append(loss.mean().asscalar())
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("size", [(64, 48), (32, 32), (224, 224)])
def test_an_exported_network_gives_the_same_points(size: tuple[int, int], tmp_path: Path) -> None:
    network, x = (
        build_landmark("mobilenetv2_0.25", 5, [mx.cpu()]),
        mx.nd.random.normal(shape=(2, 3, size[1], size[0])),
    )
    network.hybridize()
    points = network(x).asnumpy()
    assert points.shape == (2, 5, 2)
    network.export(str(tmp_path / "net"))
    again = gluon.SymbolBlock.imports(
        str(tmp_path / "net-symbol.json"), ["data"], str(tmp_path / "net-0000.params")
    )
    np.testing.assert_allclose(again(x).asnumpy(), points, rtol=1e-4, atol=1e-5)
