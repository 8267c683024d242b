"""Every key of CenterNet does what it says, and published parameters fit."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gluoncv
import mxnet as mx
import numpy as np
import pytest

from common.config import configuration, with_model
from common.errors import CheckpointError, PretrainedError
from common.estimator import Estimator, parameters
from common.export import export_model
from common.graph import Normalise, compile_graph
from common.loader import Batch
from common.samples import Sample
from detect.centernet import CenterNetModel, CenterNetTask, mean_size
from detect.centernet_network import BASE_NETWORKS, backbone_parameters, head_parameters
from detect.config import CenterNetConfig
from detect.geometry import letterbox

CPU = [mx.cpu()]
SCRATCH = {"base_network": "resnet18_v1b", "use_pretrained": False, "data_shape": [64, 64]}
PRETRAINED = {"use_pretrained": True, "transfer_dataset": "voc"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def task(
    model: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **valid: Any
) -> CenterNetTask:
    """A task from scratch on tiny images, but for what is given."""
    values = {
        "log_dir": "out",
        "gpus": [],
        "model": {**SCRATCH, **(model or {})},
        "train": {"pretrained_base": False, **(train or {})},
        "valid": valid,
    }
    return CenterNetTask(configuration(CenterNetConfig, values))


def build(*args: Any, classes: list[str] | None = None, **valid: Any) -> CenterNetModel:
    mx.random.seed(0)
    np.random.seed(0)
    return task(*args, **valid).build(classes or ["a", "b"], CPU, None)


def settled(*args: Any, **valid: Any) -> CenterNetModel:
    """A model whose outputs differ from place to place as those of a trained one: scores between 0 and 1."""
    made = build(*args, **valid)
    images = mx.nd.array(batch().arrays["image"], dtype="uint8")
    features = made.network.base_network(Normalise()(images))
    for head, spread in zip(made.network.heads, (1.0, 3.0, 0.3), strict=True):
        head[-1].weight.set_data(head[-1].weight.data() * (spread / head(features).asnumpy().std()))
    return made


def batch(rows: int = 2, shape: tuple[int, int] = (64, 64), seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    boxes = np.full((rows, 3, 5), -1, np.float32)
    boxes[:, 0] = [4, 4, 40, 50, 1]
    boxes[0, 1] = [10, 20, 30, 31, 0]
    arrays: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (rows, shape[1], shape[0], 3)).astype(np.uint8),
        "boxes": boxes,
        "matrix": np.tile(np.array([[2, 0, 0], [0, 2, 0]], np.float32), (rows, 1, 1)),
    }
    return Batch(arrays, np.arange(rows), rows, shape)


def losses(model: CenterNetModel, content: Batch) -> list[np.ndarray]:
    """The mean of each loss over a batch."""
    block, names = model.training_block()
    inputs = model.training_inputs(content)
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in inputs.split]
    return [loss.asnumpy().mean() for loss in compile_graph(block, names)(*arrays)]


def outputs(block: Any, images: np.ndarray) -> list[np.ndarray]:
    graph = compile_graph(block, ["images"])
    return [array.asnumpy() for array in graph(mx.nd.array(images, dtype="uint8"))]


def sample(boxes: list[list[float]], width: int = 100, height: int = 50) -> Sample:
    return Sample("x.jpg", width, height, np.array(boxes, np.float32).reshape(-1, 5))


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of pretrained parameters, and no way to fetch any."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:1/")
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """GluonCV's own network for VOC with random parameters, and the file it saves."""
    network = gluoncv.model_zoo.get_model(
        "center_net_resnet18_v1b_voc", pretrained=False, pretrained_base=False
    )
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 64, 64)))
    path = tmp_path_factory.mktemp("published") / "center_net_resnet18_v1b_voc.params"
    network.save_parameters(str(path))
    return network, path


def test_a_pretrained_detector_keeps_boxes_and_the_classes_it_knows(published: Any, models: Path) -> None:
    network, path = published
    (models / path.name).symlink_to(path)
    # train.pretrained_base has nothing to say beside model.use_pretrained: its file is not even looked for.
    made = build(PRETRAINED, {"pretrained_base": True}, classes=["robot", "dog"])
    theirs = {name: value.data().asnumpy() for name, value in network._collect_params_with_prefix().items()}
    for name, value in parameters(made.network).items():
        if not name.startswith("heads.0.2."):
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
    dog = list(network.classes).index("dog")
    np.testing.assert_array_equal(
        parameters(made.network)["heads.0.2.weight"][1], theirs["heads.0.2.weight"][dog]
    )


