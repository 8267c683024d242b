"""What the configurations of the detectors add."""

from __future__ import annotations

from typing import Any

import pytest

from common.config.reading import configuration
from common.config.sections import JobConfig
from common.errors import ConfigurationError
from detect.config import CenterNetConfig, YOLOv3Config


def read(cls: type[JobConfig], **sections: Any) -> Any:
    return configuration(cls, {"log_dir": "/out", **sections})


def test_defaults_of_yolov3() -> None:
    config = read(YOLOv3Config)
    assert (config.model.base_network, config.model.data_shape) == ("darknet53", (416, 416))
    assert (config.model.use_pretrained, config.model.transfer_dataset) == (True, "coco")
    assert (config.model.syncbn, config.model.amp, config.train.no_random_shape) == (False, False, False)
    assert (config.train.lr, config.train.batch_size, config.dataset.classes) == (0.001, 16, None)
    assert (config.valid.metric, config.valid.iou_thresh, config.valid.score_thresh) == ("voc", 0.5, 0.3)


def test_defaults_of_center_net() -> None:
    config = read(CenterNetConfig)
    assert (config.model.base_network, config.model.data_shape) == ("resnet18_v1b_dcnv2", (512, 512))
    assert (config.model.scale, config.model.topk) == (4.0, 100)
    assert (config.model.wh_weight, config.model.center_reg_weight) == (0.1, 1.0)
    assert (config.train.lr, config.train.batch_size) == (0.01, 16)
    assert (config.train.pretrained_base, config.train.transfer_lr_mult) == (True, 0.01)
    assert (config.valid.flip_test, config.valid.nms_thresh) == (True, 0)
    assert (config.valid.nms_topk, config.valid.post_nms) == (400, 100)


def test_folders_of_the_detectors() -> None:
    dataset = read(YOLOv3Config).dataset
    assert str(dataset.data_root) == "/data/aios/data/detect"
    assert (dataset.train_dir, dataset.valid_dir, dataset.test_dir) == (
        "detect_train",
        "detect_valid",
        "detect_test",
    )


@pytest.mark.parametrize(
    ("cls", "networks"),
    [
        (YOLOv3Config, ["darknet53", "mobilenet1.0"]),
        (CenterNetConfig, [f"resnet{n}_v1b{dcn}" for n in (18, 50, 101) for dcn in ("", "_dcnv2")]),
    ],
)
def test_every_network_of_the_contract_is_accepted(cls: type[JobConfig], networks: list[str]) -> None:
    for network in networks:
        assert read(cls, model={"base_network": network}).model.base_network == network
    with pytest.raises(ConfigurationError, match=f"it must be one of {', '.join(networks)}"):
        read(cls, model={"base_network": "resnet34_v1b"})


def test_center_net_needs_sizes_that_its_network_can_halve() -> None:
    assert read(CenterNetConfig, model={"data_shape": [96, 32]}).model.data_shape == (96, 32)
    with pytest.raises(ConfigurationError, match="multiples of 32"):
        read(CenterNetConfig, model={"data_shape": [500, 500]})
    assert read(YOLOv3Config, model={"data_shape": [500, 300]}).model.data_shape == (500, 300)


def test_scales_are_those_that_the_network_can_have() -> None:
    assert read(CenterNetConfig, model={"scale": "8.0", "use_pretrained": False}).model.scale == 8
    for scale in (3, 4.5, "four", True):
        with pytest.raises(ConfigurationError, match="it must be one of 2, 4, 8, 16"):
            read(CenterNetConfig, model={"scale": scale})
