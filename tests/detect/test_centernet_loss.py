"""CenterNet's losses are the paper's, and what is trained by them learns."""

from __future__ import annotations

import mxnet as mx
import numpy as np
import pytest
from gluoncv.loss import HeatmapFocalLoss, MaskedL1Loss
from mxnet import autograd, nd

from common.engine.mxnet_internals import named_parameters
from detect.center_net.loss import CenterNetLoss, focal_loss, l1_loss
from detect.center_net.network import CenterNetNetwork, build_network, initialise
from detect.center_net.targets import fill_targets, maps_of_classes, target_layout

SHAPE = (64, 96)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BOXES = [
    np.array([[3, 4, 30, 50, 0], [20, 20, 40, 60, 1], [60, 90, 61, 91, 2]], np.float32),
    np.zeros((0, 5), np.float32),
    np.array([[10, 10, 30, 30, 2]], np.float32),
]


def batch_targets(boxes: list[np.ndarray], rows: int = 6) -> dict[str, np.ndarray]:
    layout = target_layout(3, SHAPE, rows)
    out = {name: np.zeros((len(boxes), *size), dtype) for name, (size, dtype) in layout.items()}
    for i, each in enumerate(boxes):
        fill_targets(each, {name: array[i] for name, array in out.items()})
    maps = maps_of_classes(out["classes"], 3)[0].astype(int)
    out["heatmap"] = np.stack([images[numbers] for images, numbers in zip(out["heatmap"], maps, strict=True)])
    out["maps"] = np.tile(np.arange(3, dtype=np.float32), (len(boxes), 1))  # a map for every class
    return out


def logits(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(-2, 2, (len(BOXES), 3, 24, 16)).astype(np.float32)


def sigmoid(values: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-values))


def test_focal_loss_is_the_papers() -> None:
    target, given = batch_targets(BOXES)["heatmap"], logits()
    predicted = sigmoid(given)
    expected = 0.0
    for p, y in zip(predicted.ravel().astype(float), target.ravel().astype(float), strict=True):
        expected -= (1 - p) ** 2 * np.log(p) if y == 1 else (1 - y) ** 4 * p**2 * np.log(1 - p)
    loss = focal_loss(nd, nd.array(given), nd.array(target)).asnumpy()
    assert loss.shape == (3,)
    assert loss.mean() == pytest.approx(expected / 4, rel=1e-4)  # four objects in the batch
    theirs = HeatmapFocalLoss(from_logits=True)(nd.array(predicted), nd.array(target)).asscalar()
    assert loss.mean() == pytest.approx(theirs, rel=1e-4)


def test_the_focal_loss_of_an_unknown_place_is_nothing_whatever_is_predicted() -> None:
    hidden = np.array([[0, 0, SHAPE[0], SHAPE[1], -1]], np.float32)
    target = batch_targets([hidden, np.concatenate([BOXES[0], hidden])], rows=8)["heatmap"]
    loud = np.full((2, 3, 24, 16), 9.0, np.float32)
    empty, objects = focal_loss(nd, nd.array(loud), nd.array(target)).asnumpy()
    assert empty < 1e-4
    assert objects < 1e-4  # its centres are found
    quiet = focal_loss(nd, nd.array(-loud), nd.array(target)).asnumpy()
    assert quiet[0] < 1e-4 < 1 < quiet[1]


def test_focal_loss_has_the_gradient_of_the_papers_formula() -> None:
    target = nd.array(batch_targets(BOXES)["heatmap"])
    ours, theirs = nd.array(logits()), nd.array(logits())
    for each in (ours, theirs):
        each.attach_grad()
    with autograd.record():
        a, b = focal_loss(nd, ours, target).mean(), HeatmapFocalLoss()(theirs, target)
    autograd.backward([a, b])
    np.testing.assert_allclose(ours.grad.asnumpy(), theirs.grad.asnumpy(), rtol=1e-3, atol=1e-6)


def test_l1_loss_is_the_mean_over_objects_of_the_batch_and_both_coordinates() -> None:
    targets = batch_targets(BOXES)
    maps = np.random.default_rng(1).normal(size=(3, 2, 24, 16)).astype(np.float32)
    total, dense, mask = 0.0, np.zeros_like(maps), np.zeros_like(maps)
    for image in range(3):
        for cell, size, weight in zip(
            *(targets[name][image] for name in ("cells", "sizes", "weights")), strict=True
        ):
            if weight:
                y, x = divmod(int(cell), 16)
                total += np.abs(maps[image, :, y, x] - size).sum()
                dense[image, :, y, x], mask[image, :, y, x] = size, 1
    arrays = [nd.array(targets[name], dtype=targets[name].dtype) for name in ("cells", "sizes", "weights")]
    loss = l1_loss(nd, nd.array(maps), *arrays).asnumpy()
    assert loss.mean() == pytest.approx(total / (2 * 4), rel=1e-5)
    assert loss[1] == 0
    theirs = MaskedL1Loss()(nd.array(maps), nd.array(dense), nd.array(mask)).asscalar()
    assert loss.mean() == pytest.approx(theirs, rel=1e-5)