def test_multipliers_slow_backbone_and_heads_of_a_pretrained_detector_alone(
    published: Any, models: Path
) -> None:
    _, path = published
    (models / path.name).symlink_to(path)
    multipliers = {"transfer_lr_mult": 0.25, "output_lr_mult": 0.5}
    made = build(PRETRAINED, multipliers)
    assert {parameter.lr_mult for parameter in backbone_parameters(made.network)} == {0.25}
    assert {parameter.lr_mult for parameter in head_parameters(made.network)} == {0.5}
    known = {id(p) for p in backbone_parameters(made.network) + head_parameters(made.network)}
    others = [p for p in made.network.collect_params().values() if id(p) not in known]
    assert {parameter.lr_mult for parameter in others} == {1.0}
    scratch = build(None, multipliers)
    assert {parameter.lr_mult for parameter in scratch.network.collect_params().values()} == {1.0}


def test_a_multiplier_of_0_leaves_its_layers_as_they_are(published: Any, models: Path) -> None:
    _, path = published
    (models / path.name).symlink_to(path)
    for key, part in (("transfer_lr_mult", "base_network.base_network."), ("output_lr_mult", "heads.")):
        made = build(PRETRAINED, {"transfer_lr_mult": 1.0, "output_lr_mult": 1.0, key: 0.0})
        before = parameters(made.network)
        Estimator(made, CPU, mx.optimizer.SGD(wd=0.0)).step(batch(), 0.001)
        after = parameters(made.network)
        # Running means are statistics, not what a learning rate applies to.
        changed = {name for name, value in before.items() if (after[name] != value).any()}
        moved = {name for name in changed if "running" not in name}
        assert moved
        assert not [name for name in moved if name.startswith(part)]
        assert [name for name in moved if name.startswith("base_network.deconv.")]


@pytest.mark.parametrize("base_network", ["resnet18_v1b", "resnet18_v1b_dcnv2"])
def test_pretrained_base_loads_the_backbone_alone(models: Path, base_network: str) -> None:
    backbone = gluoncv.model_zoo.get_model("resnet18_v1b", pretrained=False)
    backbone.initialize(mx.init.One())
    backbone(mx.nd.zeros((1, 3, 64, 64)))
    backbone.save_parameters(str(models / "resnet18_v1b.params"))
    name, other = "base_network.base_network.0.weight", "base_network.deconv.3.weight"
    loaded = parameters(build({"base_network": base_network}, {"pretrained_base": True}).network)
    fresh = parameters(build({"base_network": base_network}).network)
    assert (loaded[name] == 1).all()
    assert not (fresh[name] == 1).all()
    np.testing.assert_array_equal(loaded[other], fresh[other])


@pytest.mark.parametrize(
    ("model", "train", "name"),
    [
        *(
            (
                {"base_network": network, "use_pretrained": True, "transfer_dataset": dataset},
                {},
                f"center_net_{network}_{dataset}-{digits}.params",
            )
            for network, dataset, digits in (
                ("resnet18_v1b", "coco", "dccae71d"),
                ("resnet18_v1b_dcnv2", "voc", "04d1ed20"),
                ("resnet50_v1b", "voc", "f108427b"),
                ("resnet50_v1b_dcnv2", "coco", "2713a7ba"),
                ("resnet101_v1b", "voc", "5bf8b91f"),
                ("resnet101_v1b_dcnv2", "coco", "52daf2d9"),
            )
        ),
        ({}, {"pretrained_base": True}, "resnet18_v1b-2d9d980c.params"),
        (
            {"base_network": "resnet101_v1b_dcnv2"},
            {"pretrained_base": True},
            "resnet101_v1b-a455932a.params",
        ),
    ],
)
def test_missing_parameters_are_named(
    models: Path, model: dict[str, Any], train: dict[str, Any], name: str
) -> None:
    with pytest.raises(PretrainedError) as caught:
        build(model, train)
    assert name in str(caught.value)
    assert str(models) in str(caught.value)


