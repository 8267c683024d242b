"""The classifier's losses are the formulas they are named after, and its classes survive a change."""

from __future__ import annotations

from collections.abc import Sequence

import mxnet as mx
import numpy as np
import pytest
from mxnet import autograd, gluon

from classification.losses import ClassificationTraining, cross_entropy, distillation_loss
from classification.losses import target_distributions as targets_of
from classification.networks import build_classifier, transfer_classes
from common.engine.mxnet_internals import named_parameters
from common.networks.base_networks import Network, freeze

CLASSES = 3


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def tiny(outputs: int = CLASSES, dropout: float = 0.0) -> Network:
    features = gluon.nn.HybridSequential()
    features.add(
        gluon.nn.Conv2D(4, 3, in_channels=3), gluon.nn.BatchNorm(in_channels=4), gluon.nn.Activation("relu")
    )
    features.add(gluon.nn.GlobalAvgPool2D(), gluon.nn.Flatten(), gluon.nn.Dropout(dropout))
    network = Network(features, gluon.nn.Dense(outputs, in_units=4))
    mx.random.seed(2)
    network.initialize(mx.init.Normal(0.5))
    return network


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8, 10, 3), np.uint8)


def run(
    block: ClassificationTraining, labels: Sequence[int], *more: np.ndarray, train: bool = False
) -> list[np.ndarray]:
    block.hybridize()
    arrays = [
        mx.nd.array(a, dtype=a.dtype) for a in (images(len(labels)), np.array(labels, np.float32), *more)
    ]
    with autograd.record() if train else autograd.pause():
        result = block(*arrays)
    return [array.asnumpy() for array in (result if isinstance(result, list) else [result])]


def logits_of(network: Network, pixels: np.ndarray) -> np.ndarray:
    normal = (pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    return network(mx.nd.array(normal.transpose(0, 3, 1, 2))).asnumpy()


def test_a_random_classifier_begins_nearly_linear() -> None:
    network = build_classifier("mobilenet0.25", 3, [mx.cpu()])
    betas = network.collect_params(".*beta").values()
    assert betas
    assert {value for beta in betas for value in beta.data().asnumpy()} == {1.0}


def test_cross_entropy_is_minus_the_expected_log_probability() -> None:
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(5, 4)), rng.dirichlet(np.ones(4), 5)
    found = cross_entropy(mx.nd, mx.nd.array(logits), mx.nd.array(target)).asnumpy()
    np.testing.assert_allclose(found, -(log_softmax(logits) * target).sum(axis=1), rtol=1e-5)


def test_label_smoothing_leaves_the_rest_evenly_to_all_classes() -> None:
    smooth = targets_of(mx.nd, mx.nd.array([2, 0]), 4, smoothing=0.1).asnumpy()
    np.testing.assert_allclose(
        smooth, [[0.025, 0.025, 0.925, 0.025], [0.925, 0.025, 0.025, 0.025]], rtol=1e-6
    )
    np.testing.assert_array_equal(targets_of(mx.nd, mx.nd.array([1]), 3).asnumpy(), [[0, 1, 0]])


