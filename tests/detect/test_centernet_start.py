"""Where CenterNet's parameters come from: a pretrained detector, a backbone, a checkpoint, or the objects' sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gluoncv
import mxnet as mx
import numpy as np
import pytest

from common.config.reading import with_model
from common.engine.mxnet_internals import named_parameters
from common.engine.parameters import parameters
from common.errors import CheckpointError, ConfigurationError, PretrainedError
from detect.center_net.network import backbone_parameters, head_parameters
from detect.center_net.task import CenterNetTask, mean_size
from tests.helpers.centernet_models import CPU, batch, build, sample, task
from tests.helpers.estimators import by_recipe, estimator_of
from tests.helpers.targets import train_step

PRETRAINED = {"use_pretrained": True, "transfer_dataset": "voc"}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


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
    theirs = {name: value.data().asnumpy() for name, value in named_parameters(network).items()}
    for name, value in parameters(made.network).items():
        if name.startswith("base_network.laterals."):
            # What the file has not adds nothing at first: the detections are the published ones.
            assert "gamma" not in name or not value.any()
        elif not name.startswith("heads.0.2."):
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
    # These keys are not for a network that begins at random altogether, which learns at ten times the rate.
    scratch = build(None, multipliers)
    assert {parameter.lr_mult for parameter in scratch.network.collect_params().values()} == {10.0}


def test_a_multiplier_of_0_leaves_its_layers_as_they_are(published: Any, models: Path) -> None:
    _, path = published
    (models / path.name).symlink_to(path)
    for key, part in (("transfer_lr_mult", "base_network.base_network."), ("output_lr_mult", "heads.")):
        made = build(PRETRAINED, {"transfer_lr_mult": 1.0, "output_lr_mult": 1.0, key: 0.0})
        before = parameters(made.network)
        train_step(estimator_of(made), batch(), 0.001)
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
    made = build({"base_network": base_network}, {"pretrained_base": True})
    assert {parameter.lr_mult for parameter in backbone_parameters(made.network)} == {1.0}
    loaded = parameters(made.network)
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


def test_another_scale_than_that_of_pretrained_detectors_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"model\.scale: 8 with model\.use_pretrained"):
        build({"use_pretrained": True, "scale": 8})


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


def test_sizes_of_a_new_network_are_learnt_from_its_first_steps_on() -> None:
    made = build()
    estimator = by_recipe(task(), made)
    content = batch()
    course = [train_step(estimator, content, 0.01)[2] for _ in range(14)]  # type: ignore[index]
    assert min(course[-4:]) < 0.6 * course[0]
