"""Every key of CenterNet does what it says."""

from __future__ import annotations

import logging
from pathlib import Path

import mxnet as mx
import numpy as np
import pytest

from common.export.model_files import export_model
from detect.center_net.network import BASE_NETWORKS, expect_size
from tests.helpers.centernet_models import batch, build, losses, outputs, sample, settled, task
from tests.helpers.estimators import estimator_of
from tests.helpers.targets import inputs_of, train_step

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.mark.parametrize(
    "base_network",
    [pytest.param(name, marks=[pytest.mark.slow] * ("18" not in name)) for name in BASE_NETWORKS],
)
def test_every_network_trains_and_detects_on_the_cpu(base_network: str) -> None:
    made = build({"base_network": base_network})
    assert made.name == f"center_net_{base_network}_custom"
    estimator = estimator_of(made, momentum=0.9)
    content = batch(4)
    course = [train_step(estimator, content, 0.01) for _ in range(4)]
    assert all(loss is not None and np.isfinite(loss).all() for loss in course)
    assert course[-1][0] < course[0][0]  # type: ignore[index]
    found = outputs(made.inference_block(), content.arrays["image"])
    assert [array.shape for array in found] == [(4, 100, 1), (4, 100, 1), (4, 100, 4)]
    assert all(np.isfinite(array).all() for array in found)


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_log_says_that_deformable_convolutions_are_slow_on_a_cpu_and_what_to_choose(
    base_network: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "visualtl"):
        build({"base_network": base_network})
    told = [record.getMessage() for record in caplog.records if "slow" in record.getMessage()]
    if base_network == "resnet18_v1b":
        assert told == []
    else:
        assert len(told) == 1
        assert "resnet18_v1b_dcnv2" in told[0]
        assert "resnet18_v1b has none" in told[0]


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_scale_is_the_ratio_of_input_and_map_in_targets_and_network(scale: int) -> None:
    made = build({"scale": scale, "data_shape": [96, 64]})
    content = batch(shape=(96, 64))
    heatmap = inputs_of(made, content).split[1]
    assert heatmap.shape == (2, 3, 64 // scale, 96 // scale)
    assert all(np.isfinite(losses(made, content)))


def test_topk_is_the_number_of_detections_kept() -> None:
    images = batch().arrays["image"]
    many, few = (outputs(settled({"topk": k}).inference_block(), images) for k in (30, 7))
    assert many[0].shape[1] == 30
    assert few[0].shape[1] == 7
    np.testing.assert_allclose(few[1], many[1][:, :7], atol=1e-6)


def test_loss_weights_weigh_their_part() -> None:
    content = batch()
    plain = losses(build({"wh_weight": 1.0, "center_reg_weight": 1.0}), content)
    weighed = losses(build({"wh_weight": 0.25, "center_reg_weight": 3.0}), content)
    assert plain[2] > 0
    assert plain[3] > 0
    np.testing.assert_allclose(weighed[1:], plain[1:] * np.array([1, 0.25, 3.0]), rtol=1e-4)
    np.testing.assert_allclose(weighed[0], sum(weighed[1:]), rtol=1e-4)


def test_data_shape_is_width_and_height() -> None:
    wide = task({"data_shape": [96, 64]})
    assert wide.shape == (96, 64)
    assert wide.training_transform([sample([])]).layout(wide.shape)["image"] == ((64, 96, 3), "uint8")
    found = outputs(
        settled({"data_shape": [96, 64]}).inference_block(), batch(shape=(96, 64)).arrays["image"]
    )
    assert found[2].shape == (2, 100, 4)
    assert found[2][..., 0].max() > 64


def test_flip_test_looks_at_the_mirrored_image_in_evaluation_and_its_own_export_alone() -> None:
    images = batch().arrays["image"]
    both, plain = settled(flip_test=True), settled(flip_test=False)
    mirrored = outputs(both.inference_block(), images)
    once = outputs(plain.inference_block(), images)
    assert not np.allclose(mirrored[1], once[1], atol=1e-4)
    # The mirror of an image has the same objects, mirrored: so their scores are the same.
    np.testing.assert_allclose(outputs(both.inference_block(), images[:, :, ::-1])[1], mirrored[1], atol=1e-5)
    assert not np.allclose(outputs(plain.inference_block(), images[:, :, ::-1])[1], once[1], atol=1e-4)
    assert both.network.flip_test is False
    assert list(both.further_exports()) == ["flip_test"]
    assert plain.further_exports() == {}


def test_exported_graphs_give_what_was_evaluated(tmp_path: Path) -> None:
    images = batch().arrays["image"]
    normalised = (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    data = mx.nd.array(normalised.transpose(0, 3, 1, 2))
    made = settled({"base_network": "resnet18_v1b_dcnv2"}, flip_test=True)
    written = export_model(made, task(), tmp_path, {}, {})
    assert len(written) == 4
    params = str(tmp_path / f"{made.name}-0000.params")

    def detections(name: str) -> list[np.ndarray]:
        network = mx.gluon.SymbolBlock.imports(str(tmp_path / name), ["data"], params)
        return [array.asnumpy() for array in network(data)]

    mirrored = made.interface()["flip_test"]["symbol"]
    for name, flip_test in (
        (f"{made.name}-symbol.json", False),
        (mirrored, True),
    ):
        made.flip_test = flip_test
        for found, wanted in zip(detections(name), outputs(made.inference_block(), images), strict=True):
            np.testing.assert_allclose(found, wanted, atol=1e-3)


@pytest.mark.slow
def test_nms_keys() -> None:
    images = batch(1).arrays["image"]

    def found(**keys: float) -> list[np.ndarray]:
        made = settled({"topk": 60}, **keys)
        expect_size(made.network, (60, 60))  # so large that many overlap
        return outputs(made.inference_block(), images)

    plain = found(nms_thresh=0, nms_topk=3, post_nms=2)
    assert plain[0].shape[1] == 60  # 0 is off, whatever the other keys say
    peaks = int((plain[0] >= 0).sum())
    thinned = found(nms_thresh=0.5, nms_topk=60)
    kept = int((thinned[0] >= 0).sum())
    assert 5 < kept < peaks
    short = found(nms_thresh=0.5, nms_topk=60, post_nms=5)
    np.testing.assert_array_equal(short[2], thinned[2][:, :5])
    few = found(nms_thresh=0.5, nms_topk=4)
    assert 0 < (few[0] >= 0).sum() <= 4


def test_metric_iou_thresh_and_score_thresh_judge_and_write_detections() -> None:
    samples = [sample([[0, 10, 10, 30, 30], [0, 50, 10, 70, 30], [1, 0, 0, 9, 9]])]
    # One object is found exactly, one at an IoU of 2/3, beside a false alarm between the two.
    found = [
        np.array([[0, 0.9, 10, 10, 30, 30], [0, 0.6, 80, 0, 90, 9], [0, 0.2, 54, 10, 74, 30]], np.float32)
    ]
    made = build()
    of = {metric: task(metric=metric).evaluator(made).evaluate(samples, found) for metric in ("voc", "voc07")}
    assert of["voc"].curves["AP/a"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert of["voc07"].curves["AP/a"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert task(iou_thresh=0.7).evaluator(made).evaluate(samples, found).curves["AP/a"] == pytest.approx(0.5)
    for thresh, count in ((0.1, 3), (0.3, 2), (0.7, 1)):
        evaluation, document = task(score_thresh=thresh).evaluator(made).results(samples, found)
        assert len(document["Result"][0]["objects"]) == count
        assert evaluation.curves["AP/a"] == of["voc"].curves["AP/a"]


@pytest.mark.slow
def test_a_few_images_are_learnt_by_heart_at_the_guides_learning_rate() -> None:
    made = build(classes=["a", "b"], flip_test=False)
    content = batch(2)
    task().begin(made, [sample([[1, 4, 4, 40, 50]], 64, 64)])
    estimator = estimator_of(made, momentum=0.9, wd=1e-4)
    course = [train_step(estimator, content, 0.01) for _ in range(60)]
    assert course[-1][1] < 0.2 * course[0][1]  # type: ignore[index]
    block = made.training_block()[0]
    assert block.network is made.network
    with mx.autograd.train_mode():  # statistics of so few steps are not yet those of the images
        heatmap, _, _ = made.network.maps(
            mx.nd, block.normalise(mx.nd.array(content.arrays["image"], dtype="uint8"))
        )
    # The large object's centre, of class b, is the highest place of the second image.
    place = np.unravel_index(heatmap[1].asnumpy().argmax(), heatmap.shape[1:])
    assert tuple(int(i) for i in place) == (1, 6, 5)


def test_several_devices_train_one_model() -> None:
    contexts = [mx.cpu(0), mx.cpu(1)]
    made = task().build(["a", "b"], contexts, None)
    estimator = estimator_of(made, contexts, momentum=0.9)
    for seed in range(2):
        assert np.isfinite(train_step(estimator, batch(4, seed=seed), 0.01)).all()  # type: ignore[arg-type]
    copies = [copy.asnumpy() for copy in made.network.heads[0][-1].weight.list_data()]
    assert (copies[0] == copies[1]).all()
