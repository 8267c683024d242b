"""What the configurations of classification and re-identification add."""

from __future__ import annotations

from typing import Any

import pytest

from classification.config import ClassificationConfig
from common.config.network_names import BASE_NETWORKS
from common.config.network_sections import OPTIMIZERS
from common.config.reading import configuration
from common.errors import ConfigurationError
from reid.config import ReIDConfig


def read(**sections: Any) -> Any:
    return configuration(ClassificationConfig, {"log_dir": "/out", **sections})


@pytest.mark.parametrize("cls", [ClassificationConfig, ReIDConfig])
def test_defaults(cls: type[ClassificationConfig]) -> None:
    config = configuration(cls, {"log_dir": "/out"})
    model, train = config.model, config.train
    assert (model.base_network, model.use_pretrained) == ("resnet50_v1", True)
    assert (model.use_gn, model.batch_norm, model.use_se, model.last_gamma) == (False,) * 4
    assert (train.batch_size, train.lr, train.input_width, train.input_height) == (64, 0.035, 224, 224)
    assert (train.optimizer, train.dtype, train.mode) == ("adam", "float32", "hybrid")
    assert (train.teacher, train.hard_weight, train.temperature) == (None, 0.5, 20)
    assert (train.mixup, train.mixup_alpha, train.mixup_off_epoch) == (False, 0.2, 0)
    assert (train.label_smoothing, train.no_wd, train.resume_epoch) == (False, False, 0)
    assert (train.transfer_lr_mult, train.early_stop_max_value) == (0.01, 1)
    dataset = config.dataset
    assert str(dataset.data_root) == "/data/aios/data/cls"
    folders = (dataset.train_dir, dataset.valid_dir, dataset.test_dir)
    assert folders == ("classification_train", "classification_valid", "classification_test")


def test_every_network_of_the_contract_is_accepted() -> None:
    names = [f"resnet{n}_v{v}" for v in (1, 2) for n in (18, 34, 50, 101, 152)]
    names += [f"mobilenet{m}" for m in ("1.0", "0.75", "0.5", "0.25")]
    names += [f"mobilenetv2_{m}" for m in ("1.0", "0.75", "0.5", "0.25")]
    names += ["mobilenetv3_large", "mobilenetv3_small"]
    names += [f"densenet{n}" for n in (121, 161, 169, 201)] + [f"vgg{n}" for n in (11, 13, 16, 19)]
    assert sorted(names) == sorted(BASE_NETWORKS)
    for name in names:
        assert read(model={"base_network": name.upper()}).model.base_network == name
    with pytest.raises(ConfigurationError, match="the nearest is resnet50_v1"):
        read(model={"base_network": "resnet50"})


@pytest.mark.parametrize(
    ("network", "option", "has_it"),
    [
        ("resnet18_v1", "use_gn", True),
        ("vgg11", "use_gn", False),
        ("vgg11", "batch_norm", True),
        ("resnet18_v1", "batch_norm", False),
        ("resnet18_v2", "use_se", True),
        ("mobilenetv3_small", "use_se", False),
        ("resnet50_v1", "last_gamma", True),
        ("densenet121", "last_gamma", False),
    ],
)
def test_a_variant_that_the_network_does_not_have_is_refused(network: str, option: str, has_it: bool) -> None:
    model = {"base_network": network, option: True}
    if has_it:
        assert getattr(read(model=model).model, option) is True
    else:
        with pytest.raises(
            ConfigurationError, match=rf"^model\.{option}: true cannot be: {network} has no such variant"
        ):
            read(model=model)


@pytest.mark.parametrize(
    ("dtype", "gpus", "accepted"),
    [("float16", [0], True), ("float16", [], False), ("bfloat16", [], True), ("bfloat16", [0], False)],
)
def test_a_precision_that_the_device_does_not_have_is_refused(
    dtype: str, gpus: list[int], accepted: bool
) -> None:
    if accepted:
        assert read(gpus=gpus, train={"dtype": dtype}).train.dtype == dtype
    else:
        with pytest.raises(ConfigurationError, match=rf'^train\.dtype: "{dtype}" '):
            read(gpus=gpus, train={"dtype": dtype})


@pytest.mark.parametrize("optimizer", ["nadam", "sgld"])
def test_an_optimizer_for_one_device_is_refused_on_several(optimizer: str) -> None:
    assert read(gpus=[1], train={"optimizer": optimizer}).train.optimizer == optimizer
    with pytest.raises(ConfigurationError, match=rf'^train\.optimizer: "{optimizer}" is for one device'):
        read(gpus=[0, 1], train={"optimizer": optimizer})


def test_a_teacher_is_a_network_or_a_checkpoint() -> None:
    for given, teacher in (
        (None, None),
        ("", None),
        ("ResNet50_v1", "resnet50_v1"),
        ("/a/b.pkl", "/a/b.pkl"),
    ):
        assert read(train={"teacher": given}).train.teacher == teacher
    with pytest.raises(ConfigurationError, match=r"^train\.teacher: \"resnet\" is not allowed"):
        read(train={"teacher": "resnet"})


def test_an_epoch_to_resume_at_lies_before_the_end() -> None:
    with pytest.raises(ConfigurationError, match=r"^train\.resume_epoch: 5 leaves no epoch to train"):
        read(train={"epochs": 5, "resume_epoch": 5})


def test_the_optimizers_are_those_of_the_framework() -> None:
    mxnet = pytest.importorskip("mxnet")
    registered = set(mxnet.optimizer.Optimizer.opt_registry)
    builtin = {
        n for n in registered if mxnet.optimizer.Optimizer.opt_registry[n].__module__.startswith("mxnet.")
    }
    assert set(OPTIMIZERS) - {"adamw"} == builtin - {"groupadagrad", "test", "adamw"}
