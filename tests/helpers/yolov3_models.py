"""YOLOv3 models of tiny images, and batches for them; for tests."""

from __future__ import annotations

from typing import Any

import mxnet as mx
import numpy as np

from common.config.reading import configuration
from common.loading.loader import Batch
from detect.config import YOLOv3Config
from detect.yolov3.task import YOLOv3Task

CPU = [mx.cpu()]
SCRATCH = {"base_network": "mobilenet1.0", "use_pretrained": False, "data_shape": [64, 64]}


def task(model: dict[str, Any] | None = None, **train: Any) -> YOLOv3Task:
    values = {"log_dir": "out", "gpus": [], "model": {**SCRATCH, **(model or {})}, "train": train}
    return YOLOv3Task(configuration(YOLOv3Config, values))


def batch(rows: int = 2, side: int = 64, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    boxes = np.full((rows, 3, 5), -1, np.float32)
    boxes[:, 0] = [4, 4, 40, 50, 1]
    boxes[0, 1] = [10, 20, 30, 31, 0]
    images = rng.integers(0, 256, (rows, side, side, 3)).astype(np.uint8)
    arrays = {"image": images, "boxes": boxes, "size": np.full((rows, 2), 2 * side, np.float32)}
    return Batch(arrays, np.arange(rows), rows, (side, side))
