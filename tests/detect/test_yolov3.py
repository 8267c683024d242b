"""Every key of YOLOv3's model does what it says, and published parameters fit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gluoncv
import mxnet as mx
import numpy as np
import pytest

from benchmarks.beginnings import cosines
from common.config.reading import configuration
from common.data.samples import Sample
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.errors import CheckpointError, DeviceError, PretrainedError
from common.networks.pretrained import find_parameters
from detect.config import YOLOv3Config
from detect.yolov3.network import build_network, head_layers, initialise, transfer_classes
from detect.yolov3.task import RandomShapes, image_weight
from tests.helpers.estimators import estimator_of
from tests.helpers.targets import inputs_of, train_step
from tests.helpers.yolov3_models import CPU, batch, task

ROOT = Path(__file__).resolve().parents[2]


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
    network = gluoncv.model_zoo.get_model("yolo3_mobilenet1.0_voc", pretrained=False, pretrained_base=False)
    network.initialize(mx.init.Xavier())
    network(mx.nd.zeros((1, 3, 64, 64)))
    path = tmp_path_factory.mktemp("published") / "yolo3_mobilenet1.0_voc.params"
    network.save_parameters(str(path))
    return network, path


def test_published_parameters_give_what_gluoncv_gives(published: Any, models: Path) -> None:
    network, path = published
    (models / path.name).symlink_to(path)
    made = task({"use_pretrained": True, "transfer_dataset": "voc"}).build(network.classes, CPU, None)
    images = mx.nd.random.uniform(-1, 1, (2, 3, 96, 64))
    for found, wanted in zip(made.network(images), network(images), strict=True):
        np.testing.assert_allclose(found.asnumpy(), wanted.asnumpy(), rtol=1e-4, atol=1e-4)


def test_a_pretrained_detector_keeps_boxes_objects_and_the_classes_it_knows(
    published: Any, models: Path
) -> None:
    network, path = published
    (models / path.name).symlink_to(path)
    made = task({"use_pretrained": True, "transfer_dataset": "voc"}).build(["robot", "dog"], CPU, None)
    for head, output in zip(head_layers(made.network), network.yolo_outputs, strict=True):
        new = head.weight.data().asnumpy().reshape(3, 7, -1)
        old = output.prediction.weight.data().asnumpy().reshape(3, 25, -1)
        np.testing.assert_array_equal(new[:, :5], old[:, :5])
        np.testing.assert_array_equal(new[:, 6], old[:, 5 + list(network.classes).index("dog")])
        assert head.weight.lr_mult == 0.1
        assert head.bias.lr_mult == 0.1


def test_output_lr_mult_slows_the_last_layers_of_a_pretrained_detector_alone(
    published: Any, models: Path
) -> None:
    _, path = published
    (models / path.name).symlink_to(path)
    made = task({"use_pretrained": True, "transfer_dataset": "voc"}, output_lr_mult=0.0).build(
        ["dog", "x"], CPU, None
    )
    before = parameters(made.network)
    train_step(estimator_of(made), batch(), 0.001)
    after = parameters(made.network)
    changed = {name for name, value in before.items() if (after[name] != value).any()}
    assert changed
    assert not [name for name in changed if ".prediction." in name]
    others = [p for name, p in made.network.collect_params().items() if "yolooutput" not in name]
    assert {parameter.lr_mult for parameter in others} == {1.0}
    # The key is not for a network that begins at random altogether, which learns at ten times the rate.
    scratch = task(output_lr_mult=0.5).build(["a", "b"], CPU, None)
    assert {parameter.lr_mult for parameter in scratch.network.collect_params().values()} == {10.0}


@pytest.mark.parametrize(("objects", "weight"), [(1, 7.3), (2, 3.65), (12, 1.0)])
def test_last_layers_of_a_fresh_network_learn_the_slower_the_more_an_image_weighs(
    objects: int, weight: float
) -> None:
    scratch = task()
    made = scratch.build(["a", "b"], CPU, None)
    annotation = np.tile(np.array([[0, 4, 4, 40, 50]], np.float32), (objects, 1))
    scratch.begin(made, [Sample("x.jpg", 64, 64, annotation)] * 3)
    multipliers = {name: p.lr_mult for name, p in named_parameters(made.network).items()}
    last = {name for name in multipliers if name.endswith(".prediction.weight")}
    assert len(last) == 3
    assert [multipliers[name] for name in last] == pytest.approx([0.13 / weight] * 3)
    assert {value for name, value in multipliers.items() if name not in last} == {10.0}


def test_pretrained_base_loads_the_backbone_alone(models: Path) -> None:
    from gluoncv.model_zoo.mobilenet import get_mobilenet

    backbone = get_mobilenet(1.0, pretrained=False)
    backbone.initialize(mx.init.One())
    backbone(mx.nd.zeros((1, 3, 64, 64)))
    backbone.save_parameters(str(models / "mobilenet1.0.params"))
    loaded = task(pretrained_base=True).build(["a"], CPU, None)
    assert {parameter.lr_mult for parameter in loaded.network.collect_params().values()} == {1.0}
    fresh = task().build(["a"], CPU, None)
    assert (loaded.network.stages[0][0].weight.data().asnumpy() == 1).all()
    assert not (fresh.network.stages[0][0].weight.data().asnumpy() == 1).all()
    assert not (loaded.network.yolo_blocks[0].body[0][0].weight.data().asnumpy() == 1).all()


@pytest.mark.parametrize(
    ("model", "train", "name"),
    [
        ({"use_pretrained": True}, {}, "yolo3_mobilenet1.0_coco-66dbbae6.params"),
        ({"use_pretrained": True, "transfer_dataset": "voc"}, {}, "yolo3_mobilenet1.0_voc-3b47835a.params"),
        ({"use_pretrained": True, "base_network": "darknet53"}, {}, "yolo3_darknet53_coco-09767802.params"),
        ({}, {"pretrained_base": True}, "mobilenet1.0-efbb2ca3.params"),
    ],
)
def test_missing_parameters_are_named(
    models: Path, model: dict[str, Any], train: dict[str, Any], name: str
) -> None:
    with pytest.raises(PretrainedError) as caught:
        task(model, **train).build(["a"], CPU, None)
    assert name in str(caught.value)
    assert str(models) in str(caught.value)


def test_parameters_that_do_not_fit_and_files_that_are_damaged_are_named(models: Path) -> None:
    mx.nd.save(str(models / "yolo3_mobilenet1.0_coco.params"), {"a": mx.nd.zeros(3)})
    with pytest.raises(PretrainedError, match=r"yolo3_mobilenet1.0_coco.params"):
        task({"use_pretrained": True}).build(["a"], CPU, None)
    (models / "yolo3_mobilenet1.0_coco.params").write_bytes(b"not parameters at all")
    with pytest.raises(PretrainedError, match=r"yolo3_mobilenet1.0_coco.params"):
        task({"use_pretrained": True}).build(["a"], CPU, None)
    (models / "yolo3_mobilenet1.0_coco.params").rename(models / "yolo3_mobilenet1.0_coco-66dbbae6.params")
    with pytest.raises(PretrainedError, match="damaged"):
        find_parameters("yolo3_mobilenet1.0_coco")


def test_classes_that_are_new_begin_as_average_classes() -> None:
    network, _ = build_network("mobilenet1.0", ["a", "b"])
    initialise(network, CPU)
    network(mx.nd.zeros((1, 3, 64, 64)))
    old = head_layers(network)[0].weight.data().asnumpy().reshape(3, 7, -1)
    assert transfer_classes(network, ["c", "b", "d"], CPU) == ["b"]
    new = head_layers(network)[0].weight.data().asnumpy().reshape(3, 8, -1)
    np.testing.assert_array_equal(new[:, 6], old[:, 6])
    np.testing.assert_array_equal(new[:, :5], old[:, :5])
    assert np.abs(new[:, 5] - old[:, 5:].mean(1)).max() < 0.1


def test_a_checkpoint_that_does_not_fit_its_network_is_refused() -> None:
    checkpoint = {"model": {"base_network": "mobilenet1.0"}, "classes": ["a"], "parameters": {}}
    with pytest.raises(CheckpointError, match="do not fit"):
        task().build(["a"], CPU, checkpoint)
    with pytest.raises(CheckpointError, match="vgg"):
        task().build(["a"], CPU, {**checkpoint, "model": {"base_network": "vgg"}})


def test_mosaics_are_made_as_often_as_the_key_says_and_not_in_the_last_tenth_of_the_epochs() -> None:
    samples = [Sample("a.jpg", 8, 8, np.zeros((3, 5), np.float32))]

    def mosaics(**keys: Any) -> tuple[float, tuple[int, float] | None]:
        made = task(**keys)
        plain, first = made.recipe(on_gpu=False).plain_transform, made.config.train.first_plain_epoch
        return made.training_transform(samples).mosaic, plain and (first, plain(samples).mosaic)  # type: ignore

    assert mosaics(epochs=50) == (0.5, (45, 0.0))
    assert mosaics(epochs=11, mosaic=1) == (1.0, (9, 0.0))
    assert mosaics(epochs=1) == (0.5, (0, 0.0))
    assert mosaics(mosaic=0) == (0.0, None)


def test_both_base_networks_are_what_they_are_called() -> None:
    for name in ("mobilenet1.0", "darknet53"):
        made = task({"base_network": name}).build(["a"], CPU, None)
        assert made.name == f"yolo3_{name}_custom"
        first = made.network.stages[0][0]
        assert ("Sequential" in type(first).__name__) == (name == "darknet53")


def test_only_devices_that_wait_for_one_another_take_memory_for_it() -> None:
    def synchronised(gpus: list[int], **model: bool) -> bool:
        values = {"log_dir": "out", "gpus": gpus, "model": model}
        return configuration(YOLOv3Config, values).synchronised

    assert synchronised([0, 1], syncbn=True)
    assert not synchronised([0], syncbn=True)
    assert not synchronised([0, 1])


@pytest.mark.slow
def test_several_devices_train_one_model() -> None:
    contexts = [mx.cpu(0), mx.cpu(1), mx.cpu(2)]
    made = task().build(["a", "b"], contexts, None)
    estimator = estimator_of(made, contexts, momentum=0.9)
    for seed in range(2):
        assert np.isfinite(train_step(estimator, batch(6, seed=seed), 0.01)).all()  # type: ignore[arg-type]
    weight = made.network.yolo_outputs[0].prediction.weight
    copies = [copy.asnumpy() for copy in weight.list_data()]
    assert all((copy == copies[0]).all() for copy in copies)


def test_amp_computes_in_bfloat16_where_the_processor_has_it_and_is_refused_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("common.engine.devices.bfloat16_supported", lambda: True)
    assert task({"amp": True}).recipe(on_gpu=False).precision == "bfloat16"
    assert task({"amp": True}).recipe(on_gpu=True).precision == "float16"
    assert task({"amp": False}).recipe(on_gpu=False).precision == "float32"
    monkeypatch.setattr("common.engine.devices.bfloat16_supported", lambda: False)
    with pytest.raises(DeviceError, match=r"model\.amp"):
        task({"amp": True}).recipe(on_gpu=False)


def test_a_step_in_bfloat16_is_nearly_one_in_float32() -> None:
    from common.engine.devices import bfloat16_supported

    if not bfloat16_supported():
        pytest.skip("this processor has no bfloat16")

    def losses(precision: str) -> np.ndarray:
        mx.random.seed(0)
        np.random.seed(0)
        made = task().build(["a", "b"], CPU, None)
        found = train_step(estimator_of(made, precision=precision), batch(4), 0.001)
        assert found is not None
        return found

    full, mixed = losses("float32"), losses("bfloat16")
    # The first is the sum of the others; the fifty layers of an untrained network make noise of the last digits.
    np.testing.assert_allclose(mixed, full, rtol=0.1, atol=0.1 * full[0])
    assert (mixed != full).any()


def test_the_input_varies_over_training_unless_it_is_fixed() -> None:
    shapes = task({"data_shape": [256, 192]}).recipe(on_gpu=False).shapes
    assert shapes is not None
    assert isinstance(shapes, RandomShapes)
    seen = {shapes(epoch, number) for epoch in range(20) for number in range(0, 100, 10)}
    assert len(seen) > 1
    assert shapes(3, 17) == shapes(3, 12)
    assert all(width % 32 == 0 == height % 32 for width, height in seen)
    fixed = task({"data_shape": [256, 192]}, no_random_shape=True)
    assert fixed.recipe(on_gpu=False).shapes is None
    assert fixed.shape == (256, 192)


def test_random_shapes_stay_near_the_configured_one_and_keep_its_aspect() -> None:
    choices = RandomShapes((416, 256), 0).choices
    assert (416, 256) in choices
    assert all(0.7 < width / 416 < 1.3 and 0.7 < height / 256 < 1.3 for width, height in choices)


@pytest.mark.slow
def test_a_job_from_scratch_stays_finite_and_learns_to_fit_a_few_images() -> None:
    made = task().build(["a", "b"], CPU, None)
    estimator = estimator_of(made, momentum=0.9, wd=1e-4)
    content = batch(4)
    losses = [train_step(estimator, content, 0.001) for _ in range(30)]
    assert all(loss is not None and np.isfinite(loss).all() for loss in losses)
    assert losses[-1][0] < 0.6 * losses[0][0]  # type: ignore[index]


def test_gradients_of_a_network_from_scratch_hold_for_the_length_of_a_step() -> None:
    """Where they point elsewhere after a step of the limit, training from random parameters leads nowhere."""
    mx.random.seed(0)
    made = task().build(["a", "b"], CPU, None)
    block, _ = made.training_block()
    block.hybridize()
    inputs = inputs_of(made, batch(4))
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
    weights = [
        parameter for stage in made.network.stages for parameter in stage.collect_params(".*weight").values()
    ]
    assert np.mean(cosines(block, arrays, weights, 0.002)) > 0.7


def test_before_anything_is_learnt_objects_are_as_rare_everywhere_as_is_foreseen() -> None:
    made = task().build(["a", "b"], CPU, None)
    images = mx.nd.random.normal(shape=(2, 3, 64, 64))
    with mx.autograd.record():
        raw = made.network.predictions(mx.nd, images).asnumpy()
    chance = 1 / (1 + np.exp(-raw[..., 4]))
    assert chance.mean() == pytest.approx(0.01, rel=0.5)
    assert (chance < 0.1).all()


def test_an_image_without_objects_trains_and_pulls_every_objectness_down() -> None:
    made = task().build(["a", "b"], CPU, None)
    content = batch()
    content.arrays["boxes"][:] = -1
    block, _ = made.training_block()
    block.hybridize()
    inputs = inputs_of(made, content)
    arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
    total, box, objectness, classes = (loss.asnumpy() for loss in block(*arrays))
    assert (box == 0).all()
    assert (classes == 0).all()
    np.testing.assert_allclose(total, objectness)
    assert (objectness > 0).all()


def test_an_unknown_place_is_out_of_the_loss_and_nothing_else_is() -> None:
    made = task().build(["a", "b"], CPU, None)
    block, _ = made.training_block()

    def losses(*rows: list[float]) -> list[np.ndarray]:
        content = batch()
        content.arrays["boxes"][:] = -1
        for number, row in enumerate(rows):
            content.arrays["boxes"][:, number] = row
        inputs = inputs_of(made, content)
        arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
        return [loss.asnumpy() for loss in block(*arrays)]

    width, height = batch().shape
    objects = [[10, 10, 30, 30, 0], [5, 5, 25, 40, 1]]
    everything = [0, 0, width, height, -1]
    plain, hidden = losses(*objects), losses(*objects, everything)
    np.testing.assert_array_equal(plain[1], hidden[1])
    np.testing.assert_array_equal(plain[3], hidden[3])
    assert (hidden[2] < plain[2] - 1).all()
    assert (hidden[2] > 0).all()  # the predictions that answer for the objects
    assert (losses(everything)[0] == 0).all()
    # Rows may come in any order, as in a mosaic.
    for one, other in zip(losses(everything, *objects), hidden, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_rows_that_no_image_has_used_so_far_are_cut_off_and_change_no_loss() -> None:
    made = task().build(["a", "b"], CPU, None)
    block, _ = made.training_block()

    def with_rows(rows: int, used: int) -> tuple[int, list[np.ndarray]]:
        content = batch()
        boxes = np.full((2, rows, 5), -1, np.float32)
        rng = np.random.default_rng(used)
        low = rng.uniform(0, 40, (used, 2))
        boxes[1, :used] = np.column_stack([low, low + rng.uniform(4, 20, (used, 2)), np.zeros(used)])
        content.arrays["boxes"] = boxes
        inputs = inputs_of(made, content)
        arrays = [mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)]
        return inputs.split[1].shape[1], [loss.asnumpy() for loss in block(*arrays)]

    for rows, used, left in (
        (100, 0, 16),
        (100, 17, 32),
        (100, 3, 16),
        (20, 3, 16),
        (100, 33, 64),
        (100, 90, 100),
    ):
        given, losses = with_rows(rows, used)
        assert given == left
        for found, wanted in zip(losses, with_rows(max(used, 1), used)[1], strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_images_of_few_objects_weigh_as_much_as_those_of_an_average_set() -> None:
    assert image_weight(4, 0) == pytest.approx(7.3)  # nothing but background: no more than for one object
    assert image_weight(4, 4) == pytest.approx(7.3)
    assert image_weight(4, 8) == pytest.approx(7.3 / 2)
    assert image_weight(4, 44) == 1.0


def test_the_weight_of_an_image_multiplies_all_its_losses() -> None:
    made = task().build(["a", "b"], CPU, None)
    block, names = made.training_block()
    inputs = inputs_of(made, batch())
    place = names.index("image_weight")

    def losses(image_weight: float) -> list[np.ndarray]:
        arrays = [*inputs.split, *inputs.shared]
        arrays[place] = np.full_like(arrays[place], image_weight)
        return [
            loss.asnumpy() for loss in block(*(mx.nd.array(array, dtype=array.dtype) for array in arrays))
        ]

    for one, three in zip(losses(1.0), losses(3.0), strict=True):
        np.testing.assert_allclose(three, 3 * one, rtol=1e-5)
    # Where other ranks have the rest of a batch, theirs count too.
    shared = batch()
    shared.total = lambda sums: sums + np.array([1000, 2000])
    assert inputs_of(made, shared).split[place] == pytest.approx(7.3 / 2, rel=1e-2)
