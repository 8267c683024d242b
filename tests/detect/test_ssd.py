"""SSD: networks, losses, what is published, classes, and what its keys do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mxnet as mx
import numpy as np
import pytest
from gluoncv.model_zoo import get_model
from mxnet import autograd

from common.data.samples import Sample
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.errors import ConfigurationError, PretrainedError
from detect.ssd.anchors import anchor_boxes, levels
from detect.ssd.loss import class_losses
from detect.ssd.network import build_network, early_layers, initialise
from detect.ssd.task import SSDModel, SSDTask, plan_of
from tests.helpers.estimators import estimator_of
from tests.helpers.ssd_models import CPU, config, task
from tests.helpers.targets import inputs_of, train_step
from tests.helpers.yolov3_models import batch

NETWORKS = (
    "mobilenetv2_1.0_lite",
    "mobilenet1.0",
    "mobilenet1.0_fpn",
    "resnet18_v1",
    "resnet50_v1",
    "vgg16_atrous",
)


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of pretrained files; nothing can be fetched."""
    monkeypatch.setenv("MXNET_HOME", str(tmp_path))
    monkeypatch.setenv("MXNET_GLUON_REPO", "http://127.0.0.1:9")
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("shape", [(64, 64), (100, 170)])
def test_every_network_has_a_prediction_for_every_anchor_at_any_size(
    name: str, shape: tuple[int, int]
) -> None:
    section = config({"base_network": name, "data_shape": list(shape)}).model
    network, _ = build_network(name, ["a", "b"], plan_of(section), shape)
    logits, offsets = network.predictions(mx.sym, mx.sym.var("data"))
    _, shapes, _ = mx.sym.Group([logits, offsets]).infer_shape(data=(2, 3, *shape[::-1]))
    places = len(anchor_boxes(plan_of(section), shape))
    assert shapes == [(2, places, 3), (2, places, 4)]
    assert network.places == places


@pytest.mark.parametrize("size", [(300, 300), (512, 512), (512, 100), (64, 2048)])
def test_maps_of_vgg_never_come_to_an_end(size: tuple[int, int]) -> None:
    section = config({"base_network": "vgg16_atrous", "data_shape": list(size)}).model
    network, _ = build_network("vgg16_atrous", ["a"], plan_of(section), size)
    _, shapes, _ = network.predictions(mx.sym, mx.sym.var("data"))[1].infer_shape(data=(1, 3, *size[::-1]))
    assert shapes == [(1, network.places, 4)]


def test_a_network_learns_to_fit_a_few_images() -> None:
    made = task().build(["a", "b"], CPU, None)
    estimator = estimator_of(made, momentum=0.9, wd=1e-4)
    content = batch(2)
    losses = [train_step(estimator, content, 0.01) for _ in range(8)]
    assert all(loss is not None and np.isfinite(loss).all() for loss in losses)
    assert losses[-1][0] < 0.6 * losses[0][0]  # type: ignore[index]


@pytest.mark.parametrize(
    ("box_loss", "class_loss"), [("smooth_l1", "focal"), ("giou", "hard_negatives"), ("ciou", "focal")]
)
def test_all_losses_train_in_one_graph(box_loss: str, class_loss: str) -> None:
    made = task({"base_network": "mobilenet1.0"}, box_loss=box_loss, class_loss=class_loss).build(
        ["a", "b"], CPU, None
    )
    estimator = estimator_of(made, momentum=0.9)
    content = batch(2)
    first, *_, last = [train_step(estimator, content, 0.01) for _ in range(4)]
    assert first is not None
    assert last is not None
    assert last[1] < first[1]
    assert last[2] < first[2]
    np.testing.assert_allclose(first[0], first[1] + first[2], rtol=1e-5)


def plain_class_losses(logits: np.ndarray, target: np.ndarray, kind: str, ratio: float) -> np.ndarray:
    """As the papers have them, with loops."""
    shifted = logits - logits.max(-1, keepdims=True)
    probability = np.exp(shifted) / np.exp(shifted).sum(-1, keepdims=True)
    losses = np.zeros(target.shape)
    for image, row in enumerate(target.astype(int)):
        entropy = [-np.log(probability[image, place, max(wanted, 0)]) for place, wanted in enumerate(row)]
        background = [place for place, wanted in enumerate(row) if wanted == 0]
        count = int(ratio * max((row > 0).sum(), 1))
        hard = sorted(background, key=lambda place: -entropy[place])[:count]
        for place, wanted in enumerate(row):
            if kind == "focal" and wanted >= 0:
                p = np.exp(-entropy[place])
                losses[image, place] = (0.25 if wanted else 0.75) * (1 - p) ** 2 * entropy[place]
            elif kind != "focal" and (wanted > 0 or place in hard):
                losses[image, place] = entropy[place]
    return losses