def test_another_scale_than_that_of_pretrained_detectors_is_refused(models: Path) -> None:
    with pytest.raises(PretrainedError, match=r"model\.scale: 8 with model\.use_pretrained"):
        build({"use_pretrained": True, "scale": 8})


@pytest.mark.parametrize(
    "base_network",
    [pytest.param(name, marks=[pytest.mark.slow] * ("18" not in name)) for name in BASE_NETWORKS],
)
def test_every_network_trains_and_detects_on_the_cpu(base_network: str) -> None:
    made = build({"base_network": base_network})
    assert made.name == f"center_net_{base_network}_custom"
    estimator = Estimator(made, CPU, mx.optimizer.SGD(momentum=0.9))
    content = batch(4)
    course = [estimator.step(content, 0.01) for _ in range(4)]
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
    heatmap = made.training_inputs(content).split[1]
    assert heatmap.shape == (2, 2, 64 // scale, 96 // scale)
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
    for transform in (wide.training_transform([sample([])]), wide.evaluation_transform()):
        assert transform.layout(wide.shape)["image"] == ((64, 96, 3), "uint8")
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
    written = export_model(made, tmp_path, (64, 64), {})
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


def test_nms_keys() -> None:
    images = batch(1).arrays["image"]
    model = {"topk": 60}
    plain = outputs(settled(model, nms_thresh=0, nms_topk=3, post_nms=2).inference_block(), images)
    assert plain[0].shape[1] == 60  # 0 is off, whatever the other keys say
    peaks = int((plain[0] >= 0).sum())
    thinned = outputs(settled(model, nms_thresh=0.05).inference_block(), images)
    kept = int((thinned[0] >= 0).sum())
    assert 5 < kept < peaks
    short = outputs(settled(model, nms_thresh=0.05, post_nms=5).inference_block(), images)
    np.testing.assert_array_equal(short[2], thinned[2][:, :5])
    few = outputs(settled(model, nms_thresh=0.05, nms_topk=4).inference_block(), images)
    assert 0 < (few[0] >= 0).sum() <= 4


def test_metric_iou_thresh_and_score_thresh_judge_and_write_detections() -> None:
    samples = [sample([[0, 10, 10, 30, 30], [0, 50, 10, 70, 30], [1, 0, 0, 9, 9]])]
    # One object is found exactly, one at an IoU of 2/3, beside a false alarm between the two.
    found = [
        np.array([[0, 0.9, 10, 10, 30, 30], [0, 0.6, 80, 0, 90, 9], [0, 0.2, 54, 10, 74, 30]], np.float32)
    ]
    made = build()
    of = {metric: task(metric=metric).evaluate(samples, found, made) for metric in ("voc", "voc07")}
    assert of["voc"].curves["AP/a"] == pytest.approx(0.5 + 0.5 * 2 / 3)
    assert of["voc07"].curves["AP/a"] == pytest.approx((6 + 5 * 2 / 3) / 11)
    assert task(iou_thresh=0.7).evaluate(samples, found, made).curves["AP/a"] == pytest.approx(0.5)
    for thresh, count in ((0.1, 3), (0.3, 2), (0.7, 1)):
        evaluation, document = task(score_thresh=thresh).results(samples, found, made)
        assert len(document["Result"][0]["objects"]) == count
        assert evaluation.curves["AP/a"] == of["voc"].curves["AP/a"]


def test_predictions_come_back_in_pixels_of_the_original() -> None:
    made = build()
    content = batch(shape=(64, 32))
    content.arrays["matrix"][:] = [[2, 0, 0], [0, 2, -7]]
    wide = letterbox(100, 50, (64, 32))
    ids = np.array([[[1], [-1]], [[0], [0]]], np.float32)
    scores = np.array([[[0.9], [-1]], [[0.8], [0.7]]], np.float32)
    boxes = np.tile(np.array([[[1, 2, 3, 4]]], np.float32), (2, 2, 1))
    content.arrays["matrix"][1] = [[1 / wide[0, 0], 0, -wide[0, 2] / wide[0, 0]], [0, 1 / wide[1, 1], 0]]
    first, second = made.predictions([ids, scores, boxes], content)
    np.testing.assert_allclose(first, [[1, 0.9, 2, -3, 6, 1]], rtol=1e-6)
    np.testing.assert_allclose(second[1], [0, 0.7, 1.5625, 3.125, 4.6875, 6.25], rtol=1e-6)


def test_a_checkpoint_brings_its_network_and_what_it_knows_of_the_classes() -> None:
    model = {
        "base_network": "resnet18_v1b_dcnv2",
        "scale": 8,
        "topk": 9,
        "wh_weight": 0.5,
        "data_shape": [96, 64],
    }
    old = build(model, classes=["dog", "cat", "bird"])
    checkpoint: dict[str, Any] = {
        "model": old.description(),
        "classes": old.classes,
        "parameters": parameters(old.network),
    }
    loaded = task()  # its own keys of the model have no effect
    made = loaded.build(["bird", "fish", "dog"], CPU, checkpoint)
    assert made.description() == old.description()
    assert made.classes == ["bird", "fish", "dog"]
    assert CenterNetTask(with_model(loaded.config, checkpoint["model"])).shape == (96, 64)
    images = batch(shape=(96, 64)).arrays["image"]
    x = (mx.nd.array(images) / 255).transpose((0, 3, 1, 2))
    before, after = (each.network.maps(mx.nd, x)[0].asnumpy() for each in (old, made))
    np.testing.assert_allclose(after[:, [0, 2]], before[:, [2, 0]], atol=1e-6)
    # The layers of a network that is loaded learn alike.
    for parameter in backbone_parameters(made.network) + head_parameters(made.network):
        assert parameter.lr_mult == 1.0


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    checkpoint: dict[str, Any] = {
        "model": {"base_network": "resnet18_v1b"},
        "classes": ["a"],
        "parameters": {},
    }
    with pytest.raises(CheckpointError, match="do not fit"):
        task().build(["a"], CPU, checkpoint)
    with pytest.raises(CheckpointError, match=r"model\.base_network is 'vgg'"):
        task().build(["a"], CPU, {**checkpoint, "model": {"base_network": "vgg"}})
    with pytest.raises(CheckpointError, match="not a dictionary"):
        task().build(["a"], CPU, {**checkpoint, "model": 3})


def test_a_new_network_begins_at_the_mean_size_of_the_objects_and_a_pretrained_one_where_it_is(
    published: Any, models: Path
) -> None:
    _, path = published
    (models / path.name).symlink_to(path)
    samples = [
        sample([[0, 0, 0, 40, 20], [0, 0, 0, 20, 10]]),
        sample([]),
        sample([[0, 0, 0, 60, 60]], 200, 200),
    ]
    assert mean_size(samples, (50, 50)) == pytest.approx((15, 10))
    assert mean_size([sample([])], (50, 50)) is None
    made, name = build(), "heads.1.2.bias"
    assert (parameters(made.network)[name] == 0).all()
    task({"data_shape": [64, 64]}).begin(made, samples)
    np.testing.assert_allclose(parameters(made.network)[name], [4.8, 3.2], rtol=1e-5)
    pretrained = build(PRETRAINED)
    before = parameters(pretrained.network)[name]
    task(PRETRAINED).begin(pretrained, samples)
    np.testing.assert_array_equal(parameters(pretrained.network)[name], before)


@pytest.mark.slow
def test_a_few_images_are_learnt_by_heart_at_the_guides_learning_rate() -> None:
    made = build(classes=["a", "b"], flip_test=False)
    content = batch(2)
    task().begin(made, [sample([[1, 4, 4, 40, 50]], 64, 64)])
    estimator = Estimator(made, CPU, mx.optimizer.SGD(momentum=0.9, wd=1e-4))
    course = [estimator.step(content, 0.01) for _ in range(60)]
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
    estimator = Estimator(made, contexts, mx.optimizer.SGD(momentum=0.9))
    for seed in range(2):
        assert np.isfinite(estimator.step(batch(4, seed=seed), 0.01)).all()  # type: ignore[arg-type]
    copies = [copy.asnumpy() for copy in made.network.heads[0][-1].weight.list_data()]
    assert (copies[0] == copies[1]).all()
