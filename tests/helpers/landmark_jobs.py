"""Landmark jobs of seconds, and models like theirs, for the tests beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import mxnet as mx
import numpy as np

from common.config.reading import configuration
from common.engine.parameters import parameters
from common.loading.loader import Batch
from common.task import Inputs
from landmark.config import LandmarkConfig
from landmark.task import LandmarkModel, LandmarkTask

JOINTS = 3
WIDTH, HEIGHT = 64, 48


def draw(folder: Path, count: int, seed: int) -> None:
    """Images of several sizes with a triangle each, its corners red, green and blue: the keypoints."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    for number in range(count):
        width, height = rng.integers(60, 140, 2).tolist()
        middle, size = rng.uniform(0.35, 0.65, 2), rng.uniform(0.15, 0.3)
        corners = middle + size * np.array([[-1, -0.7], [1, -0.7], [0, 1]])
        points = corners * (width, height)
        image = np.full((height, width, 3), 90, np.uint8)
        cv2.fillPoly(image, [points.astype(np.int32)], (200, 200, 200))
        for point, colour in zip(points, ((0, 0, 255), (0, 255, 0), (255, 0, 0)), strict=True):
            cv2.circle(image, tuple(int(v) for v in point), max(4, width // 14), colour, -1)
        cv2.imwrite(str(folder / f"{number:03}.png"), image)
        (folder / f"{number:03}.txt").write_text("".join(f"{x:.2f},{y:.2f}\n" for x, y in points))


def keys(data: Path, log_dir: Path, **more: Any) -> dict[str, Any]:
    """A job of seconds; more: SECTION__KEY=value."""
    values: dict[str, Any] = {
        "log_dir": str(log_dir),
        "gpus": [],
        "dataset": {"data_root": str(data), "train_dir": "train", "valid_dir": "valid", "num_joints": JOINTS},
        "model": {"base_network": "mobilenet0.25", "use_pretrained": False},
        "train": {"epochs": 2, "lr": 0.002, "input_width": WIDTH, "input_height": HEIGHT, "num_workers": 1},
    }
    for path, value in more.items():
        section, _, key = path.partition("__")
        values[section][key] = value
    return values


def task(**more: Any) -> LandmarkTask:
    return LandmarkTask(configuration(LandmarkConfig, keys(Path("data"), Path("out"), **more)))


def build(checkpoint: dict[str, Any] | None = None, **more: Any) -> LandmarkModel:
    mx.random.seed(0)
    return task(**more).build([], [mx.cpu()], checkpoint)


def checkpoint_of(model: LandmarkModel) -> dict[str, Any]:
    return {"model": model.description(), "parameters": parameters(model.network)}


def batch(epoch: int = 0, number: int = 0, rows: int = 4, seed: int = 0, plain: bool = False) -> Batch:
    rng = np.random.default_rng(seed)
    arrays: dict[str, np.ndarray] = {
        "image": rng.integers(0, 256, (rows, HEIGHT, WIDTH, 3), np.uint8),
        "points": rng.uniform(0.2, 0.8, (rows, JOINTS, 2)).astype(np.float32),
    }
    return Batch(arrays, np.arange(rows), rows, (WIDTH, HEIGHT), [], epoch, number, plain)


def losses(model: LandmarkModel, inputs: Inputs) -> list[np.ndarray]:
    block, _ = model.training_block()
    found = block(*(mx.nd.array(array, dtype=array.dtype) for array in (*inputs.split, *inputs.shared)))
    return [loss.asnumpy() for loss in (found if isinstance(found, (list, tuple)) else [found])]