@pytest.mark.parametrize("kind", ["hard_negatives", "focal"])
def test_class_losses_and_their_gradients_are_those_of_the_papers(kind: str) -> None:
    rng = np.random.default_rng(0)
    target = rng.choice([-1, 0, 0, 0, 0, 0, 0, 1, 2], (3, 40)).astype(np.float32)
    target[2] = np.minimum(target[2], 0)  # an image without objects
    values = rng.normal(0, 2, (3, 40, 3))
    logits = mx.nd.array(values)
    logits.attach_grad()
    with autograd.record():
        loss = class_losses(mx.nd, logits, mx.nd.array(target), kind, 3.0)
    loss.backward()
    wanted = plain_class_losses(values, target, kind, 3.0)
    np.testing.assert_allclose(loss.asnumpy(), wanted, rtol=1e-4, atol=1e-6)
    assert (wanted[2] > 0).sum() == (3 if kind == "hard_negatives" else (target[2] == 0).sum())
    gradient = np.empty_like(values)
    for place in np.ndindex(values.shape):
        step = np.zeros_like(values)
        step[place] = 1e-5
        both = [
            plain_class_losses(values + sign * step, target, kind, 3.0)[place[0]].sum() for sign in (1, -1)
        ]
        gradient[place] = (both[0] - both[1]) / 2e-5
    np.testing.assert_allclose(logits.grad.asnumpy(), gradient, rtol=1e-3, atol=1e-5)


def losses_of(made: Any, content: Any) -> list[np.ndarray]:
    block, _ = made.training_block()
    inputs = inputs_of(made, content)
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
    return [loss.asnumpy() for loss in block(*arrays)]


def test_losses_are_means_over_the_objects_of_all_ranks() -> None:
    made = task().build(["a", "b"], CPU, None)
    content = batch()
    alone = inputs_of(made, content).split[3]
    # Another rank has as many images, and none shows anything.
    content.total = lambda sums: sums * np.array([2, 1])
    assert inputs_of(made, content).split[3] == pytest.approx(2 * alone)


def test_an_unknown_place_is_out_of_the_loss_and_objects_stay_in() -> None:
    made = task(class_loss="focal").build(["a", "b"], CPU, None)
    content = batch()
    plain = losses_of(made, content)
    width, height = content.shape
    content.arrays["boxes"][:, 2] = [0, 0, width, height, -1]
    hidden = losses_of(made, content)
    np.testing.assert_array_equal(plain[2], hidden[2])
    assert (hidden[1] < plain[1]).all()
    assert (hidden[1] > 0).all()  # the anchors that answer for the objects
    content.arrays["boxes"][:, :2] = -1
    assert (losses_of(made, content)[0] == 0).all()


def test_keys_of_negatives_reach_the_loss() -> None:
    content = batch()
    made = task({"base_network": "mobilenet1.0"}).build(["a", "b"], CPU, None)

    def class_loss(**train: Any) -> np.ndarray:
        keys = config({"base_network": "mobilenet1.0"}, **train).train
        return losses_of(SSDModel(made.network, made.section, keys, ["a", "b"]), content)[1]

    usual = class_loss()
    assert (class_loss(negative_ratio=10) > usual).all()
    assert (class_loss(negative_min_size=0.9) < usual).all()
    # The whole image is seen as it is in training, and all its anchors have their centres in one half or the other.
    assert (class_loss(negative_region=[0, 0, 1, 1]) == usual).all()
    assert (class_loss(negative_region="0, 0, 0.2, 0.2") < usual).all()
    for nothing in ({"negative_min_size": 0.99}, {"negative_region": [0, 0, 0.01, 0.01]}):
        with pytest.raises(ConfigurationError, match=r"leaves none of the .* anchors"):
            class_loss(**nothing)