def test_distillation_is_the_papers() -> None:
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(3, 4)), rng.normal(size=(3, 4))
    soft = np.exp(log_softmax(teacher / 5))
    found = distillation_loss(mx.nd, mx.nd.array(student), mx.nd.array(teacher), 5.0).asnumpy()
    np.testing.assert_allclose(found, -25 * (soft * log_softmax(student / 5)).sum(axis=1), rtol=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_training_loss_is_the_networks_cross_entropy(smoothing: float) -> None:
    network, labels = tiny(), [0, 2, 1, 1]
    (loss,) = run(ClassificationTraining(network, CLASSES, smoothing=smoothing), labels)
    target = np.eye(CLASSES)[labels] * (1 - smoothing) + smoothing / CLASSES
    expected = -(log_softmax(logits_of(network, images())) * target).sum(axis=1)
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


def test_mixup_mixes_images_and_labels_alike() -> None:
    network, labels = tiny(), [0, 2, 1, 1]
    block = ClassificationTraining(network, CLASSES, mixup=True)
    (plain,) = run(block, labels, np.array([1.0], np.float32))
    (expected,) = run(ClassificationTraining(network, CLASSES), labels)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    (mixed,) = run(block, labels, np.array([0.7], np.float32))
    pixels, one_hot = images().astype(np.float64), np.eye(CLASSES)[labels]
    logits = logits_of(network, 0.7 * pixels + 0.3 * pixels[::-1])
    target = 0.7 * one_hot + 0.3 * one_hot[::-1]
    np.testing.assert_allclose(mixed, -(log_softmax(logits) * target).sum(axis=1), rtol=1e-4)


@pytest.mark.parametrize("teacher_classes", [CLASSES, 7])
def test_a_teacher_is_followed_and_not_changed(teacher_classes: int) -> None:
    network, teacher = tiny(), tiny(teacher_classes, dropout=0.5)
    freeze(teacher)
    block = ClassificationTraining(network, CLASSES, teacher=teacher, hard_weight=0.25, temperature=4.0)
    if block.teacher_output is not None:
        block.teacher_output.initialize()
    before = {k: p.data().asnumpy() for k, p in named_parameters(teacher).items()}
    total, hard, soft = run(block, [0, 2, 1, 1], train=True)
    np.testing.assert_allclose(total, 0.25 * hard + 0.75 * soft, rtol=1e-5)
    again = run(block, [0, 2, 1, 1], train=True)[2]
    np.testing.assert_array_equal(again, soft)  # no dropout in the teacher
    assert all(np.array_equal(before[k], p.data().asnumpy()) for k, p in named_parameters(teacher).items())
    assert (block.teacher_output is not None) == (teacher_classes != CLASSES)


@pytest.mark.parametrize("teacher_classes", [CLASSES, 7])
def test_distillation_makes_a_student_predict_as_its_teacher(teacher_classes: int) -> None:
    network, teacher = tiny(), tiny(teacher_classes)
    teacher.output.weight.set_data(teacher.output.weight.data() * 8)
    network.output.weight.set_data(network.output.weight.data() * -3)
    freeze(teacher)
    block = ClassificationTraining(network, CLASSES, teacher=teacher, hard_weight=0.0, temperature=2.0)
    if block.teacher_output is not None:
        block.teacher_output.initialize()
    block.hybridize()
    parameters = [p for p in block.collect_params().values() if p.grad_req != "null"]
    trainer = gluon.Trainer(parameters, "adam", {"learning_rate": 0.02})
    losses = []
    for _ in range(60):
        with autograd.record():
            loss = block(mx.nd.array(images(), dtype="uint8"), mx.nd.zeros(4))[0]
        loss.backward()
        trainer.step(4)
        losses.append(loss.mean().asscalar())
    soft = np.exp(log_softmax(logits_of(teacher, images()) / 2))
    least = 4 * -(soft * np.log(soft)).sum(axis=1).mean()  # the entropy of the teacher's own predictions
    assert losses[-1] - least < 0.25 * (losses[0] - least)


def test_a_change_of_classes_keeps_what_is_known_of_the_ones_that_stay() -> None:
    network = build_classifier("mobilenet0.25", 3, [mx.cpu()])
    network.output.bias.set_data(mx.nd.array([1.0, 2.0, 4.0]))
    x = mx.nd.random.uniform(shape=(2, 3, 32, 32))
    before = network(x).asnumpy()
    assert transfer_classes(network, ["a", "b", "c"], ["new", "c", "a", "other"]) == ["c", "a"]
    after = network(x).asnumpy()
    assert after.shape == (2, 4)
    np.testing.assert_allclose(after[:, [1, 2]], before[:, [2, 0]], rtol=1e-5)
    assert network.output.bias.data().asnumpy().tolist() == [2.5, 4.0, 1.0, 2.5]
    assert set(named_parameters(network)) >= {"output.weight", "output.bias"}
