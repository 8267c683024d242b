"""What the keys of a landmark job do to network and training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest

from common.data.samples import Sample
from common.engine.limits import GradientLimit, RateLimit
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.errors import CheckpointError, ConfigurationError
from common.recipe import Recipe
from common.task import Inputs
from common.training.checkpoint import write_checkpoint
from landmark.mirroring import MIRRORED_68
from landmark.task import LandmarkModel
from landmark.transforms import LandmarkTransform
from tests.helpers.estimators import estimator_of
from tests.helpers.landmark_jobs import (
    HEIGHT,
    WIDTH,
    batch,
    build,
    checkpoint_of,
    losses,
    task,
)


def test_a_checkpoint_of_other_keypoints_is_refused_in_one_line() -> None:
    checkpoint = checkpoint_of(build(dataset__num_joints=5))
    with pytest.raises(CheckpointError) as caught:
        build(checkpoint)
    assert str(caught.value) == "the checkpoint has 5 keypoints; dataset.num_joints is 3"


def test_a_checkpoint_whose_parameters_do_not_fit_is_refused() -> None:
    checkpoint = checkpoint_of(build())
    del checkpoint["parameters"]["output.weight"]
    with pytest.raises(CheckpointError, match=r"do not fit its network: .*output\.weight"):
        build(checkpoint)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("label_smoothing", "true", "train.label_smoothing: "),
        ("teacher", "resnet18_v1", 'train.teacher: "resnet18_v1"'),
    ],
)
def test_what_means_something_for_classes_alone_is_refused(key: str, value: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        task(**{f"train__{key}": value})
    assert str(caught.value).startswith(said)
    assert "keypoints" in str(caught.value)


@pytest.mark.parametrize(("baseline", "expected"), [(0, None), ("-3.5", -3.5)])
def test_a_baseline_of_0_is_none(baseline: Any, expected: float | None) -> None:
    assert task(train__early_stop_baseline=baseline).recipe(on_gpu=False).early_stop_baseline == expected


def test_evaluation_falls_with_the_error_and_is_in_pixels() -> None:
    sample = Sample("a.jpg", 100, 50, np.array([[0, 0], [40, 0], [0, 10]], np.float32))
    model = build()
    found = task().evaluator(model).evaluate([sample], [sample.annotation + np.array([3.0, 0.0])])
    assert found.value == pytest.approx(-np.sqrt(9 / 2))
    assert found.curves == {"NME": pytest.approx(3 / 20)}
    lost = task().evaluator(model).evaluate([sample], [np.full((3, 2), np.nan)])
    assert np.isnan(lost.value)


def test_a_fresh_network_begins_at_the_mean_of_the_training_set() -> None:
    points = np.array([[[10, 20], [50, 20], [30, 40]], [[30, 20], [70, 20], [50, 40]]], np.float32)
    samples = [Sample("a.jpg", 100, 50, points[0]), Sample("b.jpg", 100, 50, points[1])]
    model = build()
    task().begin(model, samples)
    found = model.network(mx.nd.zeros((1, 3, HEIGHT, WIDTH))).asnumpy()[0]
    np.testing.assert_allclose(found, points.mean(axis=0) / (100, 50), atol=0.05)


@pytest.mark.parametrize(
    ("joints", "given", "expected"),
    [
        (68, None, MIRRORED_68),
        (68, [], None),
        (67, None, None),
        (3, [1, 0, 2], (1, 0, 2)),
        (3, "1，0，2", (1, 0, 2)),
    ],
)
def test_images_are_mirrored_where_the_mirrored_points_are_known_or_given(
    joints: int, given: object, expected: tuple[int, ...] | None
) -> None:
    made = task(dataset__num_joints=joints, dataset__mirrored_joints=given).training_transform([])
    assert isinstance(made, LandmarkTransform)
    assert made.mirrored == expected


def test_a_table_of_other_keypoints_is_refused_by_name() -> None:
    with pytest.raises(ConfigurationError) as caught:
        task(dataset__num_joints=3, dataset__mirrored_joints=[1, 0])
    assert str(caught.value).startswith("dataset.mirrored_joints: [1, 0] has 2 entries")


def multipliers(model: LandmarkModel) -> dict[str, set[float]]:
    found: dict[str, set[float]] = {"features": set(), "rest": set()}
    for name, parameter in named_parameters(model.network).items():
        found["features" if name.startswith("features.") else "rest"].add(parameter.lr_mult)
    return found


def test_pretrained_layers_and_the_head_learn_at_their_rates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models").mkdir()
    zoo = mx.gluon.model_zoo.vision.mobilenet0_25(classes=10)
    zoo.initialize()
    zoo(mx.nd.zeros((1, 3, 224, 224)))
    zoo.save_parameters(str(tmp_path / "models" / "mobilenet0.25.params"))
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    rates: dict[str, Any] = {"train__transfer_lr_mult": 0.02, "train__output_lr_mult": 0.3}
    model = build(model__use_pretrained=True, **rates)
    assert multipliers(model) == {"features": {0.02}, "rest": {0.3}}
    values = named_parameters(zoo)["features.0.weight"].data().asnumpy()
    np.testing.assert_array_equal(model.network.features[0].weight.data().asnumpy(), values)
    assert multipliers(build(**rates)) == {"features": {1.0}, "rest": {1.0}}


def test_no_wd_spares_biases_gamma_and_beta() -> None:
    for no_wd, spared in ((True, {0.0}), (False, {1.0})):
        decays: dict[bool, set[float]] = {True: set(), False: set()}
        for name, parameter in named_parameters(build(train__no_wd=no_wd).network).items():
            if "running" not in name:
                decays[name.endswith(("bias", "gamma", "beta"))].add(parameter.wd_mult)
        assert decays == {True: spared, False: {1.0}}


def test_optimizer_and_precision_are_the_configured_ones() -> None:
    def recipe(**keys: Any) -> Recipe:
        return task(**keys).recipe(on_gpu=False)

    assert recipe().optimizer.name == "adam"
    nag = recipe(train__optimizer="nag", train__momentum=0.8, train__wd=0.01).optimizer
    assert (nag.name, nag.momentum, nag.wd) == ("nag", 0.8, 0.01)
    assert recipe().precision == "float32"
    assert (recipe().compiled, recipe(train__mode="imperative").compiled) == (True, False)
    assert isinstance(recipe().limit, RateLimit)
    assert isinstance(recipe(train__optimizer="sgd").limit, GradientLimit)


def test_mixup_mixes_images_and_holds_them_against_the_points_of_both() -> None:
    model = build(train__mixup=True)
    images, points, visible = model.training_inputs(batch()).split
    opposite = np.ascontiguousarray(points[::-1])

    def loss(images: np.ndarray, points: np.ndarray, share: float) -> np.ndarray:
        return losses(model, Inputs([images, points, visible], [np.array([share], np.float32)]))[0]

    (plain,) = losses(build(), build().training_inputs(batch()))
    np.testing.assert_allclose(loss(images, points, 1.0), plain, rtol=1e-4)
    dark_and_light = np.zeros_like(images)
    dark_and_light[:2] = 200
    grey = np.full_like(images, 60)
    grey[:2] = 140
    expected = 0.7 * loss(grey, points, 1.0) + 0.3 * loss(grey, opposite, 1.0)
    np.testing.assert_allclose(loss(dark_and_light, points, 0.7), expected, rtol=1e-3)
    assert np.abs(loss(dark_and_light, points, 1.0) - expected).max() > 0.01


def test_the_share_of_mixup_is_drawn_anew_for_every_batch_and_1_in_the_last_epochs() -> None:
    model = build(train__mixup=True, train__epochs=10, train__mixup_off_epoch=2, train__mixup_alpha=0.4)
    shares = [float(model.training_inputs(batch(0, number)).shared[0]) for number in range(300)]
    assert len(set(shares)) == 300
    assert np.var(shares) == pytest.approx(0.25 / 1.8, abs=0.03)  # the variance of Beta(0.4, 0.4)
    last = [float(model.training_inputs(batch(epoch, plain=epoch > 7)).shared[0]) for epoch in (7, 8, 9)]
    assert last[0] != 1.0
    assert last[1:] == [1.0, 1.0]
    assert build().training_inputs(batch()).shared == []


def test_a_student_comes_to_give_its_teachers_points(tmp_path: Path) -> None:
    teacher = build()
    teacher.network.output.bias.set_data(mx.nd.array([20, 30, 70, 30, 50, 80]))
    write_checkpoint(tmp_path / "teacher.pkl", "landmark", checkpoint_of(teacher))
    model = build(train__teacher=str(tmp_path / "teacher.pkl"), train__hard_weight=0.25)
    total, hard, soft = losses(model, model.training_inputs(batch()))
    np.testing.assert_allclose(total, 0.25 * hard + 0.75 * soft, rtol=1e-5)
    assert model.losses == ("loss", "points", "teacher")
    model = build(train__teacher=str(tmp_path / "teacher.pkl"), train__hard_weight=0)
    estimator = estimator_of(model, optimizer="adam", limit=None)
    far = losses(model, model.training_inputs(batch()))[2].mean()
    for _ in range(30):
        estimator.step(batch(), 0.003)
    near = losses(model, model.training_inputs(batch()))[2].mean()
    assert near < 0.2 * far
    block, _ = model.training_block()
    same = parameters(block.teacher)
    assert all(np.array_equal(same[name], value) for name, value in parameters(teacher.network).items())
    assert not any(name.startswith("teacher") for name in parameters(model.network))


def test_a_teacher_of_other_keypoints_is_refused_with_its_key(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "teacher.pkl", "landmark", checkpoint_of(build(dataset__num_joints=4)))
    with pytest.raises(CheckpointError, match=r"^train\.teacher: the checkpoint has 4 keypoints;"):
        build(train__teacher=str(tmp_path / "teacher.pkl"))
    with pytest.raises(CheckpointError, match=r"^train\.teacher: .*nowhere\.pkl"):
        build(train__teacher="nowhere.pkl")


@pytest.mark.parametrize("mixup", [False, True])
def test_invisible_points_are_out_of_the_loss(mixup: bool) -> None:
    model = build(train__mixup=mixup)
    content = batch()
    seen = losses(model, model.training_inputs(content))[0]
    content.arrays["points"][:, 1] = np.nan
    hidden = losses(model, model.training_inputs(content))[0]
    assert np.isfinite(hidden).all()
    assert (hidden != seen).all()
    # Whatever the other points are: as if there were none.
    others = batch()
    others.arrays["points"][:, 1] = others.arrays["points"][:, 0]
    assert (losses(model, model.training_inputs(others))[0] != hidden).any()


def test_an_invisible_point_is_null_in_the_result_and_counts_for_nothing() -> None:
    model = build()
    annotation = np.array([[0, 0], [40, 0], [np.nan, np.nan]], np.float32)
    sample = Sample("a.jpg", 100, 50, annotation)
    predicted = np.array([[3.0, 0.0], [43.0, 0.0], [-500.0, 0.0]])
    evaluation, document = task().evaluator(model).results([sample], [predicted])
    assert evaluation.value == pytest.approx(-np.sqrt(4.5))
    assert document["RMSE"] == pytest.approx(np.sqrt(4.5))
    (row,) = document["Result"]
    assert row["groundtruth"] == [{"x": 0, "y": 0}, {"x": 40, "y": 0}, None]
    assert row["keypoints"][2] == {"x": -500.0, "y": 0.0}
    json.dumps(document, allow_nan=False)