@pytest.fixture(scope="module")
def published_file(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """GluonCV's SSD of 20 classes with random parameters, and its file."""
    network = get_model("ssd_512_mobilenet1.0_voc", pretrained=False, pretrained_base=False)
    mx.random.seed(0)
    network.initialize()
    network(mx.nd.zeros((1, 3, 64, 64)))
    rng = np.random.default_rng(0)
    for name, parameter in network.collect_params().items():
        if name.endswith("_var"):
            parameter.set_data(mx.nd.array(rng.uniform(0.5, 1.5, parameter.shape)))
        elif "conv" in name and name.endswith("weight"):
            scale = (2 / np.prod(parameter.shape[1:])) ** 0.5
            parameter.set_data(mx.nd.array(rng.normal(0, scale, parameter.shape)))
    file = tmp_path_factory.mktemp("published") / "ssd_512_mobilenet1.0_voc.params"
    network.save_parameters(str(file))
    return network, file


@pytest.fixture
def published(models: Path, published_file: tuple[Any, Path]) -> Any:
    """The network of `published_file`, which is among the pretrained files."""
    network, file = published_file
    (models / file.name).symlink_to(file)
    return network


PUBLISHED = {"base_network": "mobilenet1.0", "use_pretrained": True, "transfer_dataset": "voc"}


def test_published_detectors_find_here_what_they_find_there(published: Any) -> None:
    made = task({**PUBLISHED, "data_shape": 512}).build(published.classes, CPU, None)
    image = mx.nd.random.normal(shape=(1, 3, 512, 512))
    published.set_nms(nms_thresh=0.45, nms_topk=400, post_nms=100)
    ours, theirs = (
        [output.asnumpy()[0] for output in network(image)] for network in (made.network, published)
    )
    assert (theirs[0] >= 0).sum() > 20
    for found, wanted in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-3, atol=1e-3)
    assert {layer[-1].weight.lr_mult for layer in made.network.class_heads.layers} == {0.1}
    assert {layer[-1].bias.lr_mult for layer in made.network.box_heads.layers} == {0.1}


@pytest.mark.parametrize(
    "name",
    [
        "ssd_300_vgg16_atrous_coco",
        "ssd_512_vgg16_atrous_voc",
        "ssd_512_mobilenet1.0_coco",
        "ssd_512_resnet50_v1_coco",
    ],
)
def test_parameters_have_the_names_and_shapes_of_published_files(name: str) -> None:
    _, size, rest = name.split("_", 2)
    base, _, dataset = rest.rpartition("_")
    theirs = get_model(name, pretrained=False, pretrained_base=False)
    theirs.infer_shape(mx.nd.zeros((1, 3, int(size), int(size))))
    published = {key: value.shape for key, value in named_parameters(theirs).items() if "anchor" not in key}
    made = task(
        {"base_network": base, "data_shape": int(size), "use_pretrained": True, "transfer_dataset": dataset}
    )
    ours, _ = made.make_network(made.config.model, theirs.classes)
    names = made.published_names(ours)
    found = {
        names.get(key, key): value.shape for key, value in named_parameters(ours).items() if key != "anchors"
    }
    assert found == published


def test_classes_of_the_same_name_are_kept_and_new_ones_begin_as_average_ones(published: Any) -> None:
    made = task(PUBLISHED).build(["robot", "dog"], CPU, None)
    dog = 1 + list(published.classes).index("dog")
    for head, output in zip(made.network.class_heads.layers, published.class_predictors, strict=True):
        new = head[-1].weight.data().asnumpy()
        new = new.reshape(-1, 3, *new.shape[1:])
        old = output.predictor.weight.data().asnumpy()
        old = old.reshape(-1, 21, *old.shape[1:])
        np.testing.assert_array_equal(new[:, 0], old[:, 0])
        np.testing.assert_array_equal(new[:, 2], old[:, dog])
        assert np.abs(new[:, 1] - old[:, 1:].mean(1)).max() < 0.1