def test_batch_without_objects_has_a_finite_loss_of_its_heatmap_alone() -> None:
    targets = batch_targets([BOXES[1]] * 3)
    loss = focal_loss(nd, nd.array(logits()), nd.array(targets["heatmap"])).asnumpy()
    assert np.isfinite(loss).all()
    assert (loss > 0).all()
    arrays = [nd.array(targets[name], dtype=targets[name].dtype) for name in ("cells", "sizes", "weights")]
    assert not l1_loss(nd, nd.ones((3, 2, 24, 16)), *arrays).asnumpy().any()


@pytest.mark.parametrize("value", [-1000.0, 1000.0])
def test_scores_of_0_and_1_stay_finite_and_find_back(value: float) -> None:
    target = nd.array(batch_targets(BOXES)["heatmap"])
    given = nd.full(target.shape, value)
    given.attach_grad()
    with autograd.record():
        loss = focal_loss(nd, given, target).sum()
    loss.backward()
    assert np.isfinite(loss.asscalar())
    found = given.grad.asnumpy()
    assert np.isfinite(found).all()
    centre = target.asnumpy() == 1
    if value < 0:
        assert (found[centre] < -0.1).all()
    else:
        assert (found[target.asnumpy() == 0] > 0.1).all()


def small_network(base_network: str = "resnet18_v1b") -> CenterNetNetwork:
    mx.random.seed(0)
    network, _ = build_network(base_network, ["a", "b", "c"])
    initialise(network, [mx.cpu()], mean_size=(20, 20))
    return network


def inputs(boxes: list[np.ndarray], rows: int = 6) -> list[nd.NDArray]:
    rng = np.random.default_rng(2)
    pictures = rng.integers(0, 255, (len(boxes), SHAPE[1], SHAPE[0], 3))
    targets = batch_targets(boxes, rows)
    return [nd.array(pictures, dtype="uint8")] + [
        nd.array(targets[name], dtype=targets[name].dtype) for name in CenterNetLoss.inputs[1:]
    ]


def losses(network: CenterNetNetwork, arrays: list[nd.NDArray], **options: float) -> list[np.ndarray]:
    block = CenterNetLoss(network, **options)  # type: ignore[arg-type]
    block.hybridize()
    return [loss.asnumpy() for loss in block(*arrays)]


def test_weights_scale_their_part_of_the_sum() -> None:
    network, arrays = small_network(), inputs(BOXES)
    one = losses(network, arrays, wh_weight=1.0, center_reg_weight=1.0)
    other = losses(network, arrays, wh_weight=0.1, center_reg_weight=3.0)
    np.testing.assert_allclose(other[1], one[1], rtol=1e-5)
    np.testing.assert_allclose(other[2], 0.1 * one[2], rtol=1e-5)
    np.testing.assert_allclose(other[3], 3.0 * one[3], rtol=1e-5)
    np.testing.assert_allclose(other[0], other[1] + other[2] + other[3], rtol=1e-5)
    assert one[2].sum() > 0
    assert one[3].sum() > 0


def test_500_objects_in_an_image_are_trained() -> None:
    rng = np.random.default_rng(4)
    corners = rng.uniform(0, 60, (500, 2))
    crowd = np.c_[corners, corners + rng.uniform(1, 30, (500, 2)), rng.integers(0, 3, 500)].astype(np.float32)
    parts = losses(small_network(), inputs([crowd, BOXES[0]], rows=500))
    assert all(np.isfinite(part).all() and part.sum() > 0 for part in parts)


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_network_learns_on_the_cpu(base_network: str) -> None:
    network = small_network(base_network)
    block = CenterNetLoss(network, sampled=base_network.endswith("dcnv2"))
    block.hybridize()
    arrays = inputs(BOXES)
    before = {name: p.data().asnumpy() for name, p in named_parameters(network).items()}
    trainer = mx.gluon.Trainer(network.collect_params(), "adam", {"learning_rate": 1e-3}, kvstore=None)
    course = []
    for _ in range(6):
        with autograd.record():
            loss = block(*arrays)[0]
        loss.backward()
        trainer.step(len(BOXES))
        course.append(loss.mean().asscalar())
    assert course[-1] < 0.7 * course[0]
    unmoved = [
        name for name, p in named_parameters(network).items() if (p.data().asnumpy() == before[name]).all()
    ]
    assert unmoved == []
