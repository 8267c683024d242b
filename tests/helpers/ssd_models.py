"""SSD models of tiny images, and batches for them; for tests."""

from __future__ import annotations

from typing import Any

import mxnet as mx

from common.config.reading import configuration
from detect.config import SSDConfig
from detect.ssd.task import SSDTask

CPU = [mx.cpu()]


def config(
    model: dict[str, Any] | None = None, valid: dict[str, Any] | None = None, **train: Any
) -> SSDConfig:
    values = {
        "log_dir": "out",
        "gpus": [],
        "model": {"data_shape": [64, 64], **(model or {})},
        "train": {"pretrained_base": False, **train},
        "valid": valid or {},
    }
    return configuration(SSDConfig, values)


def task(model: dict[str, Any] | None = None, **train: Any) -> SSDTask:
    return SSDTask(config(model, **train))