def test_a_checkpoint_brings_its_network_its_anchors_and_its_classes() -> None:
    samples = [
        Sample("a.jpg", 100, 100, np.array([[0, 10, 10, 10 + width, 18]], np.float32))
        for width in (30, 35, 40, 50)
    ]
    first = task({"anchor_fit": True})
    made = first.build(["a", "b"], CPU, None)
    by_rule = made.network.anchors.data().asnumpy()
    first.begin(made, samples)
    checkpoint = {"model": made.description(), "classes": ["a", "b"], "parameters": parameters(made.network)}
    assert json.loads(json.dumps(made.description())) == made.description()
    again = task(pretrained_base=True).build(["b", "c"], CPU, checkpoint)
    assert {p.lr_mult for p in again.network.collect_params().values()} == {1.0}
    for each, mode in ((made, "write"), (again, "null")):  # by train.pretrained_base
        assert early_layers(each.network, "mobilenetv2_1.0_lite")[0].weight.grad_req == mode
    assert (made.network.anchors.data().asnumpy() != by_rule).any()
    np.testing.assert_array_equal(
        again.network.anchors.data().asnumpy(), made.network.anchors.data().asnumpy()
    )
    old, new = (
        each.network.class_heads.layers[0][-1].bias.data().asnumpy().reshape(-1, 3) for each in (made, again)
    )
    np.testing.assert_array_equal(new[:, :2], old[:, [0, 2]])
    # Targets are made by the anchors that the network has.
    assert (inputs_of(again, batch()).split[1] == inputs_of(made, batch()).split[1]).all()


def test_the_backbone_in_the_box_is_what_the_smallest_network_begins_with(models: Path) -> None:
    made = task(pretrained_base=True).build(["a"], CPU, None)
    assert sorted(models.iterdir()) == []
    variance = made.network.features.stages[0][1].running_var.data().asnumpy()
    assert variance.max() > 1000 * variance.min()
    # What begins at random learns faster.
    network = made.network
    assert {p.lr_mult for p in network.features.stages.collect_params().values()} == {1.0}
    for block in (network.features.extras, network.class_heads, network.box_heads):
        assert {p.lr_mult for p in block.collect_params().values()} == {3.0}
    with pytest.raises(PretrainedError, match=r"mobilenet1\.0-efbb2ca3\.params"):
        task({"base_network": "mobilenet1.0_fpn"}, pretrained_base=True).build(["a"], CPU, None)
    with pytest.raises(PretrainedError, match=r"vgg16_atrous-4fa2e1ad\.params"):
        task({"base_network": "vgg16_atrous"}, pretrained_base=True).build(["a"], CPU, None)


@pytest.mark.parametrize("frozen", [True, False])
def test_the_first_layers_from_imagenet_stay_as_they_are_unless_told(models: Path, frozen: bool) -> None:
    keys = {} if frozen else {"freeze_early": False}
    made = task(pretrained_base=True, **keys).build(["a", "b"], CPU, None)
    before = parameters(made.network)
    train_step(estimator_of(made, momentum=0.9, wd=1e-2), batch(2), 0.01)
    after = parameters(made.network)
    backbone = [name for name in before if name.startswith("features.stages.")]
    stays = {name for name in backbone if (after[name] == before[name]).all()}
    early = {name for name in backbone if name.split(".")[2] == "0" and int(name.split(".")[3]) < 9}
    assert stays == (early if frozen else set())
    # What begins at random would teach nothing behind it.
    network = task().build(["a", "b"], CPU, None).network
    assert all(
        value.grad_req == "write" for key, value in named_parameters(network).items() if "weight" in key
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_layers_end_where_maps_have_an_eighth_of_the_input(name: str) -> None:
    section = config({"base_network": name, "data_shape": [128, 128]}).model
    network, _ = build_network(name, ["a"], plan_of(section), (128, 128))
    x = mx.sym.var("data")
    for layer in early_layers(network, name):
        x = layer(x)
    _, [shape], _ = x.infer_shape(data=(1, 3, 128, 128))
    # VGG's stages have their pooling between them.
    assert shape[2:] == ((128, 128) if name == "vgg16_atrous" else (16, 16))


def test_vgg_begins_with_the_file_of_its_backbone(models: Path) -> None:
    from gluoncv.model_zoo.ssd.vgg_atrous import get_vgg_atrous_extractor

    backbone = get_vgg_atrous_extractor(16, 300)
    backbone.infer_shape(mx.nd.zeros((1, 3, 300, 300)))
    named = {name: value.shape for name, value in named_parameters(backbone).items() if "extras" not in name}
    mx.nd.save(
        str(models / "vgg16_atrous.params"), {name: mx.nd.ones(shape) for name, shape in named.items()}
    )
    made = task({"base_network": "vgg16_atrous"}, pretrained_base=True).build(["a"], CPU, None)
    features: Mapping[str, Any] = named_parameters(made.network.features)
    assert (features["stages.5.2.weight"].data().asnumpy() == 1).all()
    assert not (features["extras.0.0.weight"].data().asnumpy() == 1).all()
    assert (features["norm4.scale"].data().asnumpy() == 20).all()


@pytest.mark.parametrize(
    ("model", "told"),
    [
        (
            {"use_pretrained": True},
            "mobilenetv2_1.0_lite; there are some for vgg16_atrous, mobilenet1.0, resnet50_v1",
        ),
        (
            {"use_pretrained": True, "base_network": "resnet18_v1"},
            "has no published detector for resnet18_v1",
        ),
        ({"use_pretrained": True, "base_network": "mobilenet1.0", "anchor_fit": True}, "model.anchor_fit"),
        ({"syncbn": True, "base_network": "vgg16_atrous"}, "vgg16_atrous has no BatchNorm"),
        ({"data_shape": [20, 20]}, "width and height, two whole numbers from 64 to 4096, or null"),
    ],
)
def test_what_cannot_be_is_told(model: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        config(model)
    assert told in str(caught.value)


@pytest.mark.parametrize("region", [[0, 0, 1], [0.5, 0, 0.4, 1], [0, 0, 1, 2], "a,b,c,d", True])
def test_a_region_is_four_shares(region: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"train\.negative_region"):
        config(negative_region=region)


def test_defaults_go_by_the_network() -> None:
    lite, pyramid = (
        config({"data_shape": None}),
        config({"data_shape": "", "base_network": "mobilenet1.0_fpn"}),
    )
    assert (lite.model.input_shape, pyramid.model.input_shape) == ((300, 300), (640, 640))
    assert lite.train.class_loss_of(lite.model.base_network) == "hard_negatives"
    assert pyramid.train.class_loss_of(pyramid.model.base_network) == "focal"
    assert config(class_loss="focal").train.class_loss_of("resnet18_v1") == "focal"
    vgg = {"base_network": "vgg16_atrous", "use_pretrained": True, "transfer_dataset": "voc"}
    assert config({**vgg, "data_shape": 320}).detector_name == "ssd_300_vgg16_atrous_voc"
    assert config({**vgg, "data_shape": 480}).detector_name == "ssd_512_vgg16_atrous_voc"


def test_suppression_goes_by_its_keys() -> None:
    network, _ = build_network("mobilenet1.0", ["a", "b"], levels("mobilenet1.0", 512, "voc"), (64, 64))
    mx.random.seed(0)
    initialise(network, CPU, 0.25)
    image = mx.nd.random.normal(shape=(1, 3, 64, 64))
    usual = {"nms_thresh": 0.45, "nms_topk": 400, "post_nms": 100}
    rows = []
    for keys in ({}, {"nms_thresh": 0.0}, {"post_nms": 7}, {"nms_topk": 5}):
        made = SSDTask(config(valid=keys))
        asked, _ = made.make_network(made.config.model, ["a"])
        assert {name: getattr(asked, name) for name in usual} == {**usual, **keys}
        network.nms_thresh, network.nms_topk, network.post_nms = (getattr(asked, name) for name in usual)
        ids, scores, _ = (output.asnumpy()[0] for output in network(image))
        assert (np.diff(scores[:, 0]) <= 0).all()
        rows.append(((ids >= 0).sum(), len(ids)))
    (usual_count, _), (every, _), (_, seven), (_, five) = rows
    assert 0 < usual_count < every
    assert (seven, five) == (7, 5)


def test_training_images_are_mosaics_as_often_as_the_key_says_and_whole_at_the_end() -> None:
    samples = [Sample("a.jpg", 100, 100, np.zeros((1, 5), np.float32))]

    def mosaics(**train: Any) -> tuple[float, float | None]:
        made = task(**train)
        plain = made.recipe(on_gpu=False).plain_transform
        return made.training_transform(samples).mosaic, plain and plain(samples).mosaic  # type: ignore[attr-defined]

    assert mosaics() == (0.5, 0.0)
    assert mosaics(mosaic=1) == (1.0, 0.0)
    assert mosaics(mosaic=0) == (0.0, None)
